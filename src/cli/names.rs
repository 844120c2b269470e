//! Names of sources, as people give them.

use std::collections::BTreeSet;

use super::setup::App;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy;
use crate::store::Repository;

/// Names of sources that were given, and the sources there are.
pub struct Names<'a> {
    given: &'a [String],
    known: BTreeSet<SourceAddress>,
}

impl<'a> Names<'a> {
    /// What was given. Known are the sources of the policies, if any can be read.
    pub fn new(app: &App, given: &'a [String]) -> Self {
        let mut known = BTreeSet::new();
        if !given.is_empty()
            && app.repository_url().is_none()
            && let Ok(set) = app.policies_to_read()
        {
            for policy in set.policies {
                let stack = &policy.stack;
                known.extend(policy.sources.keys().map(|name| SourceAddress::new(stack, name)));
            }
        }
        Self { given, known }
    }

    /// Adds the sources that have anything in a repository.
    pub fn add(&mut self, repository: &Repository) -> Result<()> {
        if !self.given.is_empty() {
            self.known.extend(repository.sources()?);
        }
        Ok(())
    }

    /// Refuses a name that no source has: a mistyped name must not read as "nothing there".
    pub fn check(&self) -> Result<()> {
        let means = |name: &String| {
            self.known.iter().any(|address| address.is_named_by(std::slice::from_ref(name)))
        };
        let Some(name) = self.given.iter().find(|name| !means(name)) else { return Ok(()) };
        let error = Error::not_found(format!("there is no source or stack `{name}`"));
        if name.contains('@') || crate::id::BackupId::parse(name).is_ok() {
            return Err(error.hint(format!("for one backup: `backstay show {name}`")));
        }
        let mut all: BTreeSet<String> = self.known.iter().map(ToString::to_string).collect();
        if all.is_empty() {
            return Err(error.hint("nothing was backed up there yet"));
        }
        if !name.contains('/') {
            let parts = self.known.iter().flat_map(|a| [a.stack.clone(), a.source.clone()]);
            let parts: BTreeSet<String> = parts.collect();
            if let Some(hint) = policy::hint_near(name, parts.iter().map(String::as_str)) {
                return Err(error.hint(hint));
            }
        }
        while all.len() > 20 {
            all.pop_last();
        }
        Err(error.hint(policy::hint_at(name, all.iter().map(String::as_str))))
    }
}
