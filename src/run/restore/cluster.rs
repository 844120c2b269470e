//! Restoring a base backup to a data directory that a server starts from.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::ContentReader;
use super::recovery::{Goal, Recovery, Way, check, find_way};
use super::request::{Outcome, Request};
use super::tree::restore_tree;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::{Manifest, NeededWal};
use crate::archive::wal::Lsn;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::{Context, hold};
use crate::source::directory::extract::{Existing, Placement};
use crate::source::postgres::cluster::{
    CONTROL, MappedTablespace, RECOVERY, RestoredCluster, STANDBY, TABLESPACE_MAP,
    missing_directories, read_map,
};
use crate::store::{SourceStore, Tail, WalStore};
use crate::telemetry::{WarningCode, failpoint};

/// The kind of source whose backups these are.
pub const CLUSTER_KIND: &str = "postgres_cluster";

/// The largest `tablespace_map` that is read.
const MAP_LIMIT: u64 = 16 << 20;

/// Where tablespaces go.
#[derive(Debug, Clone, Default)]
pub struct TablespaceChoice {
    /// From where they lay, or their number, to where they go.
    pub mapped: Vec<(String, PathBuf)>,
    /// A directory for those not named, each below its number.
    pub rest: Option<PathBuf>,
}

/// What will be done, or was.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterPlan {
    /// The timeline of the backup.
    pub timeline: u32,
    /// Where it becomes consistent.
    pub lsn: String,
    /// Segments of WAL that are put beside it.
    pub wal_segments: u64,
    /// Tablespaces: number, where each lay, and where it goes.
    pub tablespaces: Vec<(u32, String, String)>,
    /// How recovery goes on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Way>,
}

/// Restores a whole cluster. Entries that cannot be restored end it: a data directory that lacks
/// a file is none.
pub fn restore_cluster(
    mut request: Request<'_>,
    choice: &TablespaceChoice,
    recovery: &Recovery,
    cx: &Context,
) -> Result<(Outcome, ClusterPlan)> {
    let manifest = request.manifest;
    if request.existing != Existing::Refuse {
        return Err(Error::usage("a cluster is restored to an empty directory only")
            .hint("files of another state beside those of the backup would damage it"));
    }
    let needed = manifest.wal.as_ref().ok_or_else(|| {
        Error::damaged(format!("{} does not say which WAL it needs", manifest.backup))
    })?;
    let _held =
        if request.dry_run { None } else { hold::hold(&request.source, manifest, "restore", cx)? };
    let wal = WalStore::reader(&request.source, manifest.is_encrypted());
    if let Some(name) = wal.missing(needed)?.first() {
        return Err(Error::damaged(format!(
            "WAL segment {name} is missing, without which {} cannot be used",
            manifest.backup
        ))
        .hint("look for it in a copy of the repository, or take another backup"));
    }
    let tablespaces = choose(&read_tablespaces(&request, cx)?, choice)?;
    let way = match recovery.goal {
        Goal::Immediate | Goal::Standby => None,
        _ => Some(reach(&wal, &request, needed, recovery, cx)?),
    };
    let range = needed.ranges.last();
    let plan = ClusterPlan {
        timeline: range.map_or(0, |range| range.timeline),
        lsn: range.map(|range| range.stop.to_string()).unwrap_or_default(),
        wal_segments: needed.segments().count() as u64,
        tablespaces: tablespaces
            .iter()
            .map(|space| {
                (space.oid, space.old.display().to_string(), space.new.display().to_string())
            })
            .collect(),
        recovery: way,
    };
    request.placement = Placement {
        mounts: tablespaces
            .iter()
            .map(|space| (space.path().into_bytes(), space.new.clone()))
            .collect(),
        held: Some(CONTROL.as_bytes().to_vec()),
    };
    let targets = tablespaces.iter().map(|space| &space.new).chain([&request.target]);
    let made: Vec<PathBuf> = targets.flat_map(|path| missing_directories(path)).collect();
    let outcome = restore_tree(&request, cx)?;
    if request.dry_run {
        return Ok((outcome, plan));
    }
    if let Some(failed) = outcome.failed.first.first() {
        let kind = if failed.damage { ErrorKind::Damaged } else { ErrorKind::Failed };
        return Err(Error::new(
            kind,
            format!("`{}` could not be restored: {}", failed.path, failed.message),
        )
        .hint(format!(
            "{} is left without {CONTROL}, so that no server starts from it",
            request.target.display()
        ))
        .hint("`backstay verify --depth content` tells what is damaged; look for a copy or an older backup"));
    }
    failpoint::reach("cluster.files_restored");
    let restored = RestoredCluster::new(&request.target)?;
    restored.give_directories(&made)?;
    restored.link_tablespaces(&tablespaces)?;
    if manifest.cluster.as_ref().is_some_and(|cluster| cluster.layered > 0) {
        cx.reporter.phase("listing what was put together");
    }
    restored.combined(&cx.reporter)?;
    cx.reporter.phase("fetching WAL");
    let way = plan.recovery.as_ref().filter(|_| recovery.brings_wal);
    fetch_wal(&request, cx, (&wal, needed), way, &restored)?;
    if let Some(tail) = plan.recovery.as_ref().and_then(|way| way.tail.as_ref()) {
        fetch_tail(&request, cx, (&wal, needed), tail, &restored)?;
    }
    let comment = format!(
        "restored by backstay from {}: remove these lines to make it a primary again",
        manifest.backup
    );
    let settings = settings(recovery, plan.recovery.as_ref());
    let signal = if recovery.goal == Goal::Standby { STANDBY } else { RECOVERY };
    restored.configure(&comment, signal, &settings, recovery.archives)?;
    cx.reporter.phase("writing to disk");
    failpoint::reach("cluster.before_control");
    restored.complete()?;
    Ok((outcome, plan))
}

/// Whether recovery can come to where it should, as far as that can be known.
fn reach(
    wal: &WalStore,
    request: &Request<'_>,
    needed: &NeededWal,
    recovery: &Recovery,
    cx: &Context,
) -> Result<Way> {
    let reporter = cx.reporter.fresh();
    let way = find_way(wal, needed, recovery, &request.keys, &reporter)?;
    let point = request.manifest.recovery_points.first();
    let stop = needed.ranges.last().map_or(Lsn(0), |range| range.stop);
    let time = point.map_or(request.manifest.start, |point| point.time);
    if let Some(warning) = check(&recovery.goal, &way, stop, time)? {
        cx.reporter.warn(WarningCode::Other, request.target.display().to_string(), warning);
    } else if let Goal::Xid(xid) = recovery.goal
        && !was_begun(&request.source, xid.into(), way.end)?
    {
        let archived = way.archived_at.map_or(String::new(), |at| format!(", archived at {at}"));
        let warning = format!(
            "nothing tells that transaction {xid} is in the WAL, which ends at {}{archived}: if it is not the server ends with an error",
            way.end
        );
        cx.reporter.warn(WarningCode::Other, request.target.display().to_string(), warning);
    }
    Ok(way)
}

/// Whether a later backup knows that a transaction had begun before a position.
fn was_begun(source: &SourceStore, xid: u64, end: Lsn) -> Result<bool> {
    let known = |manifest: &Manifest| {
        manifest.recovery_points.iter().any(|point| {
            point.lsn.is_some_and(|lsn| lsn <= end) && point.is_before_xid(xid) == Some(false)
        })
    };
    let all = source.manifests(&source.commits()?)?;
    Ok(all.iter().any(|(_, manifest)| manifest.as_ref().is_ok_and(known)))
}

/// What the server is told.
fn settings(recovery: &Recovery, way: Option<&Way>) -> Vec<(&'static str, String)> {
    if recovery.goal == Goal::Standby {
        let mut settings = vec![
            ("restore_command", recovery.command.clone()),
            ("recovery_target_timeline", "latest".to_owned()),
        ];
        settings.extend(recovery.primary.clone().map(|primary| ("primary_conninfo", primary)));
        return settings;
    }
    let Some(way) = way else {
        return vec![
            // All that is needed lies in pg_wal: there is no more.
            ("restore_command", "false".to_owned()),
            ("recovery_target", "immediate".to_owned()),
            ("recovery_target_timeline", "current".to_owned()),
            ("recovery_target_action", "promote".to_owned()),
        ];
    };
    let command = if recovery.brings_wal { "false" } else { &recovery.command };
    let mut settings = vec![
        ("restore_command", command.to_owned()),
        ("recovery_target_timeline", way.timeline.to_string()),
    ];
    let target = match &recovery.goal {
        Goal::Immediate => Some(("recovery_target", "immediate".to_owned())),
        Goal::Latest | Goal::Standby => None,
        Goal::Time(time) => {
            let time = time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string();
            Some(("recovery_target_time", time))
        }
        Goal::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        Goal::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
        Goal::Name(name) => Some(("recovery_target_name", name.clone())),
    };
    if target.is_some() {
        settings.push(("recovery_target_inclusive", "true".to_owned()));
        settings.push(("recovery_target_action", recovery.action.clone()));
    }
    settings.extend(target);
    settings
}

fn fetch_wal(
    request: &Request<'_>,
    cx: &Context,
    (wal, needed): (&WalStore, &NeededWal),
    way: Option<&Way>,
    restored: &RestoredCluster,
) -> Result<()> {
    let timelines = needed.ranges.iter().map(|range| range.timeline);
    let timeline = timelines.chain(way.map(|way| way.timeline)).max().unwrap_or(1);
    let history = (timeline > 1).then(|| format!("{timeline:08X}.history"));
    let more = way.map(|way| way.names.clone()).unwrap_or_default();
    let names: BTreeSet<String> = needed.segments().chain(history).chain(more).collect();
    for name in names {
        cx.reporter.check()?;
        let path = format!("pg_wal/{name}");
        if needed.tail.as_ref() == Some(&name) {
            // What came with the backup is the beginning of what was archived later.
            restored.remove(&path)?;
        }
        let mut file = restored.create(&path)?;
        let found =
            wal.get(needed.system_id, &name, &request.keys, &cx.reporter.fresh(), &mut file)?;
        if !found {
            return Err(Error::damaged(format!("WAL file {name} is gone from the repository")));
        }
        file.flush().doing(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

/// Puts the beginning of the segment that the server was writing beside the data. Nothing archived
/// has it, so that a server that asks for it looks there next, and finds the end of its WAL in it.
fn fetch_tail(
    request: &Request<'_>,
    cx: &Context,
    (wal, needed): (&WalStore, &NeededWal),
    tail: &Tail,
    restored: &RestoredCluster,
) -> Result<()> {
    let path = format!("pg_wal/{}", tail.segment);
    if needed.tail.as_ref() == Some(&tail.segment) {
        restored.remove(&path)?;
    }
    let mut file = restored.create(&path)?;
    let (id, size) = (needed.system_id, needed.segment_size);
    wal.get_tail(id, tail, size, &request.keys, &cx.reporter.fresh(), &mut file)?;
    file.flush().doing(|| format!("failed to write {path}"))
}

/// Where the tablespaces of the backup lay.
fn read_tablespaces(request: &Request<'_>, cx: &Context) -> Result<Vec<(u32, PathBuf)>> {
    let reporter = cx.reporter.fresh();
    for entry in request.source.index(request.manifest, &request.keys, &reporter)? {
        let entry: Entry = entry?;
        if entry.path == TABLESPACE_MAP.as_bytes() && entry.kind == EntryType::File {
            let mut text = Vec::new();
            ContentReader::of(request, cx, entry)?
                .take(MAP_LIMIT)
                .read_to_end(&mut text)
                .doing(|| format!("failed to read `{TABLESPACE_MAP}` of the backup"))?;
            return read_map(&text);
        }
    }
    Ok(Vec::new())
}

/// Decides where each tablespace goes. Pure.
fn choose(found: &[(u32, PathBuf)], choice: &TablespaceChoice) -> Result<Vec<MappedTablespace>> {
    let means =
        |old: &str, oid: u32, place: &Path| old == oid.to_string() || Path::new(old) == place;
    for (old, _) in &choice.mapped {
        if !found.iter().any(|(oid, place)| means(old, *oid, place)) {
            return Err(Error::usage(format!("the backup has no tablespace `{old}`")).hint(
                match found {
                    [] => "it has none at all".to_owned(),
                    _ => format!("it has {}", list(found)),
                },
            ));
        }
    }
    let mut chosen: Vec<MappedTablespace> = Vec::new();
    for (oid, old) in found {
        let mapped = choice.mapped.iter().find(|(name, _)| means(name, *oid, old));
        let new = match (mapped, &choice.rest) {
            (Some((_, new)), _) => new.clone(),
            (None, Some(rest)) => rest.join(oid.to_string()),
            (None, None) => {
                return Err(Error::usage(format!(
                    "the backup has a tablespace in {}, and nothing says where it is to go",
                    old.display()
                ))
                .hint("`--tablespaces DIR` puts all of them below one directory")
                .hint(format!(
                    "`--tablespace {0}={0}` puts this one back to where it lay, `--tablespace {0}=DIR` elsewhere",
                    old.display()
                )));
            }
        };
        let new =
            std::path::absolute(&new).doing(|| format!("failed to find {}", new.display()))?;
        if chosen.iter().any(|other| other.new == new) {
            return Err(Error::usage(format!("two tablespaces cannot go to {}", new.display())));
        }
        chosen.push(MappedTablespace { oid: *oid, old: old.clone(), new });
    }
    Ok(chosen)
}

fn list(found: &[(u32, PathBuf)]) -> String {
    let all: Vec<String> =
        found.iter().map(|(oid, place)| format!("{} ({oid})", place.display())).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tablespace_needs_a_place() {
        let found = [(16385, PathBuf::from("/srv/a")), (16386, PathBuf::from("/srv/b"))];
        let chosen = |mapped: &[(&str, &str)], rest: Option<&str>| {
            let choice = TablespaceChoice {
                mapped: mapped.iter().map(|(o, n)| ((*o).to_owned(), n.into())).collect(),
                rest: rest.map(PathBuf::from),
            };
            let text = |all: Vec<MappedTablespace>| {
                all.iter().map(|s| s.new.display().to_string()).collect::<Vec<_>>().join(" ")
            };
            choose(&found, &choice).map_or_else(|error| error.to_string(), text)
        };
        assert_eq!(chosen(&[("/srv/a", "/x"), ("16386", "/y")], None), "/x /y");
        assert_eq!(chosen(&[("/srv/a", "/x")], Some("/z")), "/x /z/16386");
        assert_eq!(chosen(&[], Some("/z")), "/z/16385 /z/16386");
        assert!(chosen(&[("/srv/a", "/x")], None).contains("tablespace in /srv/b"));
        assert!(chosen(&[("/srv/c", "/x")], Some("/z")).contains("no tablespace `/srv/c`"));
        assert!(chosen(&[("/srv/a", "/x"), ("/srv/b", "/x")], None).contains("two tablespaces"));
    }
}
