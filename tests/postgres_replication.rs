//! The replication protocol, with real servers.

use std::io::{self, Read as _};

use backstay::archive::wal::{Lsn, WalSegment};
use backstay::source::postgres::{
    BackupOptions, Part, Replication, Settings, Surroundings, WalNews,
};
use backstay::telemetry::Reporter;

use crate::common::postgres::{ALL, PASSWORD, Server};

fn settings(text: &str) -> Settings {
    Settings::resolve(text, &Surroundings::default()).unwrap()
}

fn open(text: &str) -> backstay::error::Result<Replication> {
    let settings = settings(text);
    Replication::open(&settings, &settings.hosts[0], &Reporter::silent())
}

#[test]
fn servers_say_who_they_are() {
    for major in ALL {
        let Some(server) = Server::start(major) else { continue };
        let mut session = open(&server.connection("postgres")).unwrap();
        assert_eq!(session.major(), major);
        let identity = session.identify().unwrap();
        let system = server.value("postgres", "SELECT system_identifier FROM pg_control_system()");
        assert_eq!(identity.system_id.to_string(), system);
        assert_eq!(identity.timeline, 1);
        assert!(identity.position > Lsn(0));
        assert_eq!(session.show_bytes("wal_segment_size").unwrap(), 16 << 20);
        assert_eq!(session.show("data_checksums").unwrap(), "on");
        session.create_slot("kept", false).unwrap();
        if major >= 15 {
            let (at, timeline) = session.read_slot("kept").unwrap().unwrap();
            assert!(at <= identity.position && timeline == 1);
            assert_eq!(session.read_slot("other").unwrap(), None);
        }
        session.drop_slot("kept").unwrap();
        let error = session.drop_slot("kept").unwrap_err();
        assert!(error.chain().contains("(42704)"), "{error:?}");
    }
}

/// Reads a whole base backup: the names of its parts, and their sizes.
fn read_backup(session: Replication, options: &BackupOptions) -> (Vec<(Part, u64)>, Lsn, Lsn) {
    let mut backup = session.base_backup(options).unwrap();
    let start = backup.start;
    let mut parts = Vec::new();
    while let Some(part) = backup.next_part().unwrap() {
        let size = io::copy(&mut backup, &mut io::sink()).unwrap();
        parts.push((part, size));
    }
    let (mut session, stop, timeline) = backup.finish().unwrap();
    assert_eq!(timeline, 1);
    // The session goes on to be one.
    session.identify().unwrap();
    (parts, start, stop)
}

#[test]
fn base_backups_come_in_parts() {
    for major in ALL {
        let Some(server) = Server::start(major) else { continue };
        let place = server.directory("space");
        let create = format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display());
        server.sql_each("postgres", &[&create, "CREATE TABLE t (a int) TABLESPACE elsewhere"]);
        let options =
            BackupOptions { label: "it's a test".into(), fast: true, ..BackupOptions::default() };
        let session = open(&server.connection("postgres")).unwrap();
        let (parts, start, stop) = read_backup(session, &options);
        assert!(start < stop);
        let names: Vec<&Part> = parts.iter().map(|(part, _)| part).collect();
        let [Part::Tablespace(space), Part::Base, Part::Manifest] = names[..] else {
            panic!("{names:?}")
        };
        assert_eq!(space.location, place.display().to_string());
        assert!(parts.iter().all(|(_, size)| *size > 1000), "{parts:?}");
    }
}

#[test]
fn wal_comes_as_it_is_written() {
    for major in ALL {
        let Some(server) = Server::start(major) else { continue };
        let mut session = open(&server.connection("postgres")).unwrap();
        session.create_slot("temporary", true).unwrap();
        let identity = session.identify().unwrap();
        let segment = WalSegment::of(1, identity.position, 16 << 20);
        let mut stream = session.start_wal(Some("temporary"), segment.start(16 << 20), 1).unwrap();
        server.sql("postgres", "CREATE TABLE t AS SELECT * FROM generate_series(1, 10000)");
        server.sql("postgres", "SELECT pg_switch_wal()");
        let mut bytes = Vec::new();
        while bytes.len() < 16 << 20 {
            match stream.news().unwrap() {
                WalNews::Data { .. } => bytes.extend_from_slice(stream.data()),
                WalNews::Alive { asks: true, .. } => {
                    stream.report(segment.start(16 << 20), Lsn(0), 0).unwrap();
                }
                _ => {}
            }
        }
        let path = server.data().join("pg_wal").join(segment.name(16 << 20));
        let mut whole = Vec::new();
        std::fs::File::open(path).unwrap().read_to_end(&mut whole).unwrap();
        assert!(bytes[..16 << 20] == whole, "PostgreSQL {major}");
    }
}

#[test]
fn a_password_is_asked_for_over_tcp() {
    for (method, encryption) in
        [("scram-sha-256", "scram-sha-256"), ("md5", "md5"), ("password", "md5")]
    {
        let hba = format!("host replication all 127.0.0.1/32 {method}");
        let with = format!("password_encryption = '{encryption}'");
        let Some(server) = Server::with(15, &with, &hba) else { return };
        server.sql("postgres", "CREATE ROLE backup LOGIN REPLICATION PASSWORD 'the word'");
        let connection = server.tcp("backup", "postgres");
        open(&format!("{connection} password='the word'")).unwrap().identify().unwrap();
        let error = open(&format!("{connection} password=wrong")).err().unwrap();
        assert!(error.to_string().contains("does not take the password"), "{error:?}");
        let error = open(&connection).err().unwrap();
        assert!(error.hints()[0].contains("replication:backup"), "{error:?}");
    }
}

#[test]
fn who_may_not_replicate_is_told_how() {
    let Some(server) = Server::start(17) else { return };
    server.sql("postgres", "CREATE ROLE nobody LOGIN");
    let error = open(&server.connection_as("nobody", "postgres")).err().unwrap();
    assert_eq!(error.hints(), ["ALTER ROLE \"nobody\" REPLICATION"]);
    let hba = "local replication all reject";
    let Some(server) = Server::with(17, "", hba) else { return };
    let error = open(&server.connection("postgres")).err().unwrap();
    assert!(error.hints()[0].contains("pg_hba.conf"), "{error:?}");
    assert!(!format!("{error:?}").contains(PASSWORD));
}

#[test]
fn the_server_takes_a_manifest_for_an_incremental() {
    for major in [17, 18] {
        let Some(server) = Server::with(major, "summarize_wal = on", "") else { continue };
        let options = BackupOptions { fast: true, ..BackupOptions::default() };
        let session = open(&server.connection("postgres")).unwrap();
        let mut backup = session.base_backup(&options).unwrap();
        let mut manifest = Vec::new();
        while let Some(part) = backup.next_part().unwrap() {
            let mut bytes = Vec::new();
            backup.read_to_end(&mut bytes).unwrap();
            if part == Part::Manifest {
                manifest = bytes;
            }
        }
        let (mut session, ..) = backup.finish().unwrap();
        server.sql("postgres", "CREATE TABLE t AS SELECT * FROM generate_series(1, 1000)");
        session.upload_manifest(&mut &manifest[..]).unwrap();
        let options = BackupOptions { incremental: true, ..options };
        let (parts, ..) = read_backup(session, &options);
        // Changed files only: the rest is a few bytes each.
        assert!(parts[0].1 < 10 << 20, "{parts:?}");

        let mut session = open(&server.connection("postgres")).unwrap();
        let error = session.upload_manifest(&mut &b"{}"[..]).unwrap_err();
        assert!(error.chain().contains("manifest"), "{error:?}");
    }
}
