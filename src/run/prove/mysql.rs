//! Dumps of MySQL and MariaDB: a new server takes them, and has the rows that were counted.

use std::time::Instant;

use super::proof::{Proof, Request, lap};
use super::tree::whole;
use crate::error::{IoContext as _, Result};
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::run::restore::BackupFiles;
use crate::source::mysql::{Options, Restoring, ThrowawayServer};
use crate::source::postgres::ServerUser;

/// A server's indexes and rows take more room than a dump of them.
const GROWTH: u64 = 2;

/// What a new server takes before it has anything.
const EMPTY: u64 = 256 << 20;

/// Makes a server, restores every database into it, and compares rows with what was counted when
/// they were dumped.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    let mut since = Instant::now();
    let user = ServerUser::choose()?;
    let bytes = request.manifest.counts.bytes;
    let room = bytes.saturating_mul(GROWTH).saturating_add(EMPTY);
    let place = Place::make(request.scratch, room, &cx.reporter)?;
    let data = place.path(DATA);
    std::fs::create_dir(&data).doing(|| format!("failed to create {}", data.display()))?;
    let runtime = Place::runtime()?;
    user.own(place.directory())?;
    user.own(runtime.path())?;
    cx.reporter.phase("starting a server");
    let mariadb = request.manifest.server.as_deref().unwrap_or_default().starts_with("MariaDB");
    let dirs = (data.as_path(), runtime.path());
    let server = ThrowawayServer::start(mariadb, dirs, request.programs, user, &cx.reporter)?;
    proof.recovery_seconds = lap(&mut since);
    let restore = whole(request);
    let files = BackupFiles::open(&restore, cx)?;
    let programs = request.programs;
    let settings = server.settings()?;
    let restoring = Restoring::prepare(&files, Options::default(), &settings, programs, "proof")?;
    let done = restoring.run(&cx.reporter)?;
    proof.restore_seconds = lap(&mut since);
    proof.bytes = bytes;
    proof.server = Some(done.server.clone());
    for database in &done.databases {
        proof.proven.push(format!(
            "`{}`: {} rows in {} tables as they were counted in the dump's snapshot",
            database.from, database.rows, database.tables_equal
        ));
        proof.findings.extend(database.differ.iter().map(|found| {
            format!("{} has {} and had {}", found.table, found.found, found.recorded)
        }));
    }
    server.stop();
    Ok(())
}
