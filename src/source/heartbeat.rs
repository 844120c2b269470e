//! Heartbeats: what is written at a source from time to time, and found in its copy.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Who writes heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The machine.
    pub host: String,
    /// `STACK/SOURCE`.
    pub source: String,
}

/// One heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The machine that wrote it.
    pub host: String,
    /// For which source: `STACK/SOURCE`.
    pub source: String,
    /// How many it wrote, this one included.
    pub beats: u64,
    /// When, by the clock of that machine, just before it was written.
    pub at: Timestamp,
    /// The same by the clock of the server that it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_at: Option<Timestamp>,
}

impl Beat {
    /// An instant of the server's clock by the clock of the machine that wrote the heartbeat.
    pub fn by_its_clock(&self, server: Timestamp) -> Timestamp {
        let ahead = self.server_at.map(|at| self.at.duration_since(at)).unwrap_or_default();
        server.checked_add(ahead).unwrap_or(server)
    }
}

/// The newest of several, without those of a clock that is ahead of `now`.
pub fn newest(beats: impl IntoIterator<Item = Beat>, now: Timestamp) -> Option<Beat> {
    beats.into_iter().filter(|beat| beat.at <= now).max_by_key(|beat| beat.at)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn beat(at: i64, server_at: Option<i64>) -> Beat {
        let time = |second| Timestamp::from_second(second).unwrap();
        Beat {
            host: "h".to_owned(),
            source: "s/x".to_owned(),
            beats: 1,
            at: time(at),
            server_at: server_at.map(time),
        }
    }

    #[test]
    fn the_server_s_clock_is_translated() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(beat(100, Some(90)).by_its_clock(at(95)), at(105));
        assert_eq!(beat(100, Some(130)).by_its_clock(at(131)), at(101));
        assert_eq!(beat(100, None).by_its_clock(at(95)), at(95));
    }

    #[test]
    fn what_comes_from_the_future_does_not_count() {
        let now = Timestamp::from_second(200).unwrap();
        let all = [beat(100, None), beat(150, None), beat(900, None)];
        assert_eq!(newest(all, now), Some(beat(150, None)));
        assert_eq!(newest([beat(900, None)], now), None);
    }
}
