//! Whether this host's site is the active one. What writes asks before it begins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::policy::{Policy, Setting};
use crate::store::{RoleStore, Store};
use crate::telemetry::Reporter;

/// How often it is asked while somebody writes.
const ASK: Duration = Duration::from_secs(10);

/// What is known of the site that this host belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The policy names no site, or no site was ever made the active one.
    Free,
    /// It is the active one, since this epoch.
    Active(u64),
    /// It cannot be told, and the policy says to go on: why.
    Unknown(String),
}

/// The site of this host, as the policy has it.
pub fn own_site(policy: &Policy) -> Result<Option<String>> {
    let Some(site) = policy.role.as_ref().and_then(|role| role.site.as_ref()) else {
        return Ok(None);
    };
    let site = match site {
        Setting::Plain(text) => text.clone(),
        Setting::Secret(reference) => {
            secrecy::ExposeSecret::expose_secret(&reference.resolve()?).to_owned()
        }
    };
    if policy.sites.contains_key(&site) {
        return Ok(Some(site));
    }
    Err(Error::usage(format!("stack {} has no site `{site}`", policy.stack))
        .hint("`role.site` says which of `sites` this host belongs to"))
}

/// Fails where another site is the active one.
///
/// # Errors
/// [`ErrorKind::Conflict`] on a site that was fenced. Where the repository of roles does not answer:
/// its error if the policy says `self_fence`, and otherwise none.
pub fn check_active(policy: &Policy, open: impl FnOnce(&str) -> Result<Store>) -> Result<Standing> {
    let (Some(role), Some(own)) = (&policy.role, own_site(policy)?) else {
        return Ok(Standing::Free);
    };
    let found =
        open(&role.repository).and_then(|store| RoleStore::new(&store, &policy.stack).current());
    match found {
        Ok(None) => Ok(Standing::Free),
        // The first one was taken back.
        Ok(Some(active)) if active.site.is_empty() => Ok(Standing::Free),
        Ok(Some(active)) if active.site == own => Ok(Standing::Active(active.epoch)),
        Ok(Some(active)) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "site {own} of stack {} is fenced: site {} is active since epoch {}, {}",
                policy.stack, active.site, active.epoch, active.time
            ),
        )
        .hint("what is written here now is not what users see: nothing of it is backed up or archived")
        .hint("let this site follow the other one, or make it the active one with a playbook")),
        Err(error) if role.self_fence => Err(error
            .context("failed to ask which site is active, and `self_fence` says to stop then")),
        Err(error) => Ok(Standing::Unknown(error.chain())),
    }
}

/// Does work that writes for as long as this host's site is the active one: it is asked again and again,
/// and the work is told to end when another site takes over.
///
/// # Errors
/// Those of the work, and those of [`check_active`].
pub fn while_active<T>(
    policy: &Policy,
    reporter: &Reporter,
    open: &(dyn Fn(&str) -> Result<Store> + Sync),
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if own_site(policy)?.is_none() {
        return work();
    }
    check_active(policy, open)?;
    let (over, fenced) = (AtomicBool::new(false), Mutex::new(None));
    let result = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                std::thread::park_timeout(ASK);
                if !over.load(Ordering::SeqCst)
                    && let Err(error) = check_active(policy, open)
                {
                    *fenced.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    reporter.cancel();
                    return;
                }
            }
        });
        // Also when the work panics: the scope waits for its threads before it goes on.
        let _ended = Ended { over: &over, watcher: watcher.thread() };
        work()
    });
    match fenced.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => result,
    }
}

/// Ends the watcher.
struct Ended<'a> {
    over: &'a AtomicBool,
    watcher: &'a Thread,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.watcher.unpark();
    }
}
