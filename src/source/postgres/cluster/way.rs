//! How a cluster is backed up: whole, by increments that the server makes, or by increments that
//! are made here by digests of pages.

use std::sync::Arc;

use super::source::Server;
use crate::archive::entry::Entry;
use crate::archive::increment::PAGE;
use crate::archive::manifest::ClusterFacts;
use crate::error::{Error, ErrorKind, Result};
use crate::source::postgres::basebackup::BaseBackup;
use crate::source::postgres::replication::{BackupOptions, Replication};
use crate::source::{Earlier, PAGE_DIGEST, SourceContext};

/// The oldest server that makes increments itself, as a major version.
const SERVER_MAKES_INCREMENTS: u32 = 17;

/// The longest relation file that increments can be laid over: a longer one is stored in slices.
const WHOLE_MEMBER: u64 = 1 << 30;

/// How a backup is made.
pub(super) enum Way {
    /// All of it, from a server that can make increments of it next time.
    Whole,
    /// All of it, with digests of its pages for the next time.
    WholeDigested,
    /// By the server, over this backup.
    Server(Arc<Earlier>),
    /// Here, by the digests that this backup has.
    Digests(Arc<Earlier>),
}

impl Way {
    /// What this server and the earlier backup allow. If they do not go together the earlier one
    /// is refused.
    pub(super) fn of(server: &Server, cx: &SourceContext) -> Result<Self> {
        let modern = server.session.major() >= SERVER_MAKES_INCREMENTS;
        let Some(earlier) = cx.earlier.clone() else {
            let digested = !modern && server.page == PAGE as u64;
            return Ok(if digested { Self::WholeDigested } else { Self::Whole });
        };
        if let Some(why) = obstacle(server, &earlier) {
            return Err(earlier.refusal.refuse(why));
        }
        let facts = earlier.manifest.cluster.clone().unwrap_or_default();
        if modern {
            if facts.listing.is_none() {
                let why = format!(
                    "{} has no list of files that the server could go by",
                    earlier.manifest.backup
                );
                return Err(earlier.refusal.refuse(why));
            }
            return Ok(Self::Server(earlier));
        }
        let Some(pages) = &facts.pages else {
            let why = format!("{} has no digests of pages", earlier.manifest.backup);
            return Err(earlier.refusal.refuse(why));
        };
        cx.reporter.phase("reading digests");
        match earlier.fetch_digests(pages) {
            Ok(()) => Ok(Self::Digests(earlier)),
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => Err(earlier.refusal.refuse(error.chain())),
        }
    }

    /// Starts the backup.
    pub(super) fn begin(
        &self,
        mut session: Replication,
        options: &BackupOptions,
        cx: &SourceContext,
    ) -> Result<BaseBackup> {
        let Self::Server(earlier) = self else {
            cx.reporter.phase("waiting for a checkpoint");
            return session.base_backup(options);
        };
        let refused = |error: Error| {
            if is_passing(&error) { error } else { earlier.refusal.refuse(error.chain()) }
        };
        if session.show("summarize_wal")? != "on" {
            return Err(earlier.refusal.refuse(
                "`summarize_wal` is off: ALTER SYSTEM SET summarize_wal = on, and SELECT pg_reload_conf()",
            ));
        }
        let listing = earlier.manifest.cluster.as_ref().and_then(|facts| facts.listing.as_ref());
        let Some(listing) = listing else {
            return Err(earlier.refusal.refuse("there is no list of its files"));
        };
        cx.reporter.phase("telling the server what there is");
        let told = earlier.read(listing, &mut |plain| session.upload_manifest(plain));
        told.map_err(refused)?;
        cx.reporter.phase("waiting for a checkpoint and its summary");
        session.base_backup(options).map_err(refused)
    }

    /// Whether digests of pages are made.
    pub(super) fn digests_pages(&self) -> bool {
        matches!(self, Self::WholeDigested | Self::Digests(_))
    }

    /// The digests of a file's pages in the earlier backup, where increments are made here.
    pub(super) fn digests_of(&self, file: &Entry) -> Result<Option<Vec<u8>>> {
        let (Self::Digests(earlier), Some(first)) = (self, file.pages) else { return Ok(None) };
        let count = file.size / PAGE as u64;
        let digests = earlier.digests(first, count)?;
        Ok((digests.len() as u64 == count * PAGE_DIGEST as u64).then_some(digests))
    }
}

/// Whether another attempt, a full one included, would meet the same.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted)
}

/// Why nothing can be built on an earlier backup, as far as that can be told beforehand.
fn obstacle(server: &Server, earlier: &Earlier) -> Option<String> {
    let manifest = &earlier.manifest;
    let name = &manifest.backup;
    let (Some(wal), Some(ClusterFacts { checksums, .. })) = (&manifest.wal, &manifest.cluster)
    else {
        return Some(format!("{name} was made before there were incremental backups of clusters"));
    };
    if wal.system_id != server.identity.system_id {
        return Some(format!(
            "{name} is of cluster {}, and this is {}",
            wal.system_id, server.identity.system_id
        ));
    }
    if manifest.tainted.is_some() {
        return Some(format!("{name} has damaged pages"));
    }
    if *checksums != server.judged {
        return Some(format!("page checksums were switched since {name}"));
    }
    if server.page != PAGE as u64 {
        return Some(format!("pages of {} bytes are not known", server.page));
    }
    if server.pages_in_segment * server.page > WHOLE_MEMBER {
        return Some("its relation files may be longer than 1 GiB".to_owned());
    }
    let timeline = wal.ranges.last().map_or(0, |range| range.timeline);
    (timeline > server.identity.timeline).then(|| {
        format!(
            "{name} is of timeline {timeline}, and the server is on {}",
            server.identity.timeline
        )
    })
}
