//! People who open a repository no longer.

use std::fs;

use crate::common::{Ran, Sandbox, assert_same_tree};

fn with(sandbox: &Sandbox, identity: &str, args: &[&str]) -> Ran {
    let mut args = args.to_vec();
    args.extend(["--identity", identity]);
    sandbox.run(&args)
}

fn public(sandbox: &Sandbox, name: &str) -> String {
    sandbox.run_bare(&["key", "generate", "--out", name]).expect(0).stdout.trim().to_owned()
}

fn wraps(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path("repo/keys")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".age")).collect();
    names.sort();
    names
}

#[test]
fn who_is_removed_opens_nothing_and_who_stays_opens_all() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/one"), "one\n").unwrap();
    sandbox.backup(&[]);
    let leaves = public(&sandbox, "leaves.key");
    let stays = public(&sandbox, "stays.key");
    fs::write(sandbox.path("pass"), "correct horse battery staple\n").unwrap();
    let passphrase = format!("${{file:{}}}", sandbox.path("pass").display());
    with(&sandbox, "recovery.key", &["key", "add-recipient", &leaves]).expect(0);
    with(&sandbox, "recovery.key", &["key", "add-recipient", &stays]).expect(0);
    let add = ["key", "add-recipient", "--with-passphrase", "--passphrase", &passphrase];
    with(&sandbox, "recovery.key", &add).expect(0);
    sandbox
        .run(&["key", "rotate", "--recipient", &leaves, "--recipient", &sandbox.public])
        .expect(0);
    fs::write(sandbox.path("src/two"), "two\n").unwrap();
    sandbox.backup(&[]);
    let before = wraps(&sandbox);
    assert_eq!(before.len(), 5, "{before:?}");

    let keep: [&str; 4] = ["--keep", &sandbox.public, "--keep", &stays];
    let remove = [&["key", "remove-recipient", &leaves][..], &keep].concat();
    // Somebody who stays does it, somebody says yes, and a look changes nothing.
    let refused = with(&sandbox, "leaves.key", &[&remove[..], &["--yes"]].concat()).expect(1);
    assert!(refused.stderr.contains("somebody who stays"), "{}", refused.stderr);
    assert!(with(&sandbox, "recovery.key", &remove).expect(6).stderr.contains("--yes"));
    let dry = with(&sandbox, "recovery.key", &[&remove[..], &["--dry-run"]].concat()).expect(0);
    assert_eq!(dry.stderr.matches("would remove").count(), 4, "{}", dry.stderr);
    assert_eq!(dry.stderr.matches("would write").count(), 2, "{}", dry.stderr);
    let nobody = ["key", "remove-recipient", &sandbox.public, "--yes"];
    let nobody = with(&sandbox, "recovery.key", &nobody).expect(2);
    assert!(nobody.stderr.contains("nobody would be left"), "{}", nobody.stderr);
    assert_eq!(wraps(&sandbox), before);

    let done = [&remove[..], &["--yes", "--output", "json"]].concat();
    let done = with(&sandbox, "recovery.key", &done).expect(0).json();
    assert_eq!(done["removed"].as_array().unwrap().len(), 4, "{done}");
    assert_eq!(wraps(&sandbox).len(), 3, "{:?}", wraps(&sandbox));
    let out = ["restore", "demo/files", "--to"];
    let gone = with(&sandbox, "leaves.key", &[&out[..], &["no"]].concat());
    assert!(gone.code == 1 && !sandbox.path("no/one").exists(), "{}", gone.stderr);
    for (identity, to) in [("recovery.key", "a"), ("stays.key", "b")] {
        with(&sandbox, identity, &[&out[..], &[to]].concat()).expect(0);
        assert_same_tree(&sandbox.path("src"), &sandbox.path(to));
    }
    // The passphrase was let in to the first key, and goes when it is told to.
    let list = ["key", "list", "--passphrase", &passphrase];
    assert!(sandbox.run(&list).expect(0).stdout.contains("opened by"));
    let remove = ["key", "remove-recipient", "--with-passphrase", "--yes"];
    with(&sandbox, "stays.key", &remove).expect(0);
    assert!(!sandbox.run(&list).expect(0).stdout.contains("opened by"));
    let nothing = with(&sandbox, "stays.key", &remove).expect(0);
    assert!(nothing.stderr.contains("nothing to remove"), "{}", nothing.stderr);
    with(&sandbox, "recovery.key", &["verify", "--depth", "content"]).expect(0);
}
