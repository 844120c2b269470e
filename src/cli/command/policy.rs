//! `backstay policy`

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::format::{Align, table};
use crate::cli::setup::{App, Opened};
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::policy::{self, Runs};
use crate::store::StoredPolicy;

/// Get policies back from a repository.
///
/// Every backup keeps the policy that was in force beside it. Who could write to the bucket could
/// write a policy too, and policies run programs: one that was fetched is used by nothing before a
/// person confirmed it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// List the policies that were in force, the newest of each stack first.
    List {
        /// Only those of this stack.
        #[arg(value_name = "STACK")]
        stack: Option<String>,
    },
    /// Write a policy as it was in force to standard output or into a file, marked as not confirmed.
    Fetch {
        /// The stack.
        #[arg(value_name = "STACK")]
        stack: String,
        /// Which one: its digest or the start of it. Default: the one that was stored last.
        #[arg(long, value_name = "DIGEST")]
        digest: Option<String>,
        /// The file to write. It must not exist. `-` is standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show all that a fetched policy would run, ask, and take its mark out.
    Confirm {
        /// The policy.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Show what it would run, and confirm nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    match &args.command {
        PolicyCommand::List { stack } => list(app, stack.as_deref()),
        PolicyCommand::Fetch { stack, digest, out } => {
            fetch(app, stack, digest.as_deref(), out.as_deref())
        }
        PolicyCommand::Confirm { file, dry_run, yes } => accept(app, file, *dry_run, *yes),
    }
}

#[derive(Serialize)]
struct Line {
    repository: String,
    stack: String,
    digest: String,
    stored_at: String,
}

fn list(app: &App, stack: Option<&str>) -> Result<ExitStatus> {
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    for opened in app.repositories()? {
        for stored in stored(&opened, stack)? {
            rows.push(vec![
                stored.stack.clone(),
                stored.digest.chars().take(12).collect(),
                format::time(stored.stored_at),
                opened.name.clone(),
            ]);
            lines.push(Line {
                repository: opened.name.clone(),
                stack: stored.stack,
                digest: stored.digest,
                stored_at: stored.stored_at.to_string(),
            });
        }
    }
    if app.printer.is_json() {
        app.printer.json(&lines)?;
    } else if lines.is_empty() {
        app.printer.talk("there are no policies");
    } else {
        let head = ["STACK", "DIGEST", "STORED", "REPOSITORY"].map(|name| (name, Align::Left));
        for row in table(&head, &rows) {
            app.printer.data(row)?;
        }
    }
    Ok(ExitStatus::Done)
}

/// The policies of a repository: of one stack, or of those whose policy names it.
fn stored(opened: &Opened, stack: Option<&str>) -> Result<Vec<StoredPolicy>> {
    let own = |found: &StoredPolicy| opened.stack.as_ref().is_none_or(|own| *own == found.stack);
    let mut found = opened.repository.policies(stack)?;
    found.retain(own);
    Ok(found)
}

#[derive(Serialize)]
struct Fetched<'a> {
    repository: &'a str,
    stack: &'a str,
    digest: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

fn fetch(app: &App, stack: &str, digest: Option<&str>, out: Option<&Path>) -> Result<ExitStatus> {
    let mut found = Vec::new();
    for opened in app.repositories()? {
        for policy in stored(&opened, Some(stack))? {
            if digest.is_none_or(|wanted| policy.digest.starts_with(wanted)) {
                found.push((
                    opened.name.clone(),
                    opened.repository.clone(),
                    opened.keys.clone(),
                    policy,
                ));
            }
        }
    }
    if let Some(digest) = digest {
        let mut digests: Vec<&String> = found.iter().map(|(.., policy)| &policy.digest).collect();
        digests.sort();
        digests.dedup();
        if digests.len() > 1 {
            return Err(Error::usage(format!("several policies of {stack} begin with {digest}"))
                .hint("`backstay policy list` shows them with `--output json` in full"));
        }
    }
    let newest = found.into_iter().max_by_key(|(.., policy)| policy.stored_at);
    let (name, repository, keys, stored) = newest.ok_or_else(|| {
        Error::not_found(match digest {
            Some(digest) => format!("there is no policy of {stack} with digest {digest}"),
            None => format!("there is no policy of {stack}"),
        })
        .hint("`backstay policy list` shows what there is")
    })?;
    let place = format!("{stack}/policy/{} in {}", stored.digest, repository.store().name());
    let text = policy::marked(&repository.policy_text(&stored, &keys)?, &place);
    let path = out.filter(|path| *path != Path::new("-"));
    if let Some(path) = path {
        create(path, &text)?;
    }
    if app.printer.is_json() {
        app.printer.json(&Fetched {
            repository: &name,
            stack,
            digest: &stored.digest,
            file: path.map(|path| path.display().to_string()),
            text: path.is_none().then_some(&text),
        })?;
    } else if let Some(path) = path {
        app.printer.talk(format!(
            "the policy of {stack} that was stored at {} is in {}",
            format::time(stored.stored_at),
            path.display()
        ));
        app.printer
            .hint(&format!("nothing uses it before `backstay policy confirm {}`", path.display()));
    } else {
        app.printer.raw(&text)?;
    }
    Ok(ExitStatus::Done)
}

fn create(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("failed to write {}", path.display());
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
            |error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::Conflict, format!("{} exists already", path.display()))
                        .hint("give another file: a policy is never overwritten")
                }
                _ => Error::io(failed(), error),
            },
        )?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).doing(failed)
}

#[derive(Serialize)]
struct Shown {
    file: String,
    stack: String,
    runs: Vec<Runs>,
    playbooks: Vec<String>,
    #[serde(rename = "confirmed")]
    done: bool,
}

fn accept(app: &App, file: &Path, dry_run: bool, yes: bool) -> Result<ExitStatus> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).doing(|| format!("failed to read {name}"))?;
    let plain = policy::unmarked(&text).ok_or_else(|| {
        Error::usage(format!("{name} has no mark that says it was fetched"))
            .hint("there is nothing to confirm: it is used as it is")
    })?;
    let mut set = policy::parse(&plain, &name).map_err(|error| {
        Error::from(error).hint("mend it first: nothing can use it as it is, confirmed or not")
    })?;
    let policy = set.policies.pop().ok_or_else(|| Error::failed(format!("{name} is empty")))?;
    let runs = policy::runs(&policy);
    if !app.printer.is_json() {
        for found in &runs {
            app.printer.data(format!("{}: {}", found.at, found.runs))?;
        }
        if runs.is_empty() {
            app.printer.talk("it names no program to run");
        }
        for playbook in policy.playbooks.keys() {
            app.printer.data(format!("playbooks.{playbook}: read its steps"))?;
        }
    }
    if !dry_run {
        let what = format!("everything above is run when {name} is used");
        confirm::type_name(app, &what, &policy.stack, yes)?;
        replace(file, &plain)?;
        app.printer.talk(format!("{name} is confirmed"));
    }
    if app.printer.is_json() {
        app.printer.json(&Shown {
            file: name,
            stack: policy.stack.clone(),
            runs,
            playbooks: policy.playbooks.keys().cloned().collect(),
            done: !dry_run,
        })?;
    }
    Ok(ExitStatus::Done)
}

/// Gives a file other content at once: a half-written policy would be another one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("failed to write {}", path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).doing(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).doing(failed)?;
    file.persist(path).map_err(|error| error.error).doing(failed)?;
    Ok(())
}
