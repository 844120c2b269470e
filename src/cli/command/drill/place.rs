//! From what a person names to a drill and its evidence.

use crate::cli::setup::App;
use crate::drill::catalogue;
use crate::error::{Error, Result};
use crate::id;
use crate::policy::{Language, Policy, PolicySet};
use crate::store::{Store, layout};

/// The languages of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LanguageArg {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl From<LanguageArg> for Language {
    fn from(language: LanguageArg) -> Self {
        match language {
            LanguageArg::En => Self::En,
            LanguageArg::Zh => Self::Zh,
        }
    }
}

/// The policy and the drill that a person names: `STACK/NAME`, `NAME` where only one stack has it,
/// `STACK` for one that the policy does not name, or nothing where there is only one stack.
pub fn find<'a>(set: &'a PolicySet, given: Option<&str>) -> Result<(&'a Policy, Option<String>)> {
    let stacks: Vec<&Policy> = set.policies.iter().collect();
    let Some(given) = given else {
        return match stacks.as_slice() {
            [policy] => Ok((policy, None)),
            _ => Err(Error::usage("there are several stacks").hint(format!(
                "say which: backstay drill run {}",
                stacks.first().map_or("STACK", |policy| policy.stack.as_str())
            ))),
        };
    };
    let (stack, name) =
        given.split_once('/').map_or((None, given), |(stack, name)| (Some(stack), name));
    let fits = |policy: &&&Policy| stack.is_none_or(|stack| policy.stack == stack);
    let having: Vec<&&Policy> =
        stacks.iter().filter(fits).filter(|policy| policy.drills.contains_key(name)).collect();
    match having.as_slice() {
        [policy] => return Ok((policy, Some(name.to_owned()))),
        [] => {}
        _ => {
            return Err(Error::usage(format!("several stacks have a drill `{name}`"))
                .hint(format!("say which: {}/{name} …", having[0].stack)));
        }
    }
    if stack.is_none()
        && let Some(policy) = stacks.iter().find(|policy| policy.stack == name)
    {
        return Ok((policy, None));
    }
    let known = stacks.iter().flat_map(|policy| policy.drills.keys()).map(String::as_str);
    let known = known.chain(stacks.iter().map(|policy| policy.stack.as_str()));
    Err(Error::usage(format!("there is no drill `{given}`"))
        .hint(crate::policy::hint_at(name, known))
        .hint("without a name every source of the stack is recovered"))
}

/// Every place that may have evidence, with the stacks that may have it there.
pub fn places(app: &App) -> Result<Vec<(Store, Vec<String>)>> {
    let mut places: Vec<(Store, Vec<String>)> = Vec::new();
    for opened in app.repositories()? {
        let store = opened.repository.store().clone();
        let stacks = match opened.stack {
            Some(stack) => vec![stack],
            None => store
                .list_directories("")?
                .into_iter()
                .filter(|name| id::is_name(name) && !layout::RESERVED.contains(&name.as_str()))
                .collect(),
        };
        match places.iter_mut().find(|(known, _)| known.name() == store.name()) {
            Some((_, known)) => known.extend(stacks),
            None => places.push((store, stacks)),
        }
    }
    Ok(places)
}

/// A drill that a repository has evidence of.
pub struct Found {
    /// Where.
    pub store: Store,
    /// Its stack.
    pub stack: String,
    /// Its id.
    pub drill: String,
}

/// The drill with this id or start of one, or the newest.
pub fn find_drill(app: &App, given: Option<&str>) -> Result<Found> {
    if let Some(given) = given
        && !catalogue::is_id(given)
    {
        return Err(Error::usage(format!("`{}` is no drill", given.escape_debug()))
            .hint("`backstay drill list` shows them"));
    }
    let mut found: Vec<Found> = Vec::new();
    for (store, stacks) in places(app)? {
        for stack in stacks {
            for drill in crate::store::drills_with_evidence(&store, &stack)? {
                let fits = given.is_none_or(|given| drill.starts_with(given));
                if fits && catalogue::is_id(&drill) && !found.iter().any(|one| one.drill == drill) {
                    found.push(Found { store: store.clone(), stack: stack.clone(), drill });
                }
            }
        }
    }
    found.sort_by(|a, b| a.drill.cmp(&b.drill));
    if given.is_some() && found.len() > 1 {
        return Err(Error::usage(format!("{} drills begin so", found.len()))
            .hint("give more of the id; `backstay drill list` shows them"));
    }
    found.pop().ok_or_else(|| match given {
        Some(given) => Error::not_found(format!("there is no evidence of a drill {given}"))
            .hint("`backstay drill list` shows them"),
        None => Error::not_found("there is no evidence of any drill")
            .hint("hold one: `backstay drill run`"),
    })
}
