//! Which site is active: epochs, what a fenced site may not do, and who may say so.

use std::fs;
use std::sync::Arc;

use backstay::store::{ActiveSite, RoleStore, Store, Worker};

use crate::common::Ran;
use crate::common::playbook::Stage;

/// A stack with two sites, and playbooks that make one of them the active one.
fn stage(role: &str, last: &str) -> Stage {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once("playbooks:\n").unwrap();
    let head = head.replace(
        "sources:\n",
        &format!(
            "  third: {{ local: {{ path: {} }} }}\nsources:\n  db: {{ postgres_cluster: {{ connection: \"host=/nowhere dbname=x\", wal: {{ archive: {{ to: [main] }} }} }}, objectives: {{ rpo: 48h }} }}\n",
            stage.sandbox.path("third").display()
        ),
    );
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let playbook = |to: &str| {
        format!(
            "  to-{to}:\n    on_failure: undo\n    assess:\n      gone: {{ tcp: {{ address: \"127.0.0.1:{closed}\", expect: closed }} }}\n      agree: {{ approval: {{ of: 2 }} }}\n    cutover:\n      active: {{ role: {{ to: {to}, attested: \"{{{{agree.approved_by}}}}\", unreachable: [\"{{{{gone.state}}}}\"] }} }}\n{last}"
        )
    };
    let text = format!(
        "{head}role: {{ repository: third, site: \"${{env:BACKSTAY_SITE}}\"{role} }}\nsites: {{ a: null, b: null }}\nplaybooks:\n{}{}",
        playbook("a"),
        playbook("b"),
    );
    fs::write(&path, text).unwrap();
    stage.sandbox.run(&["init"]).expect(0);
    stage
}

fn at(stage: &Stage, site: &str, args: &[&str]) -> Ran {
    Ran::from(&stage.sandbox.command(args).env("BACKSTAY_SITE", site).output().unwrap())
}

/// Carries one of the playbooks out, with the approvals it asks for.
fn move_to(stage: &Stage, site: &str, code: i32) -> String {
    let run = |args: &[&str]| {
        Ran::from(&stage.command("l", args).env("BACKSTAY_SITE", "a").output().unwrap())
    };
    run(&["run", &format!("to-{site}"), "--yes"]).expect(6);
    let id = stage.newest();
    for name in ["ann", "bo"] {
        run(&["approve", &id, "agree", "--as", name, "--yes"]).expect(0);
    }
    run(&["resume", &id]).expect(code);
    id
}

#[test]
fn a_site_that_is_not_the_active_one_writes_nothing() {
    let stage = stage("", "");
    let segment = stage.sandbox.path("000000010000000000000001");
    // As one of PostgreSQL 17 begins.
    let mut wal = vec![0; 16 << 20];
    wal[..4].copy_from_slice(&[0x16, 0xd1, 2, 0]);
    wal[4..8].copy_from_slice(&1u32.to_le_bytes());
    wal[8..16].copy_from_slice(&(16u64 << 20).to_le_bytes());
    wal[24..32].copy_from_slice(&7u64.to_le_bytes());
    wal[32..36].copy_from_slice(&(16u32 << 20).to_le_bytes());
    fs::write(&segment, wal).unwrap();
    let segment = segment.display().to_string();
    // Before anybody said so everybody may.
    at(&stage, "a", &["backup", "demo/files"]).expect(0);
    at(&stage, "b", &["backup", "demo/files"]).expect(0);
    move_to(&stage, "b", 0);
    for args in [&["backup", "demo/files"][..], &["prune", "--yes"], &["wal", "push", &segment]] {
        let ran = at(&stage, "a", args);
        assert!((1..=125).contains(&ran.code), "{args:?}: {}\n{}", ran.code, ran.stderr);
        assert!(ran.stderr.contains("site a of stack demo is fenced"), "{args:?}\n{}", ran.stderr);
        assert!(ran.stderr.contains("site b is active since epoch 1"), "{args:?}\n{}", ran.stderr);
    }
    // Looking and restoring is nobody's to forbid.
    at(&stage, "a", &["list"]).expect(0);
    at(&stage, "a", &["restore", "demo/files", "--to", "out"]).expect(0);
    at(&stage, "b", &["backup", "demo/files"]).expect(0);
    at(&stage, "b", &["prune", "--yes"]).expect(0);
    // And back: another epoch; the first one is still there.
    move_to(&stage, "a", 0);
    at(&stage, "b", &["backup", "demo/files"]).expect(1);
    at(&stage, "a", &["backup", "demo/files"]).expect(0);
    let epochs = fs::read_dir(stage.sandbox.path("third/demo/role")).unwrap().count();
    assert_eq!(epochs, 2);
    let first = fs::read_to_string(stage.sandbox.path("third/demo/role/00000001.json")).unwrap();
    assert!(first.contains("attested by ann, bo"), "{first}");
    let ran = at(&stage, "c", &["backup", "demo/files"]).expect(2);
    assert!(ran.stderr.contains("no site `c`"), "{}", ran.stderr);
}

#[test]
fn a_backup_ends_when_another_site_takes_over() {
    let stage = stage("", "");
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let slow = "sources:\n  slow: { command: { shell: \"echo begun; exec sleep 600\" }, objectives: { rpo: 48h } }\n";
    fs::write(&path, text.replace("sources:\n", slow)).unwrap();
    let backup = stage
        .sandbox
        .command(&["backup", "demo/slow"])
        .env("BACKSTAY_SITE", "a")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let intents = stage.sandbox.path("repo/demo/sources/slow/intent");
    let start = std::time::Instant::now();
    while fs::read_dir(&intents).map_or(0, Iterator::count) == 0 {
        assert!(start.elapsed().as_secs() < 60, "the backup does not begin");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    move_to(&stage, "b", 0);
    let ran = crate::common::finish(backup).expect(1);
    assert!(ran.stderr.contains("site a of stack demo is fenced"), "{}", ran.stderr);
    assert_eq!(stage.sandbox.listed(), 0);
}

#[test]
fn an_epoch_that_is_taken_back_is_followed_by_another() {
    let stage = stage("", "      no: { command: { apply: { argv: [false] } } }\n");
    move_to(&stage, "b", 1);
    // As it was: nobody is fenced.
    at(&stage, "a", &["backup", "demo/files"]).expect(0);
    at(&stage, "b", &["backup", "demo/files"]).expect(0);
    let epochs = fs::read_dir(stage.sandbox.path("third/demo/role")).unwrap().count();
    assert_eq!(epochs, 2, "epochs only go on");
}

#[test]
fn where_nobody_can_be_asked_the_policy_decides() {
    for (role, code) in [("", 0), (", self_fence: true", 1)] {
        let stage = stage(role, "");
        move_to(&stage, "a", 0);
        fs::rename(stage.sandbox.path("third"), stage.sandbox.path("away")).unwrap();
        let ran = at(&stage, "a", &["backup", "demo/files"]).expect(code);
        let said = if code == 0 { "is not known" } else { "failed to ask which site is active" };
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn of_two_that_want_an_epoch_one_gets_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Store::new(
        Arc::new(object_store::memory::InMemory::new()),
        runtime.handle().clone(),
        "memory",
    );
    let roles = RoleStore::new(&store, "demo");
    assert_eq!(roles.current().unwrap(), None);
    let site = |site: &str| {
        let now = jiff::Timestamp::UNIX_EPOCH;
        ActiveSite::new(1, site, "run/step", "proven", Worker::here("here".into()), now)
    };
    let (a, b) = (site("a"), site("b"));
    assert!(roles.begin(&b).unwrap());
    assert!(!roles.begin(&a).unwrap());
    // A reply that was lost is no loss.
    assert!(roles.begin(&b).unwrap());
    assert_eq!(roles.current().unwrap(), Some(b.clone()));
    // What is remembered is believed where its last record is what lies there.
    let now = jiff::Timestamp::UNIX_EPOCH;
    let next = ActiveSite::new(2, "a", "run/step", "proven", Worker::here("here".into()), now);
    assert!(roles.begin(&next).unwrap());
    for known in [vec![], vec![b.clone()], vec![b.clone(), next.clone()], vec![a]] {
        assert_eq!(roles.history(&known).unwrap(), [b.clone(), next.clone()]);
    }
}

#[test]
fn what_just_moved_does_not_move_again_unless_people_agree() {
    let stage = stage(", settle: 1h", "");
    move_to(&stage, "b", 0);
    let id = move_to(&stage, "a", 1);
    let shown = Ran::from(&stage.command("l", &["show", &id]).output().unwrap()).expect(0).stdout;
    assert!(
        shown.contains("epoch 1 of site b began") && shown.contains("`role.settle`"),
        "{shown}"
    );
    at(&stage, "b", &["backup", "demo/files"]).expect(0);
    // The people who agreed knew.
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let agreed = "unsettled: \"{{agree.approved_by}}\", attested:";
    fs::write(&path, text.replace("attested:", agreed)).unwrap();
    move_to(&stage, "a", 0);
    at(&stage, "a", &["backup", "demo/files"]).expect(0);
}

fn acting(stage: &Stage, args: &[&str]) -> Ran {
    Ran::from(&stage.command("l", args).env("BACKSTAY_SITE", "a").output().unwrap())
}

#[test]
fn nothing_becomes_the_real_thing_where_the_epoch_is_anothers_by_now() {
    let stage = stage(
        "",
        "      look: { manual: { text: look } }\n      go: { command: { apply: { shell: \"echo +go >> $LEDGER\" } }, point_of_no_return: true }\n",
    );
    let id = move_to(&stage, "b", 6);
    // Somebody makes the other site the active one while this run waits.
    let first = stage.sandbox.path("third/demo/role/00000001.json");
    let text = fs::read_to_string(&first).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["epoch"] = 2.into();
    record["site"] = "a".into();
    record["run"] = "other/step".into();
    fs::write(first.with_file_name("00000002.json"), record.to_string()).unwrap();
    acting(&stage, &["attest", &id, "look", "--text", "looked"]).expect(0);
    let ran = acting(&stage, &["resume", &id]).expect(1);
    assert!(ran.stderr.contains("site b is not the active one, or not any more"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty());
}

#[test]
fn nobodys_word_takes_the_place_of_an_epoch() {
    let stage = stage(
        ", settle: 1h",
        "      go: { command: { apply: { shell: \"echo +go >> $LEDGER\" } }, point_of_no_return: true }\n",
    );
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("    on_failure: undo\n", "")).unwrap();
    move_to(&stage, "b", 0);
    let id = move_to(&stage, "a", 1);
    let shown = acting(&stage, &["show", &id]).expect(0);
    assert!(shown.stderr.contains(&format!("retry-step {id} active")), "{}", shown.stderr);
    assert!(!shown.stderr.contains("skip-step"), "{}", shown.stderr);
    for (verb, option) in [("skip-step", "--reason"), ("attest", "--text")] {
        let ran = acting(&stage, &[verb, &id, "active", option, "no time"]).expect(2);
        assert!(ran.stderr.contains("makes a site the active one"), "{}", ran.stderr);
    }
    assert_eq!(stage.ledger("l"), ["+go"], "of the first alone");
}
