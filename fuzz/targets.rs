// What is done with bytes that somebody else wrote: one function a reader. None may panic, hang or take
// more memory than its limits say, whatever it is given. Shared by cargo-fuzz and `tests/fuzz.rs`.

use std::io::{Read, Write};

use backstay::archive::crypt::{DecryptReader, Keyring, Recipients};
use backstay::archive::frame::{FrameReader, FrameWriter};
use backstay::archive::increment::IncrementHeader;
use backstay::archive::index::IndexReader;
use backstay::archive::lists::DeadListReader;
use backstay::archive::manifest::Commit;
use backstay::archive::member;
use backstay::archive::snapshot::Info;
use backstay::archive::wal::{History, mark};
use backstay::id::{BackupId, SourceAddress};
use backstay::policy;

/// The readers, by name.
pub const TARGETS: [(&str, fn(&[u8])); 8] = [
    ("policy", policy),
    ("manifest", manifest),
    ("index", index),
    ("tar", tar),
    ("frames", frames),
    ("dead_list", dead_list),
    ("keys", keys),
    ("engine", engine),
];

/// Plain bytes that are read of one input: a few of them can stand for gigabytes.
const ENOUGH: u64 = 32 << 20;

/// Bytes in frames, as they would be stored.
fn framed(plain: &[u8]) -> Vec<u8> {
    let mut frames = FrameWriter::new(Vec::new(), 1).unwrap();
    frames.write_all(plain).unwrap();
    frames.finish().unwrap().0
}

/// A policy file.
pub fn policy(data: &[u8]) {
    match policy::parse(data, "policy.yaml") {
        Ok(set) => {
            let _ = policy::render_all(&set.warnings, false);
            for policy in &set.policies {
                let _ = policy::runs(policy);
                let marked = policy::marked(&policy.text, "somewhere");
                assert!(policy::parse(&marked, "policy.yaml").is_err(), "a mark had no effect");
            }
        }
        Err(error) => drop(error.render(false)),
    }
}

/// The manifest of a backup.
pub fn manifest(data: &[u8]) {
    let value: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let text = |key: &str| value.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let address = SourceAddress::new(
        text("stack").unwrap_or_else(|| "demo".to_owned()),
        text("source").unwrap_or_else(|| "files".to_owned()),
    );
    let backup = text("backup").unwrap_or_default();
    let backup = BackupId::parse(&backup)
        .unwrap_or_else(|_| BackupId::parse("20261121T020000Z-full-7k3f").unwrap());
    let Ok(Commit::Backup(manifest)) = Commit::parse(data, &address, &backup, "manifest") else {
        return;
    };
    let _ = (manifest.objects().count(), manifest.summed().count(), manifest.stored_total());
    let _ = manifest.segments_by_reference();
    if let Some(wal) = &manifest.wal {
        let _ = wal.segments().take(1000).count();
    }
    let again = serde_json::to_vec(&manifest).unwrap();
    assert!(Commit::parse(&again, &address, &backup, "manifest").is_ok(), "not what was written");
}

/// The index of a backup, as it is stored and as its lines.
pub fn index(data: &[u8]) {
    let framed = framed(data);
    for stored in [data, &framed] {
        let Ok(mut index) = IndexReader::new(stored, "index", None) else { continue };
        while let Ok(Some(entry)) = index.next_entry() {
            let _ = (entry.display_path(), member::encode(&entry));
        }
    }
}

/// A tar archive.
pub fn tar(data: &[u8]) {
    let mut input = data;
    while let Ok(Some(member)) = member::decode(&mut input, "tar") {
        let skip = member.data.saturating_add(member::padding(member.data)).min(usize::MAX as u64);
        let Some(rest) = input.get(skip as usize..) else { return };
        input = rest;
    }
}

/// Compressed frames.
pub fn frames(data: &[u8]) {
    if let Ok(reader) = FrameReader::new(data, 0) {
        let _ = std::io::copy(&mut reader.take(ENOUGH), &mut std::io::sink());
    }
}

/// A list of names that a backup does not want, as it is stored and as its lines.
pub fn dead_list(data: &[u8]) {
    let framed = framed(data);
    for stored in [data, &framed] {
        let Ok(names) = DeadListReader::new(stored, "list") else { continue };
        let _ = names.take_while(Result::is_ok).take(100_000).count();
    }
}

/// The identity that the corpus is encrypted to.
const IDENTITY: &str = include_str!("../fixtures/repositories/insecure-test-recovery.key");

/// Keys and what is encrypted to them.
pub fn keys(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = policy::check_recipient(text.trim());
        let _ = Recipients::parse(text.lines());
        // A plugin's identity makes a program start: nobody but a person writes those.
        if !text.contains("AGE-PLUGIN-") {
            let _ = Keyring::parse(text, "identity");
        }
    }
    let ring = Keyring::parse(IDENTITY, "test").unwrap();
    if let Ok(reader) = DecryptReader::open(data, true, &ring, "sealed") {
        let _ = std::io::copy(&mut reader.take(ENOUGH), &mut std::io::sink());
    }
}

/// What database engines wrote, and what stands before WAL.
pub fn engine(data: &[u8]) {
    let _ = IncrementHeader::read(&mut &data[..], data.len() as u64, "increment");
    let _ = Info::parse(data, "info");
    let _ = (mark::read(data, true), mark::read(data, false));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = History::parse(3, text);
    }
}
