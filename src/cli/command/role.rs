//! `backstay role`

use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::run::role::Standing;

/// Look at which site is the active one.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: RoleCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RoleCommand {
    /// Show the epochs of a stack, and whether this host's site is the active one.
    ///
    /// One line for each epoch: the site that became the active one, when, by which step of which run,
    /// and how it was known that the site before took no writes. Exit code 1 where the repository that holds
    /// them does not answer: then what this host remembers is shown.
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Stacks; all that have `role` if left out.
    #[arg(value_name = "STACK")]
    stacks: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    stack: String,
    /// The repository that holds the epochs.
    repository: String,
    /// The site of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<String>,
    /// The active one.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<String>,
    epoch: u64,
    /// Nothing is written by this host.
    fenced: bool,
    /// Why the repository could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    epochs: Vec<Epoch>,
}

#[derive(Serialize)]
struct Epoch {
    #[serde(rename = "epoch")]
    number: u64,
    site: String,
    time: String,
    run: String,
    fence: String,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let RoleCommand::Show(args) = &args.command;
    if app.repository_url().is_some() {
        return Err(Error::usage("sites stand in policies: role takes no repository by URL"));
    }
    let set = app.policies_about(&args.stacks)?;
    for stack in &args.stacks {
        let policy = set.policies.iter().find(|policy| policy.stack == *stack);
        let known = || set.policies.iter().map(|policy| policy.stack.as_str());
        let policy = policy.ok_or_else(|| {
            Error::usage(format!("there is no stack `{stack}`"))
                .hint(crate::policy::hint_at(stack, known()))
        })?;
        if policy.role.is_none() {
            return Err(Error::usage(format!("the policy of stack {stack} has no `role`")));
        }
    }
    let wanted = |policy: &&Policy| args.stacks.is_empty() || args.stacks.contains(&policy.stack);
    let mut lines = Vec::new();
    for policy in set.policies.iter().filter(wanted) {
        let Some(role) = &policy.role else { continue };
        lines.push(line(policy, &role.repository, &app.standing(policy)?));
    }
    if lines.is_empty() {
        return Err(Error::usage("no policy has `role`")
            .hint("`role` names the repository that holds the epochs: see docs/playbooks.md"));
    }
    if app.printer.is_json() {
        app.printer.json(&lines)?;
    } else {
        lines.iter().try_for_each(|line| tell(app, line))?;
    }
    let unknown = lines.iter().any(|line| line.unknown.is_some());
    Ok(if unknown { ExitStatus::Failed } else { ExitStatus::Done })
}

fn line(policy: &Policy, repository: &str, standing: &Standing) -> Line {
    let current = standing.current();
    Line {
        stack: policy.stack.clone(),
        repository: repository.to_owned(),
        own: standing.own.clone(),
        active: current.map(|current| current.site.clone()).filter(|site| !site.is_empty()),
        epoch: current.map_or(0, |current| current.epoch),
        fenced: standing.is_fenced(),
        unknown: standing.unknown.clone(),
        epochs: standing
            .history
            .iter()
            .map(|one| Epoch {
                number: one.epoch,
                site: one.site.clone(),
                time: one.time.to_string(),
                run: one.run.clone(),
                fence: one.fence.clone(),
            })
            .collect(),
    }
}

const HEAD: [(&str, Align); 5] = [
    ("EPOCH", Align::Right),
    ("SITE", Align::Left),
    ("SINCE", Align::Left),
    ("BY", Align::Left),
    ("FENCE", Align::Left),
];

fn tell(app: &App, line: &Line) -> Result<()> {
    let active = match &line.active {
        Some(site) => format!("site {site} is active since epoch {}", line.epoch),
        None => "no site is the active one".to_owned(),
    };
    let here = match &line.own {
        None => "this host belongs to none".to_owned(),
        Some(own) if line.fenced => format!("this host's site {own} is FENCED"),
        Some(own) => format!("this host's site is {own}"),
    };
    app.printer.data(format!("{}: {active}; {here}", line.stack))?;
    if line.epochs.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = line
        .epochs
        .iter()
        .map(|one| {
            let site = if one.site.is_empty() { "none" } else { &one.site };
            let time = one.time.parse().map_or_else(|_| one.time.clone(), format::time);
            vec![one.number.to_string(), site.to_owned(), time, one.run.clone(), one.fence.clone()]
        })
        .collect();
    table(&HEAD, &rows).into_iter().try_for_each(|row| app.printer.data(row))
}
