//! Two PostgreSQL servers behind an HAProxy, and an application that writes through it: switched over,
//! failed over and back by playbooks.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::common::playbook::Stage;
use crate::common::postgres::{Server, bin, children, user};
use crate::common::{Ran, has_tools, is_root};

const MAJOR: u32 = 17;

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: it takes too long");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A server that `pg_ctl` starts and stops, as its user.
pub struct Node {
    name: &'static str,
    pub port: u16,
    pub data: PathBuf,
    pub script: PathBuf,
    /// The address that it is reached at.
    pub host: String,
    /// Where its socket is, whatever becomes of the network.
    pub socket: PathBuf,
    /// Holds the directory.
    _place: Server,
}

/// Where a server runs: its address, and the network namespace that it has it in.
pub struct Home {
    pub host: String,
    pub namespace: Option<String>,
}

impl Home {
    fn here() -> Self {
        Self { host: "127.0.0.1".to_owned(), namespace: None }
    }
}

impl Node {
    /// Takes over a data directory that is there, and not at work.
    fn new(name: &'static str, place: Server, root: &Path, home: &Home) -> Self {
        let (port, data) = (free_port(), place.data());
        let script = root.join(format!("pg-{name}"));
        let (uid, gid) = user();
        let who = if is_root() {
            format!("setpriv --reuid={uid} --regid={gid} --clear-groups ")
        } else {
            String::new()
        };
        let within = home.namespace.as_ref();
        let within = within.map_or(String::new(), |name| format!("ip netns exec {name} "));
        let text = format!(
            "#!/bin/sh\n# VERB: start, stop, rewind FROM\ncd /\n\
             ctl() {{ {within}{who}env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 {bin}/\"$@\"; }}\n\
             case $1 in\n\
             start) ctl pg_ctl -D {data} -w -t 60 -l {log} -o '-p {port} -k {sockets} -c listen_addresses={host}' start ;;\n\
             stop) ctl pg_ctl -D {data} -w -t 60 -m fast stop || ! ctl pg_ctl -D {data} status ;;\n\
             status) ctl pg_ctl -D {data} status >/dev/null ;;\n\
             follow) ctl pg_rewind -D {data} --source-server=\"host=${{3:-127.0.0.1}} port=$2 user=postgres dbname=postgres\" && $0 standby $2 $3 ;;\n\
             standby) {who}sh -c 'cd {data} && echo \"primary_conninfo = '\"'host=${{3:-127.0.0.1}} port=$2 user=postgres'\"'\" >> postgresql.auto.conf && touch standby.signal' ;;\n\
             esac\n",
            bin = bin(MAJOR).display(),
            host = home.host,
            data = data.display(),
            log = data.with_file_name("s").join("log").display(),
            sockets = place.socket().display(),
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (host, socket) = (home.host.clone(), place.socket());
        Self { name, port, data, script, host, socket, _place: place }
    }

    pub fn ctl(&self, args: &[&str]) -> Ran {
        Ran::from(&Command::new(&self.script).args(args).output().unwrap())
    }

    pub fn connection(&self) -> String {
        let Self { host, port, .. } = self;
        format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=5")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.connection(), NoTls).unwrap()
    }

    pub fn value(&self, query: &str) -> String {
        self.client().query_one(query, &[]).unwrap().get(0)
    }

    /// All of it, at once, as a power cut.
    pub fn kill(&self) {
        let pid = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let pid: u32 = pid.lines().next().unwrap().parse().unwrap();
        for pid in std::iter::once(pid).chain(children(pid)) {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        wait("it dies", || TcpListener::bind(("127.0.0.1", self.port)).is_ok());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                fs::read_to_string(self.data.with_file_name("s").join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!(
                "--- {}:\n{}",
                self.name,
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        let _ = self.ctl(&["stop"]);
    }
}

/// What a writer was told was committed, and the longest time that it could not write.
#[derive(Default)]
pub struct Written {
    pub rows: Vec<i64>,
    pub gap: Duration,
}

/// An application that writes a ledger through the proxy, one row after another.
pub struct Application {
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Written>>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    pub fn start(port: u16, first: i64) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Written>>::default());
        let (told, into) = (stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            let connection = format!(
                "host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=2"
            );
            let (mut row, mut client, mut last) = (first, None, Instant::now());
            while !told.load(Ordering::SeqCst) {
                if client.is_none() {
                    client = Client::connect(&connection, NoTls).ok();
                }
                let done = client.as_mut().is_some_and(|client: &mut Client| {
                    client.execute("INSERT INTO ledger (row) VALUES ($1)", &[&row]).is_ok()
                });
                if done {
                    let mut written = into.lock().unwrap();
                    written.rows.push(row);
                    written.gap = written.gap.max(last.elapsed());
                    last = Instant::now();
                } else {
                    client = None;
                    std::thread::sleep(Duration::from_millis(20));
                }
                // Whether a row without an answer is there is not known: it is not tried again.
                row += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, written, thread: Some(thread) }
    }

    fn count(&self) -> usize {
        self.written.lock().unwrap().rows.len()
    }

    /// Waits until it wrote more than it has now.
    pub fn goes_on(&self) {
        let before = self.count();
        wait("the application writes", || self.count() > before + 20);
    }

    pub fn end(mut self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.written.lock().unwrap())
    }
}

pub struct Proxy {
    process: Child,
    pub port: u16,
    pub socket: PathBuf,
}

impl Proxy {
    fn start(root: &Path, a: &Node, b: &Node) -> Self {
        let (port, socket) = (free_port(), root.join("haproxy.sock"));
        let text = format!(
            "global\n  stats socket {} level admin\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n\
             frontend db\n  bind 127.0.0.1:{port}\n  default_backend pg\n\
             backend pg\n  server a {}:{}\n  server b {}:{} disabled\n",
            socket.display(),
            a.host,
            a.port,
            b.host,
            b.port,
        );
        let config = root.join("haproxy.cfg");
        fs::write(&config, text).unwrap();
        let process = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait("haproxy answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self { process, port, socket }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct Sites {
    pub a: Node,
    pub b: Node,
    pub proxy: Proxy,
    /// Dropped last: it has the scripts that stop the servers.
    pub stage: Stage,
}

impl Sites {
    pub fn new() -> Option<Self> {
        Self::with(|_| String::new())
    }

    /// With the first server at a place of its own.
    pub fn apart(home: &Home) -> Option<Self> {
        Self::at(|_| String::new(), home)
    }

    /// With more settings, which may name files of the sandbox.
    pub fn with(more: impl FnOnce(&Path) -> String) -> Option<Self> {
        Self::at(more, &Home::here())
    }

    fn at(more: impl FnOnce(&Path) -> String, home: &Home) -> Option<Self> {
        if !has_tools(&["haproxy"]) {
            return None;
        }
        let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
        stage.sandbox.open_to_all();
        let root = stage.sandbox.root().to_owned();
        let hba = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\nhost all all 10.213.0.0/16 trust\nhost replication all 10.213.0.0/16 trust";
        let settings = "wal_level = replica\nmax_wal_senders = 10\nwal_keep_size = '512MB'\nhot_standby = on\n";
        let mut first = Server::with(MAJOR, &format!("{settings}{}", more(&root)), hba)?;
        first.sql("postgres", "CREATE TABLE ledger (row bigint PRIMARY KEY)");
        first.stop();
        let a = Node::new("a", first, &root, home);
        a.ctl(&["start"]).expect(0);
        let second = Server::vacant(MAJOR);
        let mut copy = crate::common::postgres::run_as(&bin(MAJOR).join("pg_basebackup"), false);
        fs::set_permissions(second.data().parent().unwrap(), fs::Permissions::from_mode(0o777))
            .unwrap();
        copy.args(["-D", second.data().to_str().unwrap(), "-X", "stream", "-c", "fast"]);
        copy.args(["-d", &a.connection()]);
        Ran::from(&copy.output().unwrap()).expect(0);
        let b = Node::new("b", second, &root, &Home::here());
        b.ctl(&["standby", &a.port.to_string(), &a.host]).expect(0);
        b.ctl(&["start"]).expect(0);
        let proxy = Proxy::start(&root, &a, &b);
        Some(Self { stage, a, b, proxy })
    }

    fn node(&self, name: &str) -> &Node {
        if name == "a" { &self.a } else { &self.b }
    }

    /// The playbooks of going from one to the other.
    fn write(&self, from: &str, to: &str, limit: &str) {
        let (old, new) = (self.node(from), self.node(to));
        let socket = self.proxy.socket.display();
        let text = format!(
            r#"  switchover:
    on_failure: undo
    assess:
      loss: {{ postgres: {{ loss: {{ standby: "{new_c}", primary: "{old_c}" }} }} }}
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/{from}: maint }}, end_sessions: true }} }}
      stop: {{ postgres: {{ stop_writers: {{ connection: "{old_c}" }} }}, timeout: 1m }}
      proof: {{ postgres: {{ prove_fenced: {{ connection: "{old_c}" }} }} }}
    recover:
      caught-up: {{ postgres: {{ wait_for: {{ connection: "{new_c}", lsn: "{{{{stop.lsn}}}}" }} }}, timeout: {limit} }}
    validate:
      there: {{ sql: {{ connection: "{new_c}", query: "SELECT count(*) FROM ledger", expect: {{ at_least: 1 }} }}, timeout: 10s }}
    cutover:
      promote: {{ postgres: {{ promote: {{ connection: "{new_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/{from}: maint, pg/{to}: ready }} }} }}
      port: {{ tcp: {{ address: "127.0.0.1:{proxy}" }}, timeout: 30s }}
    reprotect: &follow
      halt: {{ command: {{ apply: {{ argv: [{old_s}, stop] }}, observe: {{ shell: "! {old_s} status" }} }} }}
      rewind: {{ command: {{ apply: {{ argv: [{old_s}, follow, "{new_p}"] }}, repeatable: true }} }}
      start: {{ command: {{ apply: {{ argv: [{old_s}, start] }}, observe: {{ shell: "{old_s} status || exit 1" }} }} }}
      behind: {{ sql: {{ connection: "{old_c}", query: "SELECT pg_is_in_recovery()", expect: {{ is: t }} }}, timeout: 30s }}
      streams: {{ sql: {{ connection: "{new_c}", query: "SELECT count(*) FROM pg_stat_replication", expect: {{ at_least: 1 }} }}, timeout: 1m }}
  failover:
    modes: [ungraceful]
    assess:
      gone: {{ tcp: {{ address: "127.0.0.1:{old_p}", expect: closed }} }}
      loss: {{ postgres: {{ loss: {{ standby: "{new_c}", primary: "{old_c}" }} }} }}
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/{from}: maint }}, end_sessions: true }} }}
      off: {{ manual: {{ text: "Cut the power of site {from}" }} }}
      agree: {{ approval: {{ of: 2, from: [ann, bo], text: "What was not streamed is lost" }} }}
    cutover:
      promote: {{ postgres: {{ promote: {{ connection: "{new_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/{to}: ready }} }} }}
  rebuild:
    reprotect: *follow
"#,
            new_c = new.connection(),
            old_c = old.connection(),
            old_s = old.script.display(),
            new_p = new.port,
            old_p = old.port,
            proxy = self.proxy.port,
        );
        self.stage.write(&text);
    }

    pub fn rows(&self, node: &str) -> BTreeSet<i64> {
        let rows = self.node(node).client().query("SELECT row FROM ledger", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[test]
fn a_switchover_that_fails_early_goes_back_and_users_write_on() {
    let Some(sites) = Sites::new() else { return };
    sites.write("a", "b", "1s");
    let application = Application::start(sites.proxy.port, 0);
    application.goes_on();
    // The standby stands still: it can never be where it has to be.
    sites.b.client().batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    application.goes_on();
    let ran = sites.stage.run("l", &["run", "switchover", "--yes"]).expect(1);
    assert!(ran.stderr.contains("the standby is at"), "{}", ran.stderr);
    let run = sites.stage.newest();
    for step in ["drain", "stop"] {
        assert_eq!(sites.stage.state(&run, step), "undone");
    }
    assert_eq!(sites.stage.state(&run, "promote"), "not executed");
    application.goes_on();
    let written = application.end();
    let there = sites.rows("a");
    assert!(written.rows.iter().all(|row| there.contains(row)));
    assert_eq!(sites.b.value("SELECT pg_is_in_recovery()::text"), "true");
}

#[test]
fn over_and_back_with_nothing_lost_that_was_streamed() {
    let Some(sites) = Sites::new() else { return };
    let stage = &sites.stage;
    // Planned: nothing is lost, and the old primary follows the new one.
    sites.write("a", "b", "1m");
    let application = Application::start(sites.proxy.port, 0);
    application.goes_on();
    stage.run("l", &["run", "switchover", "--yes"]).expect(0);
    application.goes_on();
    let written = application.end();
    let there = sites.rows("b");
    let lost: Vec<&i64> = written.rows.iter().filter(|row| !there.contains(row)).collect();
    assert!(lost.is_empty(), "lost in a planned switchover: {lost:?}");
    eprintln!("switchover: {} rows, no writes for {:?}", written.rows.len(), written.gap);
    assert_eq!(sites.a.value("SELECT pg_is_in_recovery()::text"), "true");

    // The whole site is gone while it writes.
    sites.write("b", "a", "1m");
    let application = Application::start(sites.proxy.port, 1_000_000);
    application.goes_on();
    sites.b.kill();
    stage.run("l", &["run", "failover", "--yes"]).expect(6);
    let run = stage.newest();
    assert_eq!(stage.state(&run, "off"), "waiting");
    stage.run("l", &["attest", &run, "off", "--text", "no light", "--as", "ann"]).expect(0);
    stage.run_elsewhere("l", &["resume", &run]).expect(6);
    for name in ["ann", "bo"] {
        stage.run("l", &["approve", &run, "agree", "--as", name, "--yes"]).expect(0);
    }
    stage.run_elsewhere("l", &["resume", &run]).expect(0);
    application.goes_on();
    let written = application.end();
    let there = sites.rows("a");
    let lost: Vec<i64> = written.rows.iter().copied().filter(|row| !there.contains(row)).collect();
    eprintln!(
        "failover: {} rows, {} lost, no writes for {:?}",
        written.rows.len(),
        lost.len(),
        written.gap
    );
    // What is lost are the last rows before the end, and none that was streamed.
    let first = lost.first().copied().unwrap_or(i64::MAX);
    let before: Vec<&i64> = written.rows.iter().filter(|row| **row < first).collect();
    assert!(before.iter().all(|row| there.contains(row)));
    assert!(
        lost.len() < written.rows.len() / 2,
        "{} of {} rows are lost",
        lost.len(),
        written.rows.len()
    );

    // The old primary comes back and takes a write of its own: nobody is led to it.
    sites.b.ctl(&["start"]).expect(0);
    sites.b.client().batch_execute("INSERT INTO ledger VALUES (-1)").unwrap();
    let application = Application::start(sites.proxy.port, 2_000_000);
    application.goes_on();
    assert!(!sites.rows("b").contains(&2_000_000) && !sites.rows("a").contains(&-1));
    // Rebuilt from the new one, its own write is gone, and it follows.
    stage.run("l", &["run", "rebuild", "--yes"]).expect(0);
    wait("it follows", || sites.rows("b").contains(&2_000_000));
    assert!(!sites.rows("b").contains(&-1));

    // And back, killed after every effect on the way, and gone on with elsewhere.
    sites.write("a", "b", "1m");
    let mut command = stage.command("l", &["run", "switchover", "--yes"]);
    command.env("BACKSTAY_FAILPOINT", "playbook.after_apply@1");
    Ran::from(&command.output().unwrap()).expect(128 + 9);
    let run = stage.newest();
    for number in 0.. {
        assert!(number < 60, "it does not get on");
        let mut command = stage.elsewhere("l", &["resume", &run]);
        // What cannot be told is done again, and would be killed again: every other one gets on.
        let point = if number % 2 == 0 { "playbook.after_result" } else { "playbook.after_apply" };
        let ran = Ran::from(&command.env("BACKSTAY_FAILPOINT", point).output().unwrap());
        if ran.code == 0 {
            break;
        }
        ran.expect(128 + 9);
    }
    application.goes_on();
    let written = application.end();
    let there = sites.rows("b");
    let lost: Vec<&i64> = written.rows.iter().filter(|row| !there.contains(row)).collect();
    assert!(lost.is_empty(), "lost on the way back: {lost:?}");
    assert_eq!(sites.b.value("SELECT pg_is_in_recovery()::text"), "false");
    assert_eq!(sites.a.value("SELECT pg_is_in_recovery()::text"), "true");
}
