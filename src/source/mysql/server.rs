//! Servers that run for a while on files of their own, to prove that a dump can be restored.
//!
//! Such a server listens on a socket in a directory that only its user may enter, and nowhere else.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::client::Client;
use super::conninfo::Settings;
use crate::error::{Error, IoContext as _, Result};
use crate::source::postgres::ServerUser;
use crate::source::{isolation, leftover};
use crate::telemetry::Reporter;

/// How long it may take until it answers.
const START: Duration = Duration::from_mins(5);

/// How long it may take to end.
const STOP: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(100);

/// The file with its process id, in its data directory.
const PID: &str = "backstay.pid";

/// What is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// MariaDB, and not MySQL.
    pub mariadb: bool,
    /// An empty directory for its data.
    pub data: &'a Path,
    /// One for its socket and log, with a short path.
    pub runtime: &'a Path,
    /// Where its programs are, if they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Who runs it: both directories are theirs.
    pub user: ServerUser,
    /// It gets a network of its own, with nothing in it.
    pub isolated: bool,
}

/// A server of one's own.
#[derive(Debug)]
pub struct ThrowawayServer {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

/// Finds a program of the server: in `given`, or where distributions install it.
fn find(names: &[&str], given: Option<&Path>) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/bin", "/usr/local/mysql/bin"];
    let places: Vec<PathBuf> = given
        .map(Path::to_path_buf)
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .chain(std::env::split_paths(&path))
        .collect();
    names
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::not_found(format!("there is no {} here", names[0]))
                .hint("install the server (mariadb-server-core, mysql-server-core), or name the directory of its programs")
        })
}

/// The names of the server's program.
const fn names(mariadb: bool) -> &'static [&'static str] {
    if mariadb { &["mariadbd", "mysqld"] } else { &["mysqld"] }
}

fn command(user: ServerUser, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

impl ThrowawayServer {
    /// Looks whether there is the program that such a server is started with.
    pub fn can_start(mariadb: bool, programs: Option<&Path>) -> Result<()> {
        find(names(mariadb), programs).map(drop)
    }

    /// Makes an empty server and starts it.
    pub fn start(launch: &Launch<'_>, reporter: &Reporter) -> Result<Self> {
        let Launch { mariadb, data, runtime, programs, user, isolated } = *launch;
        let server = find(names(mariadb), programs)?;
        let log = runtime.join("log");
        let failed = || format!("failed to create {}", log.display());
        let file = File::create(&log).doing(failed)?;
        let said = |second: &File| second.try_clone().doing(failed);
        user.own(runtime)?;
        let datadir = format!("--datadir={}", data.display());
        let mut make = if mariadb {
            let install = find(&["mariadb-install-db", "mysql_install_db"], programs)?;
            let mut make = command(user, &install);
            make.args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]);
            make
        } else {
            let mut make = command(user, &server);
            make.args(["--no-defaults", "--initialize-insecure"]);
            make
        };
        make.arg(&datadir).stdout(said(&file)?).stderr(said(&file)?).current_dir("/");
        let status = make.status().doing(|| "failed to make a server".to_owned())?;
        let socket = runtime.join("s");
        if !status.success() {
            return Err(said_at_last(&log, &format!("the server could not be made ({status})")));
        }
        let mut start = command(user, &server);
        start.args(["--no-defaults", &datadir, "--skip-networking", "--event-scheduler=OFF"]);
        start.args(["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=1G"]);
        start.arg(format!("--socket={}", socket.display()));
        start.arg(format!("--pid-file={}", data.join(PID).display()));
        start.arg(format!("--tmpdir={}", runtime.display()));
        start.arg("--skip-log-bin");
        // Whoever interrupts this program is not to take the server away from under it.
        start.process_group(0).stdout(said(&file)?).stderr(file).current_dir(data);
        let child = isolation::spawn(&mut start, isolated)
            .doing(|| format!("failed to start {}", server.display()))?;
        let mut server = Self { child, log, socket };
        server.answers(reporter)?;
        Ok(server)
    }

    fn answers(&mut self, reporter: &Reporter) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            reporter.check()?;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(said_at_last(&self.log, &format!("the server ended ({status})")));
            }
            if self.socket.exists() && Client::open(&self.settings()?).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(said_at_last(&self.log, "the server does not answer"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// How it is reached, as a connection string.
    pub fn connection(&self) -> String {
        format!("socket='{}' user=root", self.socket.display())
    }

    /// How it is reached.
    pub fn settings(&self) -> Result<Settings> {
        Settings::parse(&self.connection())
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, signal: Signal) {
        leftover::end(&mut self.child, signal, STOP, PAUSE);
    }
}

impl Drop for ThrowawayServer {
    fn drop(&mut self) {
        // Its data goes with it.
        self.end(Signal::KILL);
    }
}

fn said_at_last(log: &Path, what: &str) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rfind(|line| line.contains("ERROR")).or_else(|| text.lines().last());
    match last {
        Some(line) => Error::failed(what).with_source(line.to_owned()),
        None => Error::failed(what),
    }
}

/// Ends the server that a killed process left on a data directory.
pub fn end_leftover(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join(PID)) else { return };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return };
    leftover::end_at_home(pid, data, Signal::KILL, STOP, PAUSE);
}
