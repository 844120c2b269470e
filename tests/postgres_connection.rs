//! Connections to PostgreSQL: strings, files, environment, and real servers that say no.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backstay::error::{Error, ErrorKind};
use backstay::source::postgres::{Connection, Place, Settings, SslMode, Surroundings, quote_value};
use secrecy::ExposeSecret as _;

use crate::common::postgres::{ALL, PASSWORD, Server, user};

fn around(home: &Path, variables: &[(&str, &str)]) -> Surroundings {
    let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Surroundings {
        variables: pairs.collect::<BTreeMap<_, _>>(),
        home: Some(home.to_path_buf()),
        user: Some("me".into()),
    }
}

fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Error> {
    Settings::resolve(text, &around(Path::new("/nonexistent"), variables))
}

/// What a string comes to, on one line.
fn shown(text: &str, variables: &[(&str, &str)]) -> String {
    let settings = match resolve(text, variables) {
        Ok(settings) => settings,
        Err(error) => return format!("{error} / {}", error.hints().join(" / ")),
    };
    let hosts: Vec<String> = settings.hosts.iter().map(ToString::to_string).collect();
    let password = settings.password(&settings.hosts[0]).unwrap();
    let password = password.map(|password| password.expose_secret().to_owned());
    format!(
        "{} {} db={} sslmode={} password={password:?}",
        settings.user,
        hosts.join(","),
        settings.database,
        settings.tls.mode.name(),
    )
}

#[test]
fn strings_are_read_as_libpq_reads_them() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "from a file: {}'\\ \n").unwrap();
    let file = format!("${{file:{}}}", secret.path().display());
    let none: &[(&str, &str)] = &[];
    let cases = [
        ("host=db user=a dbname=x", "a db:5432 db=x sslmode=prefer password=None"),
        (
            " host = 'db'  port= 6000 user='o\\'b \\\\'",
            "o'b \\ db:6000 db=o'b \\ sslmode=prefer password=None",
        ),
        ("host=a,b port=1,2 user=u", "u a:1,b:2 db=u sslmode=prefer password=None"),
        ("host=a,b port=7 user=u", "u a:7,b:7 db=u sslmode=prefer password=None"),
        (
            "host=/run/pg user=u dbname='my db'",
            "u /run/pg/.s.PGSQL.5432 db=my db sslmode=prefer password=None",
        ),
        (
            "postgresql://u:p%40ss@h:1/d?sslmode=require",
            "u h:1 db=d sslmode=require password=Some(\"p@ss\")",
        ),
        ("postgres://h", "me h:5432 db=me sslmode=prefer password=None"),
        ("postgresql://[::1]:9/d", "me [::1]:9 db=d sslmode=prefer password=None"),
        (
            "postgresql://%2Frun%2Fpg/d",
            "me /run/pg/.s.PGSQL.5432 db=d sslmode=prefer password=None",
        ),
        (
            "postgresql:///d?host=/run/pg&port=3",
            "me /run/pg/.s.PGSQL.3 db=d sslmode=prefer password=None",
        ),
        ("postgresql://u@a:1,b:2/d", "u a:1,b:2 db=d sslmode=prefer password=None"),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(text, none), expected, "{text}");
    }
    let expected = "u h:5432 db=d sslmode=prefer password=Some(\"from a file: {}'\\\\ \")";
    assert_eq!(shown(&format!("host=h user=u dbname=d password={file}"), none), expected);
    assert_eq!(shown(&format!("postgresql://u:{file}@h/d"), none), expected);
}

#[test]
fn what_cannot_be_honoured_is_refused_and_no_secret_is_shown() {
    let mut said = String::new();
    for text in [
        "host=h pasword=x",
        "host=h hunter2",
        "host=h password='hunter2",
        "host=h sslmode=always",
        "host=h port=0",
        "host=h port=http",
        "host=a,b,c port=1,2",
        "host=a,b hostaddr=127.0.0.1",
        "hostaddr=localhost",
        "host=h sslcrl=/x",
        "host=h gssencmode=require",
        "host=h sslrootcert=system sslmode=require",
        "host=h password=abc${env:X}",
        "host=h password=${nothing:x}",
        "host=h password=${env:BACKSTAY_TEST_NOT_SET}",
        "host=@abstract",
        "host=h service=none",
        "host=h target_session_attrs=best",
        "postgresql://u%zz@h",
        "postgresql://[::1/d",
    ] {
        said.push_str(&format!("{text}\n    {}\n", shown(text, &[])));
    }
    insta::assert_snapshot!(said.replace("hunter2", "HIDDEN-IN-THIS-LIST"));
    for text in ["host=h hunter2", "host=h password='hunter2", "postgres://u:hunter2@h%zz"] {
        assert!(!shown(text, &[]).contains("hunter2"), "{}", shown(text, &[]));
    }
}

#[test]
fn what_a_string_leaves_out_comes_from_service_environment_and_password_file() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(
        ".pg_service.conf",
        "# c\n[other]\nhost=no\n[prod]\nhost=db.prod\ndbname=app\nport=7\n[x]\nuser=no\n",
        0o644,
    );
    write(".pgpass", "db.prod:7:app:alice:from the file\n", 0o600);
    let variables =
        [("PGSERVICE", "prod"), ("PGUSER", "alice"), ("PGPORT", "9"), ("PGSSLMODE", "disable")];
    let settings = Settings::resolve("dbname=app", &around(home.path(), &variables)).unwrap();
    assert_eq!(settings.hosts[0].place, Place::Name("db.prod".into()));
    assert_eq!((settings.hosts[0].port, settings.user.as_str()), (7, "alice"));
    assert_eq!(settings.tls.mode, SslMode::Disable);
    let password = settings.password(&settings.hosts[0]).unwrap().unwrap();
    assert_eq!(password.expose_secret(), "from the file");
    // Another database has another line.
    let other = settings.with_database("other");
    assert!(other.password(&other.hosts[0]).unwrap().is_none());
    // PostgreSQL's programs get the same, and nothing of it on their command line.
    let mut environment: Vec<String> = settings
        .environment(&settings.hosts[0])
        .unwrap()
        .into_iter()
        .map(|(name, value)| format!("{name}={}", value.expose_secret()))
        .collect();
    environment.sort();
    assert_eq!(
        environment,
        [
            "PGAPPNAME=backstay",
            "PGCONNECT_TIMEOUT=30",
            "PGHOST=db.prod",
            "PGPASSFILE=/dev/null/none",
            "PGPASSWORD=from the file",
            "PGPORT=7",
            "PGSSLMODE=disable",
            "PGUSER=alice",
        ]
    );
    assert!(!format!("{settings:?}").contains("from the file"));
    write(".pgpass", "*:*:*:*:x\n", 0o640);
    let error = settings.password(&settings.hosts[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hints()[0].starts_with("chmod 0600 "), "{error}");
}

#[test]
fn values_are_quoted_as_they_are_read() {
    for value in ["plain", "", "with space", "it's", "back\\slash", "a=b", "é", "-d evil"] {
        let settings = resolve(&format!("host=h dbname={}", quote_value(value)), &[]).unwrap();
        let expected = if value.is_empty() { "me" } else { value };
        assert_eq!(settings.database, expected);
    }
}

fn open(text: &str) -> Result<Connection, Error> {
    Connection::open(&resolve(text, &[])?)
}

/// An error, without what differs from run to run.
fn told(server: &Server, error: &Error) -> String {
    let text = format!("{} | {}", error.chain(), error.hints().join(" | "));
    text.replace(&server.port.to_string(), "PORT")
        .replace(&server.socket().display().to_string(), "SOCKETS")
}

#[test]
fn every_version_answers_over_socket_and_tcp() {
    for major in ALL {
        let Some(server) = Server::start(major) else { return };
        let mut connection = open(&server.connection("postgres")).unwrap();
        assert_eq!(connection.server().major(), major);
        assert!(connection.server().superuser && !connection.server().standby);
        assert_eq!(connection.value("SELECT current_setting('search_path')", "x").unwrap(), "");
        assert_eq!(connection.value("SELECT current_setting('row_security')", "x").unwrap(), "off");
        // SCRAM, over TCP.
        let text =
            format!("{} password={}", server.tcp("postgres", "postgres"), quote_value(PASSWORD));
        assert_eq!(open(&text).unwrap().value("SELECT 6 * 7", "x").unwrap(), "42");
        // Several hosts: the first that answers.
        let first = format!(
            "host=127.0.0.1,127.0.0.1 port=1,{} user=postgres dbname=postgres password={}",
            server.port,
            quote_value(PASSWORD)
        );
        assert_eq!(open(&first).unwrap().server().host.port, server.port);
        // A setting of the role that would end a backup does not.
        server.sql("postgres", "ALTER ROLE postgres SET statement_timeout = 1");
        open(&server.connection("postgres")).unwrap().value("SELECT pg_sleep(0.01)", "x").unwrap();
    }
}

#[test]
fn a_server_that_says_no_is_told_with_what_to_do() {
    let Some(server) = Server::start(17) else { return };
    server.sql_each(
        "postgres",
        &[
            "CREATE ROLE app LOGIN PASSWORD 'right'; CREATE ROLE shut NOLOGIN",
            "CREATE DATABASE closed",
            "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
            "CREATE DATABASE off ALLOW_CONNECTIONS false",
            "CREATE DATABASE narrow CONNECTION LIMIT 0",
        ],
    );
    let mut told_all = String::new();
    for (what, text) in [
        ("wrong password", format!("{} password=wrong", server.tcp("app", "postgres"))),
        ("no password", server.tcp("app", "postgres")),
        ("no such role", format!("{} password=x", server.connection_as("nobody", "postgres"))),
        ("role that may not log in", server.connection_as("shut", "postgres")),
        ("no such database", server.connection("gone")),
        ("no right to connect", server.connection_as("app", "closed")),
        ("a database that takes no connections", server.connection("off")),
        ("a database without room", server.connection_as("app", "narrow")),
        ("nobody listens", "host=127.0.0.1 port=1 user=u dbname=d".into()),
        ("no socket", format!("host={}/none user=u dbname=d", server.socket().display())),
        ("no TLS", format!("{} password=right sslmode=require", server.tcp("app", "postgres"))),
        (
            "not a standby",
            format!("{} target_session_attrs=standby", server.connection("postgres")),
        ),
    ] {
        let error = open(&text).expect_err(what);
        told_all.push_str(&format!(
            "{what} ({:?}):\n    {}\n",
            error.kind(),
            told(&server, &error)
        ));
        assert!(!error.chain().contains("wrong"), "the password is shown");
    }
    insta::assert_snapshot!(told_all);
}

/// A certificate for the host `named`, and its key, where the server finds them.
fn certificate(dir: &Path, named: &str) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(vec![named.to_owned()]).unwrap();
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    if crate::common::is_root() {
        let (uid, gid) = user();
        std::os::unix::fs::chown(&key, Some(uid), Some(gid)).unwrap();
    }
    certificate
}

#[test]
fn tls_proves_what_its_mode_promises() {
    // The wheel of 18 is built without TLS.
    for major in [15, 17] {
        let dir = tempfile::tempdir().unwrap();
        let trusted = certificate(dir.path(), "localhost");
        let settings = format!(
            "ssl = on\nssl_cert_file = '{0}/server.crt'\nssl_key_file = '{0}/server.key'",
            dir.path().display()
        );
        let hba = "hostnossl all all all reject";
        let Some(server) = Server::with(major, &settings, hba) else { return };
        let other = tempfile::tempdir().unwrap();
        let strange = certificate(other.path(), "localhost");
        let at = |host: &str, more: &str| {
            open(&format!(
                "host={host} port={} user=postgres dbname=postgres password={} {more}",
                server.port,
                quote_value(PASSWORD)
            ))
        };
        let root = |path: &Path| format!("sslrootcert={}", path.display());
        for good in [
            "sslmode=prefer".to_owned(),
            "sslmode=allow".to_owned(),
            "sslmode=require".to_owned(),
            "sslmode=require channel_binding=require".to_owned(),
            format!("sslmode=verify-full {}", root(&trusted)),
            format!("sslmode=verify-ca {}", root(&trusted)),
        ] {
            let mut connection =
                at("localhost", &good).unwrap_or_else(|error| panic!("{good}: {error:?}"));
            let tls = connection
                .value("SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "look");
            assert_eq!(tls.unwrap(), "true", "{good}");
        }
        if major >= 17 {
            at(
                "localhost",
                &format!("sslmode=verify-full sslnegotiation=direct {}", root(&trusted)),
            )
            .unwrap();
        }
        at("127.0.0.1", &format!("sslmode=verify-ca {}", root(&trusted))).unwrap();
        for (host, bad, kind) in [
            ("localhost", "sslmode=disable".to_owned(), ErrorKind::Denied),
            ("localhost", "sslmode=verify-full".to_owned(), ErrorKind::Usage),
            ("localhost", format!("sslmode=verify-full {}", root(&strange)), ErrorKind::Denied),
            ("localhost", format!("sslmode=verify-ca {}", root(&strange)), ErrorKind::Denied),
            ("localhost", format!("sslmode=require {}", root(&strange)), ErrorKind::Denied),
            ("127.0.0.1", format!("sslmode=verify-full {}", root(&trusted)), ErrorKind::Denied),
        ] {
            let error = at(host, &bad).expect_err(&bad);
            assert_eq!(error.kind(), kind, "{bad}: {error:?}");
            assert!(!error.hints().is_empty(), "{bad}");
        }
    }
}

#[test]
fn a_lost_connection_and_a_cancelled_query_end_at_once() {
    let Some(mut server) = Server::start(18) else { return };
    let mut connection = open(&server.connection("postgres")).unwrap();
    let reporter = backstay::telemetry::Reporter::silent();
    let error = std::thread::scope(|scope| {
        let canceller = reporter.clone();
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            canceller.cancel();
        });
        let slept = connection
            .patiently(&|| reporter.is_cancelled(), |c| c.value("SELECT pg_sleep(600)", "sleep"));
        slept.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    server.kill();
    let error = connection.value("SELECT 1", "failed to look").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}
