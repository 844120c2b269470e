//! WAL archived and fetched ahead of its turn.

use std::fs;
use std::path::{Path, PathBuf};

use crate::postgres_wal::Archiving;

/// A server whose files wait to be archived: their names, in order.
fn waiting(encrypted: bool) -> Option<(Archiving, Vec<String>)> {
    let this = Archiving::start(17, encrypted)?;
    this.server.sql_each(
        "postgres",
        &["ALTER SYSTEM SET archive_command = '/bin/false'", "SELECT pg_reload_conf()"],
    );
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    for n in 0..12 {
        this.server.sql("postgres", &format!("INSERT INTO t VALUES ({n})"));
        this.server.sql("postgres", "SELECT pg_switch_wal()");
    }
    let status = this.server.data().join("pg_wal/archive_status");
    let mut names: Vec<String> = fs::read_dir(status)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".ready")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    Some((this, names))
}

impl Archiving {
    fn pg_wal(&self, name: &str) -> PathBuf {
        self.server.data().join("pg_wal").join(name)
    }

    fn push(&self, name: &str) -> crate::common::Ran {
        self.run(&["wal", "push", self.pg_wal(name).to_str().unwrap(), "--output", "json"])
    }

    fn get(&self, name: &str, place: &Path) -> crate::common::Ran {
        let destination = place.join("RECOVERYXLOG");
        let id = self.server.value("postgres", "SELECT system_identifier FROM pg_control_system()");
        let args = ["wal", "get", name, destination.to_str().unwrap(), "--ahead", "3"];
        let key = self.sandbox.path("recovery.key");
        let key = ["--identity", key.to_str().unwrap(), "--system-id", &id];
        self.run(&[&args[..], &key[..]].concat())
    }

    fn move_repository(&self, from: &str, to: &str) {
        fs::rename(self.sandbox.path(from), self.sandbox.path(to)).unwrap();
    }
}

#[test]
fn what_is_ready_behind_a_file_is_archived_with_it() {
    let Some((this, names)) = waiting(true) else { return };
    let pushed = this.push(&names[0]).expect(0).json();
    assert_eq!(pushed["ahead"], false, "{pushed}");
    assert_eq!(this.wal().len(), 9, "it and eight more");
    // Their turn comes when the repository does not even answer: they are durable, and that is known.
    this.move_repository("repo", "away");
    let second = this.push(&names[1]).expect(0).json();
    assert_eq!(second["ahead"], true, "{second}");
    let again = this.push(&names[1]);
    assert_ne!(again.code, 0, "a note counts once: {}", again.stdout);
    // Of another content nothing is known, whatever its name is.
    let third = this.pg_wal(&names[2]);
    let original = fs::read(&third).unwrap();
    let mut other = original.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&third, other).unwrap();
    assert_ne!(this.push(&names[2]).code, 0);
    this.move_repository("away", "repo");
    let refused = this.push(&names[2]);
    assert!(refused.stderr.contains("has other content"), "{}", refused.stderr);
    fs::write(&third, original).unwrap();
    // What was archived without a note is archived all the same.
    let third = this.push(&names[2]).expect(0).json();
    assert_eq!(third["archived"][0][1], true, "it was there: {third}");
    // The others follow in the same way.
    for name in &names[3..] {
        this.push(name).expect(0);
    }
    let stored = this.wal();
    for name in &names {
        assert!(stored.iter().any(|path| path.to_str().unwrap().contains(name)), "{name}");
    }
}

#[test]
fn what_goes_wrong_ahead_is_told_when_its_turn_comes() {
    let Some((this, names)) = waiting(false) else { return };
    // One that is no WAL, one that is gone, and one that is stored with other content.
    let (broken, gone) = (this.pg_wal(&names[1]), this.pg_wal(&names[2]));
    let kept = (fs::read(&broken).unwrap(), fs::read(&gone).unwrap());
    fs::write(&broken, "nonsense").unwrap();
    fs::remove_file(&gone).unwrap();
    this.push(&names[0]).expect(0);
    let told = this.push(&names[1]);
    assert!(told.code != 0 && told.stderr.contains("does not begin like WAL"), "{}", told.stderr);
    assert_ne!(this.push(&names[2]).code, 0);
    fs::write(&broken, kept.0).unwrap();
    fs::write(&gone, kept.1).unwrap();
    for name in &names[1..3] {
        this.push(name).expect(0);
    }
    // Killed between the repository and the note: nothing is lost, and nothing is taken for done.
    let mut command = this.command(&["wal", "push", this.pg_wal(&names[3]).to_str().unwrap()]);
    command.env("BACKSTAY_FAILPOINT", "wal.push_ahead");
    let _ = command.output().unwrap();
    for name in &names[3..] {
        this.push(name).expect(0);
    }
}

#[test]
fn segments_are_fetched_ahead_and_nothing_of_them_stays() {
    let Some((this, names)) = waiting(true) else { return };
    for name in &names {
        this.push(name).expect(0);
    }
    let place = this.server.directory("pg_wal");
    let read = || fs::read(place.join("RECOVERYXLOG")).unwrap();
    this.get(&names[0], &place).expect(0);
    assert_eq!(read(), fs::read(this.pg_wal(&names[0])).unwrap());
    let ahead = place.join(".backstay");
    assert_eq!(fs::read_dir(&ahead).unwrap().count(), 3);
    this.move_repository("repo", "away");
    this.get(&names[1], &place).expect(0);
    assert_eq!(read(), fs::read(this.pg_wal(&names[1])).unwrap());
    // What is not there is not known to be missing.
    assert_eq!(this.get(&names[4], &place).code, 126);
    // One that is not what it should be is fetched again.
    fs::write(ahead.join(&names[2]), "nonsense").unwrap();
    assert_eq!(this.get(&names[2], &place).code, 126);
    this.move_repository("away", "repo");
    this.get(&names[2], &place).expect(0);
    assert_eq!(read(), fs::read(this.pg_wal(&names[2])).unwrap());
    // A server asks for a history before it begins, and when it is done.
    assert_eq!(this.get("00000002.history", &place).code, 1);
    assert!(!ahead.exists());
}
