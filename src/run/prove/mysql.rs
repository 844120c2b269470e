//! Dumps of MySQL and MariaDB: a new server takes them and the binary logs since, and has the rows
//! that were counted.

use std::time::Instant;

use super::proof::{Proof, Request, lap};
use super::tree::whole;
use crate::error::Result;
use crate::run::Context;
use crate::run::restore::{BackupFiles, Means, Replayed, replayed};
use crate::source::mysql::Goal;

/// Makes a server, restores every database into it, compares rows with what was counted when they
/// were dumped, and replays binary logs.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    restored(request, &Goal::End, proof, cx).map(Replayed::stop)
}

/// The same up to a goal, and leaves the server to be looked at.
pub(super) fn restored(
    request: &Request<'_>,
    goal: &Goal,
    proof: &mut Proof,
    cx: &Context,
) -> Result<Replayed> {
    let mut since = Instant::now();
    let restore = whole(request);
    let files = BackupFiles::open(&restore, cx)?;
    let bytes = request.manifest.counts.bytes;
    let means = Means {
        scratch: request.scratch,
        programs: request.programs,
        roles: request.roles,
        isolated: request.isolated,
    };
    let replayed = replayed(&files, means, bytes, goal, cx)?;
    proof.restore_seconds = lap(&mut since);
    proof.bytes = bytes;
    proof.server = Some(replayed.done.server.clone());
    for database in &replayed.done.databases {
        proof.proven.push(format!(
            "`{}`: {} rows in {} tables as they were counted in the dump's snapshot",
            database.from, database.rows, database.tables_equal
        ));
        proof.findings.extend(database.differ.iter().map(|found| {
            format!("{} has {} and had {}", found.table, found.found, found.recorded)
        }));
    }
    if let (logs, Some(last)) = &replayed.logs {
        proof.proven.push(format!("{logs} binary logs replayed, the last of them {last}"));
    }
    Ok(replayed)
}
