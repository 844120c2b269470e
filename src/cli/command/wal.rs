//! `backstay wal`

mod receive;
mod status;

use std::path::{Path, PathBuf};

use crate::cli::ExitStatus;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::{Policy, PolicySet, SourceSpec};
use crate::run::wal::{
    Archive, Candidate, Got, Notes, Wanted, get, get_ahead, get_fetched, push, pushed_ahead,
    system_id_of,
};
use crate::store::{Location, Repository};

/// Archive and fetch PostgreSQL's WAL: its archive_command and restore_command.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, clap::Subcommand)]
enum WalCommand {
    /// Archive a file: archive_command = 'backstay wal push %p'.
    ///
    /// Ends with 0 when the file is durable in every repository that is required, also if it was
    /// there before with the same content. Another content is refused. Never ends above 125, which
    /// would end the server's archiver.
    Push {
        /// The file, below its data directory.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Fetch a file: restore_command = 'backstay wal get %f %p'.
    ///
    /// Ends with 1 only if no repository has the file and each of them answered: PostgreSQL takes
    /// that for the end of its WAL, and opens. Everything else ends with 126, which stops recovery.
    Get {
        /// The file's name.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it goes.
        #[arg(value_name = "DESTINATION")]
        destination: PathBuf,
        /// For a standby, which asks again: every failure ends with 1.
        #[arg(long)]
        standby: bool,
        /// Fetch so many segments after it too: they are there when the server asks for them.
        #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=64))]
        ahead: u8,
        /// Fetch also what a site archived after another one had become the active one.
        #[arg(long)]
        allow_divergent: bool,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Receive WAL as the server writes it, and store it every few seconds.
    ///
    /// For an RPO of seconds, beside or in place of archive_command: whole segments as `wal push`
    /// stores them, and the one that is open in slices. Runs until SIGTERM or Ctrl-C; what fails is
    /// tried again, and the server keeps what was not received in a replication slot.
    Receive(receive::Args),
    /// Show what WAL lies where, what is missing, and what would be lost now.
    ///
    /// For each repository that WAL goes to: its timelines, gaps, how far recovery from the newest
    /// base backup gets, and how much the server has written beyond that. Exit code 4 where WAL is
    /// missing, further behind than the RPO, or not archived at all; 1 where a repository that
    /// must have it cannot be asked.
    Status(status::Args),
}

/// Which cluster.
#[derive(Debug, clap::Args)]
struct ClusterArgs {
    /// The source, where the policies have several clusters: STACK/SOURCE.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,

    /// The cluster's system identifier. Read from global/pg_control if left out.
    #[arg(long, value_name = "ID")]
    system_id: Option<u64>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    match &args.command {
        WalCommand::Receive(args) => receive::run(app, args),
        WalCommand::Status(args) => status::run(app, args),
        WalCommand::Push { file, cluster } => {
            let (set, address) = by_policy(app, cluster)?;
            let (id, notes) = (cluster.system_id, notes(app, &set, &address, file)?);
            let ahead = |notes| pushed_ahead(file, id, notes, &app.cx);
            let pushed = if let Some(pushed) = notes.as_ref().map_or(Ok(None), ahead)? {
                pushed
            } else {
                let candidate = Candidate::read(file, id)?;
                push(&candidate, &to_write(app, &set, &address)?, notes.as_ref(), &app.cx)?
            };
            if app.printer.is_json() {
                app.printer.json(&pushed)?;
            }
            Ok(ExitStatus::Done)
        }
        WalCommand::Get { name, destination, cluster, ahead, allow_divergent, .. } => {
            let system_id = match cluster.system_id {
                Some(id) => id,
                // The server runs it in its data directory.
                None => system_id_of(Path::new("."))?.ok_or_else(|| {
                    Error::usage("nothing says of which cluster WAL is wanted")
                        .hint("run it in the data directory, or give --system-id")
                })?,
            };
            let wanted = Wanted { name, destination, system_id };
            if *ahead > 0 && get_fetched(&wanted) {
                return Ok(ExitStatus::Done);
            }
            let (archives, unopened) = to_read(app, cluster, *allow_divergent)?;
            match (get(&wanted, &archives, &app.cx)?, unopened) {
                (Got::Fetched, _) => {
                    get_ahead(&wanted, (*ahead).into(), &archives, &app.cx);
                    Ok(ExitStatus::Done)
                }
                (Got::Missing, None) => Ok(ExitStatus::Failed),
                // The one that does not answer might have what the others lack.
                (Got::Missing, Some(error)) => Err(error),
            }
        }
    }
}

/// The one cluster that is meant.
fn address(app: &App, set: &PolicySet, cluster: &ClusterArgs) -> Result<SourceAddress> {
    if let Some(given) = &cluster.source {
        return app.address(set, given);
    }
    let is_cluster = |spec: &SourceSpec| matches!(spec, SourceSpec::PostgresCluster(_));
    let clusters: Vec<SourceAddress> = set
        .policies
        .iter()
        .flat_map(|policy| policy.sources.iter().map(move |source| (&policy.stack, source)))
        .filter(|(_, (_, source))| is_cluster(&source.spec))
        .map(|(stack, (name, _))| SourceAddress::new(stack, name))
        .collect();
    match &clusters[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::usage("the policies have no `postgres_cluster`")),
        [first, ..] => Err(Error::usage("the policies have several clusters")
            .hint(format!("say which: --source {first}"))),
    }
}

/// How the cluster is reached.
fn connection<'a>(policy: &'a Policy, address: &SourceAddress) -> Result<&'a str> {
    match policy.sources.get(&address.source).map(|source| &source.spec) {
        Some(SourceSpec::PostgresCluster(cluster)) => Ok(&cluster.connection),
        _ => Err(Error::usage(format!("{address} is no `postgres_cluster`"))),
    }
}

/// Names of the repositories that WAL goes to, and whether each must have it.
pub(super) fn repositories(policy: &Policy, address: &SourceAddress) -> Vec<(String, bool)> {
    let archive = match policy.sources.get(&address.source).map(|source| &source.spec) {
        Some(SourceSpec::PostgresCluster(cluster)) => {
            cluster.wal.as_ref().and_then(|wal| wal.archive.as_ref())
        }
        _ => None,
    };
    let Some(archive) = archive else {
        let own = policy.repository_of(&address.source);
        return own.map(|(name, _)| (name.to_owned(), true)).into_iter().collect();
    };
    let required = |name: &String| archive.require.as_ref().is_none_or(|all| all.contains(name));
    archive.to.iter().map(|name| (name.clone(), required(name))).collect()
}

/// Notes about the repositories that WAL goes to by the policy.
fn notes(
    app: &App,
    set: &PolicySet,
    address: &SourceAddress,
    file: &Path,
) -> Result<Option<Notes>> {
    let policy = app.policy_of(set, address)?;
    let mut place = vec![address.to_string()];
    for (name, required) in repositories(policy, address) {
        if app.wants_repository(&name)
            && let Some(config) = policy.repositories.get(&name)
        {
            let location = Location::from_policy(config)?.name();
            place.push(format!("{name}={location} {required}"));
        }
    }
    Ok(Notes::beside(file, place.join(" ")))
}

/// The policies, and the cluster of them that is meant.
fn by_policy(app: &App, cluster: &ClusterArgs) -> Result<(PolicySet, SourceAddress)> {
    if app.repository_url().is_some() {
        return Err(Error::usage("WAL goes where the policy says")
            .hint("give --policy, and no URL as --repository"));
    }
    let set = app.policies(false)?;
    let address = address(app, &set, cluster)?;
    Ok((set, address))
}

fn to_write(app: &App, set: &PolicySet, address: &SourceAddress) -> Result<Vec<Archive>> {
    let policy = app.policy_of(set, address)?;
    app.check_active(policy)?;
    let mut archives = Vec::new();
    for (name, required) in repositories(policy, address) {
        if !app.wants_repository(&name) {
            continue;
        }
        match open_to_write(app, policy, address, &name, required) {
            Ok(archive) => archives.push(archive),
            Err(error) if required => return Err(error),
            Err(error) => app.printer.warning(&error.chain()),
        }
    }
    if archives.is_empty() {
        return Err(Error::failed(format!("there is nowhere to archive WAL of {address}")));
    }
    Ok(archives)
}

fn open_to_write(
    app: &App,
    policy: &Policy,
    address: &SourceAddress,
    name: &str,
    required: bool,
) -> Result<Archive> {
    let config = policy.repositories.get(name);
    let config =
        config.ok_or_else(|| Error::usage(format!("the policy has no repository `{name}`")))?;
    let repository = Repository::open(&app.connect(config, false)?)
        .map_err(|error| error.context(format!("failed to open repository `{name}`")))?;
    let repository = app.knowing(policy, repository)?;
    if repository.is_encrypted() != config.encryption.is_some() {
        return Err(Error::usage(format!(
            "the policy and repository `{name}` do not agree whether it is encrypted"
        )));
    }
    Archive::to_write(name, required, repository, address)
}

/// What can be read from, and why something else cannot.
fn to_read(
    app: &App,
    cluster: &ClusterArgs,
    divergent: bool,
) -> Result<(Vec<Archive>, Option<Error>)> {
    let known = |opened: Opened| if divergent { opened.ignoring_epochs() } else { opened };
    if app.repository_url().is_some() {
        let given = cluster.source.as_deref();
        let given = given.ok_or_else(|| Error::usage("without a policy, --source is needed"))?;
        let address = SourceAddress::parse(given)?;
        let opened = app.repositories()?.into_iter().map(known);
        let archive =
            opened.map(|o| Archive::to_read(&o.name, o.repository, &address, o.keys)).collect();
        return Ok((archive, None));
    }
    let set = app.policies(false)?;
    let address = address(app, &set, cluster)?;
    let policy = app.policy_of(&set, &address)?;
    let (mut archives, mut failed) = (Vec::new(), None);
    for (name, _) in repositories(policy, &address) {
        if !app.wants_repository(&name) {
            continue;
        }
        match app.open(policy, &name).map(known) {
            Ok(o) => archives.push(Archive::to_read(&o.name, o.repository, &address, o.keys)),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        None if archives.is_empty() => Err(Error::usage(format!("{address} has no repository"))),
        failed => Ok((archives, failed)),
    }
}
