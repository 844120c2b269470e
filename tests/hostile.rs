//! Backups made to do harm: refused by name, and everything else is restored. Digests fit, so
//! nothing but looking at what is said can help.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use backstay::archive::crypt::Recipients;
use backstay::archive::digest::sha256_hex;
use backstay::archive::entry::{Entry, EntryType, SegmentRef, compare};
use backstay::archive::index::line_of;
use backstay::archive::segment::TarSegment;
use backstay::id::BackupId;
use serde_json::{Value, json};

use crate::common::doctor::{Doctor, frames};
use crate::common::{Ran, Sandbox, as_nobody, has_root};

/// A plain repository with one backup of the files `good` and `zgood`.
fn victim() -> (Sandbox, Doctor) {
    let sandbox = Sandbox::ready(false);
    for name in ["good", "zgood"] {
        fs::write(sandbox.path("src").join(name), name).unwrap();
    }
    let id = sandbox.backup(&[]);
    let doctor = Doctor::open(&sandbox.path("repo"), &id);
    (sandbox, doctor)
}

fn file(path: impl Into<Vec<u8>>, content: &str) -> (Entry, Option<&[u8]>) {
    let mut entry = Entry::new(path, EntryType::File);
    (entry.mode, entry.size) = (0o644, content.len() as u64);
    (entry, Some(content.as_bytes()))
}

/// Puts these members, and two good files, in place of the first segment.
fn forge(doctor: &mut Doctor, mut members: Vec<(Entry, Option<&[u8]>)>) {
    members.extend([file("good", "good"), file("zgood", "zgood")]);
    members.sort_by(|a, b| compare(&a.0.path, &b.0.path));
    let mut segment = TarSegment::new(Vec::new(), &Recipients::default(), 3).unwrap();
    let mut done = Vec::new();
    let place = SegmentRef { backup: BackupId::parse(&doctor.id).unwrap(), number: 1 };
    for (mut entry, content) in members {
        entry.segment = Some(place.clone());
        match content {
            Some(mut content) => segment.push(entry, Some(&mut content), &mut done),
            None => segment.push(entry, None, &mut done),
        }
        .unwrap();
    }
    let finished = segment.finish().unwrap();
    done.extend(finished.entries);
    let path = doctor.segment(1);
    doctor.replace(&path, &finished.out);
    let of = doctor.manifest["segments"].as_array_mut().unwrap();
    let of = of.iter_mut().find(|segment| segment["path"] == path.as_str()).unwrap();
    (of["plain"], of["content"]) = (json!(finished.plain), json!(finished.content));
    of["live"] = json!(finished.content);
    let mut entries: Vec<Value> =
        doctor.index().into_iter().filter(|entry| entry["type"] == "dir").collect();
    entries.extend(
        done.iter().map(|entry| serde_json::from_slice::<Value>(&line_of(entry).unwrap()).unwrap()),
    );
    doctor.set_index(&entries);
    doctor.save();
}

/// What lies outside of the target stays as it is.
fn guard(sandbox: &Sandbox) {
    fs::create_dir_all(sandbox.path("outside")).unwrap();
    fs::write(sandbox.path("outside/file"), "untouched").unwrap();
}

#[track_caller]
fn assert_guarded(sandbox: &Sandbox) {
    let names: Vec<_> = fs::read_dir(sandbox.path("outside")).unwrap().collect();
    assert_eq!(names.len(), 1, "something was written outside of the target");
    assert_eq!(fs::read_to_string(sandbox.path("outside/file")).unwrap(), "untouched");
    assert!(!sandbox.path("evil").exists());
}

#[track_caller]
fn assert_good(sandbox: &Sandbox, out: &str) {
    for name in ["good", "zgood"] {
        assert_eq!(fs::read_to_string(sandbox.path(out).join(name)).unwrap(), name);
    }
}

#[test]
fn names_that_lead_out_are_refused_and_the_rest_is_restored() {
    for name in ["/tmp/evil", "../evil", "a/../../evil", "a//evil", "a/./evil", "./evil", "e\0vil"]
    {
        let (sandbox, mut doctor) = victim();
        guard(&sandbox);
        forge(&mut doctor, vec![file(name, "evil")]);
        let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(5);
        assert!(ran.stderr.contains("not restored"), "{name:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("vil"), "it is named: {}", ran.stderr);
        assert_good(&sandbox, "out");
        assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 2, "{name:?}");
        assert_guarded(&sandbox);
        sandbox.run(&["verify", "--depth", "content"]).expect(5);
    }
}

#[test]
fn nothing_is_written_through_a_link_that_the_backup_brings() {
    let (sandbox, mut doctor) = victim();
    guard(&sandbox);
    let mut link = Entry::new("link", EntryType::Symlink);
    link.target = Some(sandbox.path("outside").into_os_string().into_encoded_bytes());
    forge(&mut doctor, vec![(link, None), file("link/evil", "evil")]);
    let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("`link"), "it is named: {}", ran.stderr);
    assert_good(&sandbox, "out");
    assert_guarded(&sandbox);
    sandbox.run(&["restore", "demo/files", "--to", "out", "--overwrite", "--yes"]);
    sandbox.run(&["restore", "demo/files", "--to", "out", "--delta", "--yes"]);
    assert_guarded(&sandbox);
}

#[test]
fn hard_links_never_lead_out_nor_to_what_the_backup_does_not_have() {
    for (leader, through) in [
        ("../outside/file", false),
        ("/etc/hostname", false),
        ("nothing", false),
        ("dir/file", true),
    ] {
        let (sandbox, mut doctor) = victim();
        guard(&sandbox);
        let mut link = Entry::new("evil-link", EntryType::Hardlink);
        link.hardlink = Some(leader.into());
        link.leader_at = Some(backstay::archive::entry::Position(0, 0, 0));
        link.sha256 = Some([0; 32]);
        forge(&mut doctor, vec![(link, None)]);
        let mut args = vec!["restore", "demo/files", "--to", "out"];
        if through {
            // A link in the target would have to be followed.
            fs::create_dir(sandbox.path("out")).unwrap();
            symlink(sandbox.path("outside"), sandbox.path("out/dir")).unwrap();
            args.extend(["--overwrite", "--yes"]);
        }
        let ran = sandbox.run(&args);
        assert_ne!(ran.code, 0, "{leader}");
        assert!(ran.stderr.contains("`evil-link`"), "{leader}: {}", ran.stderr);
        assert_good(&sandbox, "out");
        assert!(!sandbox.path("out/evil-link").exists(), "{leader}");
        assert_guarded(&sandbox);
    }
}

#[test]
fn links_in_the_target_are_never_followed() {
    for way in ["--overwrite", "--delta"] {
        let (sandbox, mut doctor) = victim();
        guard(&sandbox);
        forge(&mut doctor, vec![file("dir/file", "evil"), file("file", "new")]);
        fs::create_dir(sandbox.path("out")).unwrap();
        symlink(sandbox.path("outside"), sandbox.path("out/dir")).unwrap();
        symlink(sandbox.path("outside/file"), sandbox.path("out/file")).unwrap();
        let ran = sandbox.run(&["restore", "demo/files", "--to", "out", way, "--yes"]).expect(1);
        assert!(ran.stderr.contains("`dir/file`"), "{}", ran.stderr);
        assert_good(&sandbox, "out");
        assert_eq!(fs::read_to_string(sandbox.path("out/file")).unwrap(), "new");
        assert!(fs::symlink_metadata(sandbox.path("out/file")).unwrap().is_file());
        assert_guarded(&sandbox);
    }
}

#[test]
fn devices_without_the_right_are_named_and_everything_else_is_restored() {
    if !has_root() {
        return;
    }
    let (sandbox, mut doctor) = victim();
    let mut device = Entry::new("device", EntryType::Block);
    (device.mode, device.rdev) = (0o666, Some((8, 0)));
    forge(&mut doctor, vec![(device, None)]);
    sandbox.open_to_all();
    let opened =
        std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.root()).status();
    assert!(opened.unwrap().success());
    fs::create_dir(sandbox.path("work")).unwrap();
    std::os::unix::fs::chown(sandbox.path("work"), Some(65534), Some(65534)).unwrap();
    let mut command = sandbox.command(&["restore", "demo/files", "--to", "work/out"]);
    let ran = Ran::from(&as_nobody(&mut command).output().unwrap()).expect(1);
    assert!(ran.stderr.contains("`device`"), "{}", ran.stderr);
    assert_good(&sandbox, "work/out");
}

/// Runs and asserts that it is refused as damage, soon and without much memory.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, what: &str) {
    for args in [
        &["restore", "demo/files", "--to", "out"][..],
        &["verify", "--depth", "content"],
        &["restore", "demo/files", "--to", "-", "--path", "evil"],
    ] {
        let start = Instant::now();
        // 3 GB of address space is far more than is needed, and less than any of these ask for.
        let mut command = std::process::Command::new("bash");
        command
            .arg("-c")
            .arg("ulimit -v 3000000; exec \"$0\" \"$@\"")
            .arg(crate::common::BACKSTAY)
            .args(args)
            .current_dir(sandbox.root())
            .env("BACKSTAY_STATE_DIR", sandbox.path("state"))
            .env("BACKSTAY_POLICY", sandbox.path("policy.yaml"));
        let ran = Ran::from(&command.output().unwrap());
        assert_eq!(ran.code, 5, "{what}, {args:?}: {}\n{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        assert!(start.elapsed() < Duration::from_secs(20), "{what} takes long to refuse");
    }
    let _ = fs::remove_dir_all(sandbox.path("out"));
}

#[test]
fn decompression_bombs_are_refused() {
    // A gigabyte of zeros in one frame that does not say so, and in one that does.
    for said in [None, Some(1u64 << 30)] {
        let (sandbox, mut doctor) = victim();
        forge(&mut doctor, vec![file("evil", "evil")]);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_pledged_src_size(said).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..1 << 10).for_each(|_| encoder.write_all(&zeros).unwrap());
        let path = doctor.segment(1);
        doctor.replace(&path, &encoder.finish().unwrap());
        doctor.save();
        assert_refused(&sandbox, "a bomb");
    }
    // A window of 128 MiB.
    let (sandbox, mut doctor) = victim();
    forge(&mut doctor, vec![file("evil", "evil")]);
    let index = doctor.manifest["index"]["path"].as_str().unwrap().to_owned();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&doctor.plain(&index)).unwrap();
    doctor.replace(&index, &encoder.finish().unwrap());
    doctor.save();
    assert_refused(&sandbox, "a window");
}

#[test]
fn endless_lines_and_headers_are_refused() {
    let (sandbox, mut doctor) = victim();
    let mut index = b"{\"backstay_index\":1}\n{\"path\":\"".to_vec();
    index.resize(100 << 20, b'a');
    doctor.set_index_plain(&index);
    doctor.save();
    assert_refused(&sandbox, "a line of 100 MiB");

    let (sandbox, mut doctor) = victim();
    forge(&mut doctor, vec![file("evil", "evil")]);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(1 << 30);
    header.set_cksum();
    let path = doctor.segment(1);
    doctor.replace(&path, &frames(&[&header.as_bytes()[..], &[0; 4096]].concat()));
    doctor.save();
    assert_refused(&sandbox, "a pax header of 1 GiB");
}

#[test]
fn holes_that_make_no_sense_are_refused_by_name() {
    let whole = |size: u64, sparse: Vec<(u64, u64)>| {
        let mut entry = Entry::new("evil", EntryType::File);
        (entry.mode, entry.size, entry.sparse) = (0o644, size, Some(sparse));
        entry
    };
    for entry in [
        whole(20, vec![(0, 10), (5, 10), (20, 0)]),
        whole(20, vec![(10, 5), (0, 5), (20, 0)]),
        whole(20, vec![(15, 10)]),
        whole(20, vec![(1 << 63, 0)]),
    ] {
        let (sandbox, mut doctor) = victim();
        let content = [b'x'; 64];
        let shown = format!("{:?}", entry.sparse);
        // What the writer cannot make is made of a file with sound holes.
        let mut sound = entry.clone();
        sound.sparse = Some(vec![(0, 1), (sound.size, 0)]);
        forge(&mut doctor, vec![(sound, Some(&content))]);
        let map = |extents: &[(u64, u64)]| {
            let mut text = format!("{}\n", extents.len());
            extents.iter().for_each(|(at, length)| text.push_str(&format!("{at}\n{length}\n")));
            let mut text = text.into_bytes();
            text.resize(512, 0);
            text
        };
        let path = doctor.segment(1);
        let mut plain = doctor.plain(&path);
        let sound_map = map(&[(0, 1), (20, 0)]);
        let at = plain.windows(512).position(|window| window == sound_map).unwrap();
        let extents = entry.sparse.clone().unwrap();
        plain[at..at + 512].copy_from_slice(&map(&extents));
        doctor.replace(&path, &frames(&plain));
        doctor.edit(|line| {
            if line["path"] == "evil" {
                line["sparse"] = json!(extents);
            }
        });
        doctor.save();
        let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(5);
        assert!(ran.stderr.contains("`evil`"), "{shown}: {}", ran.stderr);
        assert_good(&sandbox, "out");
        assert!(!sandbox.path("out/evil").exists());
        sandbox.run(&["verify", "--depth", "content"]).expect(5);
    }
}

#[test]
fn an_index_that_lies_costs_what_it_lies_about_and_nothing_else() {
    let far = i64::MAX as u64;
    let lies: &[(&str, Value)] = &[
        ("size", json!(3)),
        ("size", json!(far)),
        ("size", json!(u64::MAX)),
        ("type", json!("symlink")),
        ("sha256", json!("00".repeat(32))),
        ("at", json!([0, 512, 100])),
        ("at", json!([7, 0, 100])),
        ("at", json!([far, far, far])),
        ("at", json!([u64::MAX, u64::MAX, u64::MAX])),
        ("at", json!([0, u64::MAX, u64::MAX])),
        ("at", Value::Null),
        ("sparse", json!([[0, 2], [4, 0]])),
        ("sparse", json!([[u64::MAX, u64::MAX]])),
    ];
    for (field, lie) in lies {
        let (sandbox, mut doctor) = victim();
        forge(&mut doctor, vec![file("evil", "evil")]);
        doctor.edit(|entry| {
            if entry["path"] == "evil" {
                entry[*field] = lie.clone();
                if *field == "type" {
                    entry["target"] = json!("good");
                }
            }
        });
        doctor.save();
        let what = format!("{field} {lie}");
        let ran = sandbox.run(&["verify", "--depth", "content"]);
        assert_eq!(ran.code, 5, "{what}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        if *field == "type" {
            // A link is restored from its entry alone; verification is what tells.
            continue;
        }
        assert_ne!(ran.code, 0, "{what}");
        assert!(ran.stderr.contains("`evil`"), "{what}: {}", ran.stderr);
        assert_good(&sandbox, "out");
        assert!(!sandbox.path("out/evil").exists(), "{what}");
    }
}

#[test]
fn an_index_in_wrong_order_or_with_unknown_types_is_refused() {
    let cases: &[(&str, fn(&mut Vec<Value>))] = &[
        ("order", |entries| entries.reverse()),
        ("twice", |entries| entries.push(entries[entries.len() - 1].clone())),
        ("type", |entries| entries[1]["type"] = json!("fifo")),
        ("segment", |entries| {
            entries[1]["in"] = json!("20200101T000000Z-full-aaaa/000001");
        }),
        ("no path", |entries| drop(entries[1].as_object_mut().unwrap().remove("path"))),
    ];
    for (what, change) in cases {
        let (sandbox, mut doctor) = victim();
        let mut entries = doctor.index();
        change(&mut entries);
        doctor.set_index(&entries);
        doctor.save();
        for args in
            [&["restore", "demo/files", "--to", "out"][..], &["verify", "--depth", "content"]]
        {
            let ran = sandbox.run(args);
            assert_eq!(ran.code, 5, "{what}, {args:?}: {}", ran.stderr);
        }
    }
}

#[test]
fn a_manifest_that_refers_to_what_it_may_not_is_refused() {
    let cases: &[(&str, fn(&mut Doctor))] = &[
        ("outside", |d| d.manifest["segments"][0]["path"] = json!("../../../etc/passwd")),
        ("absolute", |d| d.manifest["index"]["path"] = json!("/etc/passwd")),
        ("twice", |d| {
            let first = d.manifest["segments"][0].clone();
            d.manifest["segments"].as_array_mut().unwrap().push(first);
        }),
        ("another backup", |d| {
            let path = d.segment(1).replace(&d.id, "20200101T000000Z-full-aaaa");
            d.manifest["segments"][0]["path"] = json!(path);
        }),
        ("another type", |d| d.manifest["segments"][0]["type"] = json!("stream")),
        ("index as sums", |d| d.manifest["sums"]["path"] = d.manifest["index"]["path"].clone()),
        ("another source", |d| d.manifest["source"] = json!("other")),
    ];
    for (what, change) in cases {
        let (sandbox, mut doctor) = victim();
        change(&mut doctor);
        let commit = doctor.dir.join(format!("commits/{}.json", doctor.id));
        fs::write(commit, doctor.manifest.to_string()).unwrap();
        let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]);
        assert_eq!(ran.code, 5, "{what}: {}", ran.stderr);
        assert!(!sandbox.path("out").exists(), "{what}");
    }
}

#[test]
fn slices_that_hold_more_than_they_say_are_never_written_past_their_end() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/large"), vec![b'x'; 2000]).unwrap();
    let id = sandbox.backup(&["--large-file", "1000"]);
    let mut doctor = Doctor::open(&sandbox.path("repo"), &id);
    doctor.edit(|entry| {
        if entry["path"] == "large" {
            entry["size"] = json!(10);
            entry["parts"][0]["size"] = json!(10);
            let ten = sha256_hex(&[b'x'; 10]);
            entry["parts"][0]["sha256"] = json!(ten);
            entry["sha256"] = json!(ten);
        }
    });
    doctor.save();
    let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(5);
    assert!(ran.stderr.contains("`large`"), "{}", ran.stderr);
    sandbox.run(&["verify", "--depth", "content"]).expect(5);
}

/// Restoring by hand goes by these rules, and a restore by us does not: only looking can tell.
#[test]
fn what_lies_where_it_may_not_is_named() {
    let place = |name: &str, kind| Entry::new(name, kind);
    let mut link = place("evil", EntryType::Hardlink);
    link.hardlink = Some(b"nothing".to_vec());
    link.leader_at = Some(backstay::archive::entry::Position(0, 0, 0));
    let mut loose = place("evil", EntryType::Hardlink);
    loose.hardlink = Some(b"good".to_vec());
    for (entry, said, cost) in [
        (place("evil", EntryType::Dir), "has a directory that is not in the last segment", "evil"),
        (file("evil ", "").0, "has a name that no list can hold", "evil "),
        (link, "has a hard link without its file", "evil -> nothing"),
        (loose, "has a link to a large file that is not in the last segment", "evil"),
    ] {
        let (sandbox, _) = victim();
        fs::write(sandbox.path("src/big"), crate::common::noise(1, 9 << 20)).unwrap();
        let id = sandbox.backup(&["--kind", "full"]);
        let mut doctor = Doctor::open(&sandbox.path("repo"), &id);
        assert!(doctor.manifest["segments"].as_array().unwrap().len() > 1);
        let content = entry.has_content().then_some(&b""[..]);
        forge(&mut doctor, vec![(entry, content)]);
        let ran = sandbox.run(&["verify", "--depth", "content", &id]).expect(5);
        assert!(ran.stdout.contains(said), "{said}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(&format!("      {cost}\n")), "{cost}: {}", ran.stdout);
    }
}
