//! Heartbeats in what was brought back: how new it is, by what the daemon wrote at the source.

use jiff::{SignedDuration, Timestamp};

use super::evidence::{FoundBeat, RpoBasis};
use crate::error::Result;
use crate::policy::{Source, SourceSpec};
use crate::run::prove::Live;
use crate::source::directory;
use crate::source::heartbeat::{Beat, newest};
use crate::source::postgres::heartbeat;

/// How many may be missing before it is said that nobody wrote them.
const MISSING: i32 = 3;

/// How late a heartbeat may be on a machine that has much to do.
const LATE: SignedDuration = SignedDuration::from_secs(10);

/// What the heartbeat in a copy tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What the RPO is measured by.
    pub basis: RpoBasis,
    /// What the copy goes up to.
    pub recovered_to: Option<Timestamp>,
    /// What is to be mended, by code and text.
    pub finding: Option<(&'static str, String)>,
}

/// Looks for the newest heartbeat in a copy.
pub fn find(live: &Live, source: &Source, now: Timestamp) -> Result<Option<Beat>> {
    let mut beats = Vec::new();
    if let Some(server) = live.postgres() {
        for database in server.databases()? {
            beats.extend(heartbeat::find(&mut server.connect(&database)?)?);
        }
    } else if let Some(root) = live.directory() {
        beats.extend(directory::heartbeat::find(&root));
        if let SourceSpec::Directory(config) = &source.spec {
            let below = config.paths().filter_map(|path| path.strip_prefix("/").ok());
            beats.extend(below.filter_map(|path| directory::heartbeat::find(&root.join(path))));
        }
    }
    Ok(newest(beats, now))
}

/// What a heartbeat tells: `otherwise` is what the RPO is measured by without one. What a server
/// committed last is known by its own clock; the heartbeat says how far that is from the clock of the
/// machine that wrote it, which is the same for all sources.
pub fn judge(
    beat: Option<&Beat>,
    every: SignedDuration,
    otherwise: (RpoBasis, Option<Timestamp>),
) -> Told {
    let (basis, recovered_to) = otherwise;
    let Some(beat) = beat else {
        let text = "no heartbeat is in the copy: does a daemon write it?".to_owned();
        return Told { basis, recovered_to, finding: Some(("heartbeat_missing", text)) };
    };
    let reached = match (basis, recovered_to) {
        (RpoBasis::LastCommit, Some(last)) => beat.by_its_clock(last).max(beat.at),
        (_, Some(instant)) => instant,
        (_, None) => beat.at,
    };
    let age = reached.duration_since(beat.at);
    if age > every * MISSING + LATE {
        let text = format!(
            "the heartbeat in the copy is {} s older than the copy: nobody wrote one since {}",
            age.as_secs(),
            beat.at
        );
        return Told { basis, recovered_to, finding: Some(("heartbeat_old", text)) };
    }
    // A copy of files is not of one instant: what came into it later says nothing of the others.
    let exact = match (basis, recovered_to) {
        (RpoBasis::LastCommit, Some(_)) => reached,
        (_, Some(instant)) => beat.at.min(instant),
        (_, None) => beat.at,
    };
    Told { basis: RpoBasis::Heartbeat, recovered_to: Some(exact), finding: None }
}

/// As evidence has it.
pub fn evidence(beat: &Beat) -> FoundBeat {
    FoundBeat { host: beat.host.clone(), beats: beat.beats, at: beat.at, server_at: beat.server_at }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn beat(second: i64, server: Option<i64>) -> Beat {
        let (host, source) = ("h".to_owned(), "s/x".to_owned());
        Beat { host, source, beats: 7, at: at(second), server_at: server.map(at) }
    }

    const EVERY: SignedDuration = SignedDuration::from_secs(30);

    #[test]
    fn the_last_commit_counts_by_the_clock_of_the_heartbeat() {
        // The server's clock is 60 s behind.
        let told =
            judge(Some(&beat(1060, Some(1000))), EVERY, (RpoBasis::LastCommit, Some(at(1005))));
        assert_eq!((told.basis, told.recovered_to), (RpoBasis::Heartbeat, Some(at(1065))));
        // Without any commit it is the heartbeat itself.
        let told = judge(Some(&beat(1060, Some(1000))), EVERY, (RpoBasis::LastCommit, None));
        assert_eq!((told.basis, told.recovered_to), (RpoBasis::Heartbeat, Some(at(1060))));
    }

    #[test]
    fn a_copy_goes_up_to_the_heartbeat_in_it_and_not_beyond_its_instant() {
        let told = judge(Some(&beat(990, None)), EVERY, (RpoBasis::Snapshot, Some(at(1000))));
        assert_eq!((told.basis, told.recovered_to), (RpoBasis::Heartbeat, Some(at(990))));
        let told = judge(Some(&beat(1020, None)), EVERY, (RpoBasis::Snapshot, Some(at(1000))));
        assert_eq!((told.basis, told.recovered_to), (RpoBasis::Heartbeat, Some(at(1000))));
    }

    #[test]
    fn without_one_or_with_an_old_one_it_is_measured_otherwise_and_said() {
        let otherwise = (RpoBasis::Snapshot, Some(at(1000)));
        let none = judge(None, EVERY, otherwise);
        assert_eq!((none.basis, none.recovered_to), otherwise);
        assert_eq!(none.finding.unwrap().0, "heartbeat_missing");
        let old = judge(Some(&beat(500, None)), EVERY, otherwise);
        assert_eq!((old.basis, old.recovered_to), otherwise);
        assert_eq!(old.finding.unwrap().0, "heartbeat_old");
    }
}
