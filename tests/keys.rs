//! Keys over the years: rotation, people who come later, passphrases, plugins, a writer that is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::{Ran, Sandbox, assert_same_tree};

fn with(sandbox: &Sandbox, identity: &str, args: &[&str]) -> Ran {
    let mut args = args.to_vec();
    args.extend(["--identity", identity]);
    sandbox.run(&args)
}

fn public(sandbox: &Sandbox, name: &str) -> String {
    sandbox.run_bare(&["key", "generate", "--out", name]).expect(0).stdout.trim().to_owned()
}

fn write(sandbox: &Sandbox, name: &str) {
    fs::write(sandbox.path("src").join(name), format!("{name}\n")).unwrap();
}

#[test]
fn a_new_key_encrypts_what_comes_and_the_old_one_opens_what_was() {
    let sandbox = Sandbox::ready(true);
    write(&sandbox, "one");
    let first = sandbox.backup(&[]);
    let later = public(&sandbox, "later.key");
    sandbox.run(&["key", "rotate", "--recipient", &later]).expect(0);
    write(&sandbox, "two");
    let second = sandbox.backup(&[]);
    let shown = sandbox.run(&["show", &second, "--output", "json"]).expect(0).json();
    assert!(shown.to_string().contains("\"incremental\""), "a rotation made it a full: {shown}");
    let commit = sandbox.path(format!("repo/demo/sources/files/commits/{second}.json"));
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(commit).unwrap()).unwrap();
    assert_eq!(manifest["encryption"]["keys"].as_array().unwrap().len(), 2);
    // Who has the old identity alone opens what was, who has the new one alone nothing of both.
    with(&sandbox, "recovery.key", &["restore", "demo/files", "--backup", &first, "--to", "a"])
        .expect(0);
    for (identity, id) in [("recovery.key", &second), ("later.key", &second), ("later.key", &first)]
    {
        let ran =
            with(&sandbox, identity, &["restore", "demo/files", "--backup", id, "--to", "no"]);
        assert!(ran.code == 1 && !sandbox.path("no/one").exists(), "{identity}: {}", ran.stderr);
    }
    let both = ["restore", "demo/files", "--to", "b", "--identity", "recovery.key"];
    with(&sandbox, "later.key", &both).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("b"));
    with(&sandbox, "later.key", &["verify", "--depth", "content", "--identity", "recovery.key"])
        .expect(0);
    // Somebody who comes later is let in by who opens all of them.
    let third = public(&sandbox, "third.key");
    let add = ["key", "add-recipient", &third, "--repository", "main"];
    assert_eq!(with(&sandbox, "later.key", &add).code, 1);
    let add = [&add[..], &["--identity", "later.key"]].concat();
    with(&sandbox, "recovery.key", &add).expect(0);
    with(&sandbox, "third.key", &["restore", "demo/files", "--to", "c"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("c"));
}

#[test]
fn without_its_writer_identity_a_host_takes_a_full_and_says_so() {
    let sandbox = Sandbox::ready(true);
    write(&sandbox, "one");
    sandbox.backup(&[]);
    write(&sandbox, "two");
    fs::remove_file(sandbox.path("writer.key")).unwrap();
    public(&sandbox, "writer.key");
    let ran = sandbox.run(&["backup", "demo/files"]).expect(0);
    assert!(ran.stderr.contains("takes a full backup"), "{}", ran.stderr);
    assert!(ran.stdout.contains("-full-"), "{}", ran.stdout);
    // From then on it knows again what there is.
    write(&sandbox, "three");
    let next = sandbox.run(&["backup", "demo/files"]).expect(0);
    assert!(next.stdout.contains("-incr-"), "{}", next.stdout);
    with(&sandbox, "recovery.key", &["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
}

#[test]
fn a_passphrase_protects_an_identity_or_is_one() {
    let sandbox = Sandbox::ready(true);
    write(&sandbox, "one");
    sandbox.backup(&[]);
    fs::write(sandbox.path("pass"), "correct horse battery staple\n").unwrap();
    fs::write(sandbox.path("wrong"), "incorrect horse\n").unwrap();
    let reference = |name: &str| format!("${{file:{}}}", sandbox.path(name).display());
    let (right, wrong) = (reference("pass"), reference("wrong"));
    let make = ["key", "generate", "--with-passphrase", "--out", "locked.key"];
    let said = sandbox.run_bare(&make);
    assert!(said.code == 1 && said.stderr.contains("no terminal"), "{}", said.stderr);
    let mut given = make.to_vec();
    given.extend(["--passphrase", &right]);
    let locked = sandbox.run_bare(&given).expect(0).stdout.trim().to_owned();
    let text = fs::read_to_string(sandbox.path("locked.key")).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE") && !text.contains("AGE-SECRET"));
    with(&sandbox, "recovery.key", &["key", "add-recipient", &locked, "--repository", "main"])
        .expect(0);
    let restore = |more: &[&str], to: &str| {
        let mut args = vec!["restore", "demo/files", "--to", to];
        args.extend(more);
        sandbox.run(&args)
    };
    let locked = ["--identity", "locked.key", "--passphrase"];
    restore(&[&locked[..], &[&right]].concat(), "a").expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("a"));
    let mistaken = restore(&[&locked[..], &[&wrong]].concat(), "no");
    assert!(mistaken.code == 1 && mistaken.stderr.contains("passphrase"), "{}", mistaken.stderr);
    let silent = restore(&["--identity", "locked.key"], "no");
    assert!(silent.code == 1 && silent.stderr.contains("--passphrase"), "{}", silent.stderr);
    // The passphrase itself has no place on a command line.
    let open = restore(&[&locked[..], &["correct horse battery staple"]].concat(), "no");
    assert!(open.code == 2 && !open.stderr.contains("horse"), "{}", open.stderr);

    // A passphrase as a recipient: no file is needed to come back.
    let add = ["key", "add-recipient", "--with-passphrase", "--passphrase", &right];
    let add = [&add[..], &["--repository", "main"]].concat();
    with(&sandbox, "recovery.key", &add).expect(0);
    restore(&["--passphrase", &right], "b").expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("b"));
    let mistaken = restore(&["--passphrase", &wrong], "no");
    assert!(mistaken.code == 1, "{}", mistaken.stderr);
    assert!(mistaken.stderr.contains("the passphrase given opens no key"), "{}", mistaken.stderr);
    assert!(!sandbox.path("no").join("one").exists());
}

/// A plugin of age that keeps its keys in its recipients, as no real one would: what is proven is how
/// plugins are spoken to.
const PLUGIN: &str = r#"#!/usr/bin/env python3
import base64, sys
CHARS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
def polymod(values):
    sum = 1
    for value in values:
        top = sum >> 25
        sum = (sum & 0x1ffffff) << 5 ^ value
        for i, g in enumerate([0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3]):
            sum ^= g if top >> i & 1 else 0
    return sum
def bech32(hrp, data):
    bits, count, values = 0, 0, []
    for byte in data:
        bits, count = bits << 8 | byte, count + 8
        while count >= 5:
            count -= 5
            values.append(bits >> count & 31)
    if count:
        values.append(bits << 5 - count & 31)
    head = [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
    check = polymod(head + values + [0] * 6) ^ 1
    values += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return hrp + "1" + "".join(CHARS[v] for v in values)
def receive():
    line = sys.stdin.buffer.readline().decode().rstrip("\n")
    assert line.startswith("-> "), line
    words, body = line[3:].split(" "), ""
    while True:
        more = sys.stdin.buffer.readline().decode().rstrip("\n")
        body += more
        if len(more) < 64:
            return words, base64.b64decode(body + "=" * (-len(body) % 4))
def send(words, body=b""):
    text = base64.b64encode(body).decode().rstrip("=")
    lines = [text[i:i + 64] for i in range(0, len(text), 64)]
    if not lines or len(lines[-1]) == 64:
        lines.append("")
    sys.stdout.write("-> " + " ".join(words) + "\n" + "\n".join(lines) + "\n")
    sys.stdout.flush()
mask = lambda bytes: b"\x5a" + bytes[::-1]
mode = sys.argv[1]
if mode == "--keys":
    print(bech32("age1demo", b"demo key"))
    print(bech32("age-plugin-demo-", b"demo key").upper())
    sys.exit()
told = []
while True:
    words, body = receive()
    if words[0] == "done":
        break
    told.append((words, body))
if mode == "--age-plugin=recipient-v1":
    for index, (words, body) in enumerate([t for t in told if t[0][0] == "wrap-file-key"]):
        send(["recipient-stanza", str(index), "demo"], mask(body))
        receive()
else:
    for words, body in told:
        if words[0] == "recipient-stanza" and words[2] == "demo":
            send(["file-key", words[1]], body[1:][::-1])
            receive()
send(["done"])
"#;

#[test]
fn a_plugin_wraps_and_opens_the_repository_key() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("bin")).unwrap();
    let plugin = sandbox.path("bin/age-plugin-demo");
    fs::write(&plugin, PLUGIN).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let keys = std::process::Command::new(&plugin).arg("--keys").output().unwrap();
    let keys = String::from_utf8(keys.stdout).unwrap();
    let (recipient, identity) = keys.trim().split_once('\n').unwrap();
    fs::write(sandbox.path("demo.key"), format!("# a plugin's\n{identity}\n")).unwrap();
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    fs::write(sandbox.path("policy.yaml"), policy.replace(&sandbox.public, recipient)).unwrap();
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let run =
        |args: &[&str]| Ran::from(&sandbox.command(args).env("PATH", &path).output().unwrap());
    // Without the program its recipients mean nothing.
    let missing = sandbox.run(&["init"]);
    assert!(missing.code == 1 && missing.stderr.contains("age-plugin-demo"), "{}", missing.stderr);
    run(&["init"]).expect(0);
    // A host that backs up needs no plugin.
    write(&sandbox, "one");
    sandbox.backup(&[]);
    write(&sandbox, "two");
    sandbox.backup(&[]);
    let restore = ["restore", "demo/files", "--to", "out", "--identity", "demo.key"];
    let missing = sandbox.run(&restore);
    assert!(missing.code == 1 && missing.stderr.contains("age-plugin-demo"), "{}", missing.stderr);
    run(&restore).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    run(&["verify", "--depth", "content", "--identity", "demo.key"]).expect(0);
    let mistyped = policy.replace(&sandbox.public, &recipient.replace("demo1", "demo1q"));
    fs::write(sandbox.path("policy.yaml"), mistyped).unwrap();
    let refused = run(&["check"]).expect(3);
    assert!(refused.stderr.contains("checksum"), "{}", refused.stderr);
}
