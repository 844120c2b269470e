//! Dumps of MariaDB databases, with real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::mysql::Server;
use crate::common::{Ran, Sandbox};

/// Names that a shell, a file system or an option would take for something else.
const ODD: [&str; 7] =
    ["with space", "it's \"quoted\"", "-dash", "a=b", "日本語", "back`tick", "per%cent"];

fn sandbox_as(connection: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let connection = connection.replace('\'', "''");
    let comma = if settings.is_empty() { "" } else { ", " };
    let source =
        format!("  my: {{ mysql_dump: {{ connection: '{connection}'{comma}{settings} }} }}\n");
    sandbox.write_policy(false, &source);
    sandbox.run(&["init"]).expect(0);
    sandbox
}

fn sandbox(server: &Server, settings: &str) -> Sandbox {
    sandbox_as(&server.connection(), settings)
}

fn backup(sandbox: &Sandbox) -> Ran {
    sandbox.run(&["backup", "demo/my"])
}

fn backups(sandbox: &Sandbox) -> usize {
    let list = sandbox.run(&["list", "demo/my", "--output", "json"]).expect(0).json();
    list.as_array().unwrap().len()
}

fn restore(sandbox: &Sandbox, to: &str, more: &[&str]) -> Ran {
    let mut args = vec!["restore", "demo/my", "--to", to];
    args.extend(more);
    sandbox.run(&args)
}

/// The files of the newest backup, in `directory` of the sandbox.
fn files(sandbox: &Sandbox, directory: &str) -> impl Fn(&str) -> String {
    restore(sandbox, directory, &[]).expect(0);
    let root = sandbox.path(directory);
    move |name| {
        fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A database with everything that a dump may forget.
const EVERYTHING: &str = "
    CREATE DATABASE app CHARACTER SET latin1 COLLATE latin1_german1_ci;
    CREATE USER 'app'@'localhost' IDENTIFIED BY 'the password of app';
    CREATE ROLE reader; GRANT SELECT ON app.* TO reader; GRANT SELECT, EXECUTE ON *.* TO 'app'@'localhost'; GRANT reader TO 'app'@'localhost';
    USE app;
    CREATE TABLE parent (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(50) CHARACTER SET utf8mb4, raw BLOB, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB COMMENT='a\\n-- Current Database: `app`\\ncomment';
    CREATE TABLE child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id)) ENGINE=InnoDB;
    CREATE TABLE `odd ``name` (`a b` INT, g INT AS (`a b` * 2) STORED) ENGINE=InnoDB;
    CREATE TABLE empty_one (id INT) ENGINE=InnoDB;
    INSERT INTO parent (name, raw) VALUES ('plain', NULL), ('日本語 😀', 0x00FF1A27), ('it''s \\\\ \\n-- Current Database: `other`\\n', '');
    INSERT INTO child VALUES (1, 1), (2, 3);
    INSERT INTO `odd ``name` (`a b`) VALUES (1), (NULL);
    CREATE DEFINER='app'@'localhost' VIEW v AS SELECT name FROM parent WHERE id > 1;
    CREATE VIEW a_before AS SELECT * FROM v;
    DELIMITER ;;
    CREATE DEFINER='app'@'localhost' PROCEDURE p() BEGIN
-- Current Database: `app`
    SELECT 'a;b'; SELECT COUNT(*) FROM app.parent; END ;;
    CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 42 ;;
    CREATE TRIGGER t BEFORE INSERT ON child FOR EACH ROW SET NEW.parent = COALESCE(NEW.parent, 1) ;;
    CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM empty_one ;;
    DELIMITER ;
";

/// What a database has, whatever its name.
fn picture(server: &Server, database: &str) -> Vec<String> {
    let name = database.replace('`', "``");
    let mut all = server.rows(&format!("SHOW FULL TABLES FROM `{name}`"));
    for table in ["parent", "child", "odd ``name", "empty_one", "v", "a_before"] {
        all.extend(server.rows(&format!("SELECT * FROM `{name}`.`{table}` ORDER BY 1")));
    }
    all.extend(server.rows(&format!("SELECT `{name}`.f()")));
    for (what, column) in [("ROUTINES", "ROUTINE"), ("TRIGGERS", "TRIGGER"), ("EVENTS", "EVENT")] {
        all.extend(server.rows(&format!(
            "SELECT {column}_NAME, DEFINER FROM information_schema.{what} WHERE {column}_SCHEMA = '{database}' ORDER BY 1"
        )));
    }
    all.extend(server.rows(&format!(
        "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{database}'"
    )));
    all
}

#[test]
fn everything_in_a_database_comes_back() {
    let Some(server) = Server::start() else { return };
    server.sql(EVERYTHING);
    server.sql("CREATE DATABASE other; CREATE TABLE other.t (id INT) ENGINE=InnoDB; INSERT INTO other.t SELECT seq FROM other.seq_1_to_5000");
    let sandbox = sandbox(&server, "checksums: true");
    backup(&sandbox).expect(0);
    let read = files(&sandbox, "out");
    let overview = json(&read("server.json"));
    assert_eq!(overview["databases"], serde_json::json!(["app", "other"]));
    let at = format!(
        "{}:{}",
        overview["position"]["file"].as_str().unwrap(),
        overview["position"]["position"]
    );
    assert_eq!(
        server.rows("SHOW MASTER STATUS")[0].split('\t').take(2).collect::<Vec<_>>().join(":"),
        at
    );
    assert_eq!(overview["position"]["gtid"], server.value("SELECT @@gtid_binlog_pos"));
    let facts = json(&read("facts/app.json"));
    assert_eq!(
        (&facts["views"], &facts["triggers"], &facts["events"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(facts["tables"][2]["name"], "odd `name");
    assert_eq!(facts["definers"], serde_json::json!(["app@localhost", "root@localhost"]));
    let users = read("users.sql");
    assert!(
        users.contains("CREATE USER IF NOT EXISTS `app`@`localhost` IDENTIFIED BY PASSWORD '*"),
        "{users}"
    );
    assert!(
        users.contains("GRANT `reader` TO `app`@`localhost`;")
            && users.contains("CREATE ROLE IF NOT EXISTS `reader`"),
        "{users}"
    );
    assert!(!users.contains("the password of app"));
    server.sql(&users);
    // By hand: a client that is in an empty database.
    server.sql("CREATE DATABASE by_hand CHARACTER SET latin1 COLLATE latin1_german1_ci");
    server.sql(&format!(
        "USE by_hand;\n{}\n{}",
        read("dumps/app.sql"),
        read("dumps/app.views.sql")
    ));
    assert_eq!(
        picture(&server, "by_hand"),
        picture(&server, "app")
            .into_iter()
            .map(|line| line.replace("app\t", "by_hand\t"))
            .collect::<Vec<_>>()
    );

    let ran = restore(&sandbox, "server", &["--database", "app"]).expect(1);
    assert!(
        ran.stderr.contains("nothing is ever merged into it")
            && ran.stderr.contains("--database app=app_restored"),
        "{}",
        ran.stderr
    );
    let ran = restore(
        &sandbox,
        "server",
        &["--database", "app=new", "--database", "other=new2", "--dry-run"],
    )
    .expect(0);
    assert!(
        ran.stderr.contains("would: create database `new` from the dump of `app`"),
        "{}",
        ran.stderr
    );
    assert!(!server.databases().contains(&"new".to_owned()));
    let ran = restore(
        &sandbox,
        "server",
        &["--database", "app=new", "--database", "other=new2", "--output", "json"],
    )
    .expect(0);
    let done = ran.json();
    let new = &done["mysql"]["databases"][0];
    assert_eq!(
        (&new["tables_equal"], &new["checksums_equal"], &new["differ"]),
        (&4.into(), &4.into(), &serde_json::json!([]))
    );
    assert!(new["notes"].to_string().contains("routine p"), "the old name: {new}");
    assert_eq!(picture(&server, "new").len(), picture(&server, "app").len());
    assert_eq!(server.value("SELECT COUNT(*) FROM new2.t"), "5000");
    // Another server, with the users of this one and without.
    let Some(target) = Server::start() else { return };
    let ran = restore(&sandbox, &target.connection(), &["--database", "app"]).expect(0);
    assert!(ran.stderr.contains("who are not here: app@localhost"), "{}", ran.stderr);
    target.sql("DROP DATABASE app");
    restore(&sandbox, &target.connection(), &["--database", "app", "--no-owner"]).expect(0);
    let definers = target.rows("SELECT DISTINCT DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'app' UNION SELECT DEFINER FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'app' UNION SELECT DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'app'");
    assert_eq!(definers, ["root@localhost"]);
    target.sql("DROP DATABASE app");
    target.sql(&users);
    restore(&sandbox, &target.connection(), &[]).expect(0);
    assert_eq!(picture(&target, "app"), picture(&server, "app"));
    // And a server that nobody else has.
    fs::create_dir(sandbox.path("scratch")).unwrap();
    let ran =
        sandbox.run(&["verify", "demo/my", "--depth", "restore", "--scratch", "scratch"]).expect(0);
    let said = ran.stdout + &ran.stderr;
    assert!(said.contains("`other`: 5000 rows in 1 tables as they were counted"), "{said}");
    assert_eq!(fs::read_dir(sandbox.path("scratch")).unwrap().count(), 0);
    sandbox.run(&["verify", "demo/my", "--depth", "content"]).expect(0);
}

#[test]
fn a_dump_its_counts_and_its_position_are_one_moment_while_writers_write() {
    let Some(server) = Server::start() else { return };
    for database in ["a", "b"] {
        server.sql(&format!("CREATE DATABASE {database}; CREATE TABLE {database}.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(200)) ENGINE=InnoDB; INSERT INTO {database}.t (x) SELECT REPEAT('x', 100) FROM {database}.seq_1_to_20000"));
    }
    let sandbox = sandbox(&server, "checksums: true");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                // One transaction over both databases.
                let mut batch = String::new();
                for _ in 0..50 {
                    batch.push_str("START TRANSACTION; INSERT INTO a.t (x) VALUES (RAND()); INSERT INTO b.t (x) VALUES (RAND()); UPDATE a.t SET x = RAND() WHERE id = FLOOR(1 + RAND() * 20000); COMMIT;");
                }
                server.sql(&batch);
            }
        });
        for _ in 0..3 {
            let ran = backup(&sandbox);
            if ran.code != 0 {
                stop.store(true, Ordering::SeqCst);
            }
            ran.expect(0);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let Some(target) = Server::start() else { return };
    let list = sandbox.run(&["list", "demo/my", "--output", "json"]).expect(0).json();
    for one in list.as_array().unwrap() {
        let id = one["backup"].as_str().unwrap();
        let done = restore(&sandbox, &target.connection(), &["--backup", id, "--output", "json"])
            .expect(0)
            .json();
        assert_eq!(done["mysql"]["databases"][0]["checksums_equal"], 1, "{done}");
        assert_eq!(
            target.value("SELECT COUNT(*) FROM a.t"),
            target.value("SELECT COUNT(*) FROM b.t")
        );
        target.sql("DROP DATABASE a; DROP DATABASE b");
    }
}

#[test]
fn odd_names_are_databases_like_others() {
    let Some(server) = Server::start() else { return };
    for (number, name) in ODD.iter().enumerate() {
        let name = name.replace('`', "``");
        server.sql(&format!("CREATE DATABASE `{name}`; CREATE TABLE `{name}`.t (id INT) ENGINE=InnoDB; INSERT INTO `{name}`.t VALUES ({number})"));
    }
    server.sql("CREATE DATABASE left_out");
    let sandbox = sandbox(&server, "exclude: [left_*]");
    backup(&sandbox).expect(0);
    let Some(target) = Server::start() else { return };
    restore(&sandbox, &target.connection(), &[]).expect(0);
    let mut expected = ODD.to_vec();
    expected.sort_unstable();
    assert_eq!(target.databases(), expected);
    for (number, name) in ODD.iter().enumerate() {
        let query = format!("SELECT id FROM `{}`.t", name.replace('`', "``"));
        assert_eq!(target.value(&query), number.to_string(), "{name}");
    }
    restore(&sandbox, &target.connection(), &["--database", "a=b=c=d"]).expect(0);
    assert!(target.databases().contains(&"c=d".to_owned()));
}

#[test]
fn a_swap_moves_tables_in_one_step_or_refuses() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; USE app; CREATE TABLE p (id INT PRIMARY KEY) ENGINE=InnoDB; CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id)) ENGINE=InnoDB; INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1)");
    let sandbox = sandbox(&server, "");
    backup(&sandbox).expect(0);
    server.sql("DELETE FROM app.c; DELETE FROM app.p; CREATE TABLE app.newer (id INT)");
    let ran = restore(&sandbox, "server", &["--swap"]).expect(6);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    restore(&sandbox, "server", &["--swap", "--yes"]).expect(0);
    assert_eq!(server.rows("SHOW TABLES FROM app"), ["c", "p"]);
    assert_eq!(server.value("SELECT COUNT(*) FROM app.p"), "2");
    let databases = server.databases();
    assert_eq!(databases.len(), 2, "{databases:?}");
    let aside = databases.iter().find(|name| name.starts_with("app_before_")).unwrap();
    assert_eq!(server.rows(&format!("SHOW TABLES FROM {aside}")), ["c", "newer", "p"]);
    assert_eq!(server.value(&format!("SELECT COUNT(*) FROM {aside}.p")), "0");
    // Foreign keys mean the tables beside them.
    assert_ne!(server.client("INSERT INTO app.c VALUES (9, 9)").code, 0);
    server.sql("INSERT INTO app.c VALUES (2, 2)");
    server.sql("CREATE VIEW app.v AS SELECT 1 AS one");
    let ran = restore(&sandbox, "server", &["--swap", "--yes"]).expect(1);
    assert!(ran.stderr.contains("it has 1 views, which MySQL does not move"), "{}", ran.stderr);
    assert_eq!(server.databases().len(), 2);
}

const GRANT: &str = "CREATE DATABASE app; CREATE TABLE app.t (id INT) ENGINE=InnoDB; INSERT INTO app.t VALUES (1); CREATE USER backup@'%' IDENTIFIED BY 'a pass\"word # \\\\ with; signs'; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, BINLOG MONITOR ON *.* TO backup@'%'";

#[test]
fn servers_are_reached_by_tcp_and_tls_and_no_secret_is_shown() {
    let Some(server) = Server::start() else { return };
    server.sql(GRANT);
    let sandbox = Sandbox::new();
    let secret = sandbox.path("secret");
    fs::write(&secret, "a pass\"word # \\ with; signs").unwrap();
    let policy = |server: &Server, host: &str, more: &str| {
        let port = server.port;
        let secret = secret.display();
        let connection =
            format!("host={host} port={port} user=backup password=${{file:{secret}}} {more}");
        let source = format!("  my: {{ mysql_dump: {{ connection: '{connection}' }} }}\n");
        sandbox.write_policy(false, &source);
    };
    // Without TLS at the server: taken as it is, unless more was asked for.
    policy(&server, "127.0.0.1", "");
    sandbox.run(&["init"]).expect(0);
    backup(&sandbox).expect(0);
    policy(&server, "127.0.0.1", "ssl_mode=required");
    let ran = backup(&sandbox);
    assert!(ran.code != 0 && ran.stderr.contains("the server has no TLS"), "{}", ran.stderr);
    // With TLS, and a user who may not come without.
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = with_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let Some(server) = tls else { return };
    server.sql(&format!("{GRANT}; ALTER USER backup@'%' REQUIRE SSL"));
    let ca = sandbox.path("ca.pem");
    fs::write(&ca, made.cert.pem()).unwrap();
    let ca = format!("ssl_ca={}", ca.display());
    for (host, more, said) in [
        ("127.0.0.1", "", None),
        ("127.0.0.1", "ssl_mode=required", None),
        ("localhost", &ca, None),
        ("127.0.0.1", &ca, Some("the certificate must name the host")),
        ("localhost", "ssl_mode=verify_identity", Some("failed to connect")),
        ("127.0.0.1", "ssl_mode=disabled", Some("Access denied")),
    ] {
        policy(&server, host, more);
        let ran = backup(&sandbox);
        assert_eq!(ran.code == 0, said.is_none(), "{host} {more}: {}", ran.stderr);
        let said = said.unwrap_or_default();
        assert!(ran.stderr.contains(said), "{host} {more}: {}", ran.stderr);
        assert!(!ran.stderr.contains("pass\"word"), "{}", ran.stderr);
    }
    fs::write(&secret, "wrong").unwrap();
    policy(&server, "127.0.0.1", "");
    let ran = backup(&sandbox).expect(1);
    assert!(ran.stderr.contains("is the password right"), "{}", ran.stderr);
}

fn with_tls(cert: &str, key: &str) -> Option<Server> {
    let directory = tempfile::tempdir().unwrap().keep();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path.display().to_string()
    };
    let arguments = [
        format!("--ssl-cert={}", path("cert.pem", cert)),
        format!("--ssl-key={}", path("key.pem", key)),
        "--log-bin=log".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::with(&arguments);
    fs::remove_dir_all(&directory).unwrap();
    server
}

/// A directory with programs that do something else before or instead of the real ones.
fn programs(sandbox: &Sandbox, dump: &str) -> String {
    let directory = sandbox.path("bin");
    let _ = fs::create_dir(&directory);
    let path = directory.join("mariadb-dump");
    fs::write(&path, format!("#!/bin/bash\nif [ \"$1\" = --version ]; then exec /usr/bin/mariadb-dump --version; fi\n{dump}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["mariadb", "mariadb-binlog"] {
        let _ = std::os::unix::fs::symlink(format!("/usr/bin/{name}"), directory.join(name));
    }
    directory.display().to_string()
}

#[test]
fn a_dump_that_fails_or_is_cut_off_commits_nothing() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT, x VARCHAR(200)) ENGINE=InnoDB; INSERT INTO app.t SELECT seq, REPEAT('x', 150) FROM app.seq_1_to_30000");
    for (dump, said) in [
        (
            "exec /usr/bin/mariadb-dump \"$@\" | head -c 1000000",
            "its last line is not `-- Dump completed`",
        ),
        ("/usr/bin/mariadb-dump \"$@\" | head -c 1000; exit 3", "ended with exit status: 3"),
        (
            "/usr/bin/mariadb-dump \"$@\"; echo 'INSERT INTO t VALUES (1);'",
            "its last line is not `-- Dump completed`",
        ),
        ("/usr/bin/mariadb-dump \"$@\"; echo no >&2; exit 2", "it said: no"),
        ("/usr/bin/mariadb-dump \"$@\" | grep -v 'Current Database'", "the dump has no beginning"),
        ("exit 0", "its last line is not `-- Dump completed`"),
    ] {
        let place = Sandbox::new();
        let settings = format!("programs: {}", programs(&place, dump));
        let sandbox = sandbox(&server, &settings);
        let ran = backup(&sandbox).expect(1);
        assert!(ran.stderr.contains(said), "{dump}: {}", ran.stderr);
        assert_eq!(backups(&sandbox), 0);
        // Nobody is left waiting for a lock.
        server.sql("INSERT INTO app.t VALUES (0, '')");
    }
    // Credentials are in a file that only its owner reads, and in no argument.
    let place = Sandbox::new();
    let dump = format!(
        "echo \"$@\" > {0}/args; f=${{1#--defaults-file=}}; stat -c %a \"$f\" > {0}/mode; exec /usr/bin/mariadb-dump \"$@\"",
        place.root().display()
    );
    let sandbox = sandbox(&server, &format!("programs: {}", programs(&place, &dump)));
    backup(&sandbox).expect(0);
    assert_eq!(fs::read_to_string(place.path("mode")).unwrap().trim(), "600");
    let args = fs::read_to_string(place.path("args")).unwrap();
    assert!(args.contains("--single-transaction") && !args.contains("root"), "{args}");
    let file = args.split_whitespace().next().unwrap().strip_prefix("--defaults-file=").unwrap();
    assert!(!std::path::Path::new(file).exists(), "the credentials are still there");
}

#[test]
fn a_server_or_a_backup_that_is_killed_leaves_nothing_behind() {
    let Some(mut server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT, x VARCHAR(200)) ENGINE=InnoDB; INSERT INTO app.t SELECT seq, REPEAT('x', 150) FROM app.seq_1_to_100000");
    let place = Sandbox::new();
    // Slow enough to be killed in the middle.
    let begun = place.path("begun");
    let dump = format!(
        "/usr/bin/mariadb-dump \"$@\" | (head -c 2000000; touch {}; sleep 600)",
        begun.display()
    );
    let sandbox = sandbox(&server, &format!("programs: {}", programs(&place, &dump)));
    let wait = || {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !begun.exists() {
            assert!(Instant::now() < deadline, "the dump did not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_file(&begun).unwrap();
    };
    let mut command = sandbox.command(&["backup", "demo/my"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(backups(&sandbox), 0);
    server.sql("INSERT INTO app.t VALUES (0, '')");
    let mut command = sandbox.command(&["backup", "demo/my"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = Ran::from(&child.wait_with_output().unwrap()).expect(130);
    assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
    assert_eq!(backups(&sandbox), 0);
    // The server dies under a real dump.
    let dump = format!(
        "/usr/bin/mariadb-dump \"$@\" | (head -c 100000; touch {0}; while [ -e {0} ]; do sleep 0.05; done; cat)",
        begun.display()
    );
    programs(&place, &dump);
    let mut command = sandbox.command(&["backup", "demo/my"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !begun.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill();
    fs::remove_file(&begun).unwrap();
    Ran::from(&child.wait_with_output().unwrap()).expect(1);
    assert_eq!(backups(&sandbox), 0);
}

#[test]
fn what_is_in_the_way_is_named_before_and_during_a_dump() {
    let Some(server) = Server::with(&[]) else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.m (id INT) ENGINE=MyISAM; CREATE TABLE app.t (id INT) ENGINE=InnoDB; INSERT INTO app.m VALUES (1); CREATE USER weak@localhost; GRANT SELECT ON app.* TO weak@localhost");
    let check = |sandbox: &Sandbox| {
        let ran = sandbox.run(&["check", "--output", "json"]);
        (ran.code, ran.stdout + &ran.stderr)
    };
    let sandbox = sandbox(&server, "");
    let ran = backup(&sandbox).expect(0);
    assert!(ran.stderr.contains("app.m (MyISAM)"), "{}", ran.stderr);
    let (code, said) = check(&sandbox);
    assert!(
        code == 0 && said.contains("app.m (MyISAM)") && said.contains("writes no binary log"),
        "{said}"
    );
    let weak = server.connection().replace("user=root", "user=weak");
    let sandbox = sandbox_as(&weak, "");
    let ran = backup(&sandbox).expect(1);
    assert!(
        ran.stderr.contains("GRANT RELOAD ON *.*") && ran.stderr.contains("`lock: false`"),
        "{}",
        ran.stderr
    );
    let (code, said) = check(&sandbox);
    assert!(code != 0 && said.contains("RELOAD for a snapshot"), "{said}");
    // Without the right to stop writers: no counts, and users are said to be missing.
    server.sql("GRANT SHOW VIEW, TRIGGER, EVENT ON app.* TO weak@localhost");
    let sandbox = sandbox_as(&weak, "lock: false");
    let ran = backup(&sandbox).expect(0);
    assert!(ran.stderr.contains("may not read mysql.user"), "{}", ran.stderr);
    let read = files(&sandbox, "out");
    assert_eq!(json(&read("server.json"))["position"], Value::Null);
    assert_eq!(json(&read("facts/app.json"))["tables"][1]["rows"], Value::Null);
    let sandbox = sandbox_as(&server.connection(), "databases: [ap]");
    let ran = backup(&sandbox).expect(1);
    assert!(
        ran.stderr.contains("no database `ap`") && ran.stderr.contains("did you mean `app`"),
        "{}",
        ran.stderr
    );
    server.sql("DROP DATABASE app");
    let sandbox = sandbox_as(&server.connection(), "");
    let ran = backup(&sandbox).expect(1);
    assert!(ran.stderr.contains("there is no database to dump"), "{}", ran.stderr);
}

#[test]
fn a_restore_that_differs_or_fails_is_told_and_leaves_nothing_half_done() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO app.t SELECT seq FROM app.seq_1_to_1000");
    let sandbox = sandbox(&server, "");
    backup(&sandbox).expect(0);
    let place = Sandbox::new();
    let bin = programs(&place, "exec /usr/bin/mariadb-dump \"$@\"");
    let client = place.path("bin/mariadb");
    let with = |script: &str| {
        let _ = fs::remove_file(&client);
        fs::write(&client, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).unwrap();
        restore(&sandbox, "server", &["--database", "app=new", "--programs", &bin])
    };
    let ran = with("sed 's/(999),//' | /usr/bin/mariadb \"$@\"").expect(5);
    assert!(ran.stderr.contains("app.t: 1000 rows in the backup, 999 rows here"), "{}", ran.stderr);
    server.sql("DROP DATABASE new");
    let ran =
        with("head -c 1000 >/dev/null; echo 'ERROR 1114: The table is full' >&2; exit 1").expect(1);
    assert!(ran.stderr.contains("The table is full"), "{}", ran.stderr);
    assert!(!server.databases().contains(&"new".to_owned()), "a half is left");
    let ran = restore(&sandbox, "server", &["--table", "t"]).expect(2);
    assert!(ran.stderr.contains("--table is for PostgreSQL"), "{}", ran.stderr);
    let ran = restore(&sandbox, "server", &["--database", "nope"]).expect(1);
    assert!(ran.stderr.contains("it has app"), "{}", ran.stderr);
}
