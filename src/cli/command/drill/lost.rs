//! Backstay is lost: a repository and an identity are all there is.

use super::run::{Args, Given, ScenarioArg, run_with};
use crate::cli::ExitStatus;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::policy::{self, Policy};

/// Reads the policy from the repository, and holds a drill of it there.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if args.scenario.is_some_and(|scenario| scenario != ScenarioArg::BackstayLost) {
        return Err(Error::usage("without a policy Backstay is lost: that is the scenario"));
    }
    let opened = || app.repositories()?.pop().ok_or_else(|| Error::usage("there is no repository"));
    let (policy, name) = find(&opened()?, args.name.as_deref())?;
    app.printer.talk(format!("  the policy of {} is read from the repository", policy.stack));
    // Whatever the policy calls it: this is what is left.
    let open = |_: &str| opened();
    let read = |_: &str, _| opened();
    let commands = args.trust_policy;
    run_with(app, args, &Given { policy: &policy, name, open: &open, read: &read, commands })
}

/// The policy of a stack that has one in the repository, and a drill of it.
fn find(opened: &Opened, given: Option<&str>) -> Result<(Policy, Option<String>)> {
    let repository = &opened.repository;
    let mut stacks: Vec<String> =
        repository.sources()?.into_iter().map(|address| address.stack).collect();
    stacks.dedup();
    let (stack, drill) = match (given, stacks.as_slice()) {
        (Some(given), _) if given.contains('/') => {
            let (stack, drill) = given.split_once('/').unwrap_or((given, ""));
            (stack.to_owned(), Some(drill.to_owned()))
        }
        (Some(given), _) if stacks.iter().any(|stack| stack == given) => (given.to_owned(), None),
        (given, [stack]) => (stack.clone(), given.map(str::to_owned)),
        (_, []) => return Err(Error::not_found("there is no backup in the repository")),
        (_, all) => {
            return Err(Error::usage("there are several stacks in the repository")
                .hint(format!("say which: {}", all.join(", "))));
        }
    };
    let kept = repository.policies(Some(&stack))?.into_iter().next().ok_or_else(|| {
        Error::not_found(format!("the repository has no policy of {stack}"))
            .hint("a policy is kept there with every backup")
    })?;
    let text = repository.policy_text(&kept, &opened.keys)?;
    let set = policy::parse(text, &format!("the policy of {stack} in the repository"))?;
    let policy = set.policies.into_iter().next();
    let policy = policy.ok_or_else(|| Error::damaged("the policy in the repository is empty"))?;
    Ok((policy, drill))
}
