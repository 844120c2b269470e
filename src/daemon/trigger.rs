//! Runs that a person asks for.

use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};
use crate::policy::{Policy, Work};
use crate::state::{NewRun, RunRow, RunState, Slot};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The stack, needed where several have a job of the name.
    pub stack: Option<String>,
    /// The job.
    pub job: String,
    /// Only these of its sources; all of them if empty.
    pub sources: Vec<String>,
}

/// The runs that a wish is. `host` is the machine of the only daemon there is: sources of another
/// are none of its business.
pub fn wished(
    policies: &[Policy],
    wish: &Wish,
    host: Option<&str>,
    now: Timestamp,
) -> Result<Vec<NewRun>> {
    let policy = the_policy(policies, wish)?;
    let job = &policy.jobs[&wish.job];
    let sources: Vec<String> = if matches!(job.work, Work::Backup { .. }) {
        let its: Vec<&String> = policy.sources.keys().filter(|name| job.covers(name)).collect();
        if let Some(other) = wish.sources.iter().find(|wanted| !its.contains(wanted)) {
            return Err(Error::not_found(format!("the job {} has no source `{other}`", wish.job))
                .hint(format!("its sources: {}", list(its.iter().map(|name| name.as_str())))));
        }
        let wanted = |name: &&&String| wish.sources.is_empty() || wish.sources.contains(name);
        its.iter().filter(wanted).map(|name| (*name).clone()).collect()
    } else if wish.sources.is_empty() {
        vec![String::new()]
    } else {
        return Err(Error::usage(format!("the job {} is not done by source", wish.job)));
    };
    let elsewhere = |source: &String| -> Option<&str> {
        let other = policy.sources.get(source)?.host.as_deref()?;
        (host? != other).then_some(other)
    };
    if let Some((source, other)) =
        sources.iter().find_map(|source| Some((source, elsewhere(source)?)))
    {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{}/{source} lies on {other}, and this daemon is another one's", policy.stack),
        )
        .hint(format!("ask the daemon of {other}, or name the sources that are meant")));
    }
    let run = |source: String| {
        let slot = Slot {
            stack: policy.stack.clone(),
            job: wish.job.clone(),
            source,
            // Never what a schedule names.
            nominal: format!("{ASKED}{now}"),
        };
        NewRun {
            id: slot.run_id(now),
            slot,
            due: now,
            not_before: now,
            state: RunState::Waiting,
            why: None,
        }
    };
    Ok(sources.into_iter().map(run).collect())
}

/// What the names of such runs begin with: never what a schedule names.
const ASKED: &str = "asked for at ";

/// Whether somebody asked for a run, and no schedule did.
pub fn is_asked_for(run: &RunRow) -> bool {
    run.slot.nominal.starts_with(ASKED)
}

fn the_policy<'a>(policies: &'a [Policy], wish: &Wish) -> Result<&'a Policy> {
    let of_stack =
        |policy: &&Policy| wish.stack.as_ref().is_none_or(|stack| *stack == policy.stack);
    let mut having =
        policies.iter().filter(of_stack).filter(|policy| policy.jobs.contains_key(&wish.job));
    match (having.next(), having.next()) {
        (Some(policy), None) => Ok(policy),
        (Some(one), Some(other)) => Err(Error::usage(format!(
            "several stacks have a job `{}`: {} and {}",
            wish.job, one.stack, other.stack
        ))
        .hint(format!("write {}/{}", one.stack, wish.job))),
        (None, _) => {
            let all = policies.iter().filter(of_stack).flat_map(|policy| {
                policy.jobs.keys().map(move |job| format!("{}/{job}", policy.stack))
            });
            let all: Vec<String> = all.collect();
            let named = match &wish.stack {
                Some(stack) => format!("{stack}/{}", wish.job),
                None => wish.job.clone(),
            };
            let error = Error::not_found(format!("there is no job `{named}`"));
            Err(if all.is_empty() {
                error
            } else {
                error.hint(format!("there are {}", list(all.iter().map(String::as_str))))
            })
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
