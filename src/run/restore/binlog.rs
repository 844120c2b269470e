//! MySQL and MariaDB to a point in time: a server of one's own takes the dumps, then the binary logs
//! as far as asked for, and is dumped again.

use std::fs::{self, File};
use std::path::Path;

use super::files::BackupFiles;
use super::recovered::Means;
use crate::error::{Error, IoContext as _, Result};
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::source::StoredFiles;
use crate::source::mysql::{
    self, BINLOG, Done, Goal, LocalDumps, OVERVIEW, Options, Overview, Restoring, ThrowawayServer,
};
use crate::source::postgres::ServerUser;

/// A server's indexes and rows take more room than a dump of them.
const GROWTH: u64 = 3;

/// What a new server takes before it has anything.
const EMPTY: u64 = 256 << 20;

/// A server that took dumps and logs. It ends with this, and then everything is removed.
pub struct Replayed {
    /// What was restored of the dumps.
    pub done: Done,
    /// How many logs were read, and the last of them.
    pub logs: (usize, Option<String>),
    server: ThrowawayServer,
    runtime: tempfile::TempDir,
    place: Place,
}

/// Whether a backup has binary logs.
pub fn has_logs(files: &dyn StoredFiles) -> bool {
    files.paths().iter().any(|path| path.starts_with(&format!("{BINLOG}/")))
}

/// Restores the dumps of `files` into a server of its own, and replays binary logs.
pub fn replayed(
    files: &BackupFiles<'_>,
    means: Means<'_>,
    bytes: u64,
    goal: &Goal,
    cx: &Context,
) -> Result<Replayed> {
    let Means { scratch, programs, isolated, .. } = means;
    let overview: Overview = read(files, OVERVIEW)?;
    let user = ServerUser::choose()?;
    let room = bytes.saturating_mul(GROWTH).saturating_add(EMPTY);
    let place = Place::make(scratch, room, &cx.reporter)?;
    let make = |name: &str| {
        let path = place.path(name);
        fs::create_dir(&path).doing(|| format!("failed to create {}", path.display()))?;
        Ok::<_, Error>(path)
    };
    let (data, binlog) = (make(DATA)?, make(BINLOG)?);
    let runtime = Place::runtime()?;
    user.own(place.directory())?;
    user.own(runtime.path())?;
    cx.reporter.phase("starting a server");
    let mariadb = overview.product == "MariaDB";
    let dirs = (data.as_path(), runtime.path());
    let launch = mysql::Launch { mariadb, data: dirs.0, runtime: dirs.1, programs, user, isolated };
    let server = ThrowawayServer::start(&launch, &cx.reporter)?;
    let settings = server.settings()?;
    let restoring = Restoring::prepare(files, Options::default(), &settings, programs, "recovery")?;
    let done = restoring.run(&cx.reporter)?;
    let prefix = format!("{BINLOG}/");
    let mut names = Vec::new();
    for path in files.paths() {
        let Some(name) = path.strip_prefix(&prefix).filter(|name| !name.contains('/')) else {
            continue;
        };
        let target = binlog.join(name);
        let failed = || format!("failed to write {}", target.display());
        let mut file = File::create_new(&target).doing(failed)?;
        std::io::copy(&mut files.open(path)?, &mut file).doing(failed)?;
        names.push(name.to_owned());
    }
    // By their numbers: from the millionth on they have one digit more.
    names.sort_by_key(|name| (name.len(), name.clone()));
    let logs = (names.len(), names.last().cloned());
    if !names.is_empty() {
        let from = overview.position.ok_or_else(|| {
            Error::damaged(
                "the backup has binary logs and does not say where its dump stands in them",
            )
        })?;
        names.retain(|name| (name.len(), name) >= (from.file.len(), &from.file));
        if names.first() != Some(&from.file) {
            return Err(Error::damaged(format!("binary log {} is missing", from.file)));
        }
        mysql::replay_into(
            &settings,
            programs,
            &binlog,
            (&names, from.position),
            goal,
            &cx.reporter,
        )?;
    }
    Ok(Replayed { done, logs, server, runtime, place })
}

impl Replayed {
    /// The server.
    pub fn server(&self) -> &ThrowawayServer {
        &self.server
    }

    /// Dumps what the server has now.
    pub fn dumped(&self, programs: Option<&Path>, cx: &Context) -> Result<LocalDumps> {
        cx.reporter.phase("dumping");
        let config = mysql::Config {
            connection: self.server.connection(),
            lock: true,
            counts: true,
            checksums: true,
            programs: programs.map(Path::to_path_buf),
            ..mysql::Config::default()
        };
        let directory = self.place.path("dumps");
        fs::create_dir(&directory).doing(|| format!("failed to create {}", directory.display()))?;
        LocalDumps::make(config, &directory, &cx.for_source())
            .map_err(|error| error.context("failed to dump from the recovered server"))
    }

    /// Ends the server.
    pub fn stop(self) {
        let Self { server, runtime, place, .. } = self;
        server.stop();
        drop((runtime, place));
    }
}

fn read<T: serde::de::DeserializeOwned>(files: &dyn StoredFiles, path: &str) -> Result<T> {
    use std::io::Read as _;
    let mut text = String::new();
    let mut reader = files.open(path)?.take(16 << 20);
    reader.read_to_string(&mut text).doing(|| format!("failed to read {path}"))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::damaged(format!("{path} is not what was written")).with_source(error)
    })
}
