//! StarRocks: snapshots seen through to their end, and what is committed of them.

use std::fs;

use crate::common::starrocks::fixture::{Fixture, PLACE};

/// The versions whose grammar and answers differ.
const VERSIONS: &[&str] = &["2.5.22-abc", "3.3.5-6d81f75", "3.4.2-1a2b3c", "4.2.0-rc01"];

#[test]
fn check_looks_at_frontends_databases_and_the_repository() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    let said = fixture.run(&["check", "--output", "json"]).expect(0).stdout;
    for part in [
        "StarRocks 3.3.5-6d81f75, shared-nothing: 1 frontends and 1 of 1 backends alive",
        "2 databases with 3 tables and 5 partitions",
        "the first backup makes the repository backstay_sr_warehouse_",
        "backstay's encryption does not cover them",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(fixture.sent("CREATE").is_empty(), "check changes nothing");
}

#[test]
fn a_full_backup_is_committed_when_the_bucket_has_all_of_it() {
    for version in VERSIONS {
        let fixture = Fixture::new(version);
        let ran = fixture.run(&["backup", "sr/warehouse", "--kind", "full"]).expect(0);
        for part in ["dw: UPLOADING", "mart: UPLOADING"] {
            assert!(ran.stderr.contains(part), "{version}: {part} is not in\n{}", ran.stderr);
        }
        let id = ran.stdout.trim().rsplit('@').next().unwrap().to_owned();
        let manifest = fixture.manifest(&id);
        assert_eq!(manifest["server"], format!("StarRocks {version}"));
        let snapshots = manifest["snapshots"]["list"].as_array().unwrap();
        assert_eq!(snapshots.len(), 2, "{version}: one snapshot a database");
        for snapshot in snapshots {
            let label = snapshot["label"].as_str().unwrap();
            assert!(label.starts_with("bs_20"), "{label}");
            assert_eq!(snapshot["timestamp"].as_str().unwrap().len(), 23);
            let keys = fixture.snapshot_keys();
            let own = keys.iter().filter(|key| key.contains(&format!("__ss_{label}/")));
            assert_eq!(own.count() as u64, snapshot["objects"].as_u64().unwrap());
        }
        // Names of tables only in the order that the user has them; never a path, never a type.
        let sent = fixture.sent("BACKUP");
        assert_eq!(sent.len(), 2);
        let label = snapshots[0]["label"].as_str().unwrap();
        let repository = manifest["snapshots"]["repository"].as_str().unwrap();
        assert_eq!(
            sent[0],
            format!(
                "BACKUP SNAPSHOT `dw`.`{label}` TO `{repository}` ON (`customers`, `orders`) \
                 PROPERTIES (\"timeout\" = \"3600\")"
            )
        );
        // What a snapshot leaves out is in the backup.
        let listed = fixture.run(&["ls", &id]).expect(0).stdout;
        for file in
            ["databases/dw.sql", "cluster/frontends.json", "partitions.json", "starrocks.json"]
        {
            assert!(listed.contains(file), "{version}: {file} is not in\n{listed}");
        }
        fixture.run_with_key(&["restore", "sr/warehouse", "--to", "out"]).expect(0);
        let read = |name: &str| fs::read_to_string(fixture.sandbox.path("out").join(name)).unwrap();
        let made = read("databases/dw.sql");
        for part in ["CREATE TABLE `orders`", "CREATE VIEW `v`", "CREATE MATERIALIZED VIEW `mv`"] {
            assert!(made.contains(part), "{version}: {part} is not in\n{made}");
        }
        if *version != VERSIONS[0] {
            let grants = read("cluster/grants.sql");
            assert!(
                grants.contains("GRANT SELECT ON TABLE `dw`.`orders` TO 'analyst'@'%';"),
                "{grants}"
            );
            assert!(grants.contains("CREATE ROLE IF NOT EXISTS `readers`;"), "{grants}");
        }
        let listing: serde_json::Value = serde_json::from_str(&read("partitions.json")).unwrap();
        let orders = &listing["databases"]["dw"]["tables"]["orders"];
        assert_eq!(orders["partitions"]["p20260101"]["version"], 2);
        assert_eq!(orders["partitions"]["p20260103"]["version"], 1);
        assert_eq!(orders["rows"], 4);
        let shown = fixture.run(&["show", &id]).expect(0).stdout;
        assert!(shown.contains(label) && shown.contains("not encrypted by backstay"), "{shown}");
        fixture.run(&["verify", "--depth", "list"]).expect(0);
        fixture.run(&["verify", "--depth", "stored"]).expect(0);
        fixture.run_with_key(&["verify", "--depth", "content"]).expect(0);
    }
}

#[test]
fn no_secret_is_in_anything_that_is_stored() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    let id = fixture.backup(&[]);
    let manifest = fixture.manifest(&id).to_string();
    assert!(!manifest.contains(crate::common::s3::SECRET_KEY));
    for key in fixture.snapshot_keys() {
        let bytes = fs::read(fixture.file(&key)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(crate::common::s3::SECRET_KEY), "{key}");
    }
}

#[test]
fn an_existing_repository_is_taken_and_one_that_leads_elsewhere_is_not() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.backup(&[]);
    fixture.backup(&["--kind", "full"]);
    assert_eq!(fixture.sent("CREATE REPOSITORY").len(), 1);
    let name = fixture.cluster.world().repositories.keys().next().unwrap().clone();
    fixture.cluster.world().repositories.get_mut(&name).unwrap().location =
        "s3://other/place".into();
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(
        ran.stderr.contains("at s3://other/place, and not at s3://backups/site/sr"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains(&format!("DROP REPOSITORY `{name}`")), "{}", ran.stderr);
}

#[test]
fn a_snapshot_whose_bucket_lacks_a_file_is_never_committed() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.forget_files = 1;
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(5);
    assert!(
        ran.stderr.contains("is done, and") && ran.stderr.contains("is missing"),
        "{}",
        ran.stderr
    );
    assert_eq!(fixture.run(&["list"]).expect(0).stdout.trim(), "");
    assert!(fixture.bucket.keys_below(&format!("{PLACE}/commits")).is_empty());
}

#[test]
fn frontends_that_die_at_any_state_are_outlived() {
    for state in [
        "PENDING",
        "SNAPSHOTING",
        "UPLOAD_SNAPSHOT",
        "UPLOADING",
        "SAVE_META",
        "UPLOAD_INFO",
        "FINISHED",
    ] {
        let fixture = Fixture::new("3.4.2-1a2b3c");
        fixture.cluster.world().faults.die_in = Some(state);
        let id = fixture.backup(&[]);
        assert_eq!(fixture.labels(&id).len(), 2, "{state}");
        fixture.run(&["verify"]).expect(0);
    }
}

#[test]
fn another_frontend_is_asked_when_one_is_gone() {
    let fixture = Fixture::with("3.5.1-aa", 3, "");
    fixture.cluster.stop_frontend(0);
    let id = fixture.backup(&[]);
    assert_eq!(fixture.labels(&id).len(), 2);
    fixture.cluster.start_frontend(0);
    fixture.cluster.stop_frontend(1);
    fixture.backup(&["--kind", "full"]);
    for number in [0, 2] {
        fixture.cluster.stop_frontend(number);
    }
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(ran.stderr.contains("failed to connect to StarRocks"), "{}", ran.stderr);
}

#[test]
fn a_reply_that_is_lost_makes_neither_two_jobs_nor_none() {
    for done in [true, false] {
        let fixture = Fixture::new("3.3.5-6d81f75");
        let start = Some("BACKUP");
        let mut world = fixture.cluster.world();
        if done {
            world.faults.no_reply = start;
        } else {
            world.faults.no_reply_undone = start;
        }
        drop(world);
        let id = fixture.backup(&[]);
        assert_eq!(fixture.sent("BACKUP").len(), if done { 2 } else { 3 });
        assert_eq!(fixture.labels(&id).len(), 2);
        let labels: std::collections::BTreeSet<String> = fixture
            .snapshot_keys()
            .iter()
            .filter_map(|key| Some(key.split("__ss_").nth(1)?.split('/').next()?.to_owned()))
            .collect();
        assert_eq!(labels.len(), 2, "no snapshot beside those that are needed: {labels:?}");
    }
}

#[test]
fn a_slot_that_another_job_took_is_no_failure_if_the_snapshot_is_there() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.taken_in = Some("FINISHED");
    let id = fixture.backup(&[]);
    assert_eq!(fixture.labels(&id).len(), 2);
    assert_eq!(fixture.sent("BACKUP").len(), 2);
}

#[test]
fn a_snapshot_that_lost_its_race_is_made_again_under_a_new_label() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.merged = 1;
    let id = fixture.backup(&[]);
    let labels = fixture.labels(&id);
    assert!(labels[0].ends_with("_2") && labels[1].ends_with("_3"), "{labels:?}");
    fixture.cluster.world().faults.merged = 3;
    let ran = fixture.run(&["backup", "sr/warehouse", "--kind", "full"]).expect(1);
    assert!(ran.stderr.contains("in 3 attempts"), "{}", ran.stderr);
}

#[test]
fn uploads_that_fail_are_told_and_waited_for() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.uploads_fail = 2;
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    assert!(ran.stderr.contains("curlCode: 28, Timeout was reached"), "{}", ran.stderr);
}

#[test]
fn a_job_that_hangs_ends_at_the_timeout_and_leaves_nothing_listed() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    {
        let mut world = fixture.cluster.world();
        world.faults.stuck_in = Some("UPLOADING");
        // 3600 seconds, at three a tick.
        world.ticks_a_look = 400;
    }
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(ran.stderr.contains("[TIMEOUT, msg: ]"), "{}", ran.stderr);
    assert!(ran.stderr.contains("raise `timeout`"), "{}", ran.stderr);
    assert!(fixture.bucket.keys_below(&format!("{PLACE}/commits")).is_empty());
}

#[test]
fn who_interrupts_a_backup_ends_the_job_as_well() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.stuck_in = Some("UPLOADING");
    let mut command = fixture.command(&["backup", "sr/warehouse"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let uploading = || {
        let world = fixture.cluster.world();
        world.slots.get("dw").is_some_and(|job| job.state == "UPLOADING")
    };
    while !uploading() {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let world = fixture.cluster.world();
    assert_eq!(world.slots["dw"].state, "CANCELLED");
    assert_eq!(world.slots["dw"].status, "[COMMON_ERROR, msg: user cancelled]");
}

#[test]
fn somebody_elses_job_is_waited_for() {
    use crate::common::starrocks::Job;
    let fixture = Fixture::new("3.3.5-6d81f75");
    {
        let mut world = fixture.cluster.world();
        let now = world.now;
        let mut other = Job::new(true, "dw", "of_somebody_else", "elsewhere", now);
        other.state = "UPLOAD_SNAPSHOT";
        other.timeout = 0;
        world.slots.insert("dw".into(), other);
    }
    let mut command = fixture.command(&["backup", "sr/warehouse"]);
    let mut child = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while fixture.sent("BACKUP").len() < 2 {
        std::thread::yield_now();
    }
    // Unless it ended by itself, when it was looked at whose it is.
    let mut world = fixture.cluster.world();
    if world.slots.get("dw").is_some_and(|job| job.label == "of_somebody_else") {
        world.slots.remove("dw");
    }
    drop(world);
    assert!(child.wait().unwrap().success());
    assert!(fixture.run(&["list"]).expect(0).stdout.lines().count() > 1);
}

#[test]
fn what_cannot_be_backed_up_is_named() {
    let cases: &[(&str, &str, &str, &dyn Fn(&Fixture))] = &[
        ("3.3.5-a", "in mode `shared_data`", "AUTOMATED CLUSTER SNAPSHOT", &|f| {
            f.cluster.world().run_mode = "shared_data".into();
        }),
        ("2.3.0-a", "StarRocks 2.3.0 is too old", "2.5 and later", &|_| {}),
        ("3.3.5-a", "none of 0 backends is alive", "SHOW BACKENDS", &|f| {
            f.cluster.world().backends = 0;
        }),
        ("3.3.5-a", "Access denied", "REPOSITORY on SYSTEM", &|f| {
            f.cluster.world().faults.denied = Some("CREATE REPOSITORY");
        }),
        ("3.3.5-a", "temp partitions", "temporary partitions", &|f| {
            let mut world = f.cluster.world();
            let database = world.databases.get_mut("dw").unwrap();
            database.tables.get_mut("orders").unwrap().temporary = true;
        }),
        ("3.3.5-a", "there is no database to back up", "any right", &|f| {
            f.cluster.world().databases.clear();
        }),
    ];
    for (version, what, hint, arrange) in cases {
        let fixture = Fixture::new(version);
        arrange(&fixture);
        let ran = fixture.run(&["backup", "sr/warehouse"]);
        assert_ne!(ran.code, 0, "{what}");
        for part in [what, hint] {
            assert!(ran.stderr.contains(part), "`{part}` is not in\n{}", ran.stderr);
        }
        assert!(fixture.bucket.keys_below(&format!("{PLACE}/commits")).is_empty());
    }
}

#[test]
fn tables_that_no_snapshot_takes_are_told_and_the_others_are_taken() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    {
        let mut world = fixture.cluster.world();
        world.table("dw", "lists", &["p1"]);
        let database = world.databases.get_mut("dw").unwrap();
        database.tables.get_mut("lists").unwrap().by_list = true;
        database.external.insert("foreign".into(), "MYSQL".into());
    }
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    assert!(
        ran.stderr.contains("`dw`.`lists` is left out: it is partitioned by lists"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("`dw`.`foreign` is left out: its engine is MYSQL"),
        "{}",
        ran.stderr
    );
    // From 3.4 on lists are taken.
    fixture.cluster.world().version_text = "3.4.2-x".into();
    let ran = fixture.run(&["backup", "sr/warehouse", "--kind", "full"]).expect(0);
    assert!(!ran.stderr.contains("partitioned by lists"), "{}", ran.stderr);
    assert!(fixture.sent("BACKUP").iter().any(|sent| sent.contains("`lists`")));
}

#[test]
fn a_dry_run_says_what_a_snapshot_would_have_and_makes_none() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    let ran = fixture.run(&["backup", "sr/warehouse", "--dry-run"]).expect(0);
    assert!(
        ran.stderr.contains("dw: would make a snapshot of 4 partitions in 2 tables; 0 stay"),
        "{}",
        ran.stderr
    );
    assert!(fixture.sent("BACKUP").is_empty() && fixture.sent("CREATE").is_empty());
    assert!(fixture.snapshot_keys().is_empty());
}

#[test]
fn a_wrong_password_and_a_directory_are_refused_early() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fs::write(fixture.sandbox.path("password"), "not the password").unwrap();
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(ran.stderr.contains("Access denied for user 'backup'"), "{}", ran.stderr);
}

#[test]
fn a_label_that_is_taken_is_never_taken_again() {
    let fixture = Fixture::new("4.2.0-rc01");
    fixture.cluster.world().faults.labels_taken = 2;
    let id = fixture.backup(&[]);
    let labels = fixture.labels(&id);
    assert!(labels[0].ends_with("_3") && labels[1].ends_with("_4"), "{labels:?}");
}

#[test]
fn a_partition_that_goes_while_a_backup_is_made_is_named() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    let full = fixture.backup(&["--kind", "full"]);
    {
        let mut world = fixture.cluster.world();
        world.load("dw", "orders", "p20260102", &["5,e"]);
        world.faults.drop_partition = Some(("dw".into(), "orders".into(), "p20260102".into()));
    }
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(
        ran.stderr.contains("partition[p20260102] does not exist  in tableorders"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("a partition was dropped meanwhile: run it again"),
        "{}",
        ran.stderr
    );
    // And so it is: what is gone is told, and the backup before is whole.
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    assert!(ran.stderr.contains("partition `p20260102` of `orders` is gone"), "{}", ran.stderr);
    fixture.run(&["verify", &full, "--depth", "stored"]).expect(0);
}

#[test]
fn a_bucket_that_takes_nothing_commits_nothing() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    let id = fixture.backup(&["--kind", "full"]);
    // The key that the cluster was given is not valid any more.
    fixture.cluster.world().faults.uploads_fail = u32::MAX;
    fixture.cluster.world().ticks_a_look = 400;
    let ran = fixture.run(&["backup", "sr/warehouse", "--kind", "full"]).expect(1);
    assert!(
        ran.stderr.contains("curlCode: 28") && ran.stderr.contains("[TIMEOUT"),
        "{}",
        ran.stderr
    );
    let listed = fixture.run(&["list", "--output", "json"]).expect(0).json();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|line| line["backup"].as_str().unwrap()).collect();
    assert_eq!(listed, [id.as_str()]);
}

#[test]
fn a_user_that_sees_no_jobs_is_told_so_or_gets_a_whole_backup() {
    let fixture = Fixture::new("3.3.5-6d81f75");
    fixture.cluster.world().faults.hidden = true;
    // Jobs go on while nobody sees them: the repository tells when they are done.
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    assert!(ran.stderr.contains("does the user lack EXPORT?"), "{}", ran.stderr);
    let id = ran.stdout.trim().rsplit('@').next().unwrap().to_owned();
    assert_eq!(fixture.labels(&id).len(), 2);
}

#[test]
fn with_tls_the_server_has_to_prove_who_it_is() {
    let fixture = Fixture::new("3.5.1-aa");
    let path = fixture.sandbox.path("ca.pem");
    let settings = format!("      tls: {{ ca_file: {} }}\n", path.display());
    fs::write(&path, fixture.cluster.enable_tls()).unwrap();
    fixture.write_policy(&settings);
    fixture.backup(&[]);
    // Another authority than the one that signed.
    let keystore = fixture.cluster.world().tls.clone();
    fs::write(&path, fixture.cluster.enable_tls()).unwrap();
    fixture.cluster.world().tls = keystore;
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(ran.stderr.contains("failed to connect to StarRocks"), "{}", ran.stderr);
    // No TLS at all is no way round it.
    fixture.cluster.world().tls = None;
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(1);
    assert!(ran.stderr.contains("failed to connect to StarRocks"), "{}", ran.stderr);
}
