//! `backstay wal status`

use jiff::Timestamp;
use serde::Serialize;

use super::repositories;
use crate::archive::wal::Lsn;
use crate::cli::ExitStatus;
use crate::cli::format::{self, count};
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::{Policy, SourceSpec};
use crate::run::list_backups;
use crate::run::wal::{ArchivedWal, Gap, archived};
use crate::source::postgres::{ServerWal, server_wal};
use crate::store::WalStore;

/// Which clusters, and whether their servers are asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK. Default: every cluster.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    /// Do not ask the servers: what lies in the repositories, and nothing else.
    #[arg(long)]
    offline: bool,
}

/// How a repository stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// WAL goes on from the newest base backup to less than the RPO before now.
    Holds,
    /// It is further behind than the RPO.
    Behind,
    /// WAL after the newest base backup is missing.
    Gap,
    /// There is no base backup of this cluster that it could be replayed on.
    NoBase,
    /// The repository could not be asked.
    Unknown,
}

#[derive(Serialize)]
struct Cluster {
    source: String,
    rpo_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerWal>,
    /// Why the server was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_problem: Option<String>,
    repositories: Vec<Place>,
}

#[derive(Serialize)]
struct Place {
    repository: String,
    /// A file counts as archived only when it is here.
    required: bool,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    wal: Option<ArchivedWal>,
    /// What the server has written and this repository does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure_bytes: Option<u64>,
    /// How old the oldest of it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure_seconds: Option<u64>,
    /// Other clusters whose WAL lies here too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if app.repository_url().is_some() {
        return Err(Error::usage(
            "what WAL is held against stands in a policy: `wal status` takes no repository by URL",
        ));
    }
    let set = app.policies(false)?;
    let mut clusters = Vec::new();
    for policy in &set.policies {
        for (name, source) in &policy.sources {
            let address = SourceAddress::new(&policy.stack, name);
            let SourceSpec::PostgresCluster(spec) = &source.spec else { continue };
            if address.is_named_by(&args.sources) {
                let connection = (!args.offline).then_some(spec.connection.as_str());
                clusters.push(look(app, policy, &address, connection));
            }
        }
    }
    if clusters.is_empty() {
        return Err(Error::not_found("no `postgres_cluster` of the policies is meant")
            .hint("`backstay check` lists the sources"));
    }
    if app.printer.is_json() {
        app.printer.json(&clusters)?;
    } else {
        for cluster in &clusters {
            tell(app, cluster)?;
        }
    }
    verdict(&clusters)
}

fn verdict(clusters: &[Cluster]) -> Result<ExitStatus> {
    let is = |verdict: Verdict| {
        let places = clusters.iter().flat_map(|cluster| &cluster.repositories);
        places.filter(|place| place.required).any(|place| place.verdict == verdict)
    };
    // What is received as it is written needs no archiver.
    let is_received = |cluster: &Cluster| {
        let wal = cluster.repositories.iter().filter_map(|place| place.wal.as_ref());
        wal.clone().any(|wal| wal.open_bytes.is_some())
    };
    let stands = |cluster: &Cluster| {
        cluster
            .server
            .as_ref()
            .is_some_and(|server| server.unconfigured().is_some() || server.fails())
    };
    if is(Verdict::Gap)
        || is(Verdict::Behind)
        || is(Verdict::NoBase)
        || clusters.iter().any(|one| stands(one) && !is_received(one))
    {
        return Ok(ExitStatus::ObjectiveMissed);
    }
    if is(Verdict::Unknown) {
        return Err(Error::failed("a repository that must have WAL cannot be asked")
            .hint("the server keeps what it cannot archive: its disk fills until this is mended"));
    }
    Ok(ExitStatus::Done)
}

fn look(app: &App, policy: &Policy, address: &SourceAddress, connection: Option<&str>) -> Cluster {
    let (server, server_problem) = match connection.map(server_wal) {
        Some(Ok(server)) => (Some(server), None),
        Some(Err(error)) => (None, Some(error.chain())),
        None => (None, None),
    };
    let rpo = policy.objectives_of(&address.source).rpo.as_secs();
    let mut cluster = Cluster {
        source: address.to_string(),
        rpo_seconds: rpo,
        server,
        server_problem,
        repositories: Vec::new(),
    };
    for (name, required) in repositories(policy, address) {
        if !app.wants_repository(&name) {
            continue;
        }
        let opened = app.open(policy, &name);
        let place = opened.and_then(|opened| place(app, policy, address, &opened, &cluster));
        cluster.repositories.push(match place {
            Ok(place) => Place { required, ..place },
            Err(error) => Place {
                repository: name,
                required,
                verdict: Verdict::Unknown,
                wal: None,
                exposure_bytes: None,
                exposure_seconds: None,
                others: Vec::new(),
                problem: Some(error.chain()),
            },
        });
    }
    cluster
}

fn place(
    app: &App,
    policy: &Policy,
    address: &SourceAddress,
    opened: &Opened,
    cluster: &Cluster,
) -> Result<Place> {
    let listed = list_backups(&opened.repository, &|other| other == address)?;
    let manifests: Vec<_> = listed.into_iter().filter_map(|one| one.manifest.ok()).collect();
    let source = opened.repository.source(address);
    let store = WalStore::reader(&source, opened.repository.is_encrypted());
    let clusters = store.clusters()?;
    // The one that is running, else the one that was backed up last.
    let asked = cluster.server.as_ref().and_then(|server| server.system_id.parse().ok());
    let backed_up =
        manifests.iter().rev().find_map(|manifest| Some(manifest.wal.as_ref()?.system_id));
    let system_id = asked.or(backed_up).or_else(|| clusters.last().copied());
    let mut place = Place {
        repository: opened.name.clone(),
        required: true,
        verdict: Verdict::NoBase,
        wal: None,
        exposure_bytes: None,
        exposure_seconds: None,
        others: clusters
            .iter()
            .filter(|id| Some(**id) != system_id)
            .map(ToString::to_string)
            .collect(),
        problem: None,
    };
    let Some(system_id) = system_id else { return Ok(place) };
    let size = cluster.server.as_ref().map(|server| server.segment_size);
    let keep = policy.wal_keep(&address.source);
    let now = app.cx.clock.now();
    let wal = archived(&store, system_id, &manifests, size, keep, now)?;
    if let Some(end) = wal.end {
        let at = wal.archived_at.unwrap_or(Timestamp::MIN);
        let (bytes, seconds) = exposure(cluster.server.as_ref(), end, at, now);
        (place.exposure_bytes, place.exposure_seconds) = (bytes, Some(seconds));
        place.verdict = if wal.gaps.iter().any(|gap| gap.current) {
            Verdict::Gap
        } else if seconds > cluster.rpo_seconds {
            Verdict::Behind
        } else {
            Verdict::Holds
        };
    }
    place.wal = Some(wal);
    Ok(place)
}

/// What would be lost: bytes where the server said how far it is, and for how long at the most.
fn exposure(
    server: Option<&ServerWal>,
    end: Lsn,
    archived_at: Timestamp,
    now: Timestamp,
) -> (Option<u64>, u64) {
    let since = u64::try_from(now.duration_since(archived_at).as_secs()).unwrap_or(0);
    let Some(server) = server else { return (None, since) };
    let bytes = server.lsn.0.saturating_sub(end.0);
    if bytes == 0 {
        return (Some(0), 0);
    }
    // A segment that nothing of weight is written to is not ended by the timeout: what a server
    // has that ended none for so long is younger than that.
    let only_open = bytes < server.segment_size;
    let seconds = match server.archive_timeout {
        0 => since,
        timeout if only_open && !server.fails() => since.min(timeout),
        _ => since,
    };
    (Some(bytes), seconds)
}

fn tell(app: &App, cluster: &Cluster) -> Result<()> {
    app.printer.data(&cluster.source)?;
    let line = |what: &str, text: &str| app.printer.data(format!("  {what:<10} {text}"));
    if let Some(problem) = &cluster.server_problem {
        line("server", &format!("does not answer: {problem}"))?;
    }
    if let Some(server) = &cluster.server {
        let role = if server.standby { "standby" } else { "primary" };
        let text = format!(
            "PostgreSQL {} at {}, {role}, cluster {}, timeline {}, written up to {}",
            server.version, server.host, server.system_id, server.timeline, server.lsn
        );
        line("server", &text)?;
        line("archiver", &archiver(server))?;
    }
    for place in &cluster.repositories {
        tell_place(app, place)?;
    }
    Ok(())
}

fn archiver(server: &ServerWal) -> String {
    if let Some(why) = server.unconfigured() {
        return format!("ARCHIVES NOTHING: {why}");
    }
    let failed = server.last_failed.as_ref().filter(|_| server.fails());
    if let Some(failed) = failed {
        return format!(
            "FAILS: {} at {}, {} in all; the server keeps WAL until it succeeds, and its log says why",
            failed.name,
            format::time(failed.time),
            count(server.failed, "failure")
        );
    }
    let timeout = match server.archive_timeout {
        0 => {
            "no archive_timeout: a quiet server may keep its last transactions for hours".to_owned()
        }
        seconds => format!("archive_timeout {}", format::span(seconds)),
    };
    match &server.last_archived {
        Some(last) => format!(
            "{}, the last {} at {}; {timeout}",
            count(server.archived, "file"),
            last.name,
            format::time(last.time)
        ),
        None => format!("nothing yet; {timeout}"),
    }
}

fn tell_place(app: &App, place: &Place) -> Result<()> {
    let mut what = place.repository.as_str();
    let mut line = |text: String| {
        let line = app.printer.data(format!("  {what:<10} {text}"));
        what = "";
        line
    };
    if let Some(problem) = &place.problem {
        return line(format!("UNKNOWN: {problem}"));
    }
    let Some(wal) = &place.wal else { return line("has no WAL of it".to_owned()) };
    for timeline in &wal.timelines {
        let range = match (&timeline.first, &timeline.last) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "no segments".to_owned(),
        };
        let newest = timeline.newest.map(format::time).unwrap_or_default();
        line(format!(
            "timeline {}: {range}; {}, {}; the last at {newest}",
            timeline.timeline,
            count(timeline.files, "file"),
            format::size(timeline.bytes)
        ))?;
        if timeline.divergent > 0 {
            let files = count(timeline.divergent, "file");
            line(format!("DIVERGENT: {files} after it, written after another site took over"))?;
        }
    }
    for gap in &wal.gaps {
        line(missing(gap))?;
    }
    match (&wal.base, wal.end) {
        (Some(base), Some(end)) => {
            let open = wal
                .open_bytes
                .map(|bytes| format!(", {} of the open segment included", format::size(bytes)));
            line(format!("recovery from {base} gets to {end}{}", open.unwrap_or_default()))?;
        }
        _ => line("NO BASE BACKUP of this cluster is sound here: its WAL is of no use".to_owned())?,
    }
    if let Some(seconds) = place.exposure_seconds {
        let mark = if place.verdict == Verdict::Behind {
            "MORE THAN THE RPO would be lost now"
        } else {
            "would be lost now"
        };
        let bytes = place.exposure_bytes.map(|bytes| format!("{} and ", format::size(bytes)));
        let text = match (place.exposure_bytes, seconds) {
            (Some(0), _) => "nothing would be lost now".to_owned(),
            _ => format!("{mark}: {}at most {}", bytes.unwrap_or_default(), format::span(seconds)),
        };
        line(text)?;
    }
    if !place.others.is_empty() {
        line(format!("has WAL of other clusters too: {}", place.others.join(", ")))?;
    }
    Ok(())
}

fn missing(gap: &Gap) -> String {
    let range = match gap.segments {
        1 => gap.first.clone(),
        _ => format!("{} to {}", gap.first, gap.last),
    };
    let what = if gap.current {
        "take a base backup now: no recovery passes this"
    } else {
        "recovery from older base backups ends there"
    };
    format!("MISSING {range} ({}): {what}", count(gap.segments, "segment"))
}
