//! A server that recovers from a base backup at a place of its own, for as long as somebody looks.

use std::path::Path;

use tempfile::TempDir;

use super::cluster::{ClusterPlan, TablespaceChoice, restore_cluster};
use super::recovery::Recovery;
use super::request::{Outcome, Request};
use crate::error::Result;
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::source::postgres::{Launch, ServerUser, ThrowawayServer};
use crate::telemetry::failpoint;

/// What such a server needs.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// A directory with room for the whole cluster.
    pub scratch: &'a Path,
    /// Where the server's programs are, if they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Roles that the server may have, besides `postgres`.
    pub roles: &'a [String],
    /// The server gets a network of its own, with nothing in it.
    pub isolated: bool,
}

/// The server. It ends with this, and then everything is removed.
pub struct Recovered {
    /// It takes writes.
    pub server: ThrowawayServer,
    /// Its major version.
    pub major: u32,
    /// How it came there.
    pub plan: ClusterPlan,
    /// Where it lies.
    pub place: Place,
    _runtime: TempDir,
}

/// Restores a cluster, whatever target the request names, starts a server and waits until it has
/// recovered. `restored` is told before it is started.
pub fn recover(
    request: Request<'_>,
    recovery: &Recovery,
    means: Means<'_>,
    restored: &mut dyn FnMut(&Outcome),
    cx: &Context,
) -> Result<Recovered> {
    let user = ServerUser::choose()?;
    let place = Place::make(means.scratch, request.manifest.counts.bytes, &cx.reporter)?;
    let data = place.path(DATA);
    let choice = TablespaceChoice { mapped: Vec::new(), rest: Some(place.path("tablespaces")) };
    let recovery = Recovery { action: "promote".to_owned(), ..recovery.clone() };
    let request = Request { target: data.clone(), ..request };
    let (outcome, plan) = restore_cluster(request, &choice, &recovery, cx)?;
    user.own(place.directory())?;
    restored(&outcome);
    let major = ThrowawayServer::major_of(&data)?;
    let runtime = Place::runtime()?;
    let launch = Launch {
        data: &data,
        runtime: runtime.path(),
        programs: means.programs,
        major,
        user,
        roles: means.roles,
        isolated: means.isolated,
    };
    cx.reporter.phase("starting the server");
    let mut server = ThrowawayServer::start(&launch, &cx.reporter)?;
    failpoint::reach("prove.started");
    server.opens(&cx.reporter)?;
    Ok(Recovered { server, major, plan, place, _runtime: runtime })
}
