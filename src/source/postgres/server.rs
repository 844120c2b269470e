//! Servers that run for a while on files of their own: to prove that a backup starts, and to get one
//! table out of a whole cluster.
//!
//! Such a server listens on a socket in a directory that only its user may enter, and nowhere else;
//! it archives nothing, follows nobody and runs nobody's programs. Its data is thrown away with it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::User;
use rustix::process::{Pid, Signal};

use super::conninfo::variables;
use super::tools::{Needed, Tool};
use super::{Connection, Settings, Surroundings};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::{isolation, leftover};
use crate::telemetry::Reporter;

/// How long it may take until it answers at all. Replaying WAL comes after that.
const START: Duration = Duration::from_mins(10);

/// How long it may take to end.
const STOP: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(100);

/// Lines of what a program said that are shown if it fails: the last one alone seldom says why.
const SAID: usize = 3;

/// Port and database of a server that has the socket's directory to itself.
const PORT: u16 = 5432;

/// Who runs the server: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerUser {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

impl ServerUser {
    /// Whoever runs this; where that is root, `postgres` or else `nobody`.
    pub fn choose() -> Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if !uid.is_root() {
            return Ok(Self { uid: uid.as_raw(), gid: gid.as_raw() });
        }
        let found = ["postgres", "nobody"].into_iter().find_map(|name| {
            let user = User::from_name(name).ok()??;
            Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
        });
        found.ok_or_else(|| {
            Error::failed("PostgreSQL does not run as root, and there is no user `postgres`")
                .hint("run this as another user")
        })
    }

    /// Gives everything below a directory to this user, where that is somebody else.
    pub fn own(self, directory: &Path) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        self.give(directory)
            .doing(|| format!("failed to give {} to the server's user", directory.display()))
    }

    fn give(self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))?;
        if !path.symlink_metadata()?.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(path)? {
            self.give(&entry?.path())?;
        }
        Ok(())
    }

    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for variable in variables() {
            command.env_remove(variable);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// The data directory. It belongs to `user`.
    pub data: &'a Path,
    /// An empty directory for its socket and configuration, with a short path.
    pub runtime: &'a Path,
    /// Where its programs are, if they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Its major version.
    pub major: u32,
    /// Who runs it.
    pub user: ServerUser,
    /// Roles that may exist, for the first question.
    pub roles: &'a [String],
    /// It gets a network of its own, with nothing in it.
    pub isolated: bool,
}

/// A server of one's own.
#[derive(Debug)]
pub struct ThrowawayServer {
    child: Child,
    log: PathBuf,
    runtime: PathBuf,
    programs: PathBuf,
    user: ServerUser,
    /// The superuser.
    role: String,
}

impl ThrowawayServer {
    /// Looks whether there are the programs that a server of this version is started with.
    pub fn can_start(major: u32, programs: Option<&Path>) -> Result<()> {
        find_in("postgres", major, programs).map(drop)
    }

    /// Makes an empty cluster, whose superuser is `postgres`.
    pub fn create(launch: &Launch<'_>) -> Result<()> {
        let initdb = find("initdb", launch)?;
        let data = launch.data.display().to_string();
        let arguments = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"];
        let mut command = launch.user.command(&initdb.path);
        command.args(arguments).args(["--no-sync", "-D", &data]).current_dir("/");
        output(&mut command, "initdb").map(drop)
    }

    /// Starts a server, and returns when it answers.
    pub fn start(launch: &Launch<'_>, reporter: &Reporter) -> Result<Self> {
        let postgres = find("postgres", launch)?;
        let programs = postgres.path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let log = launch.runtime.join("log");
        let file = File::create(&log).doing(|| format!("failed to create {}", log.display()))?;
        let second = file.try_clone().doing(|| format!("failed to open {}", log.display()))?;
        write(&launch.runtime.join("postgresql.conf"), "")?;
        write(&launch.runtime.join("pg_ident.conf"), "")?;
        write(&launch.runtime.join("pg_hba.conf"), "local all all trust\n")?;
        launch.user.own(launch.runtime)?;
        let mut command = launch.user.command(&postgres.path);
        command.arg("-D").arg(launch.data).current_dir(launch.data);
        for setting in settings(launch)? {
            command.args(["-c", &setting]);
        }
        // Whoever interrupts this program is not to take the server away from under it.
        command.process_group(0).stdout(file).stderr(second);
        let child = isolation::spawn(&mut command, launch.isolated)
            .doing(|| format!("failed to start {}", postgres.path.display()))?;
        let runtime = launch.runtime.to_path_buf();
        let role = String::new();
        let mut server = Self { child, log, runtime, programs, user: launch.user, role };
        server.role = server.answers(launch.roles, reporter)?;
        Ok(server)
    }

    /// Waits until it answers, and finds out who its superuser is.
    fn answers(&mut self, roles: &[String], reporter: &Reporter) -> Result<String> {
        let deadline = Instant::now() + START;
        let usual = "postgres".to_owned();
        loop {
            self.check(reporter)?;
            for role in std::iter::once(&usual).chain(roles) {
                let Ok(mut sql) = Connection::open(&self.settings_of(role, "template1")?) else {
                    continue;
                };
                // The one that initdb made, under whatever name.
                let query = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10";
                return sql.value(query, "failed to ask who the superuser is");
            }
            if Instant::now() > deadline {
                return Err(self.failed("the server does not answer"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until it has recovered, and takes writes.
    pub fn opens(&mut self, reporter: &Reporter) -> Result<()> {
        let mut sql = self.connect("postgres").or_else(|_| self.connect("template1"))?;
        reporter.phase("recovering");
        loop {
            self.check(reporter)?;
            let query = "SELECT pg_catalog.pg_is_in_recovery()::text";
            match sql.value(query, "failed to ask how far recovery is") {
                Ok(text) if text.starts_with('f') => return Ok(()),
                Ok(_) => std::thread::sleep(PAUSE),
                Err(_) => return Err(self.failed("the server ended while it recovered")),
            }
        }
    }

    fn check(&mut self, reporter: &Reporter) -> Result<()> {
        reporter.check()?;
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("the server ended ({status})"))),
            Err(error) => Err(Error::io("failed to look after the server", error)),
        }
    }

    /// An error with what the server said last.
    fn failed(&self, what: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let grave = |line: &&str| ["FATAL", "PANIC", "ERROR"].iter().any(|w| line.contains(w));
        let last = log.lines().rfind(grave).or_else(|| log.lines().last()).unwrap_or_default();
        let error = Error::failed(what);
        if last.is_empty() { error } else { error.with_source(last.trim().to_owned()) }
    }

    /// The major version that a data directory is of.
    pub fn major_of(data: &Path) -> Result<u32> {
        let version = data.join("PG_VERSION");
        let text = fs::read_to_string(&version)
            .doing(|| format!("failed to read {}", version.display()))?;
        text.trim()
            .parse()
            .map_err(|_| Error::damaged(format!("{} is no version", version.display())))
    }

    /// How its superuser reaches a database of it, as a connection string.
    pub fn connection(&self, database: &str) -> String {
        self.connection_as(&self.role, database)
    }

    fn connection_as(&self, role: &str, database: &str) -> String {
        format!(
            "host={} port={PORT} user={} dbname={}",
            super::quote_value(&self.runtime.display().to_string()),
            super::quote_value(role),
            super::quote_value(database)
        )
    }

    fn settings_of(&self, role: &str, database: &str) -> Result<Settings> {
        Settings::resolve(&self.connection_as(role, database), &Surroundings::default())
    }

    /// How its superuser reaches a database of it.
    pub fn settings(&self, database: &str) -> Result<Settings> {
        self.settings_of(&self.role, database)
    }

    /// A session with a database of it.
    pub fn connect(&self, database: &str) -> Result<Connection> {
        Connection::open(&self.settings(database)?)
    }

    /// The databases that one can connect to.
    pub fn databases(&self) -> Result<Vec<String>> {
        let query = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1";
        let rows = self.connect("template1")?.text(query, "failed to list the databases")?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// The directory of its programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Runs one of its programs against it. The exit status, and what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<(ExitStatus, String)> {
        let mut command = self.user.command(&self.programs.join(program));
        command.env("PGHOST", &self.runtime).env("PGPORT", PORT.to_string());
        command.env("PGUSER", &self.role).args(arguments).current_dir("/");
        let out = command.output().doing(|| format!("failed to run {program}"))?;
        let text = [out.stdout, out.stderr].concat();
        Ok((out.status, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, signal: Signal) {
        leftover::end(&mut self.child, signal, STOP, PAUSE);
    }
}

impl Drop for ThrowawayServer {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}

/// Ends the server that a killed process left on a data directory.
pub fn end_leftover(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let number = text.lines().next().and_then(|line| line.trim().parse().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return };
    leftover::end_at_home(pid, data, Signal::QUIT, STOP, PAUSE);
}

fn find(program: &str, launch: &Launch<'_>) -> Result<Tool> {
    find_in(program, launch.major, launch.programs)
}

fn find_in(program: &str, major: u32, programs: Option<&Path>) -> Result<Tool> {
    let tool = Tool::find(program, programs, Needed { least: major, best: major })?;
    if tool.major == major {
        return Ok(tool);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{} is PostgreSQL {}, and this needs {major}", tool.path.display(), tool.major),
    )
    .hint(format!("install postgresql-{major}, or give its directory: --programs /usr/lib/postgresql/{major}/bin")))
}

/// What the server is told, whatever its own configuration says.
fn settings(launch: &Launch<'_>) -> Result<Vec<String>> {
    let runtime = launch.runtime.display();
    let mut all: Vec<String> = [
        "listen_addresses=",
        "shared_buffers=64MB",
        "shared_preload_libraries=",
        "session_preload_libraries=",
        "local_preload_libraries=",
        "archive_mode=off",
        "archive_cleanup_command=",
        "recovery_end_command=",
        "primary_conninfo=",
        "primary_slot_name=",
        "synchronous_standby_names=",
        "hot_standby=on",
        "max_logical_replication_workers=0",
        "autovacuum=off",
        "logging_collector=off",
        "log_destination=stderr",
        "log_min_messages=warning",
        "lc_messages=C",
        "ssl=off",
        "fsync=off",
        "huge_pages=off",
        "external_pid_file=",
        "default_transaction_read_only=off",
    ]
    .map(str::to_owned)
    .into();
    all.push(format!("port={PORT}"));
    all.push(format!("unix_socket_directories={runtime}"));
    all.push("unix_socket_permissions=0700".to_owned());
    all.push(format!("config_file={runtime}/postgresql.conf"));
    all.push(format!("hba_file={runtime}/pg_hba.conf"));
    all.push(format!("ident_file={runtime}/pg_ident.conf"));
    all.extend(inherited(launch)?);
    Ok(all)
}

/// A server that recovers needs room for as many transactions as the one had that wrote the WAL.
fn inherited(launch: &Launch<'_>) -> Result<Vec<String>> {
    const NAMES: [(&str, &str); 5] = [
        ("max_connections setting:", "max_connections"),
        ("max_worker_processes setting:", "max_worker_processes"),
        ("max_wal_senders setting:", "max_wal_senders"),
        ("max_prepared_xacts setting:", "max_prepared_transactions"),
        ("max_locks_per_xact setting:", "max_locks_per_transaction"),
    ];
    let tool = find("pg_controldata", launch)?;
    let mut command = launch.user.command(&tool.path);
    let text = output(command.arg("-D").arg(launch.data).current_dir("/"), "pg_controldata")?;
    let value =
        |line: &str, label: &str| line.strip_prefix(label).map(|rest| rest.trim().to_owned());
    Ok(text
        .lines()
        .filter_map(|line| {
            NAMES.iter().find_map(|(label, name)| {
                let value: u32 = value(line, label)?.parse().ok()?;
                Some(format!("{name}={value}"))
            })
        })
        .collect())
}

pub(super) fn output(command: &mut Command, name: &str) -> Result<String> {
    let out = command.output().doing(|| format!("failed to run {name}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = match lines.len() {
        0 => "it said nothing".to_owned(),
        all => lines[all.saturating_sub(SAID)..].join("; "),
    };
    Err(Error::failed(format!("{name} ended with {}", out.status)).with_source(last))
}

fn write(path: &Path, text: &str) -> Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .doing(|| format!("failed to write {}", path.display()))
}
