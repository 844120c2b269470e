//! Every action of playbooks keeps the contract in `playbook/action.rs`: a preview changes nothing, twice
//! is as good as once, taken back twice too, a look tells the truth after a crash anywhere, and what fails
//! has a name. An action that is in no table fails `every_action_is_in_a_table`.
//!
//! Redis, HAProxy, PostgreSQL, receivers and repositories are real. For `kubectl`, `docker` and `systemctl`
//! there are stand-ins with a state of their own, and for StarRocks a simulator of its protocol.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::conformance::Case;
use crate::common::has_tools;
use crate::common::pair::{Pair, wait};
use crate::common::playbook::{Stage, effect};
use crate::common::starrocks::StarRocks;
use crate::playbook_dns::{Knot, SECRET};

type Table = &'static [(&'static str, fn())];

const HERE: Table = &[
    ("command", a_command),
    ("wait", a_wait),
    ("tcp", a_port),
    ("service", services),
    ("role", a_role),
    ("manual", gates),
    ("approval", gates),
];
const REPOSITORY: Table = &[
    ("restore", a_restore),
    ("backup", a_backup),
    ("secret_check", secrets),
    ("recovery_points", points),
];
const SERVERS: Table = &[
    ("http", a_page),
    ("notify", a_message),
    ("redis_flush", a_redis),
    ("haproxy", a_proxy),
    ("dns", a_name),
];
const STARROCKS: Table = &[
    ("starrocks.fence", a_fence),
    ("starrocks.prove_fenced", a_refusal),
    ("starrocks.activate", an_activation),
    ("starrocks.compare", a_comparison),
];
const POSTGRES: Table = &[
    ("sql", a_pair),
    ("divergence", a_pair),
    ("postgres.loss", a_pair),
    ("postgres.stop_writers", a_pair),
    ("postgres.prove_fenced", a_pair),
    ("postgres.wait_for", a_pair),
];
const STANDBY: Table = &[
    ("postgres.demote", places),
    ("postgres.start_standby", places),
    ("postgres.promote", places),
    ("postgres.rewind", places),
];

/// Those that are kinds of their own, and what a kind can do where it can do several things.
fn all_actions() -> BTreeSet<String> {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let schema = stage.sandbox.run(&["schema"]).expect(0).json();
    let definitions = &schema["$defs"];
    let several = [("postgres", "PostgresAction"), ("starrocks", "StarRocksAction")];
    let mut all = BTreeSet::new();
    for kind in backstay::policy::ActionSpec::KINDS {
        match several.iter().find(|(name, _)| name == kind) {
            None => _ = all.insert((*kind).to_owned()),
            Some((_, definition)) => {
                for one in definitions[definition]["oneOf"].as_array().unwrap() {
                    let verb = one["properties"].as_object().unwrap().keys().next().unwrap();
                    all.insert(format!("{kind}.{verb}"));
                }
            }
        }
    }
    all
}

#[test]
fn every_action_is_in_a_table() {
    let tables = [HERE, REPOSITORY, SERVERS, STARROCKS, POSTGRES, STANDBY];
    let found: BTreeSet<String> =
        tables.iter().flat_map(|table| table.iter().map(|(name, _)| (*name).to_owned())).collect();
    assert_eq!(found, all_actions());
}

fn go(table: Table) {
    let mut done = BTreeSet::new();
    for (name, test) in table {
        if done.insert(*test as usize) {
            eprintln!("{name}");
            test();
        }
    }
}

#[test]
fn actions_on_this_host_conform() {
    go(HERE);
}

#[test]
fn actions_on_repositories_conform() {
    go(REPOSITORY);
}

#[test]
fn actions_on_servers_conform() {
    go(SERVERS);
}

#[test]
fn actions_on_starrocks_conform() {
    go(STARROCKS);
}

#[test]
fn actions_on_a_postgresql_server_conform() {
    go(POSTGRES);
}

#[test]
fn actions_on_postgresql_servers_that_change_places_conform() {
    go(STANDBY);
}

fn stage() -> Stage {
    Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn a_command() {
    let stage = stage();
    let file = stage.sandbox.path("l");
    // How often it is in effect: once, whatever happens.
    let state = || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let count = |mark: &str| text.lines().filter(|line| *line == mark).count();
        (count("+it") - count("-it")).to_string()
    };
    let mut case = Case::act(&effect("it"), "command: { apply: { argv: [false] } }", state, || {
        drop(fs::remove_file(&file))
    })
    .with_undo();
    case.counts = true;
    case.conforms("command", &stage);
}

fn a_wait() {
    // What fails is not the wait, which cannot, but the time that it is given.
    Case::look("wait: { for: 1s }", "wait: { for: 1h }").conforms("wait", &stage());
}

fn a_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let step = format!("tcp: {{ address: \"{open}\" }}");
    let broken = format!("tcp: {{ address: \"{open}\", expect: closed }}");
    Case::look(&step, &broken).conforms("tcp", &stage());
    let closed = format!("tcp: {{ address: \"127.0.0.1:{}\", expect: closed }}", free_port());
    Case::look(&closed, &broken).conforms("tcp closed", &stage());
}

/// Stand-ins for managers of services: each service is a file with a number in it.
fn services() {
    let stage = stage();
    let (bin, services) = (stage.sandbox.path("bin"), stage.sandbox.path("services"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&services).unwrap();
    for (name, text) in [
        (
            "systemctl",
            "case $1 in\nis-active) [ -e $2 ] || { echo inactive; exit 4; }; if [ $(cat $2) = 1 ]; then echo active; else echo inactive; exit 3; fi ;;\nstart) echo 1 > $2 ;;\nstop) echo 0 > $2 ;;\n*) exit 64 ;;\nesac\n",
        ),
        (
            "docker",
            "[ \"$1 $2\" = \"compose -f\" ] || exit 64\nshift 3\nverb=$1\nfor last; do :; done\n[ -e $last ] || exit 1\ncase $verb in\nps) [ $(cat $last) = 1 ] && echo id; exit 0 ;;\nup) echo 1 > $last ;;\nstop) echo 0 > $last ;;\n*) exit 64 ;;\nesac\n",
        ),
        (
            "kubectl",
            "[ \"$1 $2\" = \"-n shop\" ] || exit 64\nshift 2\nname=$(basename $2)\n[ -e $name ] || exit 1\ncase $1 in\nget) [ \"$3 $4\" = \"-o jsonpath={.spec.replicas}\" ] || exit 64; cat $name ;;\nscale) case $3 in --replicas=[0-9]*) echo ${3#--replicas=} > $name ;; *) exit 64 ;; esac ;;\n*) exit 64 ;;\nesac\n",
        ),
    ] {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}", services.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let put =
        |name: &str, count: u32| fs::write(services.join(name), format!("{count}\n")).unwrap();
    let get = |name: &str| fs::read_to_string(services.join(name)).unwrap().trim().to_owned();
    for (manager, names, many, replicas) in [
        ("systemd: {}", "web, worker", 1, ""),
        ("compose: { file: /srv/compose.yaml }", "web, worker", 1, ""),
        (
            "kubectl: { namespace: shop }",
            "deployment/web, deployment/worker",
            3,
            ", replicas: \"deployment/web=3,deployment/worker=1\"",
        ),
    ] {
        for verb in ["stop", "start", "check"] {
            let step = |verb: &str, names: &str| {
                let more = if verb == "start" { replicas } else { "" };
                format!(
                    "service: {{ do: {verb}, manager: {{ {manager} }}, names: [{names}]{more} }}"
                )
            };
            let broken = step("check", "deployment/none");
            // One of two ran already where they are started, and where they are stopped.
            let first = if verb == "start" { 0 } else { many };
            let reset = || {
                put("web", first);
                put("worker", u32::from(verb != "stop"));
            };
            let state = || format!("{} {}", get("web"), get("worker"));
            let mut case = if verb == "check" {
                reset();
                Case::look(&step(verb, names), &broken)
            } else {
                Case::act(&step(verb, names), &broken, state, reset).with_undo()
            };
            case.environment.push(("PATH".into(), path.clone()));
            case.conforms(&format!("service {verb} {manager}"), &stage);
        }
    }
}

fn a_role() {
    let stage = stage();
    let roles = stage.sandbox.path("repo/demo/role");
    let newest = || {
        let Ok(entries) = fs::read_dir(&roles) else { return String::new() };
        let last = entries.map(|entry| entry.unwrap().path()).max();
        let text = last.map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        value["site"].as_str().unwrap_or_default().to_owned()
    };
    let closed = free_port();
    let mut case = Case::act(
        "role: { to: b, attested: \"{{who.approved_by}}\", unreachable: [\"{{gone.state}}\"] }",
        "tcp: { address: \"127.0.0.1:1\" }",
        newest,
        || drop(fs::remove_dir_all(&roles)),
    )
    .with_undo();
    case.policy = "role: { repository: main, site: a }\nsites: { a: null, b: null }\n".into();
    // Two people agreed: that this is so is tested elsewhere.
    case.above =
        format!("      gone: {{ tcp: {{ address: \"127.0.0.1:{closed}\", expect: closed }} }}\n");
    // The linter wants an approval, which needs people; what they agree to is the same for every crash.
    gate_of_two(&stage, case);
}

/// The role's own cases: an approval stands between, so that each run is approved by two first.
fn gate_of_two(stage: &Stage, case: Case<'_>) {
    let playbook = |end: &str, failing: &str| {
        format!(
            "  move:\n    on_failure: {end}\n    assess:\n{}      who: {{ approval: {{ of: 2 }} }}\n    cutover:\n      it: {{ {} }}\n{failing}{}",
            case.above, case.step, case.policy
        )
    };
    let failing = "      no: { command: { apply: { argv: [false] }, read_only: true } }\n";
    let state = || (case.state)();
    let approved = |name: &str| {
        let ran = stage.run("l", &["run", name, "--yes"]).expect(6);
        let run = stage.newest();
        for who in ["ann", "bo"] {
            stage.run("l", &["approve", &run, "who", "--as", who, "--yes"]).expect(0);
        }
        drop(ran);
        run
    };
    let resume = |run: &str, point: Option<&str>| {
        let mut command = stage.command("l", &["resume", run]);
        command.env("BACKSTAY_TUNING", "lease=0.2");
        command.envs(point.map(|point| ("BACKSTAY_FAILPOINT", point)));
        crate::common::Ran::from(&command.output().unwrap())
    };
    for (playbook, end, points) in [
        (playbook("stop", ""), 0, &["playbook.after_intent", "playbook.after_apply"][..]),
        (
            playbook("undo", failing),
            1,
            &["playbook.after_intent", "playbook.undo_intent", "playbook.after_undo"][..],
        ),
    ] {
        stage.write(&playbook);
        (case.reset)();
        let run = approved("move");
        resume(&run, None).expect(end);
        let (done, number) = (state(), epochs(stage));
        assert_eq!(done, if end == 0 { "b" } else { "" });
        for point in points {
            (case.reset)();
            let run = approved("move");
            resume(&run, Some(point)).expect(128 + 9);
            resume(&run, None).expect(end);
            assert_eq!((state(), epochs(stage)), (done.clone(), number), "role {point}");
        }
    }
}

fn epochs(stage: &Stage) -> usize {
    fs::read_dir(stage.sandbox.path("repo/demo/role")).map_or(0, Iterator::count)
}

/// `manual` and `approval` change nothing, and are never done by themselves.
fn gates() {
    let stage = stage();
    for (gate, code) in [("manual: { text: \"Do it\" }", 6), ("approval: { of: 1 }", 6)] {
        stage.write(&format!("  once:\n    recover:\n      it: {{ {gate} }}\n"));
        stage.run("l", &["check", "once"]).expect(0);
        for point in ["playbook.started", "playbook.none"] {
            let mut command = stage.command("l", &["run", "once", "--yes"]);
            command.env("BACKSTAY_TUNING", "lease=0.2");
            if point != "playbook.none" {
                command.env("BACKSTAY_FAILPOINT", point);
            }
            let ran = crate::common::Ran::from(&command.output().unwrap());
            let run = stage.newest();
            if ran.code == 128 + 9 {
                let mut command = stage.command("l", &["resume", &run]);
                command.env("BACKSTAY_TUNING", "lease=0.2");
                crate::common::Ran::from(&command.output().unwrap()).expect(code);
            } else {
                ran.expect(code);
            }
            assert_eq!(stage.state(&run, "it"), "waiting");
            stage.run("l", &["abort", &run, "--leave", "--reason", "x", "--yes"]).expect(0);
        }
    }
}

fn a_restore() {
    let stage = stage();
    fs::write(stage.sandbox.path("src/a.txt"), "what it was").unwrap();
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    let out = stage.sandbox.path("out");
    let state = || fs::read_to_string(out.join("a.txt")).unwrap_or_default();
    let step = format!("restore: {{ source: files, to: {}, options: [--delta] }}", out.display());
    let broken = "restore: { source: files, to: /proc/none/out }";
    let case = Case::act(&step, broken, state, || drop(fs::remove_dir_all(&out)));
    case.conforms("restore", &stage);
}

fn a_backup() {
    let stage = stage();
    fs::write(stage.sandbox.path("src/a.txt"), "text").unwrap();
    let commits = stage.sandbox.path("repo/demo/sources/files/commits");
    // One more does no harm: there is one, or there are some.
    let state = || fs::read_dir(&commits).is_ok_and(|mut one| one.next().is_some()).to_string();
    let broken_source = "  gone: { directory: { path: /nowhere/at/all } }\n";
    stage.sandbox.write_policy(false, broken_source);
    let case = Case::act(
        "backup: { sources: [files] }",
        "command: { apply: { shell: \"backstay-is-not-here\" } }",
        state,
        || drop(fs::remove_dir_all(&commits)),
    );
    case.conforms("backup", &stage);
    // The source is gone: the reason is told in the words of the backup.
    fs::rename(stage.sandbox.path("src"), stage.sandbox.path("moved")).unwrap();
    let ran = stage.run("l", &["run", "once", "--yes"]).expect(1);
    assert!(ran.stderr.contains("src") && !ran.stderr.contains("{\"event\""), "{}", ran.stderr);
}

fn secrets() {
    let stage = stage();
    stage.sandbox.write_policy(true, "  keys: { secrets: { KEY: \"${env:APP_KEY}\" } }\n");
    let text = fs::read_to_string(stage.sandbox.path("policy.yaml")).unwrap();
    fs::remove_dir_all(stage.sandbox.path("repo")).unwrap();
    stage.sandbox.run(&["init"]).expect(0);
    let mut backup = stage.sandbox.command(&["backup", "demo/keys"]);
    crate::common::Ran::from(&backup.env("APP_KEY", "right-right").output().unwrap()).expect(0);
    let identity = stage.sandbox.path("recovery.key");
    for (key, code) in [("right-right", 0), ("other-other", 1)] {
        let playbooks = format!(
            "playbooks:\n  look:\n    assess:\n      it: {{ secret_check: {{ source: keys, identity: [{}] }} }}\n",
            identity.display()
        );
        fs::write(stage.sandbox.path("policy.yaml"), format!("{text}{playbooks}")).unwrap();
        for point in [None, Some("playbook.after_intent"), Some("playbook.after_apply")] {
            let mut command = stage.command("l", &["run", "look", "--yes"]);
            command.env("APP_KEY", key).env("BACKSTAY_TUNING", "lease=0.2");
            command.envs(point.map(|point| ("BACKSTAY_FAILPOINT", point)));
            let ran = crate::common::Ran::from(&command.output().unwrap());
            let run = stage.newest();
            if ran.code == 128 + 9 {
                let mut command = stage.command("l", &["resume", &run]);
                command.env("APP_KEY", key).env("BACKSTAY_TUNING", "lease=0.2");
                crate::common::Ran::from(&command.output().unwrap()).expect(code);
            } else {
                ran.expect(code);
            }
            if code == 1 {
                assert_eq!(stage.state(&run, "it"), "failed");
                stage.run("l", &["abort", &run, "--leave", "--reason", "x", "--yes"]).expect(0);
            }
            // Nothing of the secrets is left behind.
            let left = fs::read_dir(stage.sandbox.path("state/playbooks")).into_iter().flatten();
            for entry in left.flatten() {
                assert!(!entry.path().join("secrets").exists());
            }
        }
    }
}

fn points() {
    let stage = stage();
    fs::write(stage.sandbox.path("src/a.txt"), "text").unwrap();
    stage.sandbox.write_policy(false, "  empty: { directory: { path: /etc/skel } }\n");
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    let case =
        Case::look("recovery_points: { sources: [files] }", "tcp: { address: \"127.0.0.1:1\" }");
    case.conforms("recovery_points", &stage);
}

/// A server that answers every request with 200 and keeps what it was sent.
fn web() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let into = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while let Ok(read) = stream.read(&mut buffer) {
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
                let length = text.to_lowercase().find("content-length: ").and_then(|at| {
                    text[at + 16..].split("\r\n").next()?.trim().parse::<usize>().ok()
                });
                let body = text.find("\r\n\r\n").map(|at| text.len() - at - 4);
                if read == 0 || body.is_some_and(|body| body >= length.unwrap_or(0)) {
                    break;
                }
            }
            if !text.is_empty() {
                into.lock().unwrap().push(text);
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                );
            }
        }
    });
    (port, heard)
}

fn a_page() {
    let (port, _) = web();
    let step = format!("http: {{ url: \"http://127.0.0.1:{port}/\", contains: ok }}");
    let broken = format!("http: {{ url: \"http://127.0.0.1:{port}/\", contains: fine }}");
    Case::look(&step, &broken).conforms("http", &stage());
}

fn a_message() {
    let (port, heard) = web();
    let nobody = free_port();
    // Whoever is told twice knows by the id that it is the same: what counts is what was said.
    let state = || {
        let heard = heard.lock().unwrap();
        let ids: BTreeSet<&str> = heard
            .iter()
            .filter_map(|text| text.split("\r\n").find(|line| line.to_lowercase().contains("id")))
            .collect();
        format!("{} {}", !heard.is_empty(), ids.len().min(1))
    };
    let mut case = Case::act(
        "notify: { text: \"Site b takes over\", to: [webhook] }",
        "notify: { text: \"Site b takes over\", to: [command] }",
        state,
        || heard.lock().unwrap().clear(),
    );
    case.policy = format!(
        "notify:\n  webhook: {{ url: \"http://127.0.0.1:{port}/\" }}\n  command: {{ argv: [\"false\"] }}\n  alertmanager: {{ url: \"http://127.0.0.1:{nobody}/\" }}\n"
    );
    case.conforms("notify", &stage());
}

/// A process that ends with the test.
struct Bound(Child);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn started(command: &mut Command, until: impl Fn() -> bool) -> Bound {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let bound = Bound(child.spawn().unwrap());
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    bound
}

fn a_redis() {
    if !has_tools(&["redis-server"]) {
        return;
    }
    let port = free_port();
    let text = port.to_string();
    let args = ["--port", &text, "--bind", "127.0.0.1", "--save", ""];
    let _server = started(Command::new("redis-server").args(args), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let ask = |words: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("{words}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let step =
        |port: u16| format!("redis_flush: {{ address: \"127.0.0.1:{port}\", databases: [0] }}");
    let case = Case::act(&step(port), &step(1), || ask("DBSIZE"), || drop(ask("SET key value")));
    case.conforms("redis_flush", &stage());
}

fn a_proxy() {
    if !has_tools(&["haproxy"]) {
        return;
    }
    let stage = stage();
    let socket = stage.sandbox.path("haproxy.sock");
    let config = stage.sandbox.path("haproxy.cfg");
    let port = free_port();
    fs::write(&config, format!("global\n  stats socket {} level admin\n  maxconn 10\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\nfrontend f\n  bind 127.0.0.1:{port}\n  default_backend pg\nbackend pg\n  server a 127.0.0.1:9\n  server b 127.0.0.1:9 disabled\n", socket.display())).unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(&config);
    let connect = || std::os::unix::net::UnixStream::connect(&socket);
    let _proxy = started(&mut haproxy, || connect().is_ok());
    let ask = |words: &str| {
        let mut stream = connect().unwrap();
        stream.write_all(format!("{words}\n").as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let state = || {
        let said = ask("show servers state");
        let of = |name: &str| {
            let line = said.lines().find(|line| line.contains(&format!(" {name} "))).unwrap();
            line.split(' ').nth(6).unwrap().to_owned()
        };
        format!("a {} b {}", of("a"), of("b"))
    };
    let reset = || {
        ask("set server pg/a state ready");
        ask("set server pg/b state maint");
    };
    let step = |server: &str| {
        format!(
            "haproxy: {{ socket: {}, servers: {{ pg/a: maint, pg/{server}: ready }} }}",
            socket.display()
        )
    };
    Case::act(&step("b"), &step("none"), state, reset).with_undo().conforms("haproxy", &stage);
}

fn a_name() {
    let stage = stage();
    let Some(knot) = Knot::start(&stage) else { return };
    // Its key may not change the other name.
    let step = |name: &str| knot.step(name, "A", "192.0.2.2");
    let state = || knot.held("db").join(" ");
    let reset = || knot.put("db", "192.0.2.1");
    let mut case = Case::act(&step("db"), &step("other"), state, reset).with_undo();
    case.environment.push(("TSIG".into(), SECRET.into()));
    case.conforms("dns", &stage);
}

/// A cluster, and how an application and its owner log in.
fn cluster() -> (StarRocks, String, String) {
    let cluster = StarRocks::start("3.3.5-6d81f75", 1);
    {
        let mut world = cluster.world();
        world.table("dw", "orders", &[]);
        world.load("dw", "orders", "orders", &["1,a", "2,b"]);
        world.roles.push("etl".into());
        world.accounts.insert("loader".into(), ("load".into(), "etl".into()));
        world.rights.insert((RIGHT.into(), "etl".into()));
    }
    let address = cluster.addresses()[0].clone();
    let login = |user: &str, key: &str| {
        format!("{{ frontends: [\"{address}\"], user: {user}, password: \"${{env:{key}}}\" }}")
    };
    let (owner, loader) = (login("backup", "OWNER"), login("loader", "LOADER"));
    (cluster, owner, loader)
}

const RIGHT: &str = "INSERT, UPDATE, DELETE ON ALL TABLES IN DATABASE dw";

fn passwords(case: &mut Case<'_>, cluster: &StarRocks) {
    let owner = cluster.world().password.clone();
    case.environment = vec![("OWNER".into(), owner), ("LOADER".into(), "load".into())];
}

fn give(verb: &str, owner: &str, role: &str) -> String {
    format!(
        "starrocks: {{ {verb}: {{ cluster: {owner}, rights: [\"{RIGHT}\"], of: [ROLE {role}] }} }}"
    )
}

fn rights(cluster: &StarRocks) -> String {
    format!("{:?}", cluster.world().rights)
}

fn set_rights(cluster: &StarRocks, has: bool) {
    let mut world = cluster.world();
    world.rights.clear();
    if has {
        world.rights.insert((RIGHT.into(), "etl".into()));
    }
}

fn a_fence() {
    let (cluster, owner, _) = cluster();
    let (step, broken) = (give("fence", &owner, "etl"), give("fence", &owner, "nobody"));
    let mut case =
        Case::act(&step, &broken, || rights(&cluster), || set_rights(&cluster, true)).with_undo();
    passwords(&mut case, &cluster);
    case.conforms("starrocks fence", &stage());
}

fn an_activation() {
    let (cluster, owner, _) = cluster();
    let (step, broken) = (give("activate", &owner, "etl"), give("activate", &owner, "nobody"));
    let mut case =
        Case::act(&step, &broken, || rights(&cluster), || set_rights(&cluster, false)).with_undo();
    passwords(&mut case, &cluster);
    case.conforms("starrocks activate", &stage());
}

fn a_refusal() {
    let (cluster, owner, loader) = cluster();
    set_rights(&cluster, false);
    let step = |who: &str| {
        format!("starrocks: {{ prove_fenced: {{ cluster: {who}, table: dw.orders }} }}")
    };
    // Its owner may write: that is no proof.
    let mut case = Case::look(&step(&loader), &step(&owner));
    passwords(&mut case, &cluster);
    let before = cluster.world().rows("dw", "orders");
    case.conforms("starrocks prove_fenced", &stage());
    assert_eq!(cluster.world().rows("dw", "orders"), before, "nothing is written to find out");
}

fn a_comparison() {
    let ((one, owner, _), (other, there, _)) = (cluster(), cluster());
    one.world().table("dw", "customers", &[]);
    one.world().load("dw", "customers", "customers", &["x"]);
    other.world().table("dw", "customers", &[]);
    let step = |tables: &str| {
        format!(
            "starrocks: {{ compare: {{ cluster: {owner}, with: {there}, tables: [{tables}] }} }}"
        )
    };
    let mut case = Case::look(&step("dw.orders"), &step("dw.orders, dw.customers"));
    passwords(&mut case, &one);
    case.conforms("starrocks compare", &stage());
}

/// What is done to servers that keep their places.
fn a_pair() {
    let Some(pair) = Pair::start() else { return };
    let step = |expect: &str| {
        format!(
            "sql: {{ connection: \"{}\", query: SELECT 1, expect: {{ is: \"{expect}\" }} }}",
            pair.a.connection()
        )
    };
    Case::look(&step("1"), &step("2")).conforms("sql", &pair.stage);
    let step =
        |old: &str| format!("divergence: {{ old: \"{old}\", new: \"{}\" }}", pair.a.connection());
    let nowhere = "host=127.0.0.1 port=1 user=postgres dbname=postgres";
    Case::look(&step(&pair.b.connection()), &step(nowhere)).conforms("divergence", &pair.stage);
    a_loss_of(&pair);
    no_writers_of(&pair);
    a_position_of(&pair);
}

fn a_loss_of(pair: &Pair) {
    let step = |standby: &str| {
        format!(
            "postgres: {{ loss: {{ standby: \"{standby}\", primary: \"{}\" }} }}",
            pair.a.connection()
        )
    };
    let broken = step("host=127.0.0.1 port=1 user=postgres dbname=postgres");
    Case::look(&step(&pair.b.connection()), &broken).conforms("postgres loss", &pair.stage);
}

fn no_writers_of(pair: &Pair) {
    let connection = pair.a.connection();
    let step = |what: &str, connection: &str| {
        format!("postgres: {{ {what}: {{ connection: \"{connection}\" }} }}")
    };
    let nowhere = "host=127.0.0.1 port=1 user=postgres dbname=postgres";
    let setting = || {
        // Sessions are ended for some time: whoever is told so asks again.
        let mut found = String::new();
        wait("it answers", || {
            match pair.a.try_value(
                "SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'",
            ) {
                Some(value) => {
                    found = value;
                    true
                }
                None => false,
            }
        });
        found
    };
    let reset = || {
        pair.a.execute("SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only");
        pair.a.execute("SELECT pg_reload_conf()");
        wait("clients may write", || setting() == "off");
    };
    Case::act(&step("stop_writers", &connection), &step("stop_writers", nowhere), setting, reset)
        .with_undo()
        .conforms("postgres stop_writers", &pair.stage);
    // What only reads proves it: the standby does, and a primary that takes writes does not.
    reset();
    let standby = pair.b.connection();
    Case::look(&step("prove_fenced", &standby), &step("prove_fenced", &connection))
        .conforms("postgres prove_fenced", &pair.stage);
}

fn a_position_of(pair: &Pair) {
    let here = pair.a.value("SELECT pg_current_wal_lsn()::text");
    let step = |lsn: &str| {
        format!(
            "postgres: {{ wait_for: {{ connection: \"{}\", lsn: {lsn} }} }}",
            pair.b.connection()
        )
    };
    Case::look(&step(&here), &step("FFF/0")).conforms("postgres wait_for", &pair.stage);
}

/// What is done to servers that change them.
fn places() {
    let Some(pair) = Pair::start() else { return };
    a_demotion(&pair);
    a_standby(&pair);
    pair.change_places();
}

fn a_demotion(pair: &Pair) {
    let step = |files: &str| format!("postgres: {{ demote: {{ server: {files} }} }}");
    let state = || format!("runs {} marked {}", pair.a.runs(), pair.a.is_marked());
    let reset = || pair.a.be_primary();
    Case::act(&step(&pair.a.files()), &step("{ data: /nowhere }"), state, reset)
        .with_undo()
        .conforms("postgres demote", &pair.stage);
    pair.a.be_primary();
}

fn a_standby(pair: &Pair) {
    let step = |files: &str| {
        format!(
            "postgres: {{ start_standby: {{ server: {files}, primary: \"{}\", connection: \"{}\" }} }}",
            pair.a.primary_for_others(),
            pair.b.connection()
        )
    };
    let state = || pair.b.runs().to_string();
    let reset = || pair.b.stop();
    Case::act(&step(&pair.b.files()), &step("{ data: /nowhere }"), state, reset)
        .with_undo()
        .conforms("postgres start_standby", &pair.stage);
    pair.b.start();
}
