//! `backstay playbook history`

use serde::Serialize;

use super::live::standing;
use super::place;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::error::Result;
use crate::playbook::history::read;
use crate::playbook::view::RunView;
use crate::store::runs_with_journals;

/// List the runs of playbooks, from their journals in the repositories. The newest last.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this playbook.
    #[arg(value_name = "PLAYBOOK")]
    playbook: Option<String>,

    /// At most so many of each stack.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
}

#[derive(Serialize)]
struct Row {
    run: String,
    stack: String,
    playbook: String,
    mode: &'static str,
    repository: String,
    state: String,
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
        runs.drain(..runs.len().saturating_sub(args.limit));
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
                    app.printer.error(&error.context(format!("failed to read run {run}")));
                    app.missed.set(true);
                }
            }
        }
    }
    for error in errors {
        app.printer.error(&error);
        app.missed.set(true);
    }
    rows.sort_by(|a, b| (a.started, &a.run).cmp(&(b.started, &b.run)));
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
            vec![
                format::time(row.started),
                row.run.clone(),
                format!("{}/{}", row.stack, row.playbook),
                row.mode.to_owned(),
                row.state.clone(),
                row.who.clone(),
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
        playbook: view.plan.playbook.clone(),
        mode: view.plan.mode.word(),
        repository: repository.to_owned(),
        state: standing(view),
        started: view.started,
        last: view.last,
        who: view.who.to_string(),
        hash: view.hash.clone(),
    }
}
