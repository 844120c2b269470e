//! A base backup: a server recovers from it, and looks at every relation.

use std::time::Instant;

use super::proof::{Proof, Request, lap};
use super::tree::whole;
use crate::error::Result;
use crate::run::Context;
use crate::run::restore::{Means, Outcome, Recovered, Recovery, recover};
use crate::source::postgres::ThrowawayServer;

/// Findings kept of what is wrong in relations.
const FINDINGS: usize = 200;

/// Restores to the first consistent moment, starts, waits until it takes writes, and lets
/// `pg_amcheck` read every table and index.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    let recovered = recovered(request, &Recovery::default(), proof, cx)?;
    let mut since = Instant::now();
    cx.reporter.phase("looking at every relation");
    look(&recovered.server, recovered.major, proof)?;
    proof.check_seconds = lap(&mut since);
    recovered.server.stop();
    Ok(())
}

/// Restores, starts, and waits until it takes writes.
pub(super) fn recovered(
    request: &Request<'_>,
    recovery: &Recovery,
    proof: &mut Proof,
    cx: &Context,
) -> Result<Recovered> {
    let mut since = Instant::now();
    let means = Means {
        scratch: request.scratch,
        programs: request.programs,
        roles: request.roles,
        isolated: request.isolated,
    };
    let mut restored = |outcome: &Outcome| {
        proof.bytes = outcome.bytes;
        proof.restore_seconds = lap(&mut since);
    };
    let recovered = recover(whole(request), recovery, means, &mut restored, cx)?;
    proof.recovery_seconds = lap(&mut since);
    Ok(recovered)
}

/// Lets `pg_amcheck` read every table and index.
pub(super) fn look(server: &ThrowawayServer, major: u32, proof: &mut Proof) -> Result<()> {
    let sql = server.connect("template1")?;
    proof.server = Some(format!("PostgreSQL {}", sql.server().version_text));
    proof.proven.push("a server recovered from it and takes writes".to_owned());
    let databases = server.databases()?;
    let mut relations = 0u64;
    for database in &databases {
        let mut sql = server.connect(database)?;
        let query =
            "SELECT count(*) FROM pg_catalog.pg_class WHERE relkind IN ('r', 'i', 'm', 'S', 't')";
        let count = sql.value(query, "failed to count the relations")?;
        relations += count.parse::<u64>().unwrap_or(0);
    }
    if major < 14 {
        let text = "tables and indexes: pg_amcheck comes with PostgreSQL 14";
        proof.not_proven.push(text.to_owned());
        return Ok(());
    }
    let jobs = std::thread::available_parallelism().map_or(2, usize::from).to_string();
    // Not of templates alone: they are databases like others.
    let (status, said) = server
        .run("pg_amcheck", &["--all", "--install-missing", "--no-password", "--jobs", &jobs])?;
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    match status.code() {
        Some(0) => {
            proof.proven.push(format!(
                "pg_amcheck found nothing wrong in {relations} relations of {} databases",
                databases.len()
            ));
        }
        Some(2) => {
            let some = lines.iter().take(FINDINGS).map(|line| format!("pg_amcheck: {line}"));
            proof.findings.extend(some);
        }
        _ => {
            let last = lines.last().copied().unwrap_or("it said nothing");
            proof.not_proven.push(format!("tables and indexes: pg_amcheck: {last}"));
        }
    }
    Ok(())
}
