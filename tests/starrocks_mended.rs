//! StarRocks: snapshots that are mended from a copy, locked there, and counted where backups are listed.

use std::fs;

use crate::common::moto::{BUCKET as LOCKED, Moto};
use crate::common::starrocks::fixture::Fixture;

const VERSION: &str = "3.3.5-6d81f75";

#[test]
fn what_a_snapshot_lost_comes_back_from_a_copy() {
    let fixture = Fixture::new(VERSION);
    let backup = fixture.backup(&["--kind", "full"]);
    fixture.run(&["copy", "--to", "offsite"]).expect(0);
    let keys = fixture.snapshot_keys();
    let find = |part: &str| keys.iter().find(|key| key.contains(part)).unwrap();
    let (meta, head, data) = (find("__meta"), find(".hdr."), find("_0.dat."));
    let info = find("/__repo_info");
    let before: Vec<Vec<u8>> =
        [meta, head, data, info].iter().map(|key| fs::read(fixture.file(key)).unwrap()).collect();
    fs::remove_file(fixture.file(meta)).unwrap();
    let mut bytes = before[1].clone();
    bytes[0] ^= 1;
    fs::write(fixture.file(head), bytes).unwrap();
    fs::remove_file(fixture.file(data)).unwrap();
    fs::remove_file(fixture.file(info)).unwrap();

    let verify = ["verify", &backup, "--depth", "stored", "--repair-from", "offsite"];
    let ran = fixture.run(&[&verify[..], &["--dry-run"]].concat()).expect(5);
    assert!(ran.stdout.contains("would fetch"), "{}", ran.stdout);
    assert!(!fixture.file(meta).exists(), "a dry run fetched something");
    let ran = fixture.run(&verify).expect(0);
    for key in [meta, head, data, info] {
        let name = key.rsplit('/').next().unwrap();
        let repaired =
            ran.stdout.lines().any(|line| line.starts_with("repaired") && line.contains(name));
        assert!(repaired, "{name}\n{}", ran.stdout);
    }
    for (key, content) in [meta, head, data, info].iter().zip(&before) {
        assert_eq!(fs::read(fixture.file(key)).unwrap(), *content, "{key}");
    }
    fixture.run(&["verify", &backup, "--depth", "stored"]).expect(0);

    // What the copy has no better is told, and nothing is put in its place.
    let place = |server: &crate::common::s3::S3Server| {
        server.root.path().join(crate::common::s3::BUCKET).join(head)
    };
    for path in [fixture.file(head), place(&fixture.offsite)] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 2;
        fs::write(&path, bytes).unwrap();
    }
    let ran = fixture.run(&verify).expect(5);
    assert!(ran.stdout.contains("in offsite it is damaged as well"), "{}", ran.stdout);
}

#[test]
fn what_starrocks_wrote_is_counted_and_locked_with_the_rest() {
    let Some(moto) = Moto::start_locking() else { return };
    let fixture = Fixture::new(VERSION);
    let path = fixture.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let locked = format!(
        "  locked:\n    s3: {{ bucket: {LOCKED}, prefix: site, endpoint: \"{}\", region: us-east-1, allow_http: true, access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\" }}\n    encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}\n    object_lock: {{ mode: governance }}\nsources:\n",
        moto.endpoint(),
        fixture.sandbox.public,
        fixture.sandbox.path("writer.key").display()
    );
    let text = text.replacen("sources:\n", &locked, 1).replace("to: offsite", "to: locked");
    fs::write(&path, text).unwrap();
    fixture.run(&["init", "locked"]).expect(0);
    let full = fixture.backup(&["--kind", "full"]);
    fixture.cluster.world().load("dw", "orders", "p20260102", &["5,e"]);
    let second = fixture.backup(&[]);

    let listed =
        fixture.run(&["list", "--repository", "main", "--output", "json"]).expect(0).json();
    let of = |backup: &str, name: &str| -> u64 {
        let all = listed.as_array().unwrap();
        all.iter().find(|one| one["backup"] == backup).unwrap()[name].as_u64().unwrap()
    };
    let recorded = |backup: &str| -> u64 {
        let manifest = fixture.manifest(backup);
        let all = manifest["snapshots"]["list"].as_array().unwrap();
        all.iter().map(|one| one["bytes"].as_u64().unwrap()).sum()
    };
    assert_eq!(of(&full, "snapshot_bytes"), recorded(&full));
    assert_eq!(of(&full, "snapshot_stored_bytes"), recorded(&full));
    // The second needs those of the first, and wrote less.
    assert_eq!(of(&second, "snapshot_bytes"), recorded(&second));
    let own = of(&second, "snapshot_stored_bytes");
    assert!(own > 0 && own < of(&second, "snapshot_bytes"), "{listed}");

    fixture.run(&["copy", "--to", "locked"]).expect(0);
    let keys = moto.left();
    let below: Vec<&String> = keys.iter().filter(|key| key.contains("/__ss_bs_")).collect();
    assert!(!below.is_empty(), "{keys:?}");
    for key in below {
        let head = moto.expect("HEAD", key, &[], "").to_lowercase();
        assert!(head.contains("x-amz-object-lock-retain-until-date"), "{key}\n{head}");
    }
}
