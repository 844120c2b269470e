//! Dumps: a new server takes them, and has the rows that were counted.

use std::time::Instant;

use tempfile::TempDir;

use super::proof::{Proof, Request, lap};
use super::tree::whole;
use crate::archive::manifest::Manifest;
use crate::error::{IoContext as _, Result};
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::run::restore::BackupFiles;
use crate::source::postgres::restore::{Options, Restoring};
use crate::source::postgres::{Launch, ServerUser, ThrowawayServer};

/// A server's indexes and rows take more room than a dump of them.
const GROWTH: u64 = 2;

/// Makes a cluster, restores every database into it, and compares rows with what was counted when
/// they were dumped.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    restored(request, proof, cx).map(Started::stop)
}

/// A server that took dumps. It ends with this, and then everything is removed.
pub struct Started {
    /// The server.
    pub server: ThrowawayServer,
    place: Place,
    runtime: TempDir,
}

impl Started {
    /// Ends it.
    pub fn stop(self) {
        self.server.stop();
        drop((self.place, self.runtime));
    }
}

/// The same, and leaves the server to be looked at.
pub(super) fn restored(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<Started> {
    let mut since = Instant::now();
    let user = ServerUser::choose()?;
    let bytes = request.manifest.counts.bytes;
    let place = Place::make(request.scratch, bytes.saturating_mul(GROWTH), &cx.reporter)?;
    let data = place.path(DATA);
    let runtime = Place::runtime()?;
    user.own(place.directory())?;
    let launch = Launch {
        data: &data,
        runtime: runtime.path(),
        programs: request.programs,
        major: major(request.manifest)?,
        user,
        roles: request.roles,
        isolated: request.isolated,
    };
    cx.reporter.phase("starting a server");
    ThrowawayServer::create(&launch)?;
    let mut server = ThrowawayServer::start(&launch, &cx.reporter)?;
    server.opens(&cx.reporter)?;
    proof.recovery_seconds = lap(&mut since);
    let restore = whole(request);
    let files = BackupFiles::open(&restore, cx)?;
    let scratch = place.path("dumps");
    std::fs::create_dir(&scratch).doing(|| format!("failed to create {}", scratch.display()))?;
    let programs = Some(server.programs().to_path_buf());
    let restoring = Restoring::prepare(
        &files,
        Options::default(),
        &server.settings("postgres")?,
        (programs, Some((scratch, cx.tuning.workers))),
        "proof",
    )?;
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
            format!(
                "`{}`: {} has {} and had {}",
                database.from, found.table, found.found, found.recorded
            )
        }));
        proof.not_proven.extend(database.notes.iter().cloned());
    }
    Ok(Started { server, place, runtime })
}

/// The major version of the server that was dumped.
/// The version of the server that a backup was taken of.
pub(super) fn major(manifest: &Manifest) -> Result<u32> {
    let server = manifest.server.as_deref().unwrap_or_default();
    let digits: String = server
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().map_err(|_| {
        crate::error::Error::damaged(format!("`{server}` does not say which PostgreSQL it was"))
    })
}
