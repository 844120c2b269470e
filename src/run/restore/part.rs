//! Databases out of a base backup: a server recovers from it at a place of its own, and they are
//! dumped from there.

use std::path::Path;

use super::cluster::{TablespaceChoice, restore_cluster};
use super::recovery::Recovery;
use super::request::Request;
use crate::error::{Error, IoContext as _, Result};
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::source::postgres::dump::{Config, LocalDumps, Which};
use crate::source::postgres::{Launch, ServerUser, ThrowawayServer};

/// Which databases, and what is needed to get at them.
pub struct Part<'a> {
    /// Picks databases out of those that there are.
    pub choose: &'a dyn Fn(&[String]) -> Result<Vec<String>>,
    /// A directory with room for the whole cluster.
    pub scratch: &'a Path,
    /// Where the server's programs are, if they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Roles that the server may have, besides `postgres`.
    pub roles: &'a [String],
}

/// Dumps of databases, for as long as this exists.
pub struct DumpedPart {
    /// The dumps.
    pub dumps: LocalDumps,
    _place: Place,
}

/// Recovers the cluster as far as asked for, and dumps databases of it. Its server is gone when
/// this returns.
pub fn dump_part(
    mut request: Request<'_>,
    recovery: &Recovery,
    part: &Part<'_>,
    cx: &Context,
) -> Result<DumpedPart> {
    let user = ServerUser::choose()?;
    let place = Place::make(part.scratch, request.manifest.counts.bytes, &cx.reporter)?;
    request.target = place.path(DATA);
    let choice = TablespaceChoice { mapped: Vec::new(), rest: Some(place.path("tablespaces")) };
    // The server's user may not be able to read what opens the repository.
    let recovery = Recovery { brings_wal: true, action: "promote".to_owned(), ..recovery.clone() };
    restore_cluster(request, &choice, &recovery, cx)?;
    user.own(place.directory())?;
    let data = place.path(DATA);
    let runtime = Place::runtime()?;
    let launch = Launch {
        data: &data,
        runtime: runtime.path(),
        programs: part.programs,
        major: ThrowawayServer::major_of(&data)?,
        user,
        roles: part.roles,
    };
    cx.reporter.phase("starting the server");
    let mut server = ThrowawayServer::start(&launch, &cx.reporter)?;
    server.opens(&cx.reporter)?;
    cx.reporter.phase("dumping");
    let mut sql = server.connect("template1")?;
    let query = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
    let there = sql.text(query, "failed to list the databases")?;
    let there: Vec<String> = there.into_iter().flatten().flatten().collect();
    let wanted = (part.choose)(&there)?;
    drop(sql);
    let config = Config {
        connection: server.connection("template1"),
        which: Which::Names(wanted),
        counts: true,
        programs: Some(server.programs().to_path_buf()),
        ..Config::default()
    };
    let directory = place.path("dumps");
    std::fs::create_dir(&directory)
        .doing(|| format!("failed to create {}", directory.display()))?;
    let dumps = LocalDumps::make(config, &directory, &cx.for_source())
        .map_err(|error| Error::context(error, "failed to dump from the recovered server"))?;
    server.stop();
    Ok(DumpedPart { dumps, _place: place })
}
