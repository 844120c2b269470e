//! Looking into backups: find and diff.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::common::{Sandbox, odd_tree};

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Three backups: the second changes nothing, the third one of everything.
fn three(sandbox: &Sandbox) -> [String; 3] {
    odd_tree(&sandbox.path("src"));
    let first = sandbox.backup(&[]);
    let second = sandbox.backup(&[]);
    let src = |name: &str| sandbox.path("src").join(name);
    fs::write(src("plain.txt"), "other\n").unwrap();
    fs::remove_file(src("empty")).unwrap();
    fs::write(src("new"), "new").unwrap();
    fs::set_permissions(src("-starts-with-dash"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(src("!bang")).unwrap();
    symlink("plain.txt", src("!bang")).unwrap();
    [first, second, sandbox.backup(&[])]
}

#[test]
fn diff_tells_every_kind_of_change() {
    let sandbox = Sandbox::ready(true);
    let [first, second, third] = three(&sandbox);
    let diff = |args: &[&str]| sandbox.run_with_key(&[&["diff"], args].concat());
    let none = diff(&[&first, &second]).expect(0);
    assert_eq!(none.stdout, "");
    let text = diff(&[&first, &third]).expect(0);
    for expected in ["T !bang", "m -starts-with-dash", "- empty", "+ new", "M plain.txt"] {
        assert!(text.stdout.lines().any(|line| line == expected), "{expected}:\n{}", text.stdout);
    }
    assert!(!text.stdout.contains("many/"), "{}", text.stdout);
    assert!(text.stderr.contains("1 entry added"), "{}", text.stderr);
    let back = diff(&["demo/files", &first, "--path", "plain.txt", "--output", "json"]).expect(0);
    let back = lines(&back.stdout);
    assert_eq!(back.len(), 1);
    assert_eq!((&back[0]["change"], &back[0]["new"]["size"]), (&"content".into(), &6.into()));
    diff(&[&first, "2099"]).expect(1);
}

#[test]
fn find_tells_versions_and_who_has_them() {
    let sandbox = Sandbox::ready(true);
    let [first, second, third] = three(&sandbox);
    let find = |args: &[&str]| sandbox.run_with_key(&[&["find"], args].concat());
    let found = lines(&find(&["plain.txt", "empty", "new", "--output", "json"]).expect(0).stdout);
    let of =
        |path: &str| found.iter().find(|line| line["path"] == path).unwrap()["versions"].clone();
    let plain = of("plain.txt");
    assert_eq!(plain.as_array().unwrap().len(), 2);
    assert_eq!(
        (&plain[0]["first"], &plain[0]["last"]),
        (&first.as_str().into(), &second.as_str().into())
    );
    assert_eq!(plain[0]["backups"], 2);
    assert_eq!(plain[1]["first"], third.as_str());
    assert_eq!(of("empty")[0]["last"], second.as_str());
    assert_eq!(of("new")[0]["first"], third.as_str());
    let text = find(&["**/file-0001.bin", "--source", "files"]).expect(0).stdout;
    assert!(text.contains("demo/files: many/01/file-0001.bin"), "{text}");
    assert!(text.contains("(3 backups)"), "{text}");
    let none = find(&["no-such-file"]).expect(1);
    assert!(none.stderr.contains("no backup has no-such-file"), "{}", none.stderr);
    // Names are not for those without a key.
    let url = sandbox.path("repo").display().to_string();
    let locked = sandbox.run_bare(&["find", "plain.txt", "--repository", &url]);
    assert!(locked.code != 0 && locked.stdout.is_empty(), "{}", locked.stderr);
    assert!(locked.stderr.contains("--identity"), "{}", locked.stderr);
}
