//! Starting a restored server where it lies, and waiting until it is where it was to go.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::server::{ServerUser, ThrowawayServer, output};
use super::tools::{Needed, Tool};
use crate::error::{Error, IoContext as _, Result};
use crate::telemetry::Reporter;

const PAUSE: Duration = Duration::from_millis(100);

/// How long a server may take to write down that it runs.
const APPEARS: Duration = Duration::from_mins(1);

/// Where a started server logs, in its data directory.
const LOG: &str = "restore.log";

/// A server that was started.
#[derive(Debug, Clone, Serialize)]
pub struct Started {
    /// Seconds from its start until it was there.
    pub seconds: f64,
    /// It takes writes; otherwise it answers questions only.
    pub writes: bool,
    /// Its log.
    pub log: PathBuf,
}

/// Starts the server of a restored data directory as the owner of its files, after a look at its
/// configuration. Returns when it takes writes, or, where it stays in recovery, when it answers.
pub fn start_restored(
    data: &Path,
    programs: Option<&Path>,
    stays_in_recovery: bool,
    reporter: &Reporter,
) -> Result<Started> {
    let major = ThrowawayServer::major_of(data)?;
    let needed = Needed { least: major, best: major };
    let postgres = Tool::find("postgres", programs, needed)?;
    let pg_ctl = Tool::find("pg_ctl", programs, needed)?;
    let controldata = Tool::find("pg_controldata", programs, needed)?;
    if postgres.major != major || pg_ctl.major != major {
        return Err(Error::unsupported(format!(
            "{} is PostgreSQL {}, and the cluster is of {major}",
            postgres.path.display(),
            postgres.major
        ))
        .hint(format!("install postgresql-{major}, or give its directory: --programs DIR")));
    }
    let owner = fs::metadata(data).doing(|| format!("failed to look at {}", data.display()))?;
    let user = ServerUser { uid: owner.uid(), gid: owner.gid() };
    let mut look = user.command(&postgres.path);
    look.arg("-D").arg(data).args(["-C", "data_directory"]).current_dir(data);
    output(&mut look, "postgres -C").map_err(|error| {
        error
            .context("the restored configuration is not one that the server starts with")
            .hint("where postgresql.conf lies outside of the data directory: pg_ctl start -o '-c config_file=…'")
            .hint("everything is restored: only the start is left to do")
    })?;
    let started = Instant::now();
    let log = data.join(LOG);
    let mut start = user.command(&pg_ctl.path);
    start.arg("-D").arg(data).arg("-l").arg(&log).args(["--no-wait", "start"]).current_dir(data);
    output(&mut start, "pg_ctl start")?;
    reporter.phase("recovering");
    let is_open = || {
        let mut look = user.command(&controldata.path);
        let text = output(look.arg("-D").arg(data).current_dir(data), "pg_controldata");
        text.is_ok_and(|text| {
            let state = text.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
            state.is_some_and(|state| state.trim() == "in production")
        })
    };
    let writes = wait(data, &log, stays_in_recovery, &is_open, reporter)?;
    Ok(Started { seconds: started.elapsed().as_secs_f64(), writes, log })
}

/// Reads what the server writes about itself: `ready` once it answers, be it in recovery, `standby`
/// where it recovers and answers nobody. That it takes writes stands in its control file.
fn wait(
    data: &Path,
    log: &Path,
    stays: bool,
    is_open: &dyn Fn() -> bool,
    reporter: &Reporter,
) -> Result<bool> {
    let pid = data.join("postmaster.pid");
    let begun = Instant::now();
    let mut seen = false;
    loop {
        reporter.check().map_err(|error| error.hint("the server goes on without this program"))?;
        match fs::read_to_string(&pid) {
            Ok(text) => {
                seen = true;
                match text.lines().nth(7).map(str::trim) {
                    Some("ready") if is_open() => return Ok(true),
                    Some("ready" | "standby") if stays => return Ok(false),
                    _ => {}
                }
            }
            // It may have ended before anybody saw it.
            Err(_) if !seen && begun.elapsed() < APPEARS && last_words(log).is_none() => {}
            Err(_) => return Err(ended(log)),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Why it ended, as it said itself.
fn last_words(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rfind(|line| line.contains("FATAL") || line.contains("PANIC"));
    last.map(str::to_owned)
}

fn ended(log: &Path) -> Error {
    let error = Error::failed("the server ended before it was where it was to go")
        .hint(format!("its log is {}", log.display()))
        .hint("what is restored stays: it can be started again, also with another target");
    match last_words(log) {
        Some(line) => error.with_source(line),
        None => error,
    }
}
