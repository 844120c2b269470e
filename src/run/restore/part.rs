//! Databases out of a base backup: a server recovers from it at a place of its own, and they are
//! dumped from there.

use super::recovered::{Means, Recovered, recover};
use super::recovery::Recovery;
use super::request::Request;
use crate::error::{Error, IoContext as _, Result};
use crate::run::Context;
use crate::run::place::Place;
use crate::source::postgres::dump::{Config, LocalDumps, Which};

/// Which databases, and what is needed to get at them.
pub struct Part<'a> {
    /// Picks databases out of those that there are.
    pub choose: &'a dyn Fn(&[String]) -> Result<Vec<String>>,
    /// What the server needs that they are dumped from.
    pub means: Means<'a>,
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
    request: Request<'_>,
    recovery: &Recovery,
    part: &Part<'_>,
    cx: &Context,
) -> Result<DumpedPart> {
    // The server's user may not be able to read what opens the repository.
    let recovery = Recovery { brings_wal: true, ..recovery.clone() };
    let recovered = recover(request, &recovery, part.means, &mut |_| {}, cx)?;
    let Recovered { server, place, .. } = &recovered;
    cx.reporter.phase("dumping");
    let wanted = (part.choose)(&server.databases()?)?;
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
    let Recovered { server, place, .. } = recovered;
    server.stop();
    Ok(DumpedPart { dumps, _place: place })
}
