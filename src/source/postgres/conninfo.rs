//! How to reach a server: libpq's connection strings, service files, environment and defaults.
//!
//! Follows "34.1.1. Connection Strings", "34.15. Environment Variables" and "34.17. The Connection
//! Service File" of PostgreSQL's documentation. Values may be references to secrets
//! (`password=${env:NAME}`). What cannot be honoured is refused by name and never ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::parse::{Values, has_literal_password, parse, read_service};
use super::passfile;
use super::tls::{SslMode, Tls};
use crate::error::{Error, Result};

/// How long one host may take to answer, where nothing else is asked for. libpq waits for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// TCP: a name, or an address as text.
    Name(String),
    /// A directory with a Unix socket in it.
    Socket(PathBuf),
}

/// One server of a connection string, which may name several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it listens.
    pub place: Place,
    /// Its address, where the name is not to be looked up.
    pub address: Option<IpAddr>,
    /// The port, or the number in the socket's name.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Name(name) => write!(f, "{name}:{}", self.port),
            Place::Socket(directory) => {
                write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port)
            }
        }
    }
}

/// Which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// Any.
    #[default]
    Any,
    /// One that can be written to.
    ReadWrite,
    /// One that cannot: a standby.
    ReadOnly,
    /// A standby, and any other if there is none.
    PreferReadOnly,
}

/// Everything that is needed to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, in the order they are tried.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// A password that holds for all hosts; those of a password file are looked up for each.
    password: Option<SecretString>,
    passfile: Option<PathBuf>,
    /// Encryption on the way.
    pub tls: Tls,
    /// Settings for the session: `-c name=value`.
    pub options: Option<String>,
    /// What `pg_stat_activity` shows.
    pub application: String,
    /// For each host.
    pub connect_timeout: Duration,
    /// How long what was sent may stay unanswered before the connection counts as lost; the
    /// system's default if `None`.
    pub unanswered: Option<Duration>,
    /// Which of the servers will do.
    pub wanted: Wanted,
    /// Whether SCRAM must be bound to the TLS connection.
    pub channel_binding: Option<bool>,
}

/// What connection settings come from besides the string: this process's environment.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// The name of the user that runs this.
    pub user: Option<String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("PG") || name == "HOME")
            .collect();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let home = match variables.get("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Some(PathBuf::from(home)),
            None => user.as_ref().map(|user| user.dir.clone()),
        };
        Self { variables, home, user: user.map(|user| user.name) }
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn below_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }
}

/// Keys that are honoured, and the variables that stand for them.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", ""),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("fallback_application_name", ""),
    ("gssencmode", "PGGSSENCMODE"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("keepalives", ""),
    ("keepalives_count", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("tcp_user_timeout", ""),
    ("user", "PGUSER"),
];

/// Keys of libpq that ask for something that is not done here: ignoring them would be wrong.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("gssdelegation", "PGGSSDELEGATION"),
    ("gsslib", "PGGSSLIB"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("replication", ""),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("requiressl", "PGREQUIRESSL"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslpassword", ""),
];

/// Variables that PostgreSQL's own programs read. None is inherited by those that are run here.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    let more = ["PGCLIENTENCODING", "PGSYSCONFDIR", "PGTZ", "PGDATESTYLE", "PGGEQO", "PSQLRC"];
    let all = KEYS.iter().chain(REFUSED).map(|(_, variable)| *variable);
    all.chain(more).filter(|variable| !variable.is_empty())
}

impl Settings {
    /// Reads a connection string, and what it leaves out from a service file, the environment and
    /// libpq's defaults, in this order.
    pub fn resolve(text: &str, around: &Surroundings) -> Result<Self> {
        let mut given = parse(text)?;
        let service = given.get("service").map(|value| value.expose_secret().to_owned());
        let service = service.or_else(|| around.variable("PGSERVICE").map(str::to_owned));
        if let Some(service) = service {
            for (key, value) in read_service(&service, &given, around)? {
                given.entry(key).or_insert(value);
            }
        }
        for (key, variable) in KEYS.iter().chain(REFUSED) {
            if let Some(value) = around.variable(variable) {
                given.entry((*key).to_owned()).or_insert_with(|| value.into());
            }
        }
        Given { values: given, around }.settings()
    }

    /// The same for a connection that a person typed: its database is `postgres` unless it names
    /// one, and a password in it is refused, for everybody sees command lines.
    pub fn resolve_typed(text: &str, around: &Surroundings) -> Result<Self> {
        if has_literal_password(text)? {
            return Err(Error::usage(
                "there is a password on the command line, where `ps` shows it",
            )
            .hint("take it out, and use ~/.pgpass, PGPASSWORD or `password=${file:PATH}`"));
        }
        let mut around = around.clone();
        around.variables.entry("PGDATABASE".to_owned()).or_insert_with(|| "postgres".to_owned());
        Self::resolve(text, &around)
    }

    /// Whether a text is a connection, and not the name of a directory.
    pub fn is_connection(text: &str) -> bool {
        let key = text.split('=').next().unwrap_or_default().trim();
        text.starts_with("postgresql://")
            || text.starts_with("postgres://")
            || (text.contains('=') && KEYS.iter().any(|(known, _)| *known == key))
    }

    /// The same for another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The same as another role, with that role's password.
    #[must_use]
    pub fn with_user(&self, user: &str, password: Option<SecretString>) -> Self {
        Self { user: user.to_owned(), password, ..self.clone() }
    }

    /// The password for this host: the one given, or that of the password file.
    pub fn password(&self, host: &Host) -> Result<Option<SecretString>> {
        match (&self.password, &self.passfile) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, Some(file)) => passfile::look_up(file, host, &self.database, &self.user),
            (None, None) => Ok(None),
        }
    }

    /// What PostgreSQL's own programs are to find in their environment to reach the same database
    /// on the same server. The password goes here and not into a file: the environment is readable
    /// by this user alone, and is gone with the process even after a `kill -9`.
    pub fn environment(&self, host: &Host) -> Result<Vec<(String, SecretString)>> {
        let mut found: Vec<(String, SecretString)> = Vec::new();
        let mut add = |name: &str, value: &str| found.push((name.to_owned(), value.into()));
        match &host.place {
            Place::Name(name) => add("PGHOST", name),
            Place::Socket(directory) => add("PGHOST", &directory.display().to_string()),
        }
        if let Some(address) = host.address {
            add("PGHOSTADDR", &address.to_string());
        }
        add("PGPORT", &host.port.to_string());
        add("PGUSER", &self.user);
        add("PGAPPNAME", &self.application);
        add("PGCONNECT_TIMEOUT", &self.connect_timeout.as_secs().to_string());
        // Neither a service nor a password file may change what was decided here.
        add("PGPASSFILE", "/dev/null/none");
        if matches!(host.place, Place::Name(_)) {
            add("PGSSLMODE", self.tls.mode.name());
            for (variable, path) in [
                ("PGSSLROOTCERT", &self.tls.root),
                ("PGSSLCERT", &self.tls.certificate),
                ("PGSSLKEY", &self.tls.key),
            ] {
                if let Some(path) = path {
                    add(variable, &path.display().to_string());
                }
            }
            if self.channel_binding == Some(true) {
                add("PGCHANNELBINDING", "require");
            }
        }
        if let Some(options) = &self.options {
            add("PGOPTIONS", options);
        }
        if let Some(password) = self.password(host)? {
            found.push(("PGPASSWORD".to_owned(), password));
        }
        Ok(found)
    }

    /// For people: `user@host:port`, without database and secrets.
    pub fn server(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        format!("{}@{}", self.user, hosts.join(","))
    }
}

/// Quotes a value for a connection string.
pub fn quote_value(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

struct Given<'a> {
    values: Values,
    around: &'a Surroundings,
}

impl Given<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(SecretString::expose_secret).filter(|value| !value.is_empty())
    }

    fn settings(&self) -> Result<Settings> {
        for (key, _) in REFUSED {
            if self.get(key).is_some() {
                return Err(Error::unsupported(format!(
                    "the connection asks for `{key}`, which is not supported"
                ))
                .hint("take it out of the connection, the service file or the environment"));
            }
        }
        if self.get("gssencmode") == Some("require") {
            return Err(Error::unsupported("encryption by GSSAPI is not supported")
                .hint("use TLS: `sslmode=verify-full`"));
        }
        let local = self.around.user.as_deref();
        let user = self.get("user").or(local).ok_or_else(|| {
            Error::usage("the connection names no user, and the one running this has no name")
                .hint("add `user=NAME`")
        })?;
        let hosts = self.hosts()?;
        let passfile = match self.get("passfile") {
            Some(path) => Some(PathBuf::from(path)),
            None => self.around.below_home(".pgpass"),
        };
        let password = self.values.get("password").filter(|p| !p.expose_secret().is_empty());
        Ok(Settings {
            hosts,
            user: user.to_owned(),
            database: self.get("dbname").unwrap_or(user).to_owned(),
            password: password.cloned(),
            passfile,
            tls: self.tls()?,
            options: self.get("options").map(str::to_owned),
            application: self
                .get("application_name")
                .or_else(|| self.get("fallback_application_name"))
                .unwrap_or("backstay")
                .to_owned(),
            connect_timeout: self.connect_timeout()?,
            unanswered: self.unanswered()?,
            wanted: self.wanted()?,
            channel_binding: self.choice(
                "channel_binding",
                &[("disable", Some(false)), ("prefer", None), ("require", Some(true))],
            )?,
        })
    }

    fn choice<T: Copy + Default>(&self, key: &str, choices: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.get(key) else { return Ok(T::default()) };
        let found = choices.iter().find(|(name, _)| *name == value);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Error::usage(format!("`{key}={value}` is not known"))
                .hint(format!("choose one of {}", names.join(", ")))
        })
    }

    fn wanted(&self) -> Result<Wanted> {
        self.choice(
            "target_session_attrs",
            &[
                ("any", Wanted::Any),
                ("read-write", Wanted::ReadWrite),
                ("primary", Wanted::ReadWrite),
                ("read-only", Wanted::ReadOnly),
                ("standby", Wanted::ReadOnly),
                ("prefer-standby", Wanted::PreferReadOnly),
            ],
        )
    }

    fn connect_timeout(&self) -> Result<Duration> {
        let Some(text) = self.get("connect_timeout") else { return Ok(CONNECT_TIMEOUT) };
        let seconds: i64 = text.trim().parse().map_err(|_| {
            Error::usage(format!("`connect_timeout={text}` is not a number of seconds"))
        })?;
        // Zero and less mean "for ever" to libpq; a backup that waits for ever helps nobody.
        Ok(u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map_or(CONNECT_TIMEOUT, Duration::from_secs))
    }

    fn unanswered(&self) -> Result<Option<Duration>> {
        let Some(text) = self.get("tcp_user_timeout") else { return Ok(None) };
        let millis: u64 = text.trim().parse().map_err(|_| {
            Error::usage(format!("`tcp_user_timeout={text}` is not a number of milliseconds"))
        })?;
        Ok((millis > 0).then(|| Duration::from_millis(millis)))
    }

    fn hosts(&self) -> Result<Vec<Host>> {
        let list = |key: &str| -> Vec<&str> {
            self.get(key).map_or_else(Vec::new, |text| text.split(',').collect())
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        for (what, found) in [("host", names.len()), ("hostaddr", addresses.len())] {
            if found != 0 && found != count {
                return Err(Error::usage(format!("`{what}` lists {found} of {count} servers")));
            }
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(Error::usage(format!("{} ports for {count} servers", ports.len())));
        }
        (0..count)
            .map(|at| {
                let port = ports.get(at).or(ports.first()).copied().unwrap_or_default().trim();
                let port = match port {
                    "" => 5432,
                    text => text
                        .parse()
                        .ok()
                        .filter(|port| *port > 0)
                        .ok_or_else(|| Error::usage(format!("`port={text}` is not a port")))?,
                };
                let address = match addresses.get(at).copied().unwrap_or_default() {
                    "" => None,
                    text => Some(text.parse::<IpAddr>().map_err(|_| {
                        Error::usage(format!("`hostaddr={text}` is not an address"))
                            .hint("write names into `host`")
                    })?),
                };
                let place = match (names.get(at).copied().unwrap_or_default(), address) {
                    ("", Some(address)) => Place::Name(address.to_string()),
                    ("", None) => Place::Socket(default_socket(port)),
                    (name, _) if name.starts_with('/') => Place::Socket(name.into()),
                    (name, _) if name.starts_with('@') => {
                        return Err(Error::unsupported("abstract sockets are not supported")
                            .hint("name the directory of the server's Unix socket"));
                    }
                    (name, _) => Place::Name(name.to_owned()),
                };
                Ok(Host { place, address, port })
            })
            .collect()
    }

    fn tls(&self) -> Result<Tls> {
        let mode = match self.get("sslmode") {
            None => SslMode::Prefer,
            Some(name) => SslMode::from_name(name).ok_or_else(|| {
                Error::usage(format!("`sslmode={name}` is not known"))
                    .hint("choose one of disable, allow, prefer, require, verify-ca, verify-full")
            })?,
        };
        let file = |key: &str, default: &str| -> Option<PathBuf> {
            match self.get(key) {
                Some(path) => Some(path.into()),
                None => self.around.below_home(default).filter(|path| path.exists()),
            }
        };
        let root = file("sslrootcert", ".postgresql/root.crt");
        let system = root.as_deref() == Some(Path::new("system"));
        if system && self.get("sslmode").is_some_and(|_| mode != SslMode::VerifyFull) {
            return Err(Error::usage("`sslrootcert=system` goes with `sslmode=verify-full` only")
                .hint(
                    "anybody gets a certificate from those: without the name it proves nothing",
                ));
        }
        Ok(Tls {
            mode: if system { SslMode::VerifyFull } else { mode },
            root,
            certificate: file("sslcert", ".postgresql/postgresql.crt"),
            key: file("sslkey", ".postgresql/postgresql.key"),
            direct: self.choice("sslnegotiation", &[("postgres", false), ("direct", true)])?,
        })
    }
}

/// Where Debian's and PostgreSQL's own builds put the socket.
fn default_socket(port: u16) -> PathBuf {
    let places = ["/var/run/postgresql", "/tmp"].map(PathBuf::from);
    let here = places.iter().find(|place| place.join(format!(".s.PGSQL.{port}")).exists());
    here.unwrap_or(&places[0]).clone()
}
