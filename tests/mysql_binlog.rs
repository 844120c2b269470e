//! Binary logs of MariaDB as incremental backups, and recovery to any moment, with real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::common::mysql::Server;
use crate::common::{Ran, Sandbox};

fn sandbox(server: &Server, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let comma = if settings.is_empty() { "" } else { ", " };
    let source = format!(
        "  my: {{ mysql_dump: {{ connection: '{}', binlog: true{comma}{settings} }} }}\n",
        server.connection()
    );
    sandbox.write_policy(true, &source);
    sandbox.run(&["init"]).expect(0);
    fs::create_dir(sandbox.path("scratch")).unwrap();
    sandbox
}

fn backup(sandbox: &Sandbox, kind: &str) -> Ran {
    sandbox.run(&["backup", "demo/my", "--kind", kind, "--output", "json"])
}

fn kinds(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.run(&["list", "demo/my", "--output", "json"]).expect(0).json();
    let mut all: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["backup"].as_str().unwrap().to_owned())
        .collect();
    all.sort();
    all.iter().map(|id| id.split('-').nth(1).unwrap().to_owned()).collect()
}

fn restore(sandbox: &Sandbox, name: &str, more: &[&str]) -> Ran {
    let database = format!("app={name}");
    let mut args = vec!["restore", "demo/my", "--to", "server", "--database", &database];
    args.extend(more);
    sandbox.run_with_key(&args)
}

/// The server's second, once it is over.
fn second(server: &Server) -> String {
    let query = "SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%dT%H:%i:%sZ')";
    let now = server.value(query);
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.value(query) == now {
        assert!(Instant::now() < deadline, "the server's clock stands still");
        std::thread::sleep(Duration::from_millis(50));
    }
    now
}

#[test]
fn any_moment_between_two_backups_comes_back() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY, x TEXT) ENGINE=InnoDB; INSERT INTO app.t SELECT seq, REPEAT('x', 1000) FROM app.seq_1_to_1000");
    let sandbox = sandbox(&server, "");
    backup(&sandbox, "full").expect(0);
    server.sql("INSERT INTO app.t SELECT seq, 'second' FROM app.seq_1001_to_1500");
    let ran = backup(&sandbox, "incremental").expect(0);
    let first = ran.json();
    server.sql("INSERT INTO app.t SELECT seq, 'third' FROM app.seq_1501_to_2000; CREATE DATABASE other; CREATE TABLE other.u (id INT); INSERT INTO other.u VALUES (7)");
    let time = second(&server);
    let status = server.rows("SHOW MASTER STATUS")[0].clone();
    let position = status.split('\t').take(2).collect::<Vec<_>>().join(":");
    let gtid = server.value("SELECT @@gtid_binlog_pos");
    server.sql("DELETE FROM app.t WHERE id > 10; DROP TABLE other.u");
    backup(&sandbox, "incremental").expect(0);
    server.sql("INSERT INTO app.t VALUES (5000, 'after everything')");
    assert_eq!(kinds(&sandbox), ["full", "incr", "incr"]);
    // Only the logs are new.
    assert!(first.to_string().contains("\"new_files\":1"), "{first}");
    let ls = sandbox.run_with_key(&["ls", "demo/my"]).expect(0).stdout;
    assert_eq!(ls.lines().filter(|line| line.starts_with("binlog/log.0000")).count(), 2, "{ls}");
    assert!(ls.contains("dumps/app.sql"), "{ls}");
    let show = sandbox.run(&["show", "demo/my", "--output", "json"]).expect(0).json();
    assert_eq!(show["recovery_points"].as_array().unwrap().len(), 2, "{show}");

    let ran = restore(&sandbox, "end", &[]).expect(2);
    assert!(ran.stderr.contains("--scratch DIR"), "{}", ran.stderr);
    let goals: [(&str, &[&str], &str); 4] = [
        ("at_time", &["--at", &time], "2000"),
        ("at_position", &["--binlog", &position], "2000"),
        ("at_gtid", &["--gtid", &gtid], "2000"),
        ("at_end", &[], "10"),
    ];
    for (name, goal, rows) in goals {
        let mut more = vec!["--scratch", "scratch"];
        more.extend(goal);
        let ran = restore(&sandbox, name, &more).expect(0);
        assert!(ran.stderr.contains("replayed 2 binary logs"), "{}", ran.stderr);
        assert_eq!(server.value(&format!("SELECT COUNT(*) FROM {name}.t")), rows, "{name}");
        assert_eq!(fs::read_dir(sandbox.path("scratch")).unwrap().count(), 0);
    }
    // Nothing was done to what is in use.
    assert_eq!(server.value("SELECT COUNT(*) FROM app.t"), "11");
    // A database that came later is there as well.
    let args = [
        "restore",
        "demo/my",
        "--to",
        "server",
        "--database",
        "other=other_new",
        "--at",
        &time,
        "--scratch",
        "scratch",
    ];
    sandbox.run_with_key(&args).expect(0);
    assert_eq!(server.value("SELECT id FROM other_new.u"), "7");
    let ran = sandbox
        .run_with_key(&["verify", "demo/my", "--depth", "restore", "--scratch", "scratch"])
        .expect(0);
    let said = ran.stdout + &ran.stderr;
    assert!(said.contains("2 binary logs replayed, the last of them log.0000"), "{said}");
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
    let ran =
        restore(&sandbox, "x", &["--scratch", "scratch", "--binlog", "log.999999:4"]).expect(1);
    assert!(ran.stderr.contains("the backup has no binary log log.999999"), "{}", ran.stderr);
    // The full alone needs none of this.
    let list = sandbox.run(&["list", "demo/my", "--output", "json"]).expect(0).json();
    let full = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["backup"].as_str().unwrap())
        .find(|id| id.contains("-full-"))
        .unwrap()
        .to_owned();
    restore(&sandbox, "of_full", &["--backup", &full]).expect(0);
    assert_eq!(server.value("SELECT COUNT(*) FROM of_full.t"), "1000");
}

#[test]
fn a_gap_in_the_logs_is_named_and_the_next_backup_is_a_full() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT) ENGINE=InnoDB; INSERT INTO app.t VALUES (1)");
    let sandbox = sandbox(&server, "");
    let gap = |what: &dyn Fn(), said: &str| {
        backup(&sandbox, "full").expect(0);
        let before = kinds(&sandbox).len();
        what();
        let ran = backup(&sandbox, "incremental").expect(0);
        assert!(
            ran.stderr.contains("there is a gap") && ran.stderr.contains(said),
            "{}",
            ran.stderr
        );
        let kinds = kinds(&sandbox);
        assert_eq!(
            (kinds.len(), kinds.last().unwrap().as_str()),
            (before + 1, "full"),
            "{kinds:?}"
        );
        // From there on it goes on.
        let ran = backup(&sandbox, "incremental").expect(0);
        assert!(!ran.stderr.contains("gap"), "{}", ran.stderr);
        restore(&sandbox, "looked_at", &["--scratch", "scratch"]).expect(0);
        server.sql("DROP DATABASE looked_at");
    };
    let purge = || {
        server.sql("FLUSH BINARY LOGS; INSERT INTO app.t VALUES (2); FLUSH BINARY LOGS");
        // Not before the engine needs it no more.
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.rows("SHOW BINARY LOGS").len() > 1 {
            assert!(Instant::now() < deadline, "nothing was purged");
            server.sql("PURGE BINARY LOGS BEFORE DATE_ADD(NOW(), INTERVAL 1 DAY)");
        }
    };
    gap(&purge, "are gone from the server, whose oldest is");
    // A log of the same name, which is another.
    let reset = || {
        server.sql("RESET MASTER; INSERT INTO app.t VALUES (3)");
        server.sql(&"FLUSH BINARY LOGS;".repeat(20));
    };
    gap(&reset, "is not the log any more that it was");
}

#[test]
fn a_log_that_is_purged_or_cut_off_while_it_is_read_commits_nothing() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT) ENGINE=InnoDB; INSERT INTO app.t VALUES (1)");
    let place = Sandbox::new();
    let bin = place.path("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["mariadb-dump", "mariadb"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{name}"), bin.join(name)).unwrap();
    }
    let program = bin.join("mariadb-binlog");
    let script = |text: &str| {
        fs::write(&program, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("exec /usr/bin/mariadb-binlog \"$@\"");
    let sandbox = sandbox(&server, &format!("programs: {}", bin.display()));
    backup(&sandbox, "full").expect(0);
    server.sql("INSERT INTO app.t SELECT seq FROM app.seq_1_to_10000");
    let client = format!("/usr/bin/mariadb --no-defaults -u root -S {}", server.socket().display());
    let cut = "for last; do :; done; for a; do case $a in --result-file=*) out=${a#--result-file=};; esac; done
        dir=$(mktemp -d); args=(\"$@\"); for i in \"${!args[@]}\"; do case ${args[$i]} in --result-file=*) args[$i]=--result-file=$dir/;; esac; done
        /usr/bin/mariadb-binlog \"${args[@]}\" || exit; head -c 2000 \"$dir/$last\" > \"$out$last\"; rm -r \"$dir\"";
    for (text, said) in [
        (cut.to_owned(), "is shorter than the"),
        ("echo nothing was done >&2".to_owned(), "is no binary log"),
        ("echo no >&2; exit 4".to_owned(), "it said: no"),
        (
            format!(
                "while {client} -N -e 'PURGE BINARY LOGS BEFORE DATE_ADD(NOW(), INTERVAL 1 DAY); SHOW BINARY LOGS' | sed 1d | grep -q .; do sleep 0.1; done; exec /usr/bin/mariadb-binlog \"$@\""
            ),
            "the server purged it meanwhile",
        ),
    ] {
        script(&text);
        let ran = backup(&sandbox, "incremental").expect(1);
        assert!(ran.stderr.contains(said), "{text}: {}", ran.stderr);
        assert_eq!(kinds(&sandbox), ["full"]);
    }
    script("exec /usr/bin/mariadb-binlog \"$@\"");
    let ran = backup(&sandbox, "incremental").expect(0);
    assert!(ran.stderr.contains("there is a gap"), "{}", ran.stderr);
    assert_eq!(kinds(&sandbox), ["full", "full"]);
}

#[test]
fn a_server_without_a_binary_log_has_no_incremental() {
    let Some(server) = Server::with(&[]) else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT) ENGINE=InnoDB");
    let sandbox = sandbox(&server, "");
    let ran = backup(&sandbox, "full").expect(1);
    assert!(ran.stderr.contains("the server writes no binary log"), "{}", ran.stderr);
    assert!(kinds(&sandbox).is_empty());
}

/// MySQL itself, where `make test-compose` or somebody else runs it. The tests' machine needs MySQL's
/// own client programs for it: those of MariaDB do not dump it.
#[test]
fn mysql_servers_that_are_named_go_round() {
    for variable in ["BACKSTAY_TEST_MYSQL_57", "BACKSTAY_TEST_MYSQL_8"] {
        let Ok(connection) = std::env::var(variable) else {
            eprintln!("not run: {variable} names no server");
            continue;
        };
        let version = std::process::Command::new("mysqldump").arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if version.as_ref().map_or(true, |version| version.contains("MariaDB")) {
            let _ = crate::common::cannot("mysqldump of MySQL is not here: mysql-client");
            continue;
        }
        let sandbox = Sandbox::new();
        let source = format!(
            "  my: {{ mysql_dump: {{ connection: '{connection} password=${{env:BACKSTAY_TEST_MYSQL_PASSWORD}}', binlog: true, checksums: true }} }}\n"
        );
        sandbox.write_policy(true, &source);
        sandbox.run(&["init"]).expect(0);
        let client = |statement: &str| {
            let (mut host, mut port) = ("", "");
            for word in connection.split(' ') {
                host = word.strip_prefix("host=").unwrap_or(host);
                port = word.strip_prefix("port=").unwrap_or(port);
            }
            let mut command = std::process::Command::new("mysql");
            command.args(["--no-defaults", "--user=root", "--protocol=tcp", "-N", "-B"]);
            command.args(["-h", host, "-P", port, "-e", statement]);
            command.env("MYSQL_PWD", std::env::var("BACKSTAY_TEST_MYSQL_PASSWORD").unwrap());
            Ran::from(&command.output().unwrap()).expect(0).stdout.trim().to_owned()
        };
        client(
            "DROP DATABASE IF EXISTS app; DROP DATABASE IF EXISTS app_new; CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1), (2); CREATE VIEW app.v AS SELECT * FROM app.t",
        );
        backup(&sandbox, "full").expect(0);
        client("INSERT INTO app.t VALUES (3)");
        backup(&sandbox, "incremental").expect(0);
        assert_eq!(kinds(&sandbox), ["full", "incr"]);
        let list = sandbox.run(&["list", "demo/my", "--output", "json"]).expect(0).json();
        let ids = list.as_array().unwrap().iter().map(|one| one["backup"].as_str().unwrap());
        let full = ids.into_iter().find(|id| id.contains("-full-")).unwrap().to_owned();
        restore(&sandbox, "app_new", &["--backup", &full]).expect(0);
        assert_eq!(client("SELECT COUNT(*) FROM app_new.v"), "2");
        client("DROP DATABASE app; DROP DATABASE app_new");
    }
}
