//! `backstay drill list`

use jiff::Timestamp;
use serde::Serialize;

use super::place;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::drill::catalogue;
use crate::drill::coverage::{Covered, coverage};
use crate::drill::evidence::{Evidence, Scenario, Scope, Severity, Verdict};
use crate::error::Result;

/// How many drills of a stack are read.
const MOST: usize = 1000;

/// List the drills that repositories have evidence of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is proven of which source, and how long ago.
    #[arg(long)]
    coverage: bool,
}

/// A drill. What cannot be read, or was altered, has a `problem` and says nothing else of itself.
#[derive(Default, Serialize)]
struct Row {
    drill: String,
    stack: String,
    name: Option<String>,
    started: Option<Timestamp>,
    scenario: Option<Scenario>,
    /// The sources that were meant, and of how many; none for drills of early versions.
    scope: Option<Scope>,
    /// Less than the scenario is about.
    partial: bool,
    verdict: Option<Verdict>,
    /// It was killed or stopped.
    aborted: bool,
    signed: bool,
    rto_seconds: Option<f64>,
    rto_target_seconds: Option<u64>,
    rpo_seconds: Option<f64>,
    rpo_target_seconds: Option<u64>,
    findings: usize,
    /// The gravest of them, where it changes the verdict.
    gravest: Option<String>,
    problem: Option<String>,
    place: String,
}

const HEAD: [(&str, Align); 6] = [
    ("DRILL", Align::Left),
    ("OF", Align::Left),
    ("SCENARIO", Align::Left),
    ("VERDICT", Align::Left),
    ("RTO", Align::Right),
    ("RPO", Align::Right),
];

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let mut found: Vec<(Row, Option<Evidence>)> = Vec::new();
    for (store, stacks) in place::places(app)? {
        for stack in stacks {
            for listed in catalogue::list(&store, &stack, MOST)? {
                let place = store.name().to_owned();
                let (new, evidence) = match listed.evidence {
                    Ok(evidence) => (row(place, &evidence), Some(evidence)),
                    Err(error) => {
                        app.printer.error(&error);
                        app.missed.set(true);
                        let problem = Some(error.to_string());
                        let (drill, stack) = (listed.drill, stack.clone());
                        (Row { drill, stack, problem, place, ..Row::default() }, None)
                    }
                };
                // What lies in two repositories is one drill, and was well written where it can be read.
                match found.iter_mut().find(|(old, _)| old.drill == new.drill) {
                    Some(old) if old.1.is_none() => *old = (new, evidence),
                    Some(_) => {}
                    None => found.push((new, evidence)),
                }
            }
        }
    }
    found.sort_by(|a, b| a.0.drill.cmp(&b.0.drill));
    remember(app, found.iter().filter_map(|(_, evidence)| evidence.as_ref()));
    if args.coverage {
        return tell_coverage(app, found.iter().filter_map(|(_, evidence)| evidence.as_ref()));
    }
    let rows: Vec<Row> = found.into_iter().map(|(row, _)| row).collect();
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if rows.is_empty() {
        app.printer.talk("there is no evidence of any drill: `backstay drill run` holds one");
        return Ok(ExitStatus::Done);
    }
    let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), format::seconds);
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.drill.clone(),
                format!("{}/{}", row.stack, row.name.as_deref().unwrap_or("?")),
                scenario(row),
                verdict(row).to_owned(),
                seconds(row.rto_seconds),
                seconds(row.rpo_seconds),
            ]
        })
        .collect();
    table(&HEAD, &lines).into_iter().try_for_each(|line| app.printer.data(line))?;
    Ok(ExitStatus::Done)
}

/// Keeps what metrics and alerts tell of drills that the policies name, wherever they were held.
fn remember<'a>(app: &App, drills: impl Iterator<Item = &'a Evidence>) {
    if app.repository_url().is_some() {
        return;
    }
    let Ok(set) = app.policies_to_read() else { return };
    let is_named = |evidence: &&Evidence| {
        let policy = set.policies.iter().find(|policy| policy.stack == evidence.stack);
        policy.is_some_and(|policy| policy.drills.contains_key(&evidence.name))
    };
    // What cannot be kept here is still shown: the repositories have it.
    let _ = app.state().and_then(|state| {
        drills
            .filter(is_named)
            .try_for_each(|evidence| state.put_drill(&catalogue::in_row(evidence)))
    });
}

/// What was played, and of how much where that is less than it is about.
fn scenario(row: &Row) -> String {
    let Some(scenario) = row.scenario else { return "-".to_owned() };
    match &row.scope {
        Some(scope) if row.partial => {
            format!("{} ({} of {} sources)", scenario.word(), scope.sources.len(), scope.of)
        }
        None if row.partial => format!("{} (part)", scenario.word()),
        _ => scenario.word().to_owned(),
    }
}

fn verdict(row: &Row) -> &'static str {
    match row.verdict {
        None => "NOT WHAT WAS WRITTEN",
        Some(_) if row.aborted => "ABORTED",
        Some(verdict) => verdict.words(),
    }
}

fn row(place: String, evidence: &Evidence) -> Row {
    Row {
        drill: evidence.drill.clone(),
        stack: evidence.stack.clone(),
        name: Some(evidence.name.clone()),
        started: Some(evidence.started),
        scenario: Some(evidence.scenario),
        scope: evidence.scope.clone(),
        partial: evidence.is_partial(),
        verdict: Some(evidence.verdict),
        aborted: evidence.is_aborted(),
        signed: evidence.says_signed(),
        rto_seconds: evidence.rto.from_declaration_seconds,
        rto_target_seconds: Some(evidence.rto.target_seconds),
        rpo_seconds: evidence.rpo_seconds,
        rpo_target_seconds: Some(evidence.rpo_target_seconds),
        findings: evidence.findings.len(),
        gravest: evidence
            .findings
            .iter()
            .find(|finding| finding.severity > Severity::Finding)
            .map(|finding| finding.text.clone()),
        problem: None,
        place,
    }
}

const COVERAGE: [(&str, Align); 5] = [
    ("SOURCE", Align::Left),
    ("SCENARIO", Align::Left),
    ("PROVEN", Align::Right),
    ("TRIED", Align::Right),
    ("LAST VERDICT", Align::Left),
];

fn tell_coverage<'a>(app: &App, drills: impl Iterator<Item = &'a Evidence>) -> Result<ExitStatus> {
    let set = if app.repository_url().is_some() { None } else { app.policies_to_read().ok() };
    let known: Vec<(String, String)> = set
        .iter()
        .flat_map(|set| &set.policies)
        .flat_map(|policy| policy.sources.keys().map(|name| (policy.stack.clone(), name.clone())))
        .collect();
    let covered = coverage(drills, &known);
    if app.printer.is_json() {
        app.printer.json(&covered)?;
        return Ok(ExitStatus::Done);
    }
    let now = app.cx.clock.now();
    let ago = |at: Option<jiff::Timestamp>| {
        at.map_or_else(
            || "never".to_owned(),
            |at| format!("{} ago", format::span(now.duration_since(at).as_secs().unsigned_abs())),
        )
    };
    let line = |one: &Covered| {
        vec![
            format!("{}/{}", one.stack, one.source),
            match one.scenario {
                Some(scenario) if one.partial => format!("{} (part)", scenario.word()),
                Some(scenario) => scenario.word().to_owned(),
                None => "-".to_owned(),
            },
            ago(one.proven),
            ago(one.tried),
            one.verdict.map_or("-", Verdict::words).to_owned(),
        ]
    };
    let lines: Vec<Vec<String>> = covered.iter().map(line).collect();
    table(&COVERAGE, &lines).into_iter().try_for_each(|line| app.printer.data(line))?;
    Ok(ExitStatus::Done)
}
