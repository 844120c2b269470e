//! StarRocks: incrementals, what prune and copies make of snapshots, and the way back.

use std::fs;

use crate::common::s3::BUCKET;
use crate::common::starrocks::fixture::{Fixture, PLACE};

const VERSION: &str = "3.3.5-6d81f75";

/// A full backup and an incremental one over it.
fn chain() -> (Fixture, String, String) {
    let fixture = Fixture::new(VERSION);
    let full = fixture.backup(&["--kind", "full"]);
    {
        let mut world = fixture.cluster.world();
        world.load("dw", "orders", "p20260102", &["5,e", "6,f"]);
        world.truncate("dw", "orders", "p20260103");
        world.load("dw", "orders", "p20260103", &["7,g"]);
    }
    let second = fixture.backup(&[]);
    (fixture, full, second)
}

#[test]
fn an_incremental_takes_the_partitions_that_changed() {
    let (fixture, full, second) = chain();
    let manifest = fixture.manifest(&second);
    assert_eq!(manifest["kind"], "incremental");
    assert_eq!(manifest["base"], full.as_str());
    let sent = fixture.sent("BACKUP");
    assert_eq!(sent.len(), 3, "nothing of `mart` changed");
    assert!(sent[2].contains("ON (`orders` PARTITION (`p20260102`, `p20260103`))"), "{}", sent[2]);
    // The old snapshots still hold what did not change.
    let labels = fixture.labels(&second);
    assert_eq!(labels.len(), 3, "{labels:?}");
    // Nothing changed at all: no statement, and a backup all the same.
    let third = fixture.backup(&[]);
    assert_eq!(fixture.sent("BACKUP").len(), 3);
    assert_eq!(fixture.labels(&third), labels);
    fixture.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn another_definition_and_a_lost_snapshot_need_more_than_what_changed() {
    let (fixture, ..) = chain();
    {
        let mut world = fixture.cluster.world();
        let table = world.databases.get_mut("dw").unwrap().tables.get_mut("orders").unwrap();
        table.columns.push_str(",\n  `more` int NULL");
    }
    fixture.backup(&[]);
    let sent = fixture.sent("BACKUP");
    assert!(sent.last().unwrap().contains("ON (`orders`)"), "{}", sent.last().unwrap());
    let key = fixture.snapshot_keys().into_iter().find(|key| key.contains("__meta.")).unwrap();
    fs::remove_file(fixture.file(&key)).unwrap();
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    assert!(ran.stderr.contains("lost objects"), "{}", ran.stderr);
    let id = ran.stdout.trim().rsplit('@').next().unwrap().to_owned();
    assert_eq!(fixture.manifest(&id)["kind"], "full");
}

#[test]
fn verify_names_what_is_wrong_in_the_bucket_without_asking_starrocks() {
    let (fixture, _, second) = chain();
    let before = fixture.cluster.statements().len();
    let labels = fixture.labels(&second);
    let keys = fixture.snapshot_keys();
    let find = |part: &str| {
        keys.iter().find(|key| key.contains(&labels[0]) && key.contains(part)).unwrap()
    };
    let damage = |key: &str, depth: &str, said: &str, change: &dyn Fn(&std::path::Path)| {
        let path = fixture.file(key);
        let bytes = fs::read(&path).unwrap();
        change(&path);
        let ran = fixture.run(&["verify", &second, "--depth", depth]).expect(5);
        let text = ran.stdout + &ran.stderr;
        assert!(text.contains(said), "{key}: `{said}` is not in\n{text}");
        fs::write(&path, bytes).unwrap();
    };
    damage(find("__info_"), "list", "is missing: the snapshot was never finished", &|path| {
        fs::remove_file(path).unwrap();
    });
    damage(find("__info_"), "list", "has another MD5 than its name says", &|path| {
        fs::write(path, "{}").unwrap();
    });
    damage(find("__meta"), "list", "has another MD5 than its name says", &|path| {
        fs::write(path, "other").unwrap();
    });
    damage(find("_0.dat."), "list", "is missing", &|path| fs::remove_file(path).unwrap());
    damage(find(".hdr."), "stored", "has another MD5 than its name says", &|path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    fixture.run(&["verify", &second]).expect(0);
    assert_eq!(fixture.cluster.statements().len(), before, "StarRocks was not asked");
}

#[test]
fn prune_removes_snapshots_that_no_backup_needs_and_no_other() {
    let (fixture, full, second) = chain();
    // A full that stands alone makes the first two expire.
    let third = fixture.backup(&["--kind", "full", "--job", "daily"]);
    for id in [&full, &second] {
        fixture.run(&["delete", id, "--yes"]).expect(0);
    }
    for _ in 0..3 {
        fixture.run(&["prune", "--yes"]).expect(0);
    }
    let keys = fixture.snapshot_keys();
    let left: std::collections::BTreeSet<&str> =
        keys.iter().filter_map(|key| key.split("__ss_").nth(1)?.split('/').next()).collect();
    let labels = fixture.labels(&third);
    assert_eq!(
        left.into_iter().collect::<Vec<_>>(),
        labels.iter().map(String::as_str).collect::<Vec<_>>()
    );
    assert!(keys.iter().any(|key| key.ends_with("/__repo_info")), "{keys:?}");
    fixture.run(&["verify", "--depth", "stored"]).expect(0);
}

#[test]
fn prune_keeps_old_snapshots_that_hold_a_partition_of_a_younger_backup() {
    let (fixture, full, second) = chain();
    fixture.run(&["delete", &full, "--yes"]).expect(0);
    for _ in 0..3 {
        fixture.run(&["prune", "--yes"]).expect(0);
    }
    fixture.run(&["verify", &second, "--depth", "stored"]).expect(0);
    let ran = fixture.run_with_key(&[
        "restore",
        "sr/warehouse",
        "--to",
        "server",
        "--database",
        "dw=new",
    ]);
    ran.expect(0);
    let mut world = fixture.cluster.world();
    let rows = world.rows("new", "orders");
    assert_eq!(rows, world.rows("dw", "orders"));
    assert_eq!(world.partition("new", "orders", "p20260102").rows.len(), 3);
}

#[test]
fn what_a_cancelled_job_left_goes_as_well() {
    let fixture = Fixture::new(VERSION);
    let first = fixture.backup(&["--kind", "full"]);
    {
        let mut world = fixture.cluster.world();
        world.faults.stuck_in = Some("SAVE_META");
        world.ticks_a_look = 400;
    }
    fixture.run(&["backup", "sr/warehouse", "--kind", "full"]).expect(1);
    let left = fixture.snapshot_keys().len();
    {
        let mut world = fixture.cluster.world();
        world.faults.stuck_in = None;
        world.ticks_a_look = 1;
    }
    assert!(left > fixture.manifest(&first)["snapshots"]["list"].as_array().unwrap().len() * 3);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for _ in 0..4 {
        fixture.run(&["prune", "--yes"]).expect(0);
    }
    let keys = fixture.snapshot_keys();
    let labels = fixture.labels(&first);
    for key in keys.iter().filter(|key| key.contains("__ss_")) {
        assert!(labels.iter().any(|label| key.contains(&format!("__ss_{label}/"))), "{key}");
    }
    fixture.run(&["verify", &first, "--depth", "stored"]).expect(0);
}

#[test]
fn a_copy_restores_when_the_first_bucket_is_gone() {
    let (fixture, ..) = chain();
    fixture.run(&["copy", "--to", "offsite"]).expect(0);
    fixture.run(&["verify", "--repository", "offsite", "--depth", "stored"]).expect(0);
    fs::remove_dir_all(fixture.bucket.root.path().join(BUCKET)).unwrap();
    // Another cluster, which never saw the first bucket.
    {
        let mut world = fixture.cluster.world();
        world.repositories.clear();
        world.slots.clear();
    }
    let before = fixture.cluster.world().rows("dw", "orders");
    let args = [
        "restore",
        "sr/warehouse",
        "--to",
        "server",
        "--repository",
        "offsite",
        "--database",
        "dw=again",
    ];
    fixture.run_with_key(&args).expect(0);
    assert!(fixture.sent("CREATE READ ONLY REPOSITORY").len() == 1);
    assert_eq!(fixture.cluster.world().rows("again", "orders"), before);
}

#[test]
fn a_copy_is_refused_where_the_snapshot_is_damaged() {
    let (fixture, ..) = chain();
    let key = fixture.snapshot_keys().into_iter().find(|key| key.contains(".hdr.")).unwrap();
    let path = fixture.file(&key);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let ran = fixture.run(&["copy", "--to", "offsite"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("was altered in"), "{}", ran.stderr);
    let place = format!("{PLACE}/commits");
    assert!(fixture.offsite.keys_below(&place).is_empty());
}

#[test]
fn a_restore_is_beside_what_is_in_use_and_compared_with_it() {
    let (fixture, ..) = chain();
    let ran =
        fixture.run_with_key(&["restore", "sr/warehouse", "--to", "server", "--output", "json"]);
    let done = ran.expect(0).json();
    let databases = done["starrocks"]["databases"].as_array().unwrap();
    assert_eq!(databases.len(), 2);
    let to = databases[0]["to"].as_str().unwrap().to_owned();
    assert!(to.starts_with("dw_restored_20"), "{to}");
    let world = fixture.cluster.world();
    for table in ["orders", "customers"] {
        assert_eq!(world.rows(&to, table), world.rows("dw", table), "{table}");
    }
    drop(world);
    // Each partition once, from the snapshot that has it; replicas as many as there were.
    let sent = fixture.sent("RESTORE");
    assert_eq!(sent.len(), 3);
    assert!(sent[0].contains("`orders` PARTITION (`p20260101`)"), "{}", sent[0]);
    assert!(sent[1].contains("`orders` PARTITION (`p20260102`, `p20260103`)"), "{}", sent[1]);
    assert!(sent.iter().all(|text| text.contains("\"replication_num\" = \"1\"")), "{sent:?}");
}

#[test]
fn a_swap_gives_the_old_database_another_name() {
    let (fixture, ..) = chain();
    let before = fixture.cluster.world().rows("dw", "orders");
    fixture.cluster.world().load("dw", "orders", "p20260101", &["8,damage"]);
    let args = ["restore", "sr/warehouse", "--to", "server", "--database", "dw", "--swap"];
    let refused = fixture.run_with_key(&args);
    assert_ne!(refused.code, 0, "without a terminal nobody can confirm");
    assert!(fixture.sent("RESTORE").is_empty());
    fixture.run_with_key(&[&args[..], &["--yes"]].concat()).expect(0);
    let world = fixture.cluster.world();
    assert_eq!(world.rows("dw", "orders"), before);
    let aside = world.databases.keys().find(|name| name.starts_with("dw_before_")).unwrap();
    assert!(world.rows(aside, "orders").contains(&"8,damage".to_owned()));
}

#[test]
fn rows_that_are_missing_are_found_and_nothing_is_swapped() {
    let (fixture, ..) = chain();
    fixture.cluster.world().faults.lose_rows = true;
    let args = ["restore", "sr/warehouse", "--to", "server", "--database", "dw", "--swap", "--yes"];
    let ran = fixture.run_with_key(&args).expect(5);
    assert!(ran.stderr.contains("rows in the backup"), "{}", ran.stderr);
    assert!(fixture.cluster.world().databases.keys().all(|name| !name.contains("_before_")));
}

#[test]
fn what_starrocks_would_destroy_is_refused() {
    let (fixture, ..) = chain();
    let restore = |more: &[&str]| {
        fixture.run_with_key(&[&["restore", "sr/warehouse", "--to", "server"], more].concat())
    };
    let ran = restore(&["--database", "dw=mart"]);
    assert!(ran.stderr.contains("there is a database `mart` already"), "{}", ran.stderr);
    let ran = restore(&["--database", "nothing"]);
    assert!(ran.stderr.contains("no database `nothing`"), "{}", ran.stderr);
    let ran = restore(&["--database", "dw", "--table", "nothing"]);
    assert!(ran.stderr.contains("no table `nothing`"), "{}", ran.stderr);
    let ran = restore(&["--database", "dw", "--table", "orders", "--swap"]);
    assert!(ran.stderr.contains("whole databases"), "{}", ran.stderr);
    fixture.cluster.world().version_text = "3.2.9-old".into();
    let ran = restore(&[]);
    assert!(ran.stderr.contains("this cluster runs 3.2.9"), "{}", ran.stderr);
    fixture.cluster.world().version_text = VERSION.into();
    let key = fixture.snapshot_keys().into_iter().find(|key| key.contains("_0.dat.")).unwrap();
    fs::remove_file(fixture.file(&key)).unwrap();
    let ran = restore(&[]).expect(5);
    assert!(ran.stderr.contains("is missing"), "{}", ran.stderr);
    assert!(fixture.sent("RESTORE").is_empty() && fixture.sent("CREATE DATABASE").is_empty());
}

#[test]
fn bytes_that_are_wrong_end_a_restore_at_once() {
    let (fixture, ..) = chain();
    let key = fixture.snapshot_keys().into_iter().find(|key| key.contains(".hdr.")).unwrap();
    fs::write(fixture.file(&key), "other").unwrap();
    let ran = fixture.run_with_key(&["restore", "sr/warehouse", "--to", "server"]).expect(5);
    assert!(ran.stderr.contains("invalid md5 of downloaded file"), "{}", ran.stderr);
    let world = fixture.cluster.world();
    let job = world.slots.values().find(|job| !job.backup).unwrap();
    assert_eq!(job.state, "CANCELLED");
}

#[test]
fn frontends_that_die_while_restoring_are_outlived() {
    for state in ["PENDING", "SNAPSHOTING", "DOWNLOAD", "DOWNLOADING", "COMMIT", "COMMITTING"] {
        let (fixture, ..) = chain();
        fixture.cluster.world().faults.die_in = Some(state);
        fixture
            .run_with_key(&["restore", "sr/warehouse", "--to", "server", "--database", "dw=new"])
            .expect(0);
        let world = fixture.cluster.world();
        assert_eq!(world.rows("new", "orders"), world.rows("dw", "orders"), "{state}");
    }
}

#[test]
fn there_are_never_more_replicas_than_backends() {
    let fixture = Fixture::new("3.4.2-1a2b3c");
    {
        let mut world = fixture.cluster.world();
        world.backends = 3;
        for partition in ["p20260101", "p20260102"] {
            world.partition("dw", "orders", partition).replicas = 3;
        }
    }
    fixture.backup(&[]);
    fixture.cluster.world().backends = 2;
    let args =
        ["restore", "sr/warehouse", "--to", "server", "--database", "dw=new", "--table", "orders"];
    fixture.run_with_key(&args).expect(0);
    let sent = fixture.sent("RESTORE");
    assert!(sent.iter().any(|text| text.contains("\"replication_num\" = \"2\"")), "{sent:?}");
    let world = fixture.cluster.world();
    assert_eq!(world.rows("new", "orders"), world.rows("dw", "orders"));
}

#[test]
fn a_snapshot_of_one_site_is_restored_at_the_other() {
    let (fixture, ..) = chain();
    fixture.run(&["copy", "--to", "offsite"]).expect(0);
    let rows = fixture.cluster.world().rows("dw", "orders");
    // The other site: a cluster and a policy of its own, with the copy as its repository.
    let other = crate::common::starrocks::StarRocks::start("3.3.6-0", 1);
    let policy = fixture.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let text = text
        .replace(&fixture.cluster.addresses()[0], &other.addresses()[0])
        .replace("  warehouse:\n", "  warehouse:\n    repository: offsite\n");
    let (text, _) = text.split_once("  copies: ").unwrap();
    fs::write(&policy, text).unwrap();
    fixture
        .run_with_key(&["restore", "sr/warehouse", "--to", "server", "--database", "dw=dw"])
        .expect(0);
    assert_eq!(other.world().rows("dw", "orders"), rows);
    let repository = other.world().repositories.values().next().unwrap().read_only;
    assert!(repository, "the other site only reads");
    let ran = fixture.run(&["backup", "sr/warehouse"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("the cluster only reads the repository"), "{}", ran.stderr);
}

#[test]
fn partitions_that_are_too_old_for_the_table_stay() {
    let fixture = Fixture::new(VERSION);
    {
        let mut world = fixture.cluster.world();
        world.databases.get_mut("dw").unwrap().tables.get_mut("orders").unwrap().dynamic = true;
    }
    fixture.backup(&[]);
    fixture.cluster.world().faults.scheduler = true;
    let args = ["restore", "sr/warehouse", "--to", "server", "--database", "dw=new"];
    let ran = fixture.run_with_key(&args).expect(0);
    assert!(
        ran.stderr.contains("no longer makes and drops partitions of 1 table by itself: orders"),
        "{}",
        ran.stderr
    );
    let sent = fixture.sent("ALTER TABLE");
    assert_eq!(sent, ["ALTER TABLE `new`.`orders` SET (\"dynamic_partition.enable\" = \"false\")"]);
    assert_eq!(fixture.cluster.world().rows("new", "orders").len(), 4);
}

#[test]
fn an_incremental_without_the_writers_key_is_a_full() {
    let (fixture, ..) = chain();
    fs::remove_file(fixture.sandbox.path("writer.key")).unwrap();
    fixture.sandbox.run_bare(&["key", "generate", "--out", "writer.key"]).expect(0);
    let ran = fixture.run(&["backup", "sr/warehouse"]).expect(0);
    let id = ran.stdout.trim().rsplit('@').next().unwrap().to_owned();
    assert_eq!(fixture.manifest(&id)["kind"], "full", "{}", ran.stderr);
}

#[test]
fn a_dry_run_of_a_restore_names_the_jobs_and_begins_none() {
    let (fixture, full, second) = chain();
    let args = ["restore", "sr/warehouse", "--to", "server", "--database", "dw=new", "--dry-run"];
    let ran = fixture.run_with_key(&args).expect(0);
    for id in [&full, &second] {
        let label = format!("bs_{}_1", id.replace('-', "_"));
        let part = format!("into `new` from {label}");
        assert!(ran.stderr.contains(&part), "{part} is not in\n{}", ran.stderr);
    }
    assert!(fixture.sent("CREATE DATABASE").is_empty() && fixture.sent("RESTORE").is_empty());
}

#[test]
fn views_and_rights_come_back_on_request() {
    let fixture = Fixture::new(VERSION);
    {
        // One view is of another, and comes first by its name.
        let mut world = fixture.cluster.world();
        let text = "CREATE VIEW `above` AS SELECT `id` FROM `dw`.`v`".to_owned();
        world.database("dw").views.insert("above".into(), text);
    }
    fixture.backup(&[]);
    let beside = ["restore", "sr/warehouse", "--to", "server", "--database", "dw=other", "--views"];
    let ran = fixture.run_with_key(&beside);
    assert!(ran.stderr.contains("the views of `dw` are of tables in `dw`"), "{}", ran.stderr);
    // Everything is gone, and one of the users.
    {
        let mut world = fixture.cluster.world();
        world.databases.clear();
        world.roles.retain(|role| role != "readers");
        world.users.retain(|user| !user.contains("analyst"));
    }
    let args = [
        "restore",
        "sr/warehouse",
        "--to",
        "server",
        "--database",
        "dw",
        "--swap",
        "--yes",
        "--views",
        "--grants",
    ];
    let ran = fixture.run_with_key(&args).expect(0);
    assert!(ran.stderr.contains("made 3 views anew"), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("StarRocks refused GRANT SELECT ON TABLE `dw`.`orders` TO 'analyst'@'%'"),
        "{}",
        ran.stderr
    );
    let world = fixture.cluster.world();
    let database = &world.databases["dw"];
    assert_eq!(database.views.keys().collect::<Vec<_>>(), ["above", "v"]);
    assert_eq!(database.materialized.keys().collect::<Vec<_>>(), ["mv"]);
    assert!(world.roles.contains(&"readers".to_owned()));
    assert!(
        !world.users.iter().any(|user| user.contains("analyst")),
        "nobody is made without a password"
    );
}

#[test]
fn every_version_takes_what_a_restore_sends() {
    for version in ["2.5.22-abc", "3.4.2-1a2b3c", "4.2.0-rc01"] {
        let fixture = Fixture::new(version);
        fixture.backup(&["--kind", "full"]);
        fixture.cluster.world().load("dw", "orders", "p20260103", &["7,g"]);
        fixture.backup(&[]);
        let rows = fixture.cluster.world().rows("dw", "orders");
        let args =
            ["restore", "sr/warehouse", "--to", "server", "--database", "dw", "--swap", "--yes"];
        fixture.run_with_key(&args).expect(0);
        let world = fixture.cluster.world();
        assert_eq!(world.rows("dw", "orders"), rows, "{version}");
        assert!(world.databases.keys().any(|name| name.starts_with("dw_before_")), "{version}");
    }
}
