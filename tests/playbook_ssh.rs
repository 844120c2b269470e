//! Services of another host, by OpenSSH as it is: its client, its server, and the shell behind it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::playbook::Stage;
use crate::common::{Ran, has_root, has_tools};
use crate::playbook_sites::free_port;

const SSHD: &str = "/usr/sbin/sshd";

/// A host called `web1`, with a `systemctl` that notes its calls: this one is not run by systemd.
struct Host {
    place: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Host {
    /// `None`, said loudly, where there is no OpenSSH.
    fn start(stage: &Stage) -> Option<Self> {
        if !has_tools(&["ssh", "ssh-keygen"]) || !has_root() {
            return None;
        }
        assert!(PathBuf::from(SSHD).exists(), "{SSHD} is missing: openssh-server");
        let place = stage.sandbox.path("ssh");
        fs::create_dir_all(place.join("there")).unwrap();
        fs::create_dir_all(place.join("here")).unwrap();
        // What the server gives up its rights in.
        fs::create_dir_all("/run/sshd").unwrap();
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.join(name))
                .status();
            assert!(made.unwrap().success());
        }
        let port = free_port();
        let at = place.display();
        let there = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             SetEnv PATH={at}/there:/usr/bin:/bin\n"
        );
        fs::write(place.join("sshd_config"), there).unwrap();
        let here = format!(
            "Host web1\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {at}/user\n  \
             IdentitiesOnly yes\n  UserKnownHostsFile {at}/known\n  StrictHostKeyChecking accept-new\n"
        );
        fs::write(place.join("config"), here).unwrap();
        let program = |path: &str, text: &str| {
            let path = place.join(path);
            fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        // A person has this in ~/.ssh/config.
        program("here/ssh", &format!("exec /usr/bin/ssh -F {at}/config \"$@\"\n"));
        program(
            "there/systemctl",
            &format!(
                "cd {at}/there; echo \"$# $*\" >> calls; unit=unit-$2\ncase $1 in\n\
                 is-active) [ -e \"$unit\" ] && echo active || {{ echo inactive; exit 3; }} ;;\n\
                 start) : > \"$unit\" ;;\nstop) rm -f \"$unit\" ;;\nesac\n"
            ),
        );
        let mut host = Self { place, port, server: None };
        host.boot();
        Some(host)
    }

    fn boot(&mut self) {
        let log = fs::File::create(self.place.join("log")).unwrap();
        let server = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(self.place.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.server = Some(server.unwrap());
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let said = fs::read_to_string(self.place.join("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(60), "sshd does not listen: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn halt(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn run(&self, stage: &Stage, args: &[&str]) -> Ran {
        let path =
            format!("{}:{}", self.place.join("here").display(), std::env::var("PATH").unwrap());
        Ran::from(&stage.command("l", args).env("PATH", path).output().unwrap())
    }

    fn is_up(&self, unit: &str) -> bool {
        self.place.join("there").join(format!("unit-{unit}")).exists()
    }

    fn set_up(&self, unit: &str) {
        fs::write(self.place.join("there").join(format!("unit-{unit}")), "").unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.halt();
    }
}

#[test]
fn services_of_another_host_are_stopped_and_started_by_openssh() {
    let service = |verb: &str| {
        format!(
            "{{ service: {{ do: {verb}, manager: {{ systemd: {{}} }}, host: web1, names: [web, \"worker@1\"] }} }}"
        )
    };
    let stage = Stage::new(&format!(
        "  cycle:\n    fence:\n      stop: {}\n    recover:\n      start: {}\n      check: {}\n",
        service("stop"),
        service("start"),
        service("check"),
    ));
    let Some(mut host) = Host::start(&stage) else { return };
    host.set_up("web");
    host.set_up("worker@1");
    host.run(&stage, &["check", "cycle"]).expect(0);
    host.run(&stage, &["run", "cycle", "--yes"]).expect(0);
    assert!(host.is_up("web") && host.is_up("worker@1"));
    let calls = fs::read_to_string(host.place.join("there/calls")).unwrap();
    // Words arrive as they were sent: the shell over there made no others of them.
    let stopped: Vec<&str> = calls.lines().filter(|call| call.contains(" stop ")).collect();
    assert_eq!(stopped, ["2 stop worker@1", "2 stop web"], "{calls}");

    // A host that does not answer is named, with what OpenSSH said of it; nothing was stopped.
    host.halt();
    let ran = host.run(&stage, &["run", "cycle", "--yes"]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("web1") && ran.stderr.contains("refused"), "{}", ran.stderr);
    assert!(host.is_up("web") && host.is_up("worker@1"));
}

#[test]
fn a_site_is_looked_for_from_another_host_by_openssh() {
    let playbook = |port: u16| {
        format!(
            "  move:\n    modes: [ungraceful]\n    fence:\n      agree: {{ approval: {{ of: 2 }} }}\n    cutover:\n      active: {{ role: {{ to: b, attested: \"{{{{agree.approved_by}}}}\", vantage_points: {{ over: {{ host: web1, tcp: \"localhost:{port}\" }} }} }} }}\nrole: {{ repository: main }}\nsites: {{ a: null, b: null }}\n"
        )
    };
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let Some(mut host) = Host::start(&stage) else { return };
    let carry_out = |host: &Host, port: u16, code: i32| {
        stage.write(&playbook(port));
        host.run(&stage, &["check", "move"]).expect(0);
        host.run(&stage, &["run", "move", "--yes"]).expect(6);
        let run = stage.newest();
        for name in ["ann", "bo"] {
            host.run(&stage, &["approve", &run, "agree", "--as", name, "--yes"]).expect(0);
        }
        let ran = host.run(&stage, &["resume", &run]).expect(code);
        if code != 0 {
            host.run(&stage, &["abort", &run, "--leave", "--reason", "x", "--yes"]).expect(0);
        }
        (run, ran.stderr)
    };
    // The server of ssh itself takes connections there.
    let (_, said) = carry_out(&host, host.port, 1);
    assert!(said.contains("takes connections from `over` (web1)"), "{said}");
    let (run, _) = carry_out(&host, free_port(), 0);
    let shown = host.run(&stage, &["show", &run]).expect(0).stdout;
    assert!(shown.contains("from `over` (web1): Connection refused"), "{shown}");
    host.halt();
    let ran = host.run(&stage, &["check", "move"]).expect(1);
    assert!(ran.stdout.contains("MISSING: the vantage point `over` (web1): "), "{}", ran.stdout);
}
