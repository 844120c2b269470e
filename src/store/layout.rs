//! Every key of the repository. No other module builds one.

use crate::archive::entry::SegmentRef;
use crate::archive::manifest::SegmentType;
use crate::archive::snapshot;
use crate::archive::wal::is_archived_name;
use crate::id::{BackupId, SourceAddress};

/// The descriptor: what makes a prefix a repository.
pub const DESCRIPTOR: &str = "backstay.json";
/// The page for restoring by hand.
pub const RESTORE_PAGE: &str = "RESTORE.md";
/// The script for restoring by hand.
pub const RESTORE_SCRIPT: &str = "restore.sh";
/// Where repository keys lie.
pub const KEYS: &str = "keys";
/// Where probes write; always removed again.
pub const PROBES: &str = "probe";

/// Top-level names that no stack may have.
pub const RESERVED: &[&str] = &[KEYS, PROBES, DESCRIPTOR, RESTORE_SCRIPT, "restore.md"];

/// The public half of a repository key.
pub fn public_key(id: &str) -> String {
    format!("{KEYS}/{id}.pub")
}

/// A wrap of a repository key's secret half; `number` counts from 1.
pub fn wrapped_key(id: &str, number: u32) -> String {
    if number == 1 { format!("{KEYS}/{id}.age") } else { format!("{KEYS}/{id}.{number}.age") }
}

/// Where policies lie as they were in force.
pub fn policies(stack: &str) -> String {
    format!("{stack}/policy")
}

/// A policy as it was in force.
pub fn policy(stack: &str, digest: &str, encrypted: bool) -> String {
    format!("{stack}/policy/{digest}.yaml{}", age(encrypted))
}

/// The digest in the key of a policy.
pub fn policy_digest(key: &str) -> Option<&str> {
    let name = key.rsplit('/').next()?;
    name.strip_suffix(".age").unwrap_or(name).strip_suffix(".yaml")
}

/// The directory of a source; paths in manifests are relative to it.
pub fn source(address: &SourceAddress) -> String {
    format!("{}/sources/{}", address.stack, address.source)
}

/// The directory of a stack's sources.
pub fn sources(stack: &str) -> String {
    format!("{stack}/sources")
}

/// Where it is recorded which site of a stack is active.
pub fn roles(stack: &str) -> String {
    format!("{stack}/role")
}

/// The record of one epoch, which counts from 1.
pub fn role(stack: &str, epoch: u64) -> String {
    format!("{stack}/role/{epoch:08}.json")
}

/// Where the journals of a stack's playbooks lie, a directory for each run.
pub fn journals(stack: &str) -> String {
    format!("{stack}/journal")
}

/// A record of a journal; `number` counts from 1.
pub fn journal_record(stack: &str, run: &str, number: u64) -> String {
    format!("{stack}/journal/{run}/{number:08}.json")
}

/// The number in the key of a record.
pub fn journal_number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// Where the evidence of a stack's drills lies, a directory for each drill.
pub fn evidence(stack: &str) -> String {
    format!("{stack}/evidence")
}

/// A file of the evidence of a drill.
pub fn evidence_file(stack: &str, drill: &str, name: &str) -> String {
    format!("{stack}/evidence/{drill}/{name}")
}

/// Where the commits of a source lie, relative to it.
pub const COMMITS: &str = "commits";
/// Where the intents of a source lie, relative to it.
pub const INTENTS: &str = "intent";
/// Where the prune marks of a source lie, relative to it.
pub const MARKS: &str = "prune";

/// Where those who read say so, relative to the source.
pub const HOLDS: &str = "hold";
/// Where pins lie, relative to the source.
pub const PINS: &str = "pin";
/// Where the objects of backups lie, relative to the source.
pub const DATA: &str = "data";

/// A prune mark, relative to its source.
pub fn mark(id: &str) -> String {
    format!("{MARKS}/{id}.json")
}

/// The note that nothing of a mark is left, relative to its source.
pub fn mark_done(id: &str) -> String {
    format!("{MARKS}/{id}.done.json")
}

/// A hold, relative to its source.
pub fn hold(id: &str) -> String {
    format!("{HOLDS}/{id}.json")
}

/// A pin, relative to its source.
pub fn pin(backup: &BackupId) -> String {
    format!("{PINS}/{backup}.json")
}

/// What a standby of a source has, relative to the source.
pub fn syncs(job: &str) -> String {
    format!("sync/{job}")
}

/// One record of it, relative to the source; `number` counts from 1.
pub fn sync(job: &str, number: u64) -> String {
    format!("sync/{job}/{number:08}.json")
}

/// The numbers of a lease.
pub fn lease(stack: &str, name: &str) -> String {
    format!("{stack}/lease/{name}")
}

/// Where WAL lies, relative to the source.
pub const WAL: &str = "wal";

/// Where the WAL of a cluster lies, relative to its source.
pub fn wal_cluster(system_id: u64) -> String {
    format!("{WAL}/{system_id}")
}

/// Where the WAL of a cluster's timeline lies, relative to its source.
pub fn wal_timeline(system_id: u64, timeline: u32) -> String {
    format!("{}/{timeline:08X}", wal_cluster(system_id))
}

/// A WAL file, relative to its source; names begin with their timeline.
pub fn wal_file(system_id: u64, name: &str, encrypted: bool) -> String {
    let timeline = name.get(..8).unwrap_or(name);
    format!("{WAL}/{system_id}/{timeline}/{name}{}", wal_suffix(encrypted))
}

/// Bytes of a WAL segment from one offset to another, relative to its source.
pub fn wal_slice(system_id: u64, segment: &str, (from, to): (u64, u64), encrypted: bool) -> String {
    let timeline = segment.get(..8).unwrap_or(segment);
    let suffix = wal_suffix(encrypted);
    format!("{WAL}/{system_id}/{timeline}/{segment}.part/{from:08X}-{to:08X}{suffix}")
}

/// The segment and the offsets of a slice, from its path.
pub fn parse_wal_slice(path: &str) -> Option<(&str, u64, u64)> {
    let (directory, name) = path.rsplit_once(".part/")?;
    let segment = directory.rsplit('/').next().filter(|name| is_archived_name(name))?;
    let name = name.strip_suffix(".age").unwrap_or(name).strip_suffix(".zst")?;
    let offset = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 8);
    let (from, to) = name.split_once('-')?;
    let (from, to) = (offset(from)?, offset(to)?);
    (from < to).then_some((segment, from, to))
}

/// What the keys of WAL files end in, after their name.
pub fn wal_suffix(encrypted: bool) -> &'static str {
    if encrypted { ".zst.age" } else { ".zst" }
}

/// Where StarRocks writes its snapshots, relative to the source.
pub const SNAPSHOTS: &str = snapshot::DIRECTORY;

/// The name of a backup's snapshot; `number` tells databases and attempts apart. StarRocks takes a
/// name only once, whatever became of it.
pub fn snapshot_label(backup: &BackupId, number: u32) -> String {
    format!("bs_{}_{number}", backup.as_str().replace('-', "_"))
}

/// The backup that a snapshot of this name was made for.
pub fn backup_of_label(label: &str) -> Option<BackupId> {
    let (backup, number) = label.strip_prefix("bs_")?.rsplit_once('_')?;
    number.parse::<u32>().ok()?;
    BackupId::parse(&backup.replace('_', "-")).ok()
}

/// The backup that an object belongs to, from its path relative to the source.
pub fn backup_of(path: &str) -> Option<BackupId> {
    if let Some(rest) = path.strip_prefix("starrocks/__starrocks_repository_") {
        let (label, name) = rest.split_once("/__ss_")?.1.split_once('/')?;
        return if name.is_empty() { None } else { backup_of_label(label) };
    }
    let (backup, name) = path.strip_prefix("data/")?.split_once('/')?;
    if name.is_empty() { None } else { BackupId::parse(backup).ok() }
}

/// A commit, relative to its source.
pub fn commit(backup: &BackupId) -> String {
    format!("{COMMITS}/{backup}.json")
}

/// An intent, relative to its source.
pub fn intent(backup: &BackupId) -> String {
    format!("{INTENTS}/{backup}.json")
}

/// The directory of a backup's objects, relative to its source.
pub fn data(backup: &BackupId) -> String {
    format!("data/{backup}")
}

/// A segment, relative to its source.
pub fn segment(segment: &SegmentRef, kind: SegmentType, encrypted: bool) -> String {
    let tar = match kind {
        SegmentType::Tar => ".tar",
        SegmentType::Stream => "",
    };
    format!("data/{}/{:06}{tar}.zst{}", segment.backup, segment.number, age(encrypted))
}

/// The index, relative to its source.
pub fn index(backup: &BackupId, encrypted: bool) -> String {
    format!("data/{backup}/index.zst{}", age(encrypted))
}

/// What `backup` does not want of an older segment, relative to its source.
pub fn dead(backup: &BackupId, segment: &SegmentRef, encrypted: bool) -> String {
    let SegmentRef { backup: older, number } = segment;
    format!("data/{backup}/dead-{older}-{number:06}.zst{}", age(encrypted))
}

/// The list of slices of large files, relative to its source.
pub fn large(backup: &BackupId, encrypted: bool) -> String {
    format!("data/{backup}/large.zst{}", age(encrypted))
}

/// A cluster's own list of files, for the next incremental, relative to its source.
pub fn listing(backup: &BackupId, encrypted: bool) -> String {
    format!("data/{backup}/backup_manifest.zst{}", age(encrypted))
}

/// Digests of a cluster's pages, for the next incremental, relative to its source.
pub fn pages(backup: &BackupId, encrypted: bool) -> String {
    format!("data/{backup}/pages.zst{}", age(encrypted))
}

/// The digests of everything the backup needs, relative to its source.
pub fn sums(backup: &BackupId) -> String {
    format!("data/{backup}/SHA256SUMS")
}

/// Whether this is the key or path of a segment: the bulk of a backup, read by nobody but a restore.
pub fn is_segment(key: &str) -> bool {
    let mut parts = key.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let numbered = name.split_once('.').is_some_and(|(number, _)| {
        number.len() == 6 && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    numbered && parts.nth(1) == Some(DATA)
}

/// Whether the object is encrypted, by its name.
pub fn is_encrypted(path: &str) -> bool {
    path.strip_suffix(".age").is_some()
}

fn age(encrypted: bool) -> &'static str {
    if encrypted { ".age" } else { "" }
}
