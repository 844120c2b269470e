//! How a server is reached: `host=db user=backup password=${file:…}` or `mysql://backup@db/`.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::error::{Error, Result};
use crate::secret::SecretRef;

/// The port where none is given.
const PORT: u16 = 3306;

/// Where a distribution keeps the certificates that are trusted.
const SYSTEM_CA: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What is asked of encryption. MySQL's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    Disabled,
    /// Where the server can.
    Preferred,
    /// Always; whoever answers.
    Required,
    /// Always; the certificate is that of the host, and signed by one that is trusted.
    VerifyIdentity,
}

impl SslMode {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Disabled, "disabled"),
        (Self::Preferred, "preferred"),
        (Self::Required, "required"),
        (Self::VerifyIdentity, "verify_identity"),
    ];

    fn parse(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase().replace('-', "_");
        Self::NAMES.iter().find(|(_, name)| *name == lower).map(|(mode, _)| *mode).ok_or_else(
            || {
                let names: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
                Error::usage(format!("`{text}` is no ssl_mode"))
                    .hint(format!("one of {}", names.join(", ")))
            },
        )
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

/// A server, and who comes to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A name or an address; not used with `socket`.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// A Unix socket.
    pub socket: Option<PathBuf>,
    /// The user.
    pub user: String,
    /// Their password.
    pub password: Option<SecretString>,
    /// What is asked of encryption.
    pub ssl_mode: SslMode,
    /// Certificates that are trusted, as PEM; those of the system if left out.
    pub ssl_ca: Option<PathBuf>,
}

/// The keys of a connection string.
const KEYS: [&str; 7] = ["host", "port", "socket", "user", "password", "ssl_mode", "ssl_ca"];

impl Settings {
    /// Whether a target of a restore is a server.
    pub fn is_connection(text: &str) -> bool {
        text.starts_with("mysql://")
            || text.starts_with("mariadb://")
            || KEYS.iter().any(|key| text.trim_start().starts_with(&format!("{key}=")))
    }

    /// Reads a connection string, and its password where that is a reference.
    pub fn parse(text: &str) -> Result<Self> {
        let pairs = match text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://"))
        {
            Some(_) => from_url(text)?,
            None => from_pairs(text)?,
        };
        let mut settings = Self {
            host: "localhost".to_owned(),
            port: PORT,
            socket: None,
            user: String::new(),
            password: None,
            ssl_mode: SslMode::Preferred,
            ssl_ca: None,
        };
        let mut mode = None;
        for (key, value) in pairs {
            match key.as_str() {
                "host" => settings.host = value,
                "port" => {
                    settings.port =
                        value.parse().map_err(|_| Error::usage(format!("`{value}` is no port")))?;
                }
                "socket" => settings.socket = Some(value.into()),
                "user" => settings.user = value,
                "password" => settings.password = Some(password(&value)?),
                "ssl_mode" => mode = Some(SslMode::parse(&value)?),
                "ssl_ca" => settings.ssl_ca = Some(value.into()),
                other => {
                    return Err(Error::usage(format!("a connection has no `{other}`"))
                        .hint(crate::policy::hint_at(other, KEYS)));
                }
            }
        }
        if settings.user.is_empty() {
            return Err(Error::usage("the connection names no user").hint("add `user=NAME`"));
        }
        if settings.socket.is_some() {
            // Nobody listens in on a socket.
            settings.ssl_mode = SslMode::Disabled;
        } else if let Some(mode) = mode {
            settings.ssl_mode = mode;
        } else if settings.ssl_ca.is_some() {
            settings.ssl_mode = SslMode::VerifyIdentity;
        }
        Ok(settings)
    }

    /// The file of certificates that are trusted, where one is needed.
    pub fn trusted(&self) -> Option<PathBuf> {
        let system = || SYSTEM_CA.iter().map(PathBuf::from).find(|path| path.exists());
        let proven = self.ssl_mode == SslMode::VerifyIdentity;
        self.ssl_ca.clone().or_else(|| system().filter(|_| proven))
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match &self.socket {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

fn password(value: &str) -> Result<SecretString> {
    SecretRef::parse(value)
        .ok_or_else(|| {
            Error::usage("the password in the connection is no reference")
                .hint("`password=${env:NAME}` or `password=${file:PATH}`; everybody sees what is on a command line")
        })?
        .resolve()
}

/// `key=value key='value with spaces'`; within quotes `\` takes the next character as it is.
fn from_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let bad = |what: &str| {
        Error::usage(format!("the connection {what}"))
            .hint("write `host=HOST user=USER password=${file:PATH}`, or `mysql://USER@HOST/`")
    };
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| bad("has a word without `=`"))?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        let mut reference = false;
        if after.starts_with('\'') {
            characters.next();
            let mut closed = false;
            while let Some((at, c)) = characters.next() {
                match c {
                    '\\' => value.extend(characters.next().map(|(_, c)| c)),
                    '\'' => {
                        (closed, end) = (true, at + 1);
                        break;
                    }
                    c => value.push(c),
                }
            }
            if !closed {
                return Err(bad("has a quote that does not end"));
            }
        } else {
            for (at, c) in characters {
                // A reference may name a program with arguments.
                reference = (reference || value.ends_with('$') && c == '{') && c != '}';
                if c.is_whitespace() && !reference {
                    end = at;
                    break;
                }
                value.push(c);
            }
        }
        pairs.push((key.trim().to_owned(), value));
        rest = after[end..].trim_start();
    }
    if pairs.is_empty() { Err(bad("is empty")) } else { Ok(pairs) }
}

/// `mysql://user@host:port/?ssl_mode=…`.
fn from_url(text: &str) -> Result<Vec<(String, String)>> {
    let bad = |what: String| Error::usage(format!("the connection {what}"));
    let (_, rest) = text.split_once("://").unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        return Err(bad(format!("names a database, `{path}`")).hint(
            "databases are named with `databases:` in a policy and with --database OLD=NEW",
        ));
    }
    let mut pairs = Vec::new();
    let host = match authority.rsplit_once('@') {
        None => authority,
        Some((user, host)) => {
            if user.contains(':') {
                return Err(bad("has a password in its URL".to_owned())
                    .hint("`mysql://USER@HOST/?password=${env:NAME}`"));
            }
            pairs.push(("user".to_owned(), decoded(user)));
            host
        }
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if !name.is_empty() {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        pairs.push(("host".to_owned(), decoded(name)));
    }
    pairs.extend(port.map(|port| ("port".to_owned(), port.to_owned())));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((decoded(key).replace('-', "_"), decoded(value)));
    }
    Ok(pairs)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| byte == b'%').and_then(|code| hex::decode(code).ok());
        if let Some(code) = code {
            bytes.extend(code);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn connections_are_read_in_both_forms() {
        let one = Settings::parse("host=db port=3307 user='o\\'neil x' ssl_mode=REQUIRED").unwrap();
        assert_eq!((one.host.as_str(), one.port, one.user.as_str()), ("db", 3307, "o'neil x"));
        assert_eq!(one.ssl_mode, SslMode::Required);
        let url = Settings::parse("mysql://b%40x@[::1]:3307/?ssl-ca=/ca.pem").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.user.as_str()), ("::1", 3307, "b@x"));
        assert_eq!(url.ssl_mode, SslMode::VerifyIdentity);
        let socket = Settings::parse("socket=/run/mysqld/mysqld.sock user=root").unwrap();
        assert_eq!(
            (socket.place().as_str(), socket.ssl_mode),
            ("/run/mysqld/mysqld.sock", SslMode::Disabled)
        );
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        for (text, what) in [
            ("", "is empty"),
            ("host=db", "names no user"),
            ("host=db user=u dbname=x", "has no `dbname`"),
            ("host=db user=u password=secret", "is no reference"),
            ("mysql://u:secret@db/", "password in its URL"),
            ("mysql://u@db/app", "names a database"),
            ("host=db user='u", "does not end"),
            ("host=db user=u port=x", "no port"),
            ("host=db user=u ssl_mode=on", "no ssl_mode"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(error.chain().contains(what), "{text}: {}", error.chain());
            assert!(!error.chain().contains("secret"));
        }
        assert!(Settings::is_connection("host=db") && Settings::is_connection("mysql://x"));
        assert!(!Settings::is_connection("out") && !Settings::is_connection("./host=db"));
    }
}
