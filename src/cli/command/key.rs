//! `backstay key`

mod remove;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::archive::crypt::{Keyring, Recipients};
use crate::archive::person;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::store::{KeyInfo, generate_repository_key, layout, wrap_key, wrap_key_with_passphrase};

/// Make and manage keys.
///
/// Content is encrypted to a repository key, whose secret half lies in the repository, wrapped to
/// the recovery recipients. Backup hosts need none of these secrets.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Make a key pair: the secret into a file, the public key to standard output. Without a file the
    /// secret goes to standard output.
    Generate {
        /// The file for the secret key. It must not exist. `-` is standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Protect the secret with a passphrase, that of --passphrase or one that is asked for.
        #[arg(long)]
        with_passphrase: bool,
    },
    /// List the keys of a repository, and which of them the identities given open.
    List,
    /// Let more people open the repository: wraps its keys to them too. Needs --identity.
    AddRecipient {
        /// Their public keys (age1…).
        #[arg(required_unless_present = "with_passphrase", value_name = "AGE-KEY")]
        recipients: Vec<String>,
        /// Whoever knows a passphrase: that of --passphrase, or one that is asked for.
        #[arg(long, conflicts_with = "recipients")]
        with_passphrase: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let people open the repository no longer: wraps its keys anew to those who stay, and removes the
    /// wraps that were. Needs --identity of somebody who stays. What they have read or copied they keep:
    /// use `key rotate` for backups to come.
    RemoveRecipient {
        /// Their public keys (age1…).
        #[arg(required_unless_present = "with_passphrase", value_name = "AGE-KEY")]
        recipients: Vec<String>,
        /// Whoever knows a passphrase: all of them.
        #[arg(long)]
        with_passphrase: bool,
        /// Who stays (age1…). Default: the recipients in the policy, without those who go.
        #[arg(long, value_name = "AGE-KEY", requires = "recipients")]
        keep: Vec<String>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a new repository key for backups from now on. Older ones stay readable as they are.
    Rotate {
        /// Who can open it (age1…). Default: the recipients in the policy.
        #[arg(long, value_name = "AGE-KEY")]
        recipient: Vec<String>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    match &args.command {
        KeyCommand::Generate { out, with_passphrase } => {
            generate(app, out.as_deref(), *with_passphrase)
        }
        KeyCommand::List => list(app),
        KeyCommand::AddRecipient { recipients, with_passphrase, dry_run } => {
            add(app, recipients, *with_passphrase, *dry_run)
        }
        KeyCommand::RemoveRecipient { recipients, with_passphrase, keep, yes, dry_run } => {
            let opened = one_encrypted(app.repositories_for_pruning()?)?;
            let in_policy = recipients_in_policy(app, &opened)?;
            let asked = remove::Asked {
                gone: recipients,
                passphrases: *with_passphrase,
                stay: keep,
                yes: *yes,
                dry_run: *dry_run,
            };
            remove::run(app, &opened, &in_policy, &asked)
        }
        KeyCommand::Rotate { recipient, dry_run } => rotate(app, recipient, *dry_run),
    }
}

#[derive(Serialize)]
struct Generated<'a> {
    public: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

fn generate(app: &App, out: Option<&Path>, with_passphrase: bool) -> Result<ExitStatus> {
    let (secret, public) = Keyring::generate();
    let text = format!(
        "# created: {}\n# public key: {public}\n{}\n",
        app.cx.clock.now(),
        secret.expose_secret()
    );
    let text = if with_passphrase {
        let passphrase = app.passphrase("passphrase of the new key")?;
        let locked = person::lock(&text, passphrase);
        locked.map_err(|error| Error::io("failed to protect the key", error))?
    } else {
        text
    };
    let Some(path) = out.filter(|path| *path != Path::new("-")) else {
        if app.printer.is_json() {
            return Err(Error::usage("--output json needs --out FILE for the secret"));
        }
        // Like age-keygen: the whole identity file, to be redirected into one.
        app.printer.raw(&text)?;
        app.printer.talk(format!("public key: {public}"));
        return Ok(ExitStatus::Done);
    };
    let failed = || format!("failed to write {}", path.display());
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
            |error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::new(
                    ErrorKind::Conflict,
                    format!("{} exists already", path.display()),
                )
                .hint("a key is never overwritten: it may be the only one that opens a backup"),
                _ => Error::io(failed(), error),
            },
        )?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).doing(failed)?;
    if app.printer.is_json() {
        let file = Some(path.display().to_string());
        app.printer.json(&Generated { public: &public, file })?;
    } else {
        app.printer.data(&public)?;
    }
    app.printer.talk(format!("the secret key is in {}; keep a copy elsewhere", path.display()));
    Ok(ExitStatus::Done)
}

#[derive(Serialize)]
struct KeyLine {
    repository: String,
    key: String,
    public: String,
    wraps: Vec<String>,
    opens: bool,
    writes: bool,
}

fn list(app: &App) -> Result<ExitStatus> {
    let mut lines = Vec::new();
    for opened in app.repositories()? {
        let have = opened.keys.public();
        let newest = opened.repository.write_key().map(|key| key.id.clone());
        lines.extend(opened.repository.keys().iter().map(|key| KeyLine {
            repository: opened.name.clone(),
            key: key.id.clone(),
            public: key.recipient.clone(),
            wraps: key.wraps.clone(),
            opens: have.contains(&key.recipient),
            writes: Some(&key.id) == newest.as_ref(),
        }));
    }
    if app.printer.is_json() {
        app.printer.json(&lines)?;
        return Ok(ExitStatus::Done);
    }
    if lines.is_empty() {
        app.printer.talk("the repository is not encrypted");
    }
    for line in lines {
        let role = if line.writes { "for new backups" } else { "for older backups" };
        let opens = if line.opens { "opened by an identity given" } else { "not opened" };
        app.printer.data(format!(
            "{}  {}  {}  {role}, {}, {opens}",
            line.repository,
            line.key,
            line.public,
            format::count(line.wraps.len() as u64, "wrap")
        ))?;
    }
    Ok(ExitStatus::Done)
}

fn one_repository(app: &App) -> Result<Opened> {
    one_encrypted(app.repositories()?)
}

fn one_encrypted(mut opened: Vec<Opened>) -> Result<Opened> {
    if opened.len() > 1 {
        let names: Vec<String> = opened.iter().map(|o| o.name.clone()).collect();
        return Err(Error::usage("several repositories are meant")
            .hint(format!("say which with --repository: {}", names.join(", "))));
    }
    let opened = opened.pop().ok_or_else(|| Error::usage("no repository is meant"))?;
    if !opened.repository.is_encrypted() {
        return Err(Error::failed(format!("repository {} is not encrypted", opened.name)).hint(
            "create a new one with `encryption.recipients`; content cannot be encrypted later",
        ));
    }
    Ok(opened)
}

fn add(
    app: &App,
    recipients: &[String],
    with_passphrase: bool,
    dry_run: bool,
) -> Result<ExitStatus> {
    let people =
        Recipients::parse(recipients).map_err(|error| error.with_kind(ErrorKind::Usage))?;
    let opened = one_repository(app)?;
    let passphrase = if with_passphrase {
        Some(app.passphrase("passphrase that is to open the repository")?)
    } else {
        None
    };
    let identities = app.identities()?;
    let mut plan = Vec::new();
    for key in opened.repository.keys() {
        let secret = opened.repository.secret_of(key, &identities)?.ok_or_else(|| {
            Error::new(ErrorKind::Denied, format!("no identity given opens key {}", key.id))
                .hint("give a recovery identity with --identity FILE")
        })?;
        plan.push((key, secret));
    }
    for (key, secret) in plan {
        let number = free_number(key);
        if dry_run {
            app.printer.talk(format!("would write {}", layout::wrapped_key(&key.id, number)));
            continue;
        }
        let store = opened.repository.store();
        let object = match &passphrase {
            Some(passphrase) => {
                wrap_key_with_passphrase(store, &key.id, number, &secret, passphrase)?
            }
            None => wrap_key(store, &key.id, number, &secret, &people)?,
        };
        app.printer.talk(format!("wrote {object}"));
    }
    if with_passphrase {
        app.printer.talk("keys to come are not wrapped to it: do this again after `key rotate`");
    } else {
        app.printer.talk("add them to `encryption.recipients` too, for keys to come");
    }
    Ok(ExitStatus::Done)
}

/// The first number that no wrap of a key has.
fn free_number(key: &KeyInfo) -> u32 {
    let free = |number: &u32| !key.wraps.contains(&layout::wrapped_key(&key.id, *number));
    let highest = key.wraps.len() as u32 + 1;
    (1..=highest).find(free).unwrap_or(highest)
}

/// The recipients that the policy names for a repository; none where there is no policy.
fn recipients_in_policy(app: &App, opened: &Opened) -> Result<Vec<String>> {
    if app.repository_url().is_some() {
        return Ok(Vec::new());
    }
    let set = app.policies(false)?;
    let policy = set.policies.iter().find(|p| Some(&p.stack) == opened.stack.as_ref());
    let encryption =
        policy.and_then(|policy| policy.repositories.get(&opened.name)?.encryption.as_ref());
    Ok(encryption.map(|encryption| encryption.recipients.clone()).unwrap_or_default())
}

fn rotate(app: &App, recipients: &[String], dry_run: bool) -> Result<ExitStatus> {
    let opened = one_repository(app)?;
    let people = if recipients.is_empty() {
        recipients_in_policy(app, &opened)?
    } else {
        recipients.to_vec()
    };
    if people.is_empty() {
        return Err(
            Error::usage("who shall be able to open the new key?").hint("give --recipient age1…")
        );
    }
    let names = people;
    let people = Recipients::parse(&names).map_err(|error| {
        if recipients.is_empty() { error } else { error.with_kind(ErrorKind::Usage) }
    })?;
    if dry_run {
        app.printer.talk("would make a new repository key");
        return Ok(ExitStatus::Done);
    }
    let key = generate_repository_key(opened.repository.store(), &people, app.cx.clock.now())?;
    if app.printer.is_json() {
        app.printer.json(&Generated { public: &key.recipient, file: None })?;
    } else {
        app.printer.data(format!("{}  {}", key.id, key.recipient))?;
    }
    app.printer.talk(format!("opened by: {}", names.join(", ")));
    if opened.repository.write_key().is_some_and(|key| key.wraps.len() > 1) {
        app.printer.warning(
            "people were added to the key before this one: who is not named here does not open it",
        );
    }
    app.printer.talk("backups from now on use it; if the policy pins `repository_key`, change it");
    Ok(ExitStatus::Done)
}
