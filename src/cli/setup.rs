//! From options to policies, repositories and keys.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::args::Global;
use super::printer::Printer;
use super::progress::Display;
use super::start::Runtime;
use super::time;
use crate::archive::crypt::Keyring;
use crate::archive::person;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::SourceAddress;
use crate::policy::{self, Policy, PolicySet};
use crate::run::Context;
use crate::run::role::Standing;
use crate::state::{State, default_directory};
use crate::store::{Location, Repository, Store};

/// Everything a command works with.
pub struct App {
    /// Options that every command takes.
    pub global: Global,
    /// Output.
    pub printer: Printer,
    /// Progress.
    pub display: Display,
    /// Reporter, clock and sizes.
    pub cx: Context,
    /// Runs requests.
    pub runtime: Runtime,
    /// A repository could not be opened and the others were used: the command is not done.
    pub missed: Cell<bool>,
    /// A policy was refused, which was said, and the others were used.
    pub broken: Cell<bool>,
    /// It was said that others may read an identity.
    pub exposed: Cell<bool>,
    /// What is known of the sites of each stack.
    pub standings: RefCell<BTreeMap<String, Standing>>,
    /// Identity files that a passphrase opened: it is asked for once.
    pub unlocked: RefCell<BTreeMap<PathBuf, Keyring>>,
}

/// Nobody said where the policies are, and they are not where they are looked for.
pub fn no_policy() -> Error {
    Error::usage("there is no policy").hint(
        "give --policy PATH or set BACKSTAY_POLICY; looked in ./policies and /etc/backstay/policies",
    )
}

/// A repository with the way it was named.
pub struct Opened {
    /// Its name in the policy, or its URL.
    pub name: String,
    /// The stack whose policy names it.
    pub stack: Option<String>,
    /// The repository.
    pub repository: Repository,
    /// What opens its indexes, and more if an identity was given.
    pub keys: Keyring,
}

impl Opened {
    /// The same, for somebody who said that they want what is divergent too.
    #[must_use]
    pub fn ignoring_epochs(self) -> Self {
        Self { repository: self.repository.without_epochs(), ..self }
    }

    /// Whether the source is one of the stack whose policy names the repository; every source of a
    /// repository that was given by URL is.
    pub fn has(&self, address: &SourceAddress) -> bool {
        self.stack.as_ref().is_none_or(|stack| *stack == address.stack)
    }
}

const DEFAULT_POLICIES: [&str; 2] = ["policies", "/etc/backstay/policies"];

impl App {
    /// Loads the policies, and shows warnings if `warn`. All of them must be valid.
    pub fn policies(&self, warn: bool) -> Result<PolicySet> {
        let path = self.policy_path()?;
        let set = policy::load(&path).map_err(|error| refused(&path, error))?;
        let show = warn && !self.global.quiet && !self.printer.is_json();
        if show && !set.warnings.is_empty() {
            self.printer.rendered(&policy::render_all(&set.warnings, self.printer.color()));
        }
        Ok(set)
    }

    /// Loads the policies for a command that only reads what was backed up, or that is told by name
    /// which stack it is about: those that are valid. What is wrong with others is shown once.
    pub fn policies_to_read(&self) -> Result<PolicySet> {
        let path = self.policy_path()?;
        let (set, broken) = policy::load_valid(&path).map_err(|error| refused(&path, error))?;
        if let Some(broken) = broken
            && !self.broken.replace(true)
        {
            self.printer.error(&refused(&path, broken));
            self.printer.hint("the other policies are used");
        }
        Ok(set)
    }

    /// The policies for a command about these sources or stacks: all must be valid where it is
    /// about everything.
    pub fn policies_about(&self, given: &[String]) -> Result<PolicySet> {
        if given.is_empty() { self.policies(false) } else { self.policies_to_read() }
    }

    /// Notes that a command about everything was not about the policies that are refused: it must
    /// not end as if it were done.
    pub fn miss_broken(&self) {
        self.missed.set(self.missed.get() || self.broken.get());
    }

    /// The policy file, or the directory of them.
    pub fn policy_path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.global.policy {
            return Ok(path.clone());
        }
        DEFAULT_POLICIES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            let error = no_policy();
            if self.global.repository.is_some() {
                return error.hint("this command needs one; a repository alone is enough to look, verify and restore");
            }
            error.hint("without a policy: --repository URL --identity FILE")
        })
    }

    /// Whether a repository was given by URL, so that no policy is needed.
    pub fn repository_url(&self) -> Option<&str> {
        let given = self.global.repository.as_deref()?;
        let by_name = self.global.policy.is_some() && crate::id::is_name(given);
        (!by_name).then_some(given)
    }

    /// Whether a policy's repository is meant.
    pub fn wants_repository(&self, name: &str) -> bool {
        self.global.repository.as_deref().is_none_or(|wanted| wanted == name)
    }

    /// Where this machine keeps what it remembers: an absolute path.
    pub fn state_directory(&self) -> Result<PathBuf> {
        let root = rustix::process::geteuid().is_root();
        let directory = match &self.global.state_dir {
            Some(directory) => directory.clone(),
            None => default_directory(root, |name| std::env::var_os(name)).ok_or_else(|| {
                Error::usage("there is no place for the state: this user has no home directory")
                    .hint("give --state-dir DIR or set BACKSTAY_STATE_DIR")
            })?,
        };
        std::path::absolute(&directory).doing(|| format!("failed to find {}", directory.display()))
    }

    /// Opens what this machine remembers. Where that was damaged, a warning says so.
    pub fn state(&self) -> Result<State> {
        let directory = self.state_directory()?;
        let state = State::open(&directory, self.cx.clock.now())?;
        if let Some(aside) = state.set_aside() {
            self.printer.warning(&format!(
                "the state in {} was damaged and lies in {} now: an empty one takes its place",
                state.path().display(),
                aside.display()
            ));
        }
        Ok(state)
    }

    /// Connects to a repository of a policy.
    pub fn connect(&self, repository: &policy::Repository, create: bool) -> Result<Store> {
        self.connect_limited(repository, &repository.limits, create)
    }

    /// Connects to a repository of a policy, with other limits than its own.
    pub fn connect_limited(
        &self,
        repository: &policy::Repository,
        limits: &policy::Limits,
        create: bool,
    ) -> Result<Store> {
        self.connect_as_of(repository, limits, create, self.repository_at()?)
    }

    fn connect_as_of(
        &self,
        repository: &policy::Repository,
        limits: &policy::Limits,
        create: bool,
        at: Option<jiff::Timestamp>,
    ) -> Result<Store> {
        let location = Location::from_policy(repository)?.at(at)?;
        let store = location.connect(self.runtime.handle(), create)?;
        let rate = |limit: Option<policy::Size>| limit.map(policy::Size::bytes);
        let store = store.limited(rate(limits.upload), rate(limits.download));
        Ok(store.classed(repository.storage_class))
    }

    /// The instant that buckets are looked at, if another than now.
    pub fn repository_at(&self) -> Result<Option<jiff::Timestamp>> {
        let given = self.global.repository_at.as_deref();
        given.map(|text| time::instant(self, text).map(time::whole_second)).transpose()
    }

    /// Connects to a repository by URL.
    pub fn connect_url(&self, url: &str, create: bool) -> Result<Store> {
        let location = Location::parse(url)?.at(self.repository_at()?)?;
        if location.is_exposed() {
            self.printer.warning(&format!(
                "everything goes to {} in plain text; `&allow_http=true` says that this is meant",
                location.name()
            ));
        }
        location.connect(self.runtime.handle(), create)
    }

    /// The identities given with `--identity`.
    pub fn identities(&self) -> Result<Keyring> {
        let mut keys = Keyring::default();
        let mut locked = false;
        for path in &self.global.identity {
            keys.extend(self.read_identity(path, &mut locked)?);
        }
        // One that no file needed is a recipient by itself.
        if !locked && let Some(passphrase) = self.given_passphrase("passphrase")? {
            keys.extend(Keyring::of_passphrase(passphrase));
        }
        Ok(keys)
    }

    fn read_identity(&self, path: &Path, locked: &mut bool) -> Result<Keyring> {
        let place = path.display().to_string();
        let failed = || format!("failed to read the identity file {place}");
        let bytes = std::fs::read(path).doing(failed)?;
        if person::is_locked(&bytes) {
            *locked = true;
            let known = self.unlocked.borrow().get(path).cloned();
            if let Some(known) = known {
                return Ok(known);
            }
            let passphrase = self.passphrase(&format!("passphrase of {place}"))?;
            let keys = Keyring::parse(&person::unlock(&bytes, passphrase, &place)?, &place)?;
            self.unlocked.borrow_mut().insert(path.to_owned(), keys.clone());
            return Ok(keys);
        }
        let text = String::from_utf8(bytes).map_err(|_| {
            Error::new(ErrorKind::Denied, format!("{place} is no identity file: it is not text"))
        })?;
        let open = path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o007 != 0);
        if open && !self.exposed.replace(true) {
            self.printer.warning(&format!("everybody on this machine may read {place}"));
            self.printer.hint(&format!("chmod 600 {place}"));
        }
        Keyring::parse(&text, &place)
    }

    /// The writer identity of a repository. `None` where the policy has none.
    pub fn writer(&self, repository: &policy::Repository) -> Result<Option<Keyring>> {
        let Some(encryption) = &repository.encryption else { return Ok(None) };
        let Some(reference) = &encryption.writer_identity else { return Ok(None) };
        let secret = reference.resolve()?;
        let text = secrecy::ExposeSecret::expose_secret(&secret);
        Keyring::parse(text, &reference.to_string()).map(Some)
    }

    /// Opens one repository of a policy, with every key at hand.
    pub fn open(&self, policy: &Policy, name: &str) -> Result<Opened> {
        self.open_as(policy, name, policy::Repository::clone, self.repository_at()?)
    }

    /// The same as it was at an instant, or as it is now, whatever the options say.
    pub fn open_as_of(
        &self,
        policy: &Policy,
        name: &str,
        at: Option<jiff::Timestamp>,
    ) -> Result<Opened> {
        self.open_as(policy, name, policy::Repository::clone, at)
    }

    /// Opens one repository of a policy, with the credentials that may delete.
    pub fn open_for_pruning(&self, policy: &Policy, name: &str) -> Result<Opened> {
        self.open_as(policy, name, policy::Repository::for_pruning, self.repository_at()?)
    }

    fn open_as(
        &self,
        policy: &Policy,
        name: &str,
        access: fn(&policy::Repository) -> policy::Repository,
        at: Option<jiff::Timestamp>,
    ) -> Result<Opened> {
        let config = policy.repositories.get(name).map(access).ok_or_else(|| {
            Error::usage(format!("stack {} has no repository `{name}`", policy.stack))
        })?;
        let config = &config;
        let repository = self.knowing(
            policy,
            Repository::open(&self.connect_as_of(config, &config.limits, false, at)?)?,
        )?;
        let mut keys = self.identities()?;
        if let Some(encryption) = &config.encryption
            && let Some(reference) = &encryption.identity
            && let Ok(secret) = reference.resolve()
        {
            let text = secrecy::ExposeSecret::expose_secret(&secret);
            keys.extend(Keyring::parse(text, &reference.to_string())?);
        }
        let mut keys = self.unlock(&repository, &keys)?;
        // A restore host has no writer identity, and does not need one.
        if let Ok(Some(writer)) = self.writer(config) {
            keys.extend(writer);
        }
        Ok(Opened { name: name.to_owned(), stack: Some(policy.stack.clone()), repository, keys })
    }

    /// Everything that these identities open. A damaged wrap is no reason to stop: another one
    /// may do.
    fn unlock(&self, repository: &Repository, identities: &Keyring) -> Result<Keyring> {
        let keys = repository.unlock(identities, &mut |error| {
            let text = format!("{}; another wrap of the key may still open it", error.chain());
            self.printer.warning(&text);
        })?;
        let opened = keys.public();
        let useless = !repository.keys().iter().any(|key| opened.contains(&key.recipient));
        if useless && identities.has_passphrase() && repository.is_encrypted() {
            let place = repository.store().name();
            self.printer.warning(&format!("the passphrase given opens no key of {place}"));
            self.printer.hint("is it the right one, and was it let in?");
        }
        Ok(keys)
    }

    /// Every repository that the options mean: the one given by URL, or those of the policies.
    pub fn repositories(&self) -> Result<Vec<Opened>> {
        self.repositories_as(Self::open)
    }

    /// The same, with the credentials that may delete.
    pub fn repositories_for_pruning(&self) -> Result<Vec<Opened>> {
        self.repositories_as(Self::open_for_pruning)
    }

    fn repositories_as(
        &self,
        open: fn(&Self, &Policy, &str) -> Result<Opened>,
    ) -> Result<Vec<Opened>> {
        if let Some(url) = self.repository_url() {
            let repository = Repository::open(&self.connect_url(url, false)?)?;
            let repository = self.knowing_by_itself(repository)?;
            let keys = self.unlock(&repository, &self.identities()?)?;
            return Ok(vec![Opened { name: url.to_owned(), stack: None, repository, keys }]);
        }
        // What is wrong with these is wrong with no repository.
        self.identities()?;
        let (mut opened, mut errors) = (Vec::new(), Vec::new());
        for policy in self.policies_to_read()?.policies {
            for name in policy.repositories.keys() {
                if !self.wants_repository(name) {
                    continue;
                }
                match open(self, &policy, name) {
                    Ok(repository) => opened.push(repository),
                    // With one site gone, what the other has is what somebody looks for.
                    Err(error) => errors.push(error.context(format!(
                        "failed to open repository `{name}` of stack {}",
                        policy.stack
                    ))),
                }
            }
        }
        if opened.is_empty()
            && let Some(error) = errors.pop()
        {
            return Err(error);
        }
        for error in errors {
            self.printer.error(&error);
            self.missed.set(true);
        }
        if opened.is_empty() {
            return Err(Error::usage("no repository is meant")
                .hint("--repository takes a URL, or a name from the policy"));
        }
        Ok(opened)
    }

    /// The repository that a source's backups are read from: the one given, or the source's own.
    pub fn repository_of(&self, address: &SourceAddress) -> Result<Opened> {
        if self.repository_url().is_some() {
            return self.repositories()?.pop().ok_or_else(|| Error::usage("no repository"));
        }
        self.identities()?;
        let set = self.policies_to_read()?;
        let policy = self.policy_of(&set, address)?;
        // A source that is gone from the policy went into the first repository, most likely.
        let own = policy.repository_of(&address.source).or_else(|| policy.default_repository());
        let own = own.map(|(name, _)| name.to_owned());
        let name = self.global.repository.clone().or(own);
        let name = name.ok_or_else(|| Error::usage(format!("{address} has no repository")))?;
        self.open(policy, &name).map_err(|error| {
            let others: Vec<&str> = policy
                .repositories
                .keys()
                .filter(|other| **other != name)
                .map(String::as_str)
                .collect();
            let error = error.context(format!("failed to open repository `{name}`"));
            if others.is_empty() {
                return error;
            }
            error.hint(format!("the stack has others: try --repository {}", others.join(" or ")))
        })
    }

    /// The policy of a source.
    pub fn policy_of<'a>(&self, set: &'a PolicySet, address: &SourceAddress) -> Result<&'a Policy> {
        set.policies.iter().find(|policy| policy.stack == address.stack).ok_or_else(|| {
            let stacks = set.policies.iter().map(|policy| policy.stack.as_str());
            Error::usage(format!("there is no stack `{}`", address.stack))
                .hint(policy::hint_at(&address.stack, stacks))
        })
    }

    /// The address a person gave: `STACK/SOURCE`, or `SOURCE` where only one stack has it.
    pub fn address(&self, set: &PolicySet, given: &str) -> Result<SourceAddress> {
        if given.contains('/') {
            let address = SourceAddress::parse(given)?;
            let policy = self.policy_of(set, &address)?;
            if policy.sources.contains_key(&address.source) {
                return Ok(address);
            }
            let names = policy.sources.keys().map(String::as_str);
            return Err(Error::usage(format!(
                "stack {} has no source `{}`",
                address.stack, address.source
            ))
            .hint(policy::hint_at(&address.source, names)));
        }
        let stacks: Vec<&Policy> =
            set.policies.iter().filter(|policy| policy.sources.contains_key(given)).collect();
        match stacks.as_slice() {
            [policy] => Ok(SourceAddress::new(&policy.stack, given)),
            [] => {
                let sources = set.policies.iter().flat_map(|policy| policy.sources.keys());
                Err(Error::usage(format!("there is no source `{given}`"))
                    .hint(policy::hint_at(given, sources.map(String::as_str)))
                    .hint("sources are named STACK/SOURCE; `backstay check` lists them"))
            }
            _ => Err(Error::usage(format!("several stacks have a source `{given}`"))
                .hint(format!("say which: {}/{given} …", stacks[0].stack))),
        }
    }
}

/// The error of policies that are refused. The diagnostics are its cause, which the printer shows.
fn refused(path: &Path, error: policy::LoadError) -> Error {
    let kind = error.kind();
    if kind != ErrorKind::Policy {
        return error.into();
    }
    let count = super::format::count(error.errors() as u64, "error");
    Error::new(kind, format!("{count} in {}", path.display()))
        .with_source(error)
        .hint("without a policy: --repository URL --identity FILE reads what was backed up")
}
