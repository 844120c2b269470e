//! The part of `backstay check` that sends a WAL segment round.

use std::time::{Duration, Instant};

use crate::cli::command::wal::repositories;
use crate::cli::format;
use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::Policy;
use crate::source::postgres::{server_wal, switch_segment};
use crate::store::WalStore;

/// How long a segment may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// How often a repository is asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Ends a segment at the server, and waits until every repository that must have it does. What was
/// seen, a line for each.
pub fn goes_round(
    app: &App,
    policy: &Policy,
    address: &SourceAddress,
    connection: &str,
) -> Result<Vec<String>> {
    let server = server_wal(connection)?;
    if let Some(why) = server.unconfigured() {
        return Err(Error::failed(format!("nothing is archived: {why}")));
    }
    let system_id = server
        .system_id
        .parse()
        .map_err(|_| Error::failed("the server does not say which cluster it is"))?;
    let name = switch_segment(connection)?;
    let started = Instant::now();
    let mut seen = Vec::new();
    for (repository, required) in repositories(policy, address) {
        let found = app.open(policy, &repository).and_then(|opened| {
            let source = opened.repository.source(address);
            let store = WalStore::reader(&source, opened.repository.is_encrypted());
            wait(app, &store, system_id, &name, started)
        });
        match found {
            Ok(true) => seen.push(format!(
                "{name} was archived in {repository} within {}",
                format::seconds(started.elapsed().as_secs_f64())
            )),
            Ok(false) if required => return Err(missed(connection, &name, &repository)),
            Err(error) if required || error.kind() == ErrorKind::Interrupted => {
                return Err(error.context(format!("failed to look for {name} in `{repository}`")));
            }
            Ok(false) => seen.push(format!(
                "{name} is not in {repository} after {}, which need not have it",
                format::span(DEADLINE.as_secs())
            )),
            Err(error) => seen.push(format!("{repository}: {}", error.chain())),
        }
    }
    Ok(seen)
}

fn wait(app: &App, store: &WalStore, system_id: u64, name: &str, since: Instant) -> Result<bool> {
    loop {
        if store.digest(system_id, name)?.is_some() {
            return Ok(true);
        }
        if since.elapsed() > DEADLINE {
            return Ok(false);
        }
        app.cx.reporter.check()?;
        std::thread::sleep(PAUSE);
    }
}

fn missed(connection: &str, name: &str, repository: &str) -> Error {
    let limit = format::span(DEADLINE.as_secs());
    let error = Error::failed(format!("{name} is not in `{repository}` after {limit}"));
    let server = server_wal(connection).ok();
    let Some(server) = server else { return error.hint("the server does not answer any more") };
    let error = match (server.fails(), &server.last_archived) {
        (true, _) => error.hint("its archiver fails: the server's log says why"),
        (false, Some(last)) if last.name.as_str() >= name => {
            error.hint("its archiver took the file elsewhere: archive_command is not ours")
        }
        _ => error.hint("its archiver has not come to it yet: other files may be waiting"),
    };
    match &server.archive_command {
        Some(command) => error.hint(format!("archive_command = {command}")),
        None => error,
    }
}
