//! What was brought back, for as long as somebody looks at it.

use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use super::proof::{Proof, Request, lap};
use super::{cluster, dump, mysql, sqlite, tree};
use crate::error::Result;
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::run::restore::{CLUSTER_KIND, Goal, Recovered, Recovery, Replayed};
use crate::source;
use crate::source::postgres::ThrowawayServer;

/// How far what was archived since the backup is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// To its end.
    Latest,
    /// To this instant.
    At(Timestamp),
    /// Not at all: the backup itself.
    Backup,
}

/// What was brought back. It is gone when this is.
pub enum Live {
    /// A cluster.
    Cluster(Box<Recovered>),
    /// A PostgreSQL server with dumps.
    Dump(Box<dump::Started>),
    /// A MySQL or MariaDB server with dumps.
    Mysql(Box<Replayed>),
    /// Files.
    Files(Place),
}

/// Brings a backup back and starts it where it is one of a server. What was found on the way is in
/// `proof`.
pub fn bring_back(
    request: &Request<'_>,
    aim: Aim,
    proof: &mut Proof,
    cx: &Context,
) -> Result<Live> {
    proof.source = request.manifest.address().to_string();
    proof.backup = request.manifest.backup.to_string();
    Ok(match request.manifest.source_kind.as_str() {
        CLUSTER_KIND => {
            let goal = match aim {
                Aim::Latest => Goal::Latest,
                Aim::At(at) => Goal::Time(at),
                Aim::Backup => Goal::Immediate,
            };
            // The server's user may not be able to read what opens the repository.
            let recovery = Recovery { goal, brings_wal: true, ..Recovery::default() };
            let recovered = cluster::recovered(request, &recovery, proof, cx)?;
            if let Some(hole) = recovered.plan.recovery.as_ref().and_then(|way| way.hole.as_ref()) {
                proof.findings.push(format!(
                    "WAL segment {hole} is missing: what was changed after it is lost"
                ));
            }
            Live::Cluster(Box::new(recovered))
        }
        "postgres_dump" => Live::Dump(Box::new(dump::restored(request, proof, cx)?)),
        source::mysql::KIND => {
            let goal = match aim {
                Aim::At(at) => source::mysql::Goal::Time(at),
                Aim::Latest | Aim::Backup => source::mysql::Goal::End,
            };
            Live::Mysql(Box::new(mysql::restored(request, &goal, proof, cx)?))
        }
        source::sqlite::KIND => Live::Files(sqlite::restored(request, proof, cx)?),
        _ => Live::Files(tree::restored(request, proof, cx)?),
    })
}

impl Live {
    /// Looks at everything in it that was not looked at on the way.
    pub fn look(&self, proof: &mut Proof, cx: &Context) -> Result<()> {
        let Self::Cluster(recovered) = self else { return Ok(()) };
        let mut since = Instant::now();
        cx.reporter.phase("looking at every relation");
        cluster::look(&recovered.server, recovered.major, proof)?;
        proof.check_seconds += lap(&mut since);
        Ok(())
    }

    /// The PostgreSQL server.
    pub fn postgres(&self) -> Option<&ThrowawayServer> {
        match self {
            Self::Cluster(recovered) => Some(&recovered.server),
            Self::Dump(started) => Some(&started.server),
            Self::Mysql(_) | Self::Files(_) => None,
        }
    }

    /// The MySQL or MariaDB server.
    pub fn mysql(&self) -> Option<&source::mysql::ThrowawayServer> {
        match self {
            Self::Mysql(replayed) => Some(replayed.server()),
            _ => None,
        }
    }

    /// The directory of files.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Files(place) => Some(place.path(DATA)),
            _ => None,
        }
    }

    /// How a program of one's own reaches it: a directory, or how its server is reached.
    pub fn address(&self) -> String {
        match (self, self.postgres()) {
            (_, Some(server)) => server.connection("postgres"),
            (Self::Mysql(replayed), _) => replayed.server().connection(),
            _ => self.directory().unwrap_or_default().display().to_string(),
        }
    }

    /// The instant of the last commit that was replayed. Only of a cluster that replayed one.
    pub fn last_commit(&self) -> Result<Option<Timestamp>> {
        let Self::Cluster(recovered) = self else { return Ok(None) };
        let mut sql = recovered.server.connect("template1")?;
        let query = "SELECT (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) \
                     * 1000000)::bigint::text";
        let rows = sql.text(query, "failed to ask for the last commit that was replayed")?;
        let micros = rows.into_iter().flatten().flatten().next().and_then(|text| text.parse().ok());
        Ok(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
    }

    /// Ends servers and removes everything.
    pub fn stop(self) {
        match self {
            Self::Cluster(recovered) => recovered.server.stop(),
            Self::Dump(started) => started.stop(),
            Self::Mysql(replayed) => replayed.stop(),
            Self::Files(place) => drop(place),
        }
    }
}
