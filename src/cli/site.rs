//! Which site this host belongs to, and whether it may write.

use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::run::role::{Asking, Standing, check_active, look, memory, while_active};
use crate::store::{Epochs, Location, Repository, RoleStore, Store};

use super::setup::App;

impl App {
    /// Opens a repository of a policy by its name, from any thread.
    pub fn opener<'a>(
        &self,
        policy: &'a Policy,
    ) -> impl Fn(&str) -> Result<Store> + Send + Sync + use<'a> {
        let handle = self.runtime.handle().clone();
        move |name: &str| {
            let config = policy.repositories.get(name).ok_or_else(|| {
                Error::usage(format!("stack {} has no repository `{name}`", policy.stack))
            })?;
            Location::from_policy(config)?.connect(&handle, false)
        }
    }

    fn asking<'a>(
        &self,
        policy: &'a Policy,
        open: &'a (dyn Fn(&str) -> Result<Store> + Sync),
    ) -> Asking<'a> {
        // A machine that remembers nothing asks every time.
        let directory = self.state_directory().ok();
        let memory = directory.map(|directory| memory(&directory, &policy.stack));
        Asking { policy, open, memory, clock: self.cx.clock.clone() }
    }

    /// What is known of the epochs of a stack: asked once in the life of a command.
    pub fn standing(&self, policy: &Policy) -> Result<Standing> {
        if let Some(known) = self.standings.borrow().get(&policy.stack) {
            return Ok(known.clone());
        }
        let open = self.opener(policy);
        let standing = look(&self.asking(policy, &open))?;
        if let Some(why) = &standing.unknown {
            self.printer.warning(&format!(
                "which site of stack {} is active is not known: {why}",
                policy.stack
            ));
            self.printer.hint(if standing.history.is_empty() {
                "what a fenced site wrote is not told from the rest"
            } else {
                "what was known when it last answered is taken for true"
            });
        }
        self.keep_standing(policy, &standing);
        Ok(standing)
    }

    fn keep_standing(&self, policy: &Policy, standing: &Standing) {
        self.standings.borrow_mut().insert(policy.stack.clone(), standing.clone());
    }

    /// A repository of a policy that tells what is divergent, and notes the epoch in what is written.
    pub fn knowing(&self, policy: &Policy, repository: Repository) -> Result<Repository> {
        if policy.role.is_none() {
            return Ok(repository);
        }
        let epochs = self.standing(policy)?.epochs(&self.cx.clock);
        Ok(repository.with_epochs(&policy.stack, epochs))
    }

    /// A repository that was given by URL: it may hold the epochs itself.
    pub fn knowing_by_itself(&self, mut repository: Repository) -> Result<Repository> {
        let store = repository.store().clone();
        for stack in store.list_directories("")?.iter().filter(|name| crate::id::is_name(name)) {
            match RoleStore::new(&store, stack).history(&[]) {
                Ok(history) if history.is_empty() => {}
                Ok(history) => repository = repository.with_epochs(stack, Epochs::new(&history)),
                Err(error) => self.printer.warning(&format!(
                    "which site of stack {stack} was active is not known: {}",
                    error.chain()
                )),
            }
        }
        Ok(repository)
    }

    /// Fails on a host whose site is not the active one: what writes asks before it begins.
    pub fn check_active(&self, policy: &Policy) -> Result<Standing> {
        let open = self.opener(policy);
        let standing = check_active(&self.asking(policy, &open))?;
        if let Some(why) = &standing.unknown {
            self.printer
                .warning(&format!("whether this site is the active one is not known: {why}"));
        }
        self.keep_standing(policy, &standing);
        Ok(standing)
    }

    /// Does work that writes for as long as this host's site is the active one.
    pub fn while_active<T>(&self, policy: &Policy, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = self.check_active(policy)?;
        let open = self.opener(policy);
        while_active(&self.asking(policy, &open), &begun, &self.cx.reporter, work)
    }
}
