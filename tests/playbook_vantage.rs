//! Vantage points: what people attest is looked at from several places, by real ports and a stand-in for ssh.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::Ran;
use crate::common::playbook::Stage;

/// A stack with two sites, hosts that ssh knows, and a playbook that looks from `points` before it moves.
struct Places {
    stage: Stage,
    path: String,
}

impl Places {
    fn new(points: &str) -> Self {
        let stage = Stage::new(&format!(
            "  move:\n    modes: [ungraceful]\n    fence:\n      agree: {{ approval: {{ of: 2 }} }}\n    cutover:\n      active:\n        role:\n          to: b\n          attested: \"{{{{agree.approved_by}}}}\"\n          vantage_points: {{ {points} }}\n      after: {{ command: {{ apply: {{ shell: \"echo +after >> $LEDGER\" }} }}, point_of_no_return: true }}\nrole: {{ repository: main }}\nsites: {{ a: null, b: null }}\n"
        ));
        let bin = stage.sandbox.path("bin");
        fs::create_dir(&bin).unwrap();
        let ssh = bin.join("ssh");
        // What a shell over there gets is carried out here; `bare` is a host without any programs.
        let text = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\necho \"$2\" >> {}\ncase $2 in\n\
             gone) echo 'ssh: connect to host gone port 22: Connection timed out' >&2; exit 255 ;;\n\
             bare) export PATH=/nowhere; shift 2; eval \"$1\" ;;\n\
             *) exec sh -c \"$3\" ;;\nesac\n",
            stage.sandbox.path("hosts").display()
        );
        fs::write(&ssh, text).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        Self { stage, path }
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.stage.command("l", args).env("PATH", &self.path).output().unwrap())
    }

    /// Begins, and has two people agree.
    fn agreed(&self) -> String {
        self.run(&["run", "move", "--yes"]).expect(6);
        let run = self.stage.newest();
        for name in ["ann", "bo"] {
            self.run(&["approve", &run, "agree", "--as", name, "--yes"]).expect(0);
        }
        run
    }

    fn epochs(&self) -> usize {
        let roles = self.stage.sandbox.path("repo/demo/role");
        fs::read_dir(roles).map_or(0, Iterator::count)
    }
}

/// On an address that nobody else takes ports of.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.77.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn two_people_move_nothing_while_the_site_is_reached_from_one_place() {
    let (site, port) = listener();
    let (other, closed) = listener();
    drop(other);
    // From here it looks gone, and from the other place it does not.
    let places = Places::new(&format!(
        "here: {{ tcp: \"127.77.0.1:{closed}\" }}, far: {{ host: ops@far, tcp: \"127.77.0.1:{port}\" }}"
    ));
    let shown = places.run(&["show", "move"]).expect(0).stdout;
    assert!(shown.contains(&format!("127.77.0.1:{port} takes connections from `far` (ops@far)")));
    // While nobody is cut off it is no problem that it can be reached: every place answers.
    places.run(&["check", "move"]).expect(0);
    let run = places.agreed();
    places.run(&["resume", &run]).expect(1);
    let shown = places.run(&["show", &run]).expect(0).stdout;
    let told = format!(
        "the site before can be reached: 127.77.0.1:{port} takes connections from `far` (ops@far)"
    );
    assert!(shown.contains(&told), "{shown}");
    assert_eq!(places.epochs(), 0);
    assert!(places.stage.ledger("l").is_empty());

    // It is cut off.
    drop(site);
    places.run(&["retry-step", &run, "active"]).expect(0);
    places.run(&["resume", &run]).expect(0);
    assert_eq!(places.stage.ledger("l"), ["+after"]);
    assert_eq!(places.epochs(), 1);
    // What was seen is in the journal, and in the record of the epoch.
    let shown = places.run(&["show", &run, "--output", "json"]).expect(0).json();
    let steps = shown["steps"].as_array().unwrap();
    let active = steps.iter().find(|step| step["name"] == "active").unwrap();
    let fence = active["outputs"]["fence"].as_str().unwrap();
    assert!(fence.starts_with("attested by ann, bo; not reached at 127.77.0.1:"), "{fence}");
    assert!(fence.contains("from `here` (this host): Connection refused"), "{fence}");
    assert!(fence.contains("from `far` (ops@far): Connection refused"), "{fence}");
    let record = places.stage.sandbox.path("repo/demo/role/00000001.json");
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap();
    assert_eq!(record["fence"], fence);
}

#[test]
fn a_place_that_does_not_answer_proves_nothing() {
    let (other, closed) = listener();
    drop(other);
    let places = Places::new(&format!(
        "a: {{ host: gone, tcp: \"127.77.0.1:{closed}\" }}, b: {{ host: bare, tcp: \"127.77.0.1:{closed}\" }}, c: {{ host: far, tcp: \"no..host:{closed}\" }}, d: {{ tcp: \"no..host:{closed}\" }}, e: {{ tcp: \"127.77.0.1:{closed}\" }}"
    ));
    let checked = places.run(&["check", "move"]).expect(1).stdout;
    let missing: Vec<&str> = checked.lines().filter(|line| line.contains("MISSING: ")).collect();
    let expected = [
        ("`a` (gone)", "Connection timed out"),
        ("`b` (bare)", "bash"),
        ("`c` (far)", "finds no address"),
        ("`d` (this host)", "no..host has no address"),
    ];
    assert_eq!(missing.len(), expected.len(), "{checked}");
    for (line, (place, why)) in missing.iter().zip(expected) {
        assert!(line.contains(&format!("the vantage point {place}: ")), "{place}: {checked}");
        assert!(line.contains(why), "{place}: {checked}");
    }
    let run = places.agreed();
    places.run(&["resume", &run]).expect(1);
    let shown = places.run(&["show", &run]).expect(0).stdout;
    assert!(shown.contains("it cannot be told whether the site before can be reached: the vantage point `a` (gone): "), "{shown}");
    assert_eq!(places.epochs(), 0);
}

#[test]
fn who_looks_from_nowhere_or_from_one_place_is_warned() {
    let (other, closed) = listener();
    drop(other);
    let places = Places::new(&format!("here: {{ tcp: \"127.77.0.1:{closed}\" }}"));
    let path = places.stage.sandbox.path("policy.yaml");
    let checked = |places: &Places| places.stage.sandbox.run(&["check"]).stderr;
    assert!(checked(&places).contains("looked from one host alone"), "{}", checked(&places));
    let text = fs::read_to_string(&path).unwrap();
    let none = text
        .replace("    fence:\n", &format!("    assess:\n      seen: {{ tcp: {{ address: \"127.77.0.1:{closed}\", expect: closed }} }}\n    fence:\n"))
        .replace(&format!("vantage_points: {{ here: {{ tcp: \"127.77.0.1:{closed}\" }} }}"), "unreachable: [\"{{seen.state}}\"]");
    fs::write(&path, none).unwrap();
    assert!(checked(&places).contains("looked from nowhere else"), "{}", checked(&places));
}
