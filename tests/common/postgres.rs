//! Real PostgreSQL servers, one per test: started on a free port with a data directory of its own,
//! ended with the test that started them.
//!
//! `scripts/get-postgres.sh` brings the installations. A data directory takes a second to make, so
//! there is one per version and user on this machine, which is copied for each server.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls, SimpleQueryMessage};

use super::{cannot, is_root};

/// The versions that tests run.
pub const ALL: [u32; 3] = [15, 17, 18];

/// The password of the superuser `postgres`, over TCP. Over the Unix socket none is asked for.
pub const PASSWORD: &str = "superuser's secret";

/// A running server. Dropping it stops it at once, as a crash would.
///
/// The thread that starts a server is to live as long as it: the server ends with that thread, so
/// that a test that is killed leaves nothing behind.
pub struct Server {
    pub major: u32,
    pub port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
    settings: String,
    /// The data directory came from elsewhere, with a configuration of its own.
    foreign: bool,
}

impl Server {
    /// A server with default settings. `None`, said loudly, if that version is not here.
    #[must_use]
    pub fn start(major: u32) -> Option<Self> {
        Self::with(major, "", "")
    }

    /// A server with more lines for `postgresql.conf` and lines that come first in `pg_hba.conf`.
    #[must_use]
    pub fn with(major: u32, settings: &str, hba: &str) -> Option<Self> {
        let template = template(major)?;
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        // `cp` keeps owners and shares blocks where the file system can.
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(&template).arg(&data);
        assert!(copy.status().unwrap().success(), "failed to copy {}", template.display());
        let sockets = dir.path().join("s");
        fs::create_dir(&sockets).unwrap();
        let (uid, gid) = user();
        if is_root() {
            chown(&sockets, Some(uid), Some(gid)).unwrap();
        }
        let was = fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        fs::write(data.join("pg_hba.conf"), format!("{hba}\n{was}")).unwrap();
        let settings = settings.to_owned();
        let mut server = Self { major, port: 0, dir, process: None, settings, foreign: false };
        server.boot();
        Some(server)
    }

    /// A place for a server whose data directory is still to be brought; [`Server::boot`] starts it.
    #[must_use]
    pub fn vacant(major: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = String::new();
        let server = Self { major, port: 0, dir, process: None, settings, foreign: true };
        server.directory("s");
        server
    }

    /// Starts the process on a free port; on another one if somebody else was faster.
    pub fn boot(&mut self) {
        self.launch(None);
    }

    /// Starts the process again, on the port that it had.
    pub fn reboot(&mut self) {
        // One that was killed left it, and it says `ready`.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        self.launch(Some(self.port));
    }

    fn launch(&mut self, port: Option<u16>) {
        for _ in 0..20 {
            self.port = port.unwrap_or_else(free_port);
            let settings = format!(
                "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
                 fsync = off\nshared_buffers = 16MB\nmax_connections = 40\nlog_timezone = UTC\n\
                 timezone = UTC\nautovacuum = off\n{}\n",
                self.port,
                self.socket().display(),
                self.settings
            );
            if !self.foreign {
                fs::write(self.data().join("postgresql.auto.conf"), settings).unwrap();
            }
            let log = fs::File::create(self.log_path()).unwrap();
            let mut command = run_as(&self.tool("postgres"), true);
            command.arg("-D").arg(self.data()).stdin(Stdio::null());
            if self.foreign {
                command.args(["-c", &format!("port={}", self.port)]);
                command
                    .arg("-c")
                    .arg(format!("unix_socket_directories={}", self.socket().display()));
            }
            command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
            let mut process = command.spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                if let Some(status) = process.try_wait().unwrap() {
                    let log = self.log();
                    let taken = log.contains("could not bind");
                    // Of one that was killed, on a machine with much to do.
                    let dying = log.contains("pre-existing shared memory block");
                    assert!(taken || dying, "the server ended with {status}:\n{log}");
                    std::thread::sleep(Duration::from_millis(if dying { 500 } else { 0 }));
                    break;
                }
                if self.is_ready() {
                    self.process = Some(process);
                    return;
                }
                assert!(Instant::now() < deadline, "not ready after a minute:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("no free port, or the last server does not end:\n{}", self.log());
    }

    fn is_ready(&self) -> bool {
        fs::read_to_string(self.data().join("postmaster.pid"))
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// An empty directory beside the data directory, which the server may write to.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        if is_root() {
            let (uid, gid) = user();
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// A program of this version.
    pub fn tool(&self, name: &str) -> PathBuf {
        bin(self.major).join(name)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the server logged since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A connection string over the Unix socket, as the superuser, without a password.
    pub fn connection(&self, database: &str) -> String {
        self.connection_as("postgres", database)
    }

    /// The same as another role.
    pub fn connection_as(&self, user: &str, database: &str) -> String {
        let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        format!(
            "host={} port={} user='{}' dbname='{}'",
            self.socket().display(),
            self.port,
            quote(user),
            quote(database)
        )
    }

    /// A connection string over TCP, where a password is asked for.
    pub fn tcp(&self, user: &str, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname={database}", self.port)
    }

    /// A client, as the superuser.
    pub fn client(&self, database: &str) -> Client {
        self.client_as("postgres", database)
    }

    /// A client, as another role.
    pub fn client_as(&self, user: &str, database: &str) -> Client {
        let mut config = postgres::Config::new();
        config.host_path(self.socket()).port(self.port).user(user).dbname(database);
        config.connect(NoTls).unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    /// Runs statements, as the superuser, in one transaction.
    #[track_caller]
    pub fn sql(&self, database: &str, statements: &str) {
        let done = self.client(database).batch_execute(statements);
        done.unwrap_or_else(|error| panic!("{error:?}\n{statements}"));
    }

    /// Runs statements, each in a transaction of its own.
    #[track_caller]
    pub fn sql_each(&self, database: &str, statements: &[&str]) {
        let mut client = self.client(database);
        for statement in statements {
            let done = client.batch_execute(statement);
            done.unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
        }
    }

    /// Creates a database, whatever its name.
    pub fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    }

    /// The rows that a query gives, columns joined by `|`, as `psql -At` shows them.
    #[track_caller]
    pub fn rows(&self, database: &str, query: &str) -> Vec<String> {
        let answer = self.client(database).simple_query(query);
        answer
            .unwrap_or_else(|error| panic!("{error:?}\n{query}"))
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let columns = (0..row.len()).map(|at| row.get(at).unwrap_or(""));
                    Some(columns.collect::<Vec<_>>().join("|"))
                }
                _ => None,
            })
            .collect()
    }

    /// The one value that a query gives.
    #[track_caller]
    pub fn value(&self, database: &str, query: &str) -> String {
        let rows = self.rows(database, query);
        assert_eq!(rows.len(), 1, "{query} gave {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// The names of all databases.
    pub fn databases(&self) -> Vec<String> {
        self.rows(
            "postgres",
            "SELECT datname FROM pg_database ORDER BY datname::text COLLATE \"C\"",
        )
    }

    /// Runs one of the version's programs against this server.
    pub fn run(&self, tool: &str, args: &[impl AsRef<OsStr>]) -> super::Ran {
        let mut command = Command::new(self.tool(tool));
        command.args(args.iter().map(AsRef::as_ref)).env("PGHOST", self.socket());
        command.env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        super::Ran::from(&command.stdin(Stdio::null()).output().unwrap())
    }

    /// Ends the server with all its processes, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let parent = process.id();
        // Listed before the first dies: orphans have another parent.
        let all: Vec<u32> = std::iter::once(parent).chain(children(parent)).collect();
        for pid in all {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        process.wait().unwrap();
    }

    /// Stops the server, after a checkpoint.
    pub fn stop(&mut self) {
        self.end(rustix::process::Signal::INT);
    }

    fn end(&mut self, signal: rustix::process::Signal) {
        let Some(mut process) = self.process.take() else { return };
        let pid = rustix::process::Pid::from_raw(process.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, signal);
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = process.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate shutdown: a test has no use for a checkpoint.
        self.end(rustix::process::Signal::QUIT);
        if std::thread::panicking() {
            eprintln!("--- the log of PostgreSQL {}:\n{}", self.major, self.log());
        }
    }
}

/// Processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The programs of a version.
pub fn bin(major: u32) -> PathBuf {
    installations().join(major.to_string()).join("bin")
}

/// Where `scripts/get-postgres.sh` puts the installations.
fn installations() -> PathBuf {
    if let Some(given) = std::env::var_os("BACKSTAY_POSTGRES_SERVERS") {
        return given.into();
    }
    let cache = match (is_root(), std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (true, _, _) => PathBuf::from("/var/cache"),
        (_, Some(cache), _) => cache.into(),
        (_, None, home) => PathBuf::from(home.unwrap_or_default()).join(".cache"),
    };
    cache.join("backstay-tests/postgres")
}

/// Who servers run as: `postgres`, else `nobody`; PostgreSQL refuses root.
pub fn user() -> (u32, u32) {
    if !is_root() {
        return (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    }
    let found = ["postgres", "nobody"].into_iter().find_map(|name| {
        let user = nix::unistd::User::from_name(name).ok()??;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    });
    found.unwrap_or((65534, 65534))
}

/// A command of that user; with `bound`, one that ends with the thread that starts it.
pub fn run_as(program: &Path, bound: bool) -> Command {
    let (uid, gid) = user();
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if bound && setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "QUIT"]);
        if is_root() {
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
            command.args(ids).arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command
    } else {
        let mut command = Command::new(program);
        if is_root() {
            command.uid(uid).gid(gid);
        }
        command
    };
    // Not a directory that only root may enter.
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An empty cluster of this version, made once.
fn template(major: u32) -> Option<PathBuf> {
    let initdb = bin(major).join("initdb");
    let version = Command::new(&initdb).arg("--version").output().ok();
    let Some(version) = version.filter(|output| output.status.success()) else {
        let why = format!(
            "PostgreSQL {major} is not in {}: scripts/get-postgres.sh fetches it",
            installations().display()
        );
        let _ = cannot(&why);
        return None;
    };
    let version = String::from_utf8(version.stdout).unwrap();
    let version = version.split_whitespace().nth(2).unwrap().to_owned();
    let (uid, gid) = user();
    let templates = std::env::temp_dir().join(format!("backstay-postgres-templates-{uid}"));
    let template = templates.join(format!("{version}-v1"));
    if template.join("PG_VERSION").exists() {
        return Some(template);
    }
    fs::create_dir_all(&templates).unwrap();
    // Several tests start at once: each makes its own, and the first one's is kept.
    let work = tempfile::tempdir_in(&templates).unwrap();
    let password = work.path().join("password");
    fs::write(&password, PASSWORD).unwrap();
    if is_root() {
        chown(&templates, Some(uid), Some(gid)).unwrap();
        chown(work.path(), Some(uid), Some(gid)).unwrap();
        chown(&password, Some(uid), Some(gid)).unwrap();
    }
    let data = work.path().join("data");
    let mut command = run_as(&initdb, false);
    command.args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
    command.args(["--data-checksums", "--auth-local=trust", "--auth-host=scram-sha-256"]);
    command.arg("--pwfile").arg(&password).arg("-D").arg(&data);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "initdb {major} failed:\n{said}");
    if let Err(error) = fs::rename(&data, &template) {
        assert!(template.join("PG_VERSION").exists(), "{error}");
    }
    Some(template)
}
