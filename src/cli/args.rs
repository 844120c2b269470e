//! The command line's shape.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};

use super::command::{
    backup, cancel, check, completions, copy, daemon, delete, diff, drill, find, init, key, list,
    logs, ls, man, notify, pin, plan, playbook, policy, prune, restore, role, runs, schema, show,
    state, status, sync, thaw, trigger, unpin, verify, wal,
};

/// Backup, restore and disaster recovery for data platforms.
#[derive(Debug, Parser)]
#[command(
    name = "backstay",
    version,
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 policy invalid, 4 objective missed, \
                  5 damage found, 6 waiting for a person, 75 busy, 130 interrupted.\n\
                  At three in the morning: `backstay list`, then \
                  `backstay restore STACK/SOURCE --to DIR`."
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// A policy file, or a directory of them.
    ///
    /// Default: ./policies, then /etc/backstay/policies.
    #[arg(long, global = true, value_name = "PATH", env = "BACKSTAY_POLICY", value_parser = path())]
    pub policy: Option<PathBuf>,

    /// A repository, without any policy: a directory or s3://BUCKET/PREFIX?endpoint=URL&region=R.
    ///
    /// With a policy: the name of one of its repositories.
    #[arg(long, global = true, value_name = "URL|NAME")]
    pub repository: Option<String>,

    /// Look at a repository as it was then: a bucket that keeps versions, whatever was deleted or
    /// overwritten since. Nothing is written.
    #[arg(long, global = true, value_name = "TIME")]
    pub repository_at: Option<String>,

    /// A file with the recovery identity (AGE-SECRET-KEY-1…). May be given several times.
    #[arg(long, global = true, value_name = "FILE", env = "BACKSTAY_IDENTITY", value_parser = path())]
    pub identity: Vec<PathBuf>,

    /// Where the passphrase of an identity lies: a reference such as '${file:PATH}', or `ask`.
    ///
    /// For identity files that a passphrase protects, and for passphrases that are recipients. Without
    /// it a person is asked for that of a file, on a terminal only.
    #[arg(long, global = true, value_name = "REFERENCE")]
    pub passphrase: Option<String>,

    /// Where this machine keeps what it remembers, such as what was proven when.
    ///
    /// Default: /var/lib/backstay for root, else $XDG_STATE_HOME/backstay or
    /// ~/.local/state/backstay.
    #[arg(long, global = true, value_name = "DIR", env = "BACKSTAY_STATE_DIR", value_parser = path())]
    pub state_dir: Option<PathBuf>,

    /// What standard output looks like.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,

    /// Say nothing but errors and data.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more; no progress bar.
    #[arg(long, short, global = true)]
    pub verbose: bool,

    /// When to use colour. NO_COLOR is respected.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,

    /// Show no progress bar.
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// A path that may be empty: so is a variable that somebody unset.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Global {
    /// The same without paths that are empty.
    #[must_use]
    pub fn without_empty(mut self) -> Self {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        self.policy = self.policy.filter(given);
        self.state_dir = self.state_dir.filter(given);
        self.identity.retain(given);
        self
    }
}

/// What standard output looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs; events go to standard error as JSON lines.
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands. Their descriptions are those of their arguments: one written here would replace
/// the long form in `--help`.
#[allow(missing_docs)]
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Check(check::Args),
    Schema(schema::Args),
    Plan(plan::Args),
    Playbook(Box<playbook::Args>),
    Policy(policy::Args),
    Drill(Box<drill::Args>),
    Daemon(daemon::Args),
    Status(status::Args),
    Role(role::Args),
    Runs(runs::Args),
    Logs(logs::Args),
    Cancel(cancel::Args),
    Trigger(trigger::Args),
    State(state::Args),
    Notify(notify::Args),
    Backup(backup::Args),
    List(list::Args),
    Show(show::Args),
    Ls(ls::Args),
    Find(find::Args),
    Diff(diff::Args),
    Restore(Box<restore::Args>),
    Verify(verify::Args),
    Copy(copy::Args),
    Sync(sync::Args),
    Prune(prune::Args),
    Pin(pin::Args),
    Unpin(unpin::Args),
    Thaw(thaw::Args),
    Delete(delete::Args),
    Wal(wal::Args),
    Key(key::Args),
    Completions(completions::Args),
    Man(man::Args),
}
