//! Evidence that was tampered with is found out, offline.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Ran, Sandbox, has_tools};
use crate::drill::{drill, evidence, ready};

fn signed() -> Option<Sandbox> {
    if !has_tools(&["ssh-keygen"]) {
        return None;
    }
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("drill.key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "drills", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let sandbox = ready(true, "");
    let drills = format!(
        "  signed: {{ sign_with: \"${{file:{}}}\" }}\n",
        sandbox.path("drill.key").display()
    );
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text}{drills}")).unwrap();
    for name in ["drill.key", "drill.key.pub"] {
        fs::copy(keys.path().join(name), sandbox.path(name)).unwrap();
    }
    drill(&sandbox, &["signed"]).expect(0);
    Some(sandbox)
}

fn verify(sandbox: &Sandbox, directory: &Path) -> Ran {
    sandbox.run_bare(&["drill", "verify", directory.to_str().unwrap(), "--signer", "drill.key.pub"])
}

#[test]
fn openssh_and_we_agree_on_a_signature() {
    let Some(sandbox) = signed() else { return };
    let place = evidence(&sandbox);
    let said = verify(&sandbox, &place).expect(0).stdout;
    assert!(said.contains("as it has to be"), "{said}");
    // Not by its name alone, and from the repository too.
    sandbox.run(&["drill", "verify"]).expect(0);
    let public = fs::read_to_string(sandbox.path("drill.key.pub")).unwrap();
    fs::write(sandbox.path("allowed"), format!("drills@example.org {public}")).unwrap();
    let openssh = |namespace: &str| {
        Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "drills@example.org", "-n", namespace, "-f"])
            .arg(sandbox.path("allowed"))
            .arg("-s")
            .arg(place.join("SHA256SUMS.sig"))
            .stdin(Stdio::from(fs::File::open(place.join("SHA256SUMS")).unwrap()))
            .output()
            .unwrap()
    };
    let ran = openssh("backstay-drill");
    assert!(ran.status.success(), "{ran:?}");
    assert!(!openssh("file").status.success());
}

#[test]
fn any_byte_of_any_file_that_was_changed_is_damage() {
    let Some(sandbox) = signed() else { return };
    let place = evidence(&sandbox);
    let copy = sandbox.path("copy");
    let files: Vec<_> = fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()).collect();
    let fresh = || {
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir(&copy).unwrap();
        for file in &files {
            fs::copy(file, copy.join(file.file_name().unwrap())).unwrap();
        }
    };
    let named = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let drill = named(place.file_name().unwrap());
    let key = fs::read_to_string(sandbox.path("drill.key.pub")).unwrap();
    let signer = backstay::drill::sshsig::fingerprint_of_line(&key).unwrap();
    let whole: Vec<backstay::drill::seal::Named> = files
        .iter()
        .map(|file| (named(file.file_name().unwrap()), fs::read(file).unwrap().into()))
        .collect();
    backstay::drill::seal::verify(&whole, &drill, Some(&signer)).unwrap();
    let mut tried = 0;
    for number in 0..whole.len() {
        let length = whole[number].1.len();
        // All of those that are short, and some of the others.
        for at in (0..length).step_by((length / 150).max(1)) {
            let mut changed = whole.clone();
            let mut bytes = changed[number].1.to_vec();
            bytes[at] ^= 1 << (at % 8);
            changed[number].1 = bytes.into();
            let found = backstay::drill::seal::verify(&changed, &drill, Some(&signer));
            assert!(found.is_err(), "byte {at} of {}", whole[number].0);
            tried += 1;
        }
        let mut missing = whole.clone();
        missing.remove(number);
        backstay::drill::seal::verify(&missing, &drill, Some(&signer)).unwrap_err();
    }
    assert!(tried > 500, "{tried}");
    // The same through the program: changed, removed from the journal, added.
    fresh();
    verify(&sandbox, &copy).expect(0);
    let journal = fs::read_to_string(copy.join("journal.jsonl")).unwrap();
    let shorter: Vec<&str> = journal.split_inclusive('\n').collect();
    fs::write(copy.join("journal.jsonl"), shorter[..shorter.len() - 1].concat()).unwrap();
    verify(&sandbox, &copy).expect(5);
    fresh();
    fs::write(copy.join("more.txt"), "x").unwrap();
    verify(&sandbox, &copy).expect(5);
    fresh();
    fs::remove_file(copy.join("SHA256SUMS.sig")).unwrap();
    verify(&sandbox, &copy).expect(5);
}

#[test]
fn a_journal_is_not_shortened_even_with_new_digests() {
    let sandbox = ready(true, "  any: {}\n");
    drill(&sandbox, &["any"]).expect(0);
    let place = evidence(&sandbox);
    let copy = sandbox.path("copy");
    fs::create_dir(&copy).unwrap();
    let names = ["evidence.json", "journal.jsonl", "report.html", "report.md"];
    for name in names.iter().chain(&["SHA256SUMS"]) {
        fs::copy(place.join(name), copy.join(name)).unwrap();
    }
    let journal = fs::read_to_string(copy.join("journal.jsonl")).unwrap();
    let mut lines: Vec<&str> = journal.split_inclusive('\n').collect();
    let sum = || {
        let out = Command::new("sha256sum").args(names).current_dir(&copy).output().unwrap();
        fs::write(copy.join("SHA256SUMS"), out.stdout).unwrap();
    };
    let verify = || sandbox.run_bare(&["drill", "verify", "copy"]);
    sum();
    verify().expect(0);
    lines.swap(1, 2);
    fs::write(copy.join("journal.jsonl"), lines.concat()).unwrap();
    sum();
    let said = verify().expect(5).stderr;
    assert!(said.contains("does not follow"), "{said}");
    lines.swap(1, 2);
    lines.pop();
    fs::write(copy.join("journal.jsonl"), lines.concat()).unwrap();
    sum();
    let said = verify().expect(5).stderr;
    assert!(said.contains("the evidence speaks of"), "{said}");
}
