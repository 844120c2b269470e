//! Two real PostgreSQL servers, a primary and its standby, which `pg_ctl` starts and stops as a playbook
//! does, and a sandbox with a policy.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use super::playbook::Stage;
use super::postgres::{Server, bin, run_as, user};
use super::{Ran, is_root};

const MAJOR: u32 = 17;

/// Waits until something holds.
#[track_caller]
pub fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: it takes too long");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A server.
pub struct Node {
    pub port: u16,
    pub data: PathBuf,
    start: PathBuf,
    /// Holds the directory.
    _place: Server,
}

impl Node {
    fn new(name: &str, place: Server, root: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = place.data();
        let start = root.join(format!("start-{name}"));
        // What a service manager has in its own files: the port is not among the settings that the two
        // copy from each other.
        let text = format!(
            "#!/bin/sh\ncd /\nexec {who}env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 {bin}/pg_ctl -D {data} -w -t 60 -l {log} -o '-p {port} -k {sockets} -c listen_addresses=127.0.0.1' start\n",
            who = who(),
            bin = bin(MAJOR).display(),
            data = data.display(),
            log = place.socket().join("log").display(),
            sockets = place.socket().display(),
        );
        fs::write(&start, text).unwrap();
        fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).unwrap();
        Self { port, data, start, _place: place }
    }

    /// As a policy names its files.
    pub fn files(&self) -> String {
        let user = if is_root() { format!(", user: {}", user_name()) } else { String::new() };
        format!(
            "{{ data: {}, programs: {}, start: [{}]{user} }}",
            self.data.display(),
            bin(MAJOR).display(),
            self.start.display()
        )
    }

    pub fn connection(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=5", self.port)
    }

    /// How standbys reach it.
    pub fn primary_for_others(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    fn client(&self) -> Option<Client> {
        Client::connect(&self.connection(), NoTls).ok()
    }

    pub fn try_value(&self, query: &str) -> Option<String> {
        Some(self.client()?.query_one(query, &[]).ok()?.get(0))
    }

    #[track_caller]
    pub fn value(&self, query: &str) -> String {
        self.client().unwrap().query_one(query, &[]).unwrap().get(0)
    }

    #[track_caller]
    pub fn execute(&self, statements: &str) {
        let mut client = self.client().unwrap();
        for statement in statements.split(';') {
            client
                .batch_execute(statement)
                .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    pub fn runs(&self) -> bool {
        let mut command = run_as(&bin(MAJOR).join("pg_ctl"), false);
        command.arg("-D").arg(&self.data).arg("status").output().unwrap().status.success()
    }

    pub fn is_marked(&self) -> bool {
        self.data.join("standby.signal").exists()
    }

    pub fn is_standby(&self) -> bool {
        self.try_value("SELECT pg_is_in_recovery()::text").as_deref() == Some("true")
    }

    pub fn start(&self) {
        if !self.runs() {
            Ran::from(&Command::new(&self.start).output().unwrap()).expect(0);
        }
    }

    pub fn stop(&self) {
        if self.runs() {
            let mut command = run_as(&bin(MAJOR).join("pg_ctl"), false);
            command.arg("-D").arg(&self.data).args(["-w", "-t", "60", "-m", "fast", "stop"]);
            Ran::from(&command.output().unwrap()).expect(0);
        }
    }

    /// A primary that runs, whatever it was.
    pub fn be_primary(&self) {
        if self.is_marked() {
            self.stop();
            fs::remove_file(self.data.join("standby.signal")).unwrap();
        }
        self.start();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.data.with_file_name("s").join("log"));
            let log = log.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- port {}:", self.port);
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let mut command = run_as(&bin(MAJOR).join("pg_ctl"), false);
        command.arg("-D").arg(&self.data).args(["-w", "-m", "immediate", "stop"]);
        let _ = command.output();
    }
}

fn who() -> String {
    let (uid, gid) = user();
    if is_root() {
        format!("setpriv --reuid={uid} --regid={gid} --clear-groups ")
    } else {
        String::new()
    }
}

fn user_name() -> String {
    let uid = nix::unistd::Uid::from_raw(user().0);
    nix::unistd::User::from_uid(uid).unwrap().unwrap().name
}

/// A primary and its standby.
pub struct Pair {
    pub a: Node,
    pub b: Node,
    /// Dropped last: it has the scripts that start the servers.
    pub stage: Stage,
}

impl Pair {
    /// `a` is the primary, and `b` streams from it.
    pub fn start() -> Option<Self> {
        let hba = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust";
        let settings = "wal_level = replica\nmax_wal_senders = 10\nwal_keep_size = '512MB'\nhot_standby = on\n";
        let mut first = Server::with(MAJOR, settings, hba)?;
        first.sql("postgres", "CREATE TABLE ledger (row bigint PRIMARY KEY)");
        first.stop();
        let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
        stage.sandbox.open_to_all();
        let root = stage.sandbox.root().to_owned();
        let a = Node::new("a", first, &root);
        a.start();
        let second = Server::vacant(MAJOR);
        fs::set_permissions(second.data().parent().unwrap(), fs::Permissions::from_mode(0o777))
            .unwrap();
        let mut copy = run_as(&bin(MAJOR).join("pg_basebackup"), false);
        copy.args(["-D", second.data().to_str().unwrap(), "-X", "stream", "-c", "fast"]);
        copy.args(["-d", &a.connection()]);
        Ran::from(&copy.output().unwrap()).expect(0);
        let b = Node::new("b", second, &root);
        let settings = b.data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).unwrap();
        let line = format!("primary_conninfo = '{}'\n", a.primary_for_others());
        fs::write(settings, format!("{text}{line}")).unwrap();
        let mark = b.data.join("standby.signal");
        fs::write(&mark, "").unwrap();
        if is_root() {
            let (uid, gid) = user();
            std::os::unix::fs::chown(&mark, Some(uid), Some(gid)).unwrap();
        }
        b.start();
        Some(Self { a, b, stage })
    }

    /// The playbook in which two servers change places. The old primary is brought back by `way`.
    fn playbook(old: &Node, new: &Node, more: &str) -> String {
        format!(
            "  move:\n    fence:\n      demote: {{ postgres: {{ demote: {{ server: {old_f} }} }} }}\n    \
             recover:\n      there: {{ postgres: {{ wait_for: {{ connection: \"{new_c}\", lsn: \"{{{{demote.lsn}}}}\" }} }}, timeout: 1m }}\n    \
             cutover:\n      promote: {{ postgres: {{ promote: {{ connection: \"{new_c}\" }} }}, point_of_no_return: true }}\n    \
             reprotect:\n{more}      \
             rewind: {{ postgres: {{ rewind: {{ server: {old_f}, primary: \"{new_c}\"{source} }} }} }}\n      \
             follow: {{ postgres: {{ start_standby: {{ server: {old_f}, primary: \"{new_p}\", connection: \"{old_c}\" }} }}, timeout: 2m }}\n",
            old_f = old.files(),
            new_c = new.connection(),
            new_p = new.primary_for_others(),
            old_c = old.connection(),
            source = if more.is_empty() { "" } else { ", source: cluster" },
        )
    }

    /// There and back, killed at every boundary on the way, and each time gone on with from elsewhere;
    /// then once more where the old primary cannot be rewound and is restored instead.
    pub fn change_places(&self) {
        let kills = [
            ("playbook.after_intent", "playbook.after_result"),
            ("playbook.after_apply", "playbook.mid_apply"),
        ];
        for (round, points) in kills.into_iter().enumerate() {
            let (old, new) = if round == 0 { (&self.a, &self.b) } else { (&self.b, &self.a) };
            let row = round as i64;
            old.execute(&format!("INSERT INTO ledger VALUES ({row})"));
            self.stage.write(&Self::playbook(old, new, ""));
            self.killed_all_the_way(points);
            self.have_changed(old, new, row + 1);
            let run = self.stage.newest();
            let shown = self.stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
            let demote = &shown["steps"][0]["outputs"];
            assert_eq!(demote["clean"], "yes", "{demote}");
        }
        self.restored_instead();
    }

    fn killed_all_the_way(&self, points: (&str, &str)) {
        let mut command = self.stage.command("l", &["run", "move", "--yes"]);
        command.env("BACKSTAY_FAILPOINT", points.0);
        Ran::from(&command.output().unwrap()).expect(128 + 9);
        let run = self.stage.newest();
        for number in 0.. {
            assert!(number < 40, "it does not get on");
            // Every third one is left alone: what is done again would be killed again.
            let point = [points.1, points.0, "playbook.none"][number % 3];
            let mut command = self.stage.elsewhere("l", &["resume", &run]);
            if number % 3 == 2 {
                command.env("BACKSTAY_FAILPOINT", "playbook.after_result");
            } else {
                command.env("BACKSTAY_FAILPOINT", point);
            }
            command.env("BACKSTAY_TUNING", "lease=0.2");
            let ran = Ran::from(&command.output().unwrap());
            if ran.code == 0 {
                return;
            }
            ran.expect(128 + 9);
        }
    }

    fn have_changed(&self, old: &Node, new: &Node, rows: i64) {
        assert!(old.is_standby() && !new.is_standby());
        new.execute("CREATE TABLE IF NOT EXISTS probe (x int)");
        let count = "SELECT count(*)::text FROM ledger";
        assert_eq!(new.value(count), rows.to_string(), "nothing is lost");
        wait("the old primary follows", || {
            old.try_value(count).is_some_and(|n| n == rows.to_string())
        });
        let streams = "SELECT count(*)::text FROM pg_stat_replication";
        wait("it streams", || new.value(streams) == "1");
    }

    /// The new primary is backed up; the old one lost what `pg_rewind` needs, and comes from that backup.
    fn restored_instead(&self) {
        let (old, new) = (&self.a, &self.b);
        let source = format!(
            "  cluster: {{ postgres_cluster: {{ connection: \"{}\" }} }}\n",
            new.connection().replace(" connect_timeout=5", "")
        );
        let backup = "      backup: { backup: { sources: [cluster] } }\n      lost: { command: { apply: { shell: \"rm $DATA/global/pg_control\" } } }\n";
        self.stage.write(&Self::playbook(old, new, backup));
        let path = self.stage.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("jobs:\n", &format!("{source}jobs:\n"), 1)).unwrap();
        self.stage.sandbox.open_to_all();
        let mut command = self.stage.command("l", &["run", "move", "--yes"]);
        let ran = Ran::from(&command.env("DATA", &old.data).output().unwrap());
        let ran = ran.expect(0);
        let run = self.stage.newest();
        let shown = self.stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
        let steps = shown["steps"].as_array().unwrap();
        let rewind = steps.iter().find(|step| step["name"] == "rewind").unwrap();
        assert_eq!(rewind["outputs"]["way"], "restore", "{}", ran.stderr);
        // What it had is kept, for whoever wants to look at it.
        let kept = rewind["outputs"]["kept"].as_str().unwrap();
        assert!(Path::new(kept).join("PG_VERSION").exists(), "{kept}");
        self.have_changed(old, new, 2);
    }
}
