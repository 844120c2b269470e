//! Actions by themselves: what they look at, what they do, twice, and back. Redis, HTTP and PostgreSQL
//! are real; for `systemctl`, `docker` and `kubectl` there are stand-ins with a state of their own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::playbook::Stage;
use crate::common::postgres::Server;
use crate::common::{Ran, has_tools};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that ends with the test.
struct Bound(Child);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn started(command: &mut Command, port: u16) -> Bound {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let bound = Bound(child.spawn().unwrap());
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    bound
}

fn redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn databases_of_redis_are_emptied_and_only_those() {
    if !has_tools(&["redis-server"]) {
        return;
    }
    let port = free_port();
    let mut server = Command::new("redis-server");
    server.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--requirepass",
        "hunter2-hunter2",
    ]);
    let _server = started(&mut server, port);
    let set = |number: u32| {
        redis(port, &format!("AUTH hunter2-hunter2\r\nSELECT {number}\r\nSET key {number}"))
    };
    (0..3).for_each(|number| drop(set(number)));
    let stage = Stage::new(&format!(
        "  flush:\n    recover:\n      cache: {{ redis_flush: {{ address: \"127.0.0.1:{port}\", databases: [0, 2], password: \"${{env:REDIS}}\" }} }}\n"
    ));
    let run = |args: &[&str]| {
        Ran::from(&stage.command("l", args).env("REDIS", "hunter2-hunter2").output().unwrap())
    };
    let ran = run(&["check"]).expect(0);
    assert!(ran.stdout.contains("0 (1 keys), 2 (1 keys)"), "{}", ran.stdout);
    let size =
        |number: u32| redis(port, &format!("AUTH hunter2-hunter2\r\nSELECT {number}\r\nDBSIZE"));
    assert!(size(0).contains(":1"), "a look changes nothing");
    run(&["run", "flush", "--yes"]).expect(0);
    assert!(size(0).contains(":0") && size(1).contains(":1") && size(2).contains(":0"));
    run(&["run", "flush", "--yes"]).expect(0);
    // A wrong password is told, and not shown.
    let mut command = stage.command("l", &["run", "flush", "--yes"]);
    let ran = Ran::from(&command.env("REDIS", "hunter3-hunter3").output().unwrap()).expect(1);
    assert!(ran.stderr.contains("AUTH") && !ran.stderr.contains("hunter3"), "{}", ran.stderr);
}

#[test]
fn pages_are_waited_for_and_looked_into() {
    if !has_tools(&["python3"]) {
        return;
    }
    let port = free_port();
    let stage = Stage::new(&format!(
        "  look:\n    validate:\n      page: {{ http: {{ url: \"http://127.0.0.1:{port}/health\", contains: well, every: 1s }}, timeout: 60s }}\n      none: {{ http: {{ url: \"http://127.0.0.1:{port}/none\", status: [404] }} }}\n"
    ));
    let root = stage.sandbox.path("www");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("health"), "all is well\n").unwrap();
    // Nobody listens yet: it is waited for.
    let child = stage
        .command("l", &["run", "look", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut server = Command::new("python3");
    server.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]).current_dir(&root);
    let _server = started(&mut server, port);
    crate::common::finish(child).expect(0);
    // A status alone says little.
    fs::write(root.join("health"), "all is lost\n").unwrap();
    stage.write(&format!(
        "  look:\n    validate:\n      page: {{ http: {{ url: \"http://127.0.0.1:{port}/health\", contains: well }} }}\n"
    ));
    let ran = stage.run("l", &["run", "look", "--yes"]).expect(1);
    assert!(ran.stderr.contains("has no `well` in it: all is lost"), "{}", ran.stderr);
}

#[test]
fn queries_are_asked_and_change_nothing() {
    let Some(server) = Server::start(17) else { return };
    server.sql("postgres", "CREATE TABLE t (x int); INSERT INTO t VALUES (1), (2)");
    let connection = server.connection("postgres").replace('\'', "");
    let playbook = |query: &str, expect: &str| {
        format!(
            "  look:\n    validate:\n      rows: {{ sql: {{ connection: \"{connection}\", query: \"{query}\", expect: {{ {expect} }} }} }}\n      tell: {{ command: {{ apply: {{ shell: \"echo {{{{rows.value}}}} >> $LEDGER\" }} }} }}\n"
        )
    };
    let stage = Stage::new(&playbook("SELECT count(*) FROM t", "at_least: 2, at_most: 2"));
    stage.run("l", &["run", "look", "--yes"]).expect(0);
    assert_eq!(stage.ledger("l"), ["2"]);
    for (query, expect, said) in [
        ("SELECT count(*) FROM t", "at_least: 3", "less than 3"),
        ("SELECT 'a'", "is: b", "it is `a`, and not `b`"),
        ("SELECT 'a'", "at_most: 1", "is no number"),
        ("SELECT count(*) FROM nowhere", "at_least: 0", "nowhere"),
        ("INSERT INTO t VALUES (3) RETURNING x", "is: '3'", "read-only"),
    ] {
        stage.write(&playbook(query, expect));
        let ran = stage.run("m", &["run", "look", "--yes"]).expect(1);
        assert!(ran.stderr.contains(said), "{query}: {}", ran.stderr);
        let run = stage.newest();
        stage.run("m", &["abort", &run, "--reason", "seen", "--yes"]).expect(0);
    }
    assert_eq!(server.value("postgres", "SELECT count(*) FROM t"), "2");
}

/// Stand-ins for managers of services: each service is a file with a number in it.
fn stand_ins(stage: &Stage) -> String {
    let bin = stage.sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::create_dir(stage.sandbox.path("services")).unwrap();
    let services = stage.sandbox.path("services").display().to_string();
    let put = |name: &str, text: &str| {
        let path = bin.join(name);
        fs::write(
            &path,
            format!("#!/bin/sh\ncd {services}\necho \"{name} $*\" >> ../calls\n{text}"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put(
        "systemctl",
        "case $1 in\nis-active) [ -e $2 ] || { echo inactive; exit 4; }; if [ $(cat $2) = 1 ]; then echo active; else echo inactive; exit 3; fi ;;\nstart) echo 1 > $2 ;;\nstop) echo 0 > $2 ;;\nesac\n",
    );
    // docker compose -f FILE VERB …
    put(
        "docker",
        "shift 3\nverb=$1\nfor last; do :; done\ncase $verb in\nps) [ $(cat $last) = 1 ] && echo id; exit 0 ;;\nup) echo 1 > $last ;;\nstop) echo 0 > $last ;;\nesac\n",
    );
    // kubectl -n NAMESPACE get|scale KIND/NAME …
    put(
        "kubectl",
        "shift 2\nname=$(basename $2)\ncase $1 in\nget) cat $name ;;\nscale) echo ${3#--replicas=} > $name ;;\nesac\n",
    );
    // ssh … -- HOST COMMAND
    put(
        "ssh",
        "while [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = web1 ] || exit 255\nexec sh -c \"$3\"\n",
    );
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn services_stop_in_reverse_and_come_back_as_they_were() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let path = stand_ins(&stage);
    let set = |name: &str, count: u32| {
        fs::write(stage.sandbox.path("services").join(name), format!("{count}\n")).unwrap();
    };
    let get = |name: &str| {
        fs::read_to_string(stage.sandbox.path("services").join(name)).unwrap().trim().to_owned()
    };
    let run =
        |args: &[&str]| Ran::from(&stage.command("l", args).env("PATH", &path).output().unwrap());
    let managers = [
        ("systemd: {}", ["web", "worker"], ""),
        ("systemd: {}", ["web", "worker"], ", host: web1"),
        ("compose: { file: /srv/compose.yaml }", ["web", "worker"], ""),
        ("kubectl: { namespace: shop }", ["deployment/web", "deployment/worker"], ""),
    ];
    for (manager, names, more) in managers {
        let service = |verb: &str, more: &str| {
            format!(
                "service: {{ do: {verb}, manager: {{ {manager} }}, names: [{}]{more} }}",
                names.join(", ")
            )
        };
        let scale = manager.starts_with("kubectl");
        let many = if scale { 3 } else { 1 };
        let replicas = if scale { ", replicas: \"{{stop.replicas}}\"" } else { "" };
        set("web", many);
        set("worker", 1);
        stage.write(&format!(
            "  cycle:\n    fence:\n      stop: {{ {} }}\n      seen: {{ command: {{ apply: {{ shell: \"cat services/* | tr -d '\\\\n' >> $LEDGER; echo >> $LEDGER\" }} }} }}\n    recover:\n      start: {{ {} }}\n      check: {{ {}, timeout: 20s }}\n",
            service("stop", more),
            service("start", &format!("{replicas}{more}")),
            service("check", more),
        ));
        run(&["run", "cycle", "--yes"]).expect(0);
        assert_eq!(stage.ledger("l").last().unwrap(), "00", "{manager}: all were stopped");
        assert_eq!((get("web"), get("worker")), (many.to_string(), "1".to_owned()), "{manager}");
        // Taken back: as they were, and not all started.
        set("worker", 0);
        stage.write(&format!(
            "  back:\n    on_failure: undo\n    fence:\n      stop: {{ {} }}\n      no: {{ command: {{ apply: {{ argv: [false] }} }} }}\n",
            service("stop", more),
        ));
        run(&["run", "back", "--yes"]).expect(1);
        assert_eq!((get("web"), get("worker")), (many.to_string(), "0".to_owned()), "{manager}");
    }
    let calls = fs::read_to_string(stage.sandbox.path("calls")).unwrap();
    let at = |line: &str| {
        calls.lines().position(|call| call == line).unwrap_or_else(|| panic!("{line}: {calls}"))
    };
    assert!(at("systemctl stop worker") < at("systemctl stop web"), "stopped in reverse");
    assert!(at("systemctl start web") < at("systemctl start worker"));
    assert!(
        calls.contains(
            "ssh -o BatchMode=yes -o ConnectTimeout=10 -- web1 'systemctl' 'stop' 'worker'"
        )
    );
    // What is not there is told before anything is stopped.
    stage.write("  stop:\n    fence:\n      stop: { service: { do: stop, manager: { systemd: {} }, names: [web, no-such] } }\n");
    set("web", 1);
    run(&["check"]).expect(1);
    let ran = run(&["run", "stop", "--yes"]).expect(1);
    assert!(ran.stderr.contains("there is no unit no-such"), "{}", ran.stderr);
    assert_eq!(get("web"), "1");
}

#[test]
fn another_key_stops_the_run() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let key = stage.sandbox.path("recovery.key");
    let source = "  keys: { secrets: { SECRET_KEY: \"${env:APP_KEY}\" } }\n";
    stage.sandbox.write_policy(true, source);
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("/repo", "/sealed");
    fs::write(
        &path,
        format!(
            "{text}playbooks:\n  start:\n    assess:\n      keys: {{ secret_check: {{ source: keys, identity: [{}] }} }}\n    recover:\n      go: {{ command: {{ apply: {{ shell: \"echo started >> $LEDGER\" }} }} }}\n",
            key.display()
        ),
    )
    .unwrap();
    let with = |value: &str, args: &[&str]| {
        let mut command = stage.sandbox.command(args);
        command.env("LEDGER", stage.sandbox.path("l")).env("APP_KEY", value);
        Ran::from(&command.output().unwrap())
    };
    with("correct horse", &["init"]).expect(0);
    with("correct horse", &["backup", "demo/keys"]).expect(0);
    let ran = with("battery staple", &["playbook", "run", "start", "--yes"]).expect(1);
    assert!(ran.stderr.contains("is not the SECRET_KEY that was backed up"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("horse") && !ran.stderr.contains("staple"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty(), "nothing was started");
    let run = stage.newest();
    with("correct horse", &["playbook", "retry-step", &run, "keys"]).expect(0);
    with("correct horse", &["playbook", "resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["started"]);
    // Nothing of them is left.
    let left = Command::new("grep")
        .args(["-rl", "correct horse"])
        .arg(stage.sandbox.path("state"))
        .output()
        .unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}
