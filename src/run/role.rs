//! Whether this host's site is the active one. What writes asks before it begins, and every ten seconds
//! while it goes on.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use crate::archive::tenure::Tenure;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{Policy, Setting};
use crate::store::{ActiveSite, Epochs, RoleStore, Store};
use crate::telemetry::Reporter;

/// How often it is asked while somebody writes.
const ASK: Duration = Duration::from_secs(10);

/// How long what this host remembers may be.
const REMEMBERED: u64 = 1 << 20;

/// Opens a repository of the policy by its name.
pub type Open<'a> = dyn Fn(&str) -> Result<Store> + Sync + 'a;

/// Who is to be asked, and what is remembered where nobody answers.
pub struct Asking<'a> {
    /// The stack.
    pub policy: &'a Policy,
    /// Opens the repository of roles.
    pub open: &'a Open<'a>,
    /// Where this host remembers what it was told, for when it cannot ask.
    pub memory: Option<PathBuf>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// What is known of the epochs of a stack.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The epochs, oldest first.
    pub history: Vec<ActiveSite>,
    /// The site of this host. `None`: the policy names none.
    pub own: Option<String>,
    /// Why the repository of roles could not be asked: the epochs are as they were when it last answered.
    pub unknown: Option<String>,
    /// The policy has `role`.
    pub asked: bool,
}

impl Standing {
    /// The epoch that counts. `None`: none ever began.
    pub fn current(&self) -> Option<&ActiveSite> {
        self.history.last()
    }

    /// What this host's writes are noted with.
    pub fn tenure(&self) -> Tenure {
        let epoch = self.current().map_or(0, |current| current.epoch);
        Tenure { epoch, site: self.own.clone().unwrap_or_default() }
    }

    /// Whether another site is the active one.
    pub fn is_fenced(&self) -> bool {
        let other = |current: &ActiveSite| {
            !current.site.is_empty() && self.own.as_ref().is_some_and(|own| *own != current.site)
        };
        self.current().is_some_and(other)
    }

    /// What readers and writers of this host's repositories go by.
    pub fn epochs(&self, clock: &Arc<dyn Clock>) -> Epochs {
        let epochs = Epochs::new(&self.history);
        if self.asked { epochs.written_by(self.tenure(), clock.clone()) } else { epochs }
    }

    /// In words, where another site is the active one.
    pub fn fence(&self, stack: &str) -> Option<String> {
        let current = self.current().filter(|_| self.is_fenced())?;
        let own = self.own.as_deref().unwrap_or_default();
        Some(format!(
            "site {own} of stack {stack} is fenced: site {} is active since epoch {}, {}",
            current.site, current.epoch, current.time
        ))
    }

    fn refusal(&self, stack: &str) -> Option<Error> {
        let error = Error::new(ErrorKind::Conflict, self.fence(stack)?)
            .hint("what is written here now is not what users see: nothing of it is backed up or archived")
            .hint("let this site follow the other one, or make it the active one with a playbook");
        Some(match &self.unknown {
            None => error,
            Some(why) => error.hint(format!("so it was when it was last asked; now: {why}")),
        })
    }
}

/// The site of this host, as the policy has it.
pub fn own_site(policy: &Policy) -> Result<Option<String>> {
    let Some(site) = policy.role.as_ref().and_then(|role| role.site.as_ref()) else {
        return Ok(None);
    };
    let known: Vec<&str> = policy.sites.keys().map(String::as_str).collect();
    let hint = format!(
        "`role.site` says which of `sites` this host belongs to, one of {}",
        known.join(", ")
    );
    let site = match site {
        Setting::Plain(text) => text.clone(),
        Setting::Secret(reference) => {
            let value = reference.read().map_err(|error| {
                let stack = &policy.stack;
                error
                    .context(format!(
                        "failed to find out which site of stack {stack} this host belongs to"
                    ))
                    .hint(hint.clone())
            })?;
            let site = secrecy::ExposeSecret::expose_secret(&value).trim().to_owned();
            // The name of a site is told. What is none may be anything, and is kept out like a secret.
            if !policy.sites.contains_key(&site) {
                reference.resolve()?;
            }
            site
        }
    };
    if policy.sites.contains_key(&site) {
        return Ok(Some(site));
    }
    Err(Error::usage(format!("stack {} has no site `{site}`", policy.stack)).hint(hint))
}

/// What is known of the epochs. Fails for nothing but a policy that is wrong: who only reads goes on with
/// what is remembered.
pub fn look(asking: &Asking<'_>) -> Result<Standing> {
    let Some(role) = &asking.policy.role else { return Ok(Standing::default()) };
    let stack = &asking.policy.stack;
    let recalled = asking.memory.as_deref().and_then(recall).unwrap_or_default();
    let asked = (asking.open)(&role.repository)
        .and_then(|store| RoleStore::new(&store, stack).history(&recalled));
    // Of a clone of the policy on a host that only restores nobody can say where it belongs.
    let own = own_site(asking.policy).ok().flatten();
    let (history, unknown) = match asked {
        Ok(history) => {
            if let Some(memory) = &asking.memory {
                remember(memory, &history);
            }
            (history, None)
        }
        Err(error) => (recalled, Some(error.chain())),
    };
    Ok(Standing { history, own, unknown, asked: true })
}

/// Fails where another site is the active one.
///
/// # Errors
/// [`ErrorKind::Conflict`] on a site that was fenced, also where nobody answers and it was so when it was
/// last asked. Where the repository of roles does not answer: an error if the policy says `self_fence`.
pub fn check_active(asking: &Asking<'_>) -> Result<Standing> {
    // Who is to write has to know where it belongs.
    own_site(asking.policy)?;
    let standing = look(asking)?;
    if let Some(refusal) = standing.refusal(&asking.policy.stack) {
        return Err(refusal);
    }
    let self_fence = asking.policy.role.as_ref().is_some_and(|role| role.self_fence);
    match &standing.unknown {
        Some(why) if self_fence => Err(Error::new(
            ErrorKind::Unreachable,
            format!("failed to ask which site is active, and `self_fence` says to stop then: {why}"),
        )
        .hint("nothing is written until the repository of roles answers; what is at the source stays there")),
        _ => Ok(standing),
    }
}

/// Fails where `site` is the active one: what users write there is not replaced.
///
/// # Errors
/// [`ErrorKind::Conflict`] where it is; the error of the repository of roles where that does not answer.
pub fn check_passive(
    policy: &Policy,
    site: &str,
    open: impl FnOnce(&str) -> Result<Store>,
) -> Result<()> {
    let Some(role) = &policy.role else { return Ok(()) };
    let found = open(&role.repository)
        .and_then(|store| RoleStore::new(&store, &policy.stack).current())
        .map_err(|error| error.context("failed to ask which site is active"))?;
    match found {
        Some(active) if active.site == site => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "site {site} of stack {} is the active one since epoch {}, {}: it is no standby",
                policy.stack, active.epoch, active.time
            ),
        )
        .hint("what users write there would be lost: stop this job, or make the other site the active one with a playbook")),
        _ => Ok(()),
    }
}

/// Does work that writes for as long as this host's site is the active one: it is asked again and again,
/// and the work is told to end when another site takes over.
///
/// # Errors
/// Those of the work, and those of [`check_active`].
pub fn while_active<T>(
    asking: &Asking<'_>,
    begun: &Standing,
    reporter: &Reporter,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if asking.policy.role.is_none() {
        return work();
    }
    let (over, fenced) = (AtomicBool::new(false), Mutex::new(None));
    let result = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                std::thread::park_timeout(ASK);
                if !over.load(Ordering::SeqCst)
                    && let Err(error) = still_active(asking, begun)
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

/// Whether what is written now still counts as this site's.
fn still_active(asking: &Asking<'_>, begun: &Standing) -> Result<()> {
    let standing = check_active(asking)?;
    let now = asking.clock.now();
    match Epochs::new(&standing.history).divergence(&begun.tenure(), now) {
        None => Ok(()),
        // It is active again, or belongs to no site: what it began belongs to another life.
        Some(divergence) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "epoch {} of site {} of stack {} began meanwhile, at {}",
                divergence.newer, divergence.active, asking.policy.stack, divergence.since
            ),
        )
        .hint("nothing of it is kept: begin again")),
    }
}

/// Where a host remembers the epochs of a stack, below its state directory.
pub fn memory(state_directory: &Path, stack: &str) -> PathBuf {
    state_directory.join("roles").join(format!("{stack}.json"))
}

/// Best effort: what cannot be remembered is asked again.
fn remember(memory: &Path, history: &[ActiveSite]) {
    let Ok(text) = serde_json::to_vec_pretty(history) else { return };
    if fs::read(memory).is_ok_and(|there| there == text) {
        return;
    }
    let Some(directory) = memory.parent() else { return };
    let temporary = directory.join(format!(".{}", crate::id::random_suffix(8)));
    let written = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| {
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)
        })
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&temporary, memory));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

fn recall(memory: &Path) -> Option<Vec<ActiveSite>> {
    let size = fs::metadata(memory).ok()?.len();
    let text = fs::read(memory).ok().filter(|_| size <= REMEMBERED)?;
    serde_json::from_slice(&text).ok()
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
