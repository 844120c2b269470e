//! Two sites with everything: a primary that archives into its own S3 server, a warm standby, another S3 server with
//! copies, a third place for epochs and journals, HAProxy, and an application that writes through it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{BACKSTAY, Ran};
use crate::playbook_sites::{Application, Sites, free_port, wait};

struct Place {
    sites: Sites,
    a: S3Server,
    b: S3Server,
    third: S3Server,
}

impl Place {
    fn new() -> Option<Self> {
        let archive = |root: &Path| {
            format!("archive_mode = on\narchive_command = '{} %p'\n", root.join("push").display())
        };
        let sites = Sites::with(archive)?;
        let (a, b, third) = (S3Server::start(), S3Server::start(), S3Server::start());
        let place = Self { sites, a, b, third };
        let root = place.sites.stage.sandbox.root();
        fs::write(root.join("s3-key"), ACCESS_KEY).unwrap();
        fs::write(root.join("s3-secret"), SECRET_KEY).unwrap();
        for site in ["a", "b"] {
            place.policy(site, true);
            let state = root.join(format!("pg-state-{site}"));
            fs::create_dir(&state).unwrap();
            fs::set_permissions(state, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let push = format!(
            "#!/bin/sh\ncase $PWD in {}*) site=a ;; *) site=b ;; esac\nroot={}\nexport BACKSTAY_SITE=$site BACKSTAY_STATE_DIR=$root/pg-state-$site\nexec {BACKSTAY} --policy $root/policy-$site.yaml wal push \"$1\"\n",
            place.sites.a.data.display(),
            root.display(),
        );
        fs::write(root.join("push.new"), push).unwrap();
        fs::set_permissions(root.join("push.new"), fs::Permissions::from_mode(0o755)).unwrap();
        place.at("a", &["init"]).expect(0);
        fs::rename(root.join("push.new"), root.join("push")).unwrap();
        Some(place)
    }

    /// The policy of a site. One that is cut off does not reach the third place.
    fn policy(&self, site: &str, reaches: bool) {
        let root = self.sites.stage.sandbox.root();
        let third = if reaches { self.third.port } else { free_port() };
        let s3 = |port: u16| {
            format!(
                "{{ s3: {{ bucket: {BUCKET}, endpoint: \"http://127.0.0.1:{port}\", region: us-east-1, allow_http: true, access_key_id: \"${{file:{}}}\", secret_access_key: \"${{file:{}}}\" }} }}",
                root.join("s3-key").display(),
                root.join("s3-secret").display()
            )
        };
        let (socket, proxy) = (self.sites.proxy.socket.display(), self.sites.proxy.port);
        let (a, b) = (&self.sites.a, &self.sites.b);
        let (a_c, b_c) = (a.connection(), b.connection());
        let text = format!(
            r#"version: 1
stack: demo
tier: development
timezone: UTC
repositories:
  a: {s3_a}
  b: {s3_b}
  third: {s3_third}
role: {{ repository: third, site: "${{env:BACKSTAY_SITE}}" }}
sites: {{ a: null, b: null }}
sources:
  ledger: {{ postgres_cluster: {{ connection: "host=127.0.0.1 port={proxy} user=postgres dbname=postgres", wal: {{ archive: {{ to: [{site}] }}, keep: 7d }} }}, repository: {site} }}
jobs:
  daily: {{ sources: all, kind: full, schedule: {{ cron: "0 3 * * *" }}, keep: {{ for: 7d, at_least: 3 }} }}
playbooks:
  switchover:
    repository: third
    on_failure: undo
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/a: maint }}, end_sessions: true }} }}
      stop: {{ postgres: {{ stop_writers: {{ connection: "{a_c}" }} }}, timeout: 1m }}
      proof: {{ postgres: {{ prove_fenced: {{ connection: "{a_c}" }} }} }}
    recover:
      caught-up: {{ postgres: {{ wait_for: {{ connection: "{b_c}", lsn: "{{{{stop.lsn}}}}" }} }}, timeout: 1m }}
    cutover:
      active: {{ role: {{ to: b, proof: "{{{{proof.proof}}}}" }} }}
      promote: {{ postgres: {{ promote: {{ connection: "{b_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/b: ready }} }} }}
    reprotect:
      halt: {{ command: {{ apply: {{ argv: [{a_s}, stop] }}, repeatable: true }} }}
      rewind: {{ command: {{ apply: {{ argv: [{a_s}, follow, "{b_p}"] }}, repeatable: true }} }}
      start: {{ command: {{ apply: {{ argv: [{a_s}, start] }}, observe: {{ shell: "{a_s} status || exit 1" }} }} }}
      streams: {{ sql: {{ connection: "{b_c}", query: "SELECT count(*) FROM pg_stat_replication", expect: {{ at_least: 1 }} }}, timeout: 1m }}
  report:
    repository: third
    assess:
      apart: {{ divergence: {{ old: "{b_c}", new: "{a_c}", rows: "SELECT row FROM public.ledger" }} }}
  failover:
    repository: third
    modes: [ungraceful]
    assess:
      gone: {{ tcp: {{ address: "127.0.0.1:{b_p}", expect: closed }} }}
      loss: {{ postgres: {{ loss: {{ standby: "{a_c}" }} }} }}
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/b: maint }}, end_sessions: true }} }}
      agree: {{ approval: {{ of: 2, text: "Site b is off; {{{{loss.seconds}}}} s are lost" }} }}
    cutover:
      active: {{ role: {{ to: a, attested: "{{{{agree.approved_by}}}}", unreachable: ["{{{{gone.state}}}}"] }} }}
      promote: {{ postgres: {{ promote: {{ connection: "{a_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/a: ready }} }} }}
  failback:
    repository: third
    on_failure: undo
    assess:
      halt-b: {{ command: {{ apply: {{ argv: [{b_s}, stop] }}, repeatable: true }} }}
      rewind-b: {{ command: {{ apply: {{ argv: [{b_s}, follow, "{a_p}"] }}, repeatable: true }} }}
      start-b: {{ command: {{ apply: {{ argv: [{b_s}, start] }}, observe: {{ shell: "{b_s} status || exit 1" }} }} }}
      follows: {{ sql: {{ connection: "{a_c}", query: "SELECT count(*) FROM pg_stat_replication", expect: {{ at_least: 1 }} }}, timeout: 1m }}
    fence:
      drain: {{ haproxy: {{ socket: {socket}, servers: {{ pg/a: maint }}, end_sessions: true }} }}
      stop: {{ postgres: {{ stop_writers: {{ connection: "{a_c}" }} }}, timeout: 1m }}
      proof: {{ postgres: {{ prove_fenced: {{ connection: "{a_c}" }} }} }}
    recover:
      caught-up: {{ postgres: {{ wait_for: {{ connection: "{b_c}", lsn: "{{{{stop.lsn}}}}" }} }}, timeout: 1m }}
    cutover:
      active: {{ role: {{ to: b, proof: "{{{{proof.proof}}}}" }} }}
      promote: {{ postgres: {{ promote: {{ connection: "{b_c}" }} }}, point_of_no_return: true, timeout: 2m }}
      route: {{ haproxy: {{ socket: {socket}, servers: {{ pg/a: maint, pg/b: ready }} }} }}
    reprotect:
      halt: {{ command: {{ apply: {{ argv: [{a_s}, stop] }}, repeatable: true }} }}
      rewind: {{ command: {{ apply: {{ argv: [{a_s}, follow, "{b_p}"] }}, repeatable: true }} }}
      start: {{ command: {{ apply: {{ argv: [{a_s}, start] }}, observe: {{ shell: "{a_s} status || exit 1" }} }} }}
      streams: {{ sql: {{ connection: "{b_c}", query: "SELECT count(*) FROM pg_stat_replication", expect: {{ at_least: 1 }} }}, timeout: 1m }}
"#,
            s3_a = s3(self.a.port),
            s3_b = s3(self.b.port),
            s3_third = s3(third),
            a_s = a.script.display(),
            a_p = a.port,
            b_p = b.port,
            b_s = b.script.display(),
        );
        // Whole or not at all: the server's archiver reads it at any time.
        let path = root.join(format!("policy-{site}.yaml"));
        fs::write(path.with_extension("new"), &text).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        if site == "a" && reaches {
            fs::write(root.join("policy.yaml"), text).unwrap();
        }
    }

    fn at(&self, site: &str, args: &[&str]) -> Ran {
        let sandbox = &self.sites.stage.sandbox;
        let mut command = sandbox.bare(args);
        command.env("BACKSTAY_POLICY", sandbox.path(format!("policy-{site}.yaml")));
        command.env("BACKSTAY_STATE_DIR", sandbox.path(format!("state-{site}")));
        Ran::from(&command.env("BACKSTAY_SITE", site).output().unwrap())
    }

    /// What lies in a site's own repository of the newest timeline, and how much of it is divergent.
    fn wal(&self, site: &str) -> (u64, u64, u64) {
        let args = ["wal", "status", "--offline", "--output", "json"];
        let status = self.at(site, &args).json();
        let timelines = &status[0]["repositories"][0]["wal"]["timelines"];
        let Some(last) = timelines.as_array().and_then(|all| all.last()) else { return (0, 0, 0) };
        let number = |name: &str| last[name].as_u64().unwrap_or(0);
        (number("timeline"), number("files"), number("divergent"))
    }

    /// How far recovery from a site's own repository would get.
    fn reach(&self, site: &str, more: &[&str]) -> String {
        let args = [
            "restore",
            "demo/ledger",
            "--to",
            "nowhere",
            "--latest",
            "--dry-run",
            "--output",
            "json",
        ];
        let ran = self.at(site, &[&args[..], more].concat()).expect(0);
        let said = ran.json();
        said["cluster"]["recovery"]["end"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
    }
}

fn switch_wal(client: &mut postgres::Client) {
    client.batch_execute("SELECT pg_switch_wal()").unwrap();
}

#[test]
fn an_old_primary_that_comes_back_archives_nothing_that_counts() {
    let Some(place) = Place::new() else { return };
    let sites = &place.sites;
    let application = Application::start(sites.proxy.port, 0);
    application.goes_on();
    // Site a is backed up into its own S3 server, and copied to that of site b.
    place.at("a", &["backup", "demo/ledger"]).expect(0);
    switch_wal(&mut sites.a.client());
    wait("site a archives", || place.wal("a").1 > 0);
    place.at("a", &["copy", "--to", "b"]).expect(0);

    // Over, with nothing lost.
    sites.stage.run("l", &["run", "switchover", "--yes"]).expect(0);
    application.goes_on();
    let written = application.end();
    let there = sites.rows("b");
    let lost: Vec<&i64> = written.rows.iter().filter(|row| !there.contains(row)).collect();
    assert!(lost.is_empty(), "lost in a planned switchover: {lost:?}");
    eprintln!("switchover: {} rows, no writes for {:?}", written.rows.len(), written.gap);
    let ran = place.at("a", &["backup", "demo/ledger"]).expect(1);
    assert!(ran.stderr.contains("site a of stack demo is fenced"), "{}", ran.stderr);
    place.at("b", &["backup", "demo/ledger"]).expect(0);
    switch_wal(&mut sites.b.client());
    wait("site b archives its timeline", || place.wal("b").0 == 2 && place.wal("b").1 > 2);
    let listed = place.at("b", &["list", "demo/ledger", "--output", "json"]).expect(0).json();
    let newest = listed.as_array().unwrap().iter().rfind(|one| one["repository"] == "b");
    assert_eq!((&newest.unwrap()["epoch"], &newest.unwrap()["site"]), (&1.into(), &"b".into()));

    // All of site b dies while it writes, and site a takes over.
    let application = Application::start(sites.proxy.port, 1_000_000);
    application.goes_on();
    let streamed = sites.rows("b");
    let caught_up = || streamed.is_subset(&sites.rows("a"));
    wait("it is streamed", caught_up);
    sites.b.kill();
    sites.stage.run("l", &["run", "failover", "--yes"]).expect(6);
    let run = sites.stage.newest();
    for name in ["ann", "bo"] {
        sites.stage.run("l", &["approve", &run, "agree", "--as", name, "--yes"]).expect(0);
    }
    sites.stage.run_elsewhere("l", &["resume", &run]).expect(0);
    application.goes_on();
    let written = application.end();
    let there = sites.rows("a");
    assert!(streamed.is_subset(&there), "what was streamed is there");
    let lost: Vec<i64> = written.rows.iter().copied().filter(|row| !there.contains(row)).collect();
    eprintln!(
        "failover: {} rows, {} lost, no writes for {:?}",
        written.rows.len(),
        lost.len(),
        written.gap
    );
    // What is lost are the last rows before the end.
    let first = lost.first().copied().unwrap_or(i64::MAX);
    let last = lost.last().copied().unwrap_or(i64::MIN);
    assert!(
        written
            .rows
            .iter()
            .filter(|row| (first..=last).contains(row))
            .all(|row| lost.contains(row))
    );

    // Site b comes back, cut off: it does not know, takes a write, and archives it.
    let before = place.reach("b", &[]);
    let (_, files, none) = place.wal("b");
    assert_eq!(none, 0);
    place.policy("b", false);
    sites.b.ctl(&["start"]).expect(0);
    sites.b.client().batch_execute("INSERT INTO ledger VALUES (-1)").unwrap();
    let segment = sites.b.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    switch_wal(&mut sites.b.client());
    let archived = || {
        let query = format!(
            "SELECT coalesce(last_archived_wal >= '{segment}', false)::text FROM pg_stat_archiver"
        );
        sites.b.value(&query) == "true"
    };
    wait("it archives", archived);
    // It is listed, and leads nowhere.
    place.policy("b", true);
    let (_, more, divergent) = place.wal("b");
    assert!(more > files && divergent > 0, "{files} {more} {divergent}");
    let text = place.at("b", &["wal", "status", "--offline"]).stdout;
    assert!(text.contains("DIVERGENT"), "{text}");
    assert_eq!(place.reach("b", &[]), before, "recovery ends where it did");
    assert_ne!(place.reach("b", &["--allow-divergent"]), before);
    // It reaches the others again, and finds itself fenced: its WAL stays where it is.
    let failed = |text: &str| {
        sites.b.value(&format!("SELECT failed_count::text {text}")).parse::<u64>().unwrap()
    };
    let count = failed("FROM pg_stat_archiver");
    switch_wal(&mut sites.b.client());
    sites
        .b
        .client()
        .batch_execute("INSERT INTO ledger VALUES (-2); SELECT pg_switch_wal()")
        .unwrap();
    wait("its archive_command fails", || failed("FROM pg_stat_archiver") > count);
    let status = place.at("b", &["status", "demo/ledger"]);
    assert!(status.stderr.contains("site b of stack demo is fenced"), "{}", status.stderr);
    assert!(place.at("b", &["role", "show"]).expect(0).stdout.contains("FENCED"));
    // What it has of its own is told before anybody removes it.
    let ran = sites.stage.run("l", &["run", "report", "--yes", "--output", "json"]).expect(0);
    let outputs = &ran.json()["steps"][0]["outputs"];
    let number = |name: &str| outputs[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(
        (outputs["timeline"].as_str(), outputs["diverged"].as_str()),
        (Some("2"), Some("yes"))
    );
    assert_eq!(number("only_old"), sites.rows("b").difference(&sites.rows("a")).count() as u64);
    assert!(number("bytes") > 0 && number("only_old") >= 2, "{outputs}");
    assert!(outputs["examples"].as_str().unwrap().contains("-1 -2"), "{outputs}");
    // Nobody is led to it, and the ledger has one history.
    let application = Application::start(sites.proxy.port, 2_000_000);
    application.goes_on();
    application.end();
    assert!(!sites.rows("b").contains(&2_000_000) && !sites.rows("a").contains(&-1));
    fails_back(&place);
}

/// Site b takes over once more, as what it had of its own is gone: archived, backed up and copied at both sites.
fn fails_back(place: &Place) {
    let sites = &place.sites;
    let application = Application::start(sites.proxy.port, 3_000_000);
    application.goes_on();
    sites.stage.run("l", &["run", "failback", "--yes"]).expect(0);
    application.goes_on();
    let written = application.end();
    let there = sites.rows("b");
    let lost: Vec<&i64> = written.rows.iter().filter(|row| !there.contains(row)).collect();
    assert!(lost.is_empty(), "lost on the way back: {lost:?}");
    assert!(!there.contains(&-1) && !there.contains(&-2), "what was written aside came in");
    eprintln!("failback: {} rows, no writes for {:?}", written.rows.len(), written.gap);
    assert_eq!(sites.b.value("SELECT pg_is_in_recovery()::text"), "false");
    assert_eq!(sites.a.value("SELECT pg_is_in_recovery()::text"), "true");

    // Site a writes nothing any more; site b archives its new timeline into its own S3 server, is backed up
    // there, and copied to that of site a.
    let ran = place.at("a", &["backup", "demo/ledger"]).expect(1);
    assert!(ran.stderr.contains("site a of stack demo is fenced"), "{}", ran.stderr);
    place.at("b", &["backup", "demo/ledger"]).expect(0);
    switch_wal(&mut sites.b.client());
    wait("site b archives the timeline after the failover", || {
        let (timeline, files, divergent) = place.wal("b");
        timeline == 4 && files > 0 && divergent == 0
    });
    place.at("b", &["copy", "--to", "a"]).expect(0);
    let listed = place.at("b", &["list", "demo/ledger", "--output", "json"]).expect(0).json();
    let newest = |repository: &str| {
        let all = listed.as_array().unwrap();
        all.iter().rfind(|one| one["repository"] == repository).unwrap().clone()
    };
    let (here, copy) = (newest("b"), newest("a"));
    assert_eq!((&here["epoch"], &here["site"]), (&3.into(), &"b".into()));
    assert_eq!(here["backup"], copy["backup"], "{listed}");
    // Recovery goes over the whole way from the S3 server of either site.
    for more in [&[][..], &["--repository", "a"]] {
        assert!(place.reach("b", more).contains('/'));
    }
}
