//! `backstay playbook history`

use std::num::NonZeroUsize;

use serde::Serialize;

use super::live::standing;
use super::place;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::error::{ErrorKind, Result};
use crate::id::time_of_key;
use crate::playbook::aside::{is_end, is_for_good};
use crate::playbook::history::{read, unreadable};
use crate::playbook::view::RunView;
use crate::store::{JournalStore, runs_with_journals};

/// List the runs of playbooks, from their journals in the repositories. The newest last.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this playbook.
    #[arg(value_name = "PLAYBOOK")]
    playbook: Option<String>,

    /// At most so many of each stack.
    #[arg(long, value_name = "NUMBER", default_value = "50")]
    limit: NonZeroUsize,
}

#[derive(Serialize)]
struct Row {
    run: String,
    stack: String,
    repository: String,
    state: String,
    /// What its journal says, where it can be read.
    #[serde(flatten)]
    known: Option<Known>,
}

#[derive(Serialize)]
struct Known {
    playbook: String,
    mode: &'static str,
    started: jiff::Timestamp,
    last: jiff::Timestamp,
    who: String,
    hash: String,
}

const HEAD: [(&str, Align); 6] = [
    ("STARTED", Align::Left),
    ("RUN", Align::Left),
    ("PLAYBOOK", Align::Left),
    ("MODE", Align::Left),
    ("STATE", Align::Left),
    ("BY", Align::Left),
];

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let wanted = args.playbook.as_deref();
    let (places, errors) = place::places(app, &set, "any");
    let mut rows: Vec<Row> = Vec::new();
    for (stack, repository, place) in places {
        let mut runs = runs_with_journals(place.at.store(), &stack)?;
        runs.drain(..runs.len().saturating_sub(args.limit.get()));
        for run in runs {
            if rows.iter().any(|row| row.run == run) {
                continue;
            }
            match read(&place, &stack, &run) {
                Ok(Some(view)) if wanted.is_none_or(|name| is(&view, name)) => {
                    rows.push(row(&view, &repository));
                }
                Ok(_) => {}
                Err(error) => {
                    // One that was set aside keeps nobody from anything: it is known to be damaged.
                    let last = JournalStore::new(place.at.store(), &stack, &run).last()?;
                    let left = is_for_good(&error) && last.is_some_and(|(_, last)| is_end(&last));
                    if !left {
                        app.printer.error(&unreadable(error, &run));
                        app.missed.set(true);
                    }
                    let state = if left { "set aside: damaged" } else { "cannot be read" };
                    let (repository, state) = (repository.clone(), state.to_owned());
                    let stack = stack.clone();
                    rows.push(Row { run, stack, repository, state, known: None });
                }
            }
        }
    }
    // What no repository answered for may have it.
    let lost = if errors.is_empty() { place::lost(app, &set)? } else { Vec::new() };
    for error in errors.into_iter().chain(lost) {
        app.printer.error(&error);
        app.missed.set(true);
    }
    if let Some(name) = wanted.filter(|_| rows.is_empty() && !app.missed.get()) {
        // One that the policy has was never run; any other is a slip.
        place::find(&set, name).map_err(|error| error.with_kind(ErrorKind::NotFound))?;
    }
    // Where nobody can read when a run began its name tells the second.
    let began = |row: &Row| {
        row.known.as_ref().map_or_else(|| time_of_key(&row.run), |known| Some(known.started))
    };
    rows.sort_by(|a, b| (began(a), &a.run).cmp(&(began(b), &b.run)));
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if rows.is_empty() {
        app.printer.talk("no playbook was run");
        return Ok(ExitStatus::Done);
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let of = |show: &dyn Fn(&Known) -> String| {
                row.known.as_ref().map_or_else(|| "?".to_owned(), show)
            };
            vec![
                of(&|known| format::time(known.started)),
                row.run.clone(),
                of(&|known| format!("{}/{}", row.stack, known.playbook)),
                of(&|known| known.mode.to_owned()),
                row.state.clone(),
                of(&|known| known.who.clone()),
            ]
        })
        .collect();
    table(&HEAD, &lines).into_iter().try_for_each(|line| app.printer.data(line))?;
    Ok(ExitStatus::Done)
}

fn is(view: &RunView, name: &str) -> bool {
    view.plan.playbook == name || format!("{}/{}", view.plan.stack, view.plan.playbook) == name
}

fn row(view: &RunView, repository: &str) -> Row {
    Row {
        run: view.run.clone(),
        stack: view.plan.stack.clone(),
        repository: repository.to_owned(),
        state: standing(view),
        known: Some(Known {
            playbook: view.plan.playbook.clone(),
            mode: view.plan.mode.word(),
            started: view.started,
            last: view.last,
            who: view.who.to_string(),
            hash: view.hash.clone(),
        }),
    }
}
