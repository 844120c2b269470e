//! What goes in comes out: trees, streams and secrets.

use std::fs;

use crate::common::{Sandbox, assert_same_tree, odd_tree, settle};

#[test]
fn a_tree_with_everything_comes_back_as_it_was() {
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        odd_tree(&sandbox.path("src"));
        sandbox.backup(&[]);
        sandbox.run_with_key(&["restore", "demo/files", "--to", "out"]).expect(0);
        assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
    }
}

#[test]
fn every_incremental_restores_alone() {
    let sandbox = Sandbox::ready(true);
    let src = sandbox.path("src");
    odd_tree(&src);
    settle();
    let mut kept = Vec::new();
    for round in 0..4 {
        match round {
            1 => {
                fs::write(src.join("plain.txt"), "changed through one name\n").unwrap();
                fs::remove_file(src.join("many/03/file-0003.bin")).unwrap();
                fs::write(src.join("many/05/new"), "new").unwrap();
            }
            2 => {
                fs::rename(src.join("many/07"), src.join("many/renamed")).unwrap();
                fs::remove_file(src.join("dir/hard")).unwrap();
                fs::remove_dir_all(src.join("empty-dir")).unwrap();
            }
            3 => {
                fs::remove_dir_all(src.join("dir")).unwrap();
                fs::write(src.join("dir"), "a file where a directory was").unwrap();
                for name in ["dangling", "empty"] {
                    fs::remove_file(src.join(name)).unwrap();
                    fs::create_dir(src.join(name)).unwrap();
                    fs::write(src.join(name).join("inside"), "a directory now").unwrap();
                }
            }
            _ => {}
        }
        let id = sandbox.backup(&["--segment-size", "20000"]);
        let copy = sandbox.path(format!("copy-{round}"));
        let copied = std::process::Command::new("cp").arg("-a").arg(&src).arg(&copy).status();
        assert!(copied.unwrap().success());
        kept.push((id, copy));
    }
    for (id, copy) in &kept {
        let out = sandbox.path(format!("out-{id}"));
        let to = out.to_string_lossy();
        sandbox.run_with_key(&["restore", "demo/files", "--backup", id, "--to", &to]).expect(0);
        assert_same_tree(copy, &out);
    }
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}
