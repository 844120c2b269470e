//! Real MariaDB servers, one per test: started on a free port with a data directory of its own, ended
//! with the test that started them. Debian's packages bring the programs.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::postgres::{run_as, user};
use super::{Ran, cannot, is_root};

/// A running server. Dropping it kills it.
///
/// The thread that starts a server is to live as long as it: the server ends with that thread.
pub struct Server {
    pub port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
    arguments: Vec<String>,
}

fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| name.into())
}

fn own(path: &Path) {
    if is_root() {
        let (uid, gid) = user();
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

impl Server {
    /// A server with a binary log. `None`, said loudly, if MariaDB is not here.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::with(&["--log-bin=log", "--binlog-format=ROW"])
    }

    /// A server with more arguments.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Option<Self> {
        let template = template()?;
        let dir = tempfile::Builder::new().prefix("my-").tempdir_in("/tmp").unwrap();
        own(dir.path());
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(&template).arg(dir.path().join("data"));
        assert!(copy.status().unwrap().success(), "failed to copy {}", template.display());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { port: 0, dir, process: None, arguments };
        server.boot();
        Some(server)
    }

    /// Starts the process, on another port if somebody else was faster.
    pub fn boot(&mut self) {
        for _ in 0..5 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let log = fs::File::create(self.dir.path().join("log")).unwrap();
            let mut command = run_as(&program("mariadbd"), true);
            command
                .args(["--no-defaults", "--bind-address=127.0.0.1", "--server-id=1"])
                .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"])
                .args(["--skip-name-resolve", "--max-allowed-packet=64M"])
                .arg(format!("--datadir={}", self.path("data").display()))
                .arg(format!("--socket={}", self.socket().display()))
                .arg(format!("--pid-file={}", self.path("pid").display()))
                .arg(format!("--port={}", self.port))
                // Two servers that have one tell their files not apart.
                .arg(format!("--tmpdir={}", self.dir.path().display()))
                .args(&self.arguments);
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let mut process = command.process_group(0).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(120);
            loop {
                if let Some(status) = process.try_wait().unwrap() {
                    let log = self.log();
                    assert!(log.contains("Bind on TCP"), "the server ended with {status}:\n{log}");
                    break;
                }
                if self.log().contains("ready for connections") && self.client("SELECT 1").code == 0
                {
                    self.process = Some(process);
                    return;
                }
                assert!(Instant::now() < deadline, "not ready after two minutes:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("no free port");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that the server may read.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        own(&path);
        path
    }

    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A connection string over the Unix socket, as root.
    pub fn connection(&self) -> String {
        format!("socket={} user=root", self.socket().display())
    }

    /// A connection string over TCP.
    pub fn tcp(&self, user: &str) -> String {
        format!("host=127.0.0.1 port={} user={user}", self.port)
    }

    /// Statements through the client, as root.
    pub fn client(&self, statements: &str) -> Ran {
        let mut command = Command::new(program("mariadb"));
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.args(["--raw", "--default-character-set=utf8mb4", "--binary-mode"]);
        command.arg(format!("--socket={}", self.socket().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
        Ran::from(&child.wait_with_output().unwrap())
    }

    /// Runs statements, as root.
    #[track_caller]
    pub fn sql(&self, statements: &str) {
        self.client(statements).expect(0);
    }

    /// The rows that a query gives, columns joined by tabs.
    #[track_caller]
    pub fn rows(&self, query: &str) -> Vec<String> {
        self.client(query).expect(0).stdout.lines().map(str::to_owned).collect()
    }

    /// The one value that a query gives.
    #[track_caller]
    pub fn value(&self, query: &str) -> String {
        let rows = self.rows(query);
        assert_eq!(rows.len(), 1, "{query} gave {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// The databases but the server's own.
    pub fn databases(&self) -> Vec<String> {
        self.rows("SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys') ORDER BY BINARY schema_name")
    }

    /// Ends the server, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the log of MariaDB:\n{}", self.log());
        }
    }
}

/// An empty server, made once.
fn template() -> Option<PathBuf> {
    let version = Command::new(program("mariadbd")).arg("--version").output().ok();
    let Some(version) = version.filter(|output| output.status.success()) else {
        let _ = cannot("MariaDB is not here: apt-get install mariadb-server-core mariadb-client");
        return None;
    };
    let version = String::from_utf8(version.stdout).unwrap();
    let version = version.split_whitespace().nth(2).unwrap().to_owned();
    let templates = std::env::temp_dir().join(format!("backstay-mariadb-templates-{}", user().0));
    let template = templates.join(format!("{version}-v1"));
    if template.join("mysql").exists() {
        return Some(template);
    }
    fs::create_dir_all(&templates).unwrap();
    own(&templates);
    // Several tests start at once: each makes its own, and the first one's is kept.
    let work = tempfile::tempdir_in(&templates).unwrap();
    own(work.path());
    let data = work.path().join("data");
    let mut make = run_as(&program("mariadb-install-db"), false);
    make.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    make.arg(format!("--datadir={}", data.display())).stdin(Stdio::null());
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    if let Err(error) = fs::rename(&data, &template) {
        assert!(template.join("mysql").exists(), "{error}");
    }
    Some(template)
}
