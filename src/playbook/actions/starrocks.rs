//! `starrocks`: who may write to a cluster, whether it refuses, and whether two have the same.

use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{ClusterLogin, StarRocksAction};
use crate::source::starrocks::{Cluster, Failure, Login, sql};

/// Does something to a StarRocks cluster, or looks at it.
pub struct StarRocks(pub StarRocksAction);

fn open(cluster: &ClusterLogin, job: &Job<'_>) -> Result<Cluster> {
    Cluster::open(Login::to(cluster)?, &job.cx.reporter)
}

/// Gives rights to those who are named, or takes them away. Twice is as good as once.
fn set(
    cluster: &ClusterLogin,
    (rights, of): (&[String], &[String]),
    give: bool,
    job: &Job<'_>,
) -> Result<Outputs> {
    let mut cluster = open(cluster, job)?;
    for right in rights {
        for whom in of {
            let statement = if give {
                format!("GRANT {right} TO {whom}")
            } else {
                format!("REVOKE {right} FROM {whom}")
            };
            cluster.submit(&statement).map_err(|failure| {
                failure
                    .into_error(&format!("carry out `{statement}`"))
                    .hint("the user needs the role `user_admin`, or GRANT on what it gives")
            })?;
        }
    }
    Ok(Outputs::new())
}

/// A write that the cluster refuses because the user may not write. Anything else is no proof.
fn prove_fenced(cluster: &ClusterLogin, table: &str, job: &Job<'_>) -> Result<Outputs> {
    let user = cluster.user.clone();
    let mut cluster = open(cluster, job).map_err(|error| {
        error.hint("a cluster that does not let the user in may still take writes from others: a person has to attest that it is off")
    })?;
    // Nothing is written, also where it is let through.
    let table = quoted(table)?;
    let statement = format!("INSERT INTO {table} SELECT * FROM {table} WHERE FALSE");
    match cluster.submit(&statement) {
        Ok(_) => {
            Err(Error::new(ErrorKind::Conflict, format!("the cluster still lets {user} write")))
        }
        // The right that is missing is named: `INSERT`, and `LOAD` before 3.0.
        Err(Failure::Said(text))
            if text.contains("Access denied")
                && (text.contains("INSERT") || text.contains("LOAD")) =>
        {
            let proof = format!("{user} may not write");
            Ok(Outputs::from([("proof".to_owned(), proof)]))
        }
        Err(failure) => {
            let error = failure.into_error("try to write");
            Err(Error::new(
                error.kind(),
                "the cluster refused a write, but not because it is fenced",
            )
            .with_source(error))
        }
    }
}

fn quoted(table: &str) -> Result<String> {
    let (database, table) = table
        .split_once('.')
        .ok_or_else(|| Error::usage(format!("`{table}` is no DATABASE.TABLE")))?;
    Ok(format!("{}.{}", sql::name(database), sql::name(table)))
}

fn rows(cluster: &mut Cluster, table: &str) -> Result<u64> {
    let (database, name) = table
        .split_once('.')
        .ok_or_else(|| Error::usage(format!("`{table}` is no DATABASE.TABLE")))?;
    let doing = format!("count the rows of {table}");
    let answer = cluster
        .submit(&sql::count(database, name))
        .map_err(|failure| failure.into_error(&doing))?;
    let first = answer.rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    first.ok_or_else(|| Error::failed(format!("failed to {doing}: there is no number")))
}

fn compare(
    (one, other): (&ClusterLogin, &ClusterLogin),
    tables: &[String],
    job: &Job<'_>,
) -> Result<Outputs> {
    let (mut one, mut other) = (open(one, job)?, open(other, job)?);
    let (mut total, mut differing) = (0, Vec::new());
    for table in tables {
        job.cx.reporter.check()?;
        let (here, there) = (rows(&mut one, table)?, rows(&mut other, table)?);
        total += here;
        if here != there {
            differing.push(format!("{table}: {here} and {there} rows"));
        }
    }
    if !differing.is_empty() {
        return Err(Error::new(ErrorKind::Conflict, "the two clusters differ")
            .with_source(differing.join("; "))
            .hint("stop who writes, bring the newest snapshot over, and compare again"));
    }
    Ok(Outputs::from([
        ("tables".to_owned(), tables.len().to_string()),
        ("rows".to_owned(), total.to_string()),
    ]))
}

impl Action for StarRocks {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let list = |parts: &[String]| parts.join("; ");
        let mut preview = Preview::of(match &self.0 {
            StarRocksAction::Fence { rights, of, .. } => {
                format!("takes {} from {}", list(rights), list(of))
            }
            StarRocksAction::Activate { rights, of, .. } => {
                format!("gives {} to {}", list(rights), list(of))
            }
            StarRocksAction::ProveFenced { cluster, table } => {
                format!("proves that {} may not write to {table}", cluster.user)
            }
            StarRocksAction::Compare { tables, .. } => {
                format!("counts the rows of {} at both clusters", tables.join(", "))
            }
        });
        for (_, cluster) in self.0.clusters() {
            match open(cluster, job) {
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => preview = preview.missing(error.chain()),
                Ok(_) => {}
            }
        }
        Ok(preview)
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        match &self.0 {
            StarRocksAction::Fence { .. } | StarRocksAction::Activate { .. } => {
                // Rights come by many ways: once more does no harm.
                Ok(Observed::Unknown(
                    "whether all rights are as they should be is not known".into(),
                ))
            }
            _ => Ok(match self.apply(job) {
                Ok(outputs) => Observed::Done(outputs),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(_) => Observed::NotDone,
            }),
        }
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        match &self.0 {
            StarRocksAction::Fence { cluster, rights, of } => {
                set(cluster, (rights, of), false, job)
            }
            StarRocksAction::Activate { cluster, rights, of } => {
                set(cluster, (rights, of), true, job)
            }
            StarRocksAction::ProveFenced { cluster, table } => prove_fenced(cluster, table, job),
            StarRocksAction::Compare { cluster, with, tables } => {
                compare((cluster, with), tables, job)
            }
        }
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        let done = match &self.0 {
            StarRocksAction::Fence { cluster, rights, of } => set(cluster, (rights, of), true, job),
            StarRocksAction::Activate { cluster, rights, of } => {
                set(cluster, (rights, of), false, job)
            }
            _ => return Err(Error::unsupported("this changes nothing")),
        };
        done.map(drop)
    }
}
