//! A site that is alive and that nobody reaches: its server is in a network namespace whose link goes down. The other
//! site takes over, and the ledger has one history.

use std::fs;
use std::process::Command;

use postgres::{Client, NoTls};

use crate::common::{Ran, cannot, has_root, has_tools};
use crate::playbook_sites::{Application, Home, Sites, wait};

/// A network namespace with a link to this host.
struct Network {
    name: String,
    link: String,
    /// The address within.
    inside: String,
}

fn ip(words: &str) -> bool {
    let out = Command::new("ip").args(words.split(' ')).output().unwrap();
    if !out.status.success() {
        eprintln!("ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    }
    out.status.success()
}

impl Network {
    fn new() -> Option<Self> {
        if !has_root() || !has_tools(&["ip"]) {
            return None;
        }
        let pid = std::process::id();
        // One of its own for each process: 10.213.x.y/30.
        let number = (pid % 16384) * 4;
        let address = |last: u32| {
            let number = number + last;
            format!("10.213.{}.{}", number >> 8, number & 255)
        };
        let network =
            Self { name: format!("bs{pid}"), link: format!("bsl{pid}"), inside: address(2) };
        let Self { name, link, inside } = &network;
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {link} type veth peer name bse netns {name}"))
            && ip(&format!("address add {}/30 dev {link}", address(1)))
            && ip(&format!("link set {link} up"))
            && ip(&format!("-n {name} address add {inside}/30 dev bse"))
            && ip(&format!("-n {name} link set bse up"))
            && ip(&format!("-n {name} link set lo up"));
        if made {
            return Some(network);
        }
        cannot("network namespaces cannot be made here");
        None
    }

    /// Nothing goes through, or everything does.
    fn cut(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        assert!(ip(&format!("-n {} link set bse {state}", self.name)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.link));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// The policy, with sites and a playbook that takes over from a site that nobody reaches.
fn write(sites: &Sites) {
    let stage = &sites.stage;
    let (socket, a_c, b_c) =
        (sites.proxy.socket.display(), sites.a.connection(), sites.b.connection());
    let (a_host, a_port) = (&sites.a.host, sites.a.port);
    stage.write(&format!(
        r#"  failover:
    modes: [ungraceful]
    assess:
      gone: {{ tcp: {{ address: "{a_host}:{a_port}", expect: closed }} }}
      loss: {{ postgres: {{ loss: {{ standby: "{b_c}" }} }} }}
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/a: maint }}, end_sessions: true }} }}
      agree: {{ approval: {{ of: 2, text: "Nobody is led to site a any more" }} }}
    cutover:
      active: {{ role: {{ to: b, attested: "{{{{agree.approved_by}}}}", unreachable: ["{{{{gone.state}}}}"], vantage_points: {{ here: {{ tcp: "{a_host}:{a_port}" }} }} }} }}
      promote: {{ postgres: {{ promote: {{ connection: "{b_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/b: ready }} }} }}
  report:
    assess:
      apart: {{ divergence: {{ old: "{a_c}", new: "{b_c}", rows: "SELECT row FROM ledger" }} }}
"#
    ));
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let third = stage.sandbox.path("third");
    let more = format!("  third: {{ local: {{ path: {} }} }}\nsources:\n", third.display());
    let role = "role: { repository: third, site: \"${env:BACKSTAY_SITE}\" }\nsites: { a: null, b: null }\nplaybooks:\n";
    fs::write(&path, text.replace("sources:\n", &more).replace("playbooks:\n", role)).unwrap();
    stage.sandbox.run(&["init"]).expect(0);
}

#[test]
fn a_site_that_nobody_reaches_and_that_goes_on_makes_no_second_history() {
    let Some(network) = Network::new() else { return };
    let home = Home { host: network.inside.clone(), namespace: Some(network.name.clone()) };
    let Some(sites) = Sites::apart(&home) else { return };
    write(&sites);
    let stage = &sites.stage;
    let application = Application::start(sites.proxy.port, 0);
    application.goes_on();
    let streamed = sites.rows("a");
    wait("it is streamed", || streamed.is_subset(&sites.rows("b")));

    // The link is down. Somebody who sits at site a still reaches its server, by its socket.
    network.cut(true);
    let socket = format!(
        "host={} port={} user=postgres dbname=postgres",
        sites.a.socket.display(),
        sites.a.port
    );
    let mut inside = Client::connect(&socket, NoTls).unwrap();
    inside.batch_execute("INSERT INTO ledger VALUES (-1)").unwrap();
    stage.run("l", &["run", "failover", "--yes"]).expect(6);
    let run = stage.newest();
    for name in ["ann", "bo"] {
        stage.run("l", &["approve", &run, "agree", "--as", name, "--yes"]).expect(0);
    }
    stage.run_elsewhere("l", &["resume", &run]).expect(0);
    application.goes_on();
    inside.batch_execute("INSERT INTO ledger VALUES (-2)").unwrap();

    // The link is up again: two servers take writes, and users are led to one.
    network.cut(false);
    wait("site a is reached again", || Client::connect(&sites.a.connection(), NoTls).is_ok());
    application.goes_on();
    let after: Vec<i64> = application.end().rows;
    let (there, stale) = (sites.rows("b"), sites.rows("a"));
    assert!(streamed.is_subset(&there), "what was streamed is there");
    assert!(!there.contains(&-1) && !there.contains(&-2), "what was written aside came in");
    // What is lost are the last rows before the end, and of the rest there is one history.
    let lost: Vec<i64> = after.iter().copied().filter(|row| !there.contains(row)).collect();
    let (first, last) = (lost.first().copied(), lost.last().copied());
    let between = |row: &&i64| {
        first.is_some_and(|first| **row >= first) && last.is_some_and(|last| **row <= last)
    };
    assert_eq!(after.iter().filter(between).count(), lost.len(), "{lost:?}");
    let newest = *after.last().unwrap();
    assert!(there.contains(&newest) && !stale.contains(&newest), "users write to one of them");
    eprintln!("partition: {} rows, {} lost", after.len(), lost.len());

    // A host of site a finds itself fenced, and what its server has of its own is told.
    let mut backup = stage.sandbox.command(&["backup", "demo/files"]);
    let ran = Ran::from(&backup.env("BACKSTAY_SITE", "a").output().unwrap()).expect(1);
    assert!(ran.stderr.contains("site a of stack demo is fenced"), "{}", ran.stderr);
    let ran = stage.run("l", &["run", "report", "--yes", "--output", "json"]).expect(0);
    let outputs = &ran.json()["steps"][0]["outputs"];
    assert_eq!(outputs["diverged"], "yes", "{outputs}");
    assert_eq!(
        outputs["only_old"],
        stale.difference(&there).count().to_string().as_str(),
        "{outputs}"
    );
    assert!(outputs["examples"].as_str().unwrap().starts_with("-1 -2"), "{outputs}");
}
