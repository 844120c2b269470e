//! `backstay state`

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::id::{BackupId, SourceAddress};
use crate::policy::Policy;
use crate::run::rebuild::{newest_of_jobs, runs_of};
use crate::run::{list_backups, protection};

/// Look after what daemons remember.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: StateCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StateCommand {
    /// Bring back, from the repositories alone, what daemons need to go on after the state is lost:
    /// when each job last succeeded for each source, and up to when its times are done.
    ///
    /// May be run at any time and any number of times: what is known stays as it is. What came of
    /// runs that made no backup, what runs said and what was proven when are lost.
    Rebuild {
        /// Say what is found, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Serialize)]
struct Report {
    state: Option<String>,
    dry_run: bool,
    sources: Vec<Found>,
    jobs: Vec<JobFound>,
    /// Writers that have not ended, as far as repositories know.
    intents: Vec<Open>,
    /// Runs that repositories tell of.
    runs: usize,
    /// Those of them that were not known.
    added: usize,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    source: String,
    repository: String,
    backups: usize,
    /// The newest instant that it can be restored to.
    newest: Option<Timestamp>,
}

#[derive(Serialize)]
struct JobFound {
    stack: String,
    job: String,
    last_success: Timestamp,
}

#[derive(Serialize)]
struct Open {
    source: String,
    repository: String,
    backup: BackupId,
    writer: String,
    since: Timestamp,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let StateCommand::Rebuild { dry_run } = &args.command;
    if app.repository_url().is_some() {
        return Err(Error::usage("which jobs there are stands in policies: give --policy PATH"));
    }
    let set = app.policies(false)?;
    let mut report = Report {
        state: None,
        dry_run: *dry_run,
        sources: Vec::new(),
        jobs: Vec::new(),
        intents: Vec::new(),
        runs: 0,
        added: 0,
        problems: Vec::new(),
    };
    let mut manifests = Vec::new();
    for policy in &set.policies {
        for name in policy.repositories.keys().filter(|name| app.wants_repository(name)) {
            let looked = app
                .open(policy, name)
                .and_then(|opened| look(policy, &opened, &mut report, &mut manifests));
            if let Err(error) = looked {
                report.problems.push(format!("{} {name}: {}", policy.stack, error.chain()));
            }
        }
    }
    let runs = runs_of(&manifests);
    let newest = newest_of_jobs(&runs);
    report.runs = runs.len();
    if !dry_run {
        let ledger = app.ledger_of(&set.policies)?;
        report.added = ledger.restore_runs(&runs)?;
        for ((stack, job), at) in &newest {
            // Where nothing is known: what is due since the last success is caught up with.
            ledger.cursor(stack, job, *at)?;
        }
        report.state = Some(ledger.place());
    }
    let job = |((stack, job), last_success)| JobFound { stack, job, last_success };
    report.jobs = newest.into_iter().map(job).collect();
    show(app, &report)?;
    match report.problems.len() {
        0 => Ok(ExitStatus::Done),
        _ => Err(Error::failed("not every repository could be asked")
            .hint("run it again when they answer: what is known stays as it is")),
    }
}

fn look(
    policy: &Policy,
    opened: &Opened,
    report: &mut Report,
    manifests: &mut Vec<Manifest>,
) -> Result<()> {
    let listed = list_backups(&opened.repository, &|address| address.stack == policy.stack)?;
    let mut by_source: BTreeMap<SourceAddress, Vec<Manifest>> = BTreeMap::new();
    for one in listed {
        match one.manifest {
            Ok(manifest) => by_source.entry(one.address).or_default().push(manifest),
            Err(error) => report.problems.push(format!(
                "{}@{} in {}: {}",
                one.address,
                one.commit.backup,
                opened.name,
                error.chain()
            )),
        }
    }
    for address in opened.repository.sources()? {
        if address.stack != policy.stack {
            continue;
        }
        let source = opened.repository.source(&address);
        for (intent, since) in source.intents()? {
            report.intents.push(Open {
                source: address.to_string(),
                repository: opened.name.clone(),
                backup: intent.backup,
                writer: intent.writer.to_string(),
                since,
            });
        }
        let Some(found) = by_source.remove(&address) else { continue };
        report.sources.push(Found {
            source: address.to_string(),
            repository: opened.name.clone(),
            backups: found.len(),
            newest: protection::newest(&source, &found)?.map(|newest| newest.time),
        });
        manifests.extend(found);
    }
    Ok(())
}

const HEAD: [(&str, Align); 4] = [
    ("SOURCE", Align::Left),
    ("REPOSITORY", Align::Left),
    ("BACKUPS", Align::Right),
    ("NEWEST", Align::Left),
];

fn show(app: &App, report: &Report) -> Result<()> {
    if app.printer.is_json() {
        return app.printer.json(report);
    }
    let cells = |found: &Found| {
        vec![
            found.source.clone(),
            found.repository.clone(),
            found.backups.to_string(),
            found.newest.map_or("-".to_owned(), format::time),
        ]
    };
    let rows: Vec<Vec<String>> = report.sources.iter().map(cells).collect();
    if !rows.is_empty() {
        for line in table(&HEAD, &rows) {
            app.printer.data(line)?;
        }
    }
    for job in &report.jobs {
        app.printer.talk(format!(
            "{} {}: last succeeded {}",
            job.stack,
            job.job,
            format::time(job.last_success)
        ));
    }
    for open in &report.intents {
        app.printer.talk(format!(
            "{} in {}: {} began {} {} and has not ended",
            open.source,
            open.repository,
            open.writer,
            open.backup,
            format::time(open.since)
        ));
    }
    for problem in &report.problems {
        app.printer.warning(problem);
    }
    let count = format::count(report.runs as u64, "run");
    app.printer.talk(match &report.state {
        None => format!("repositories tell of {count}; nothing was written"),
        Some(state) => {
            format!("repositories tell of {count}, {} were new to {state}", report.added)
        }
    });
    Ok(())
}
