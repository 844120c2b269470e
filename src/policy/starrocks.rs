//! Databases of a StarRocks cluster, as a policy writes them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres_dump::Databases;
use super::value::Period;
use crate::secret::SecretRef;

/// Databases of a StarRocks cluster. StarRocks writes its snapshots into the bucket of the source's
/// repository by itself; everything that a snapshot leaves out is stored beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StarRocks {
    /// Frontends, `HOST:PORT` of their MySQL protocol (9030 if left out). Any that answers will do.
    pub frontends: Vec<String>,
    /// The user.
    pub user: String,
    /// Its password; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// TLS on the way to the frontends. Without it everything but the password can be read there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<StarRocksTls>,
    /// `all`, or a list of names; all if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Databases>,
    /// Globs of databases that `all` leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// How the cluster reaches the bucket of the source's repository.
    #[serde(default, skip_serializing_if = "StarRocksStorage::is_default")]
    pub storage: StarRocksStorage,
    /// Whether rows are counted, to check a restore by.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub counts: bool,
    /// How long the snapshot of one database may take; 24 hours if left out, and at least 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

fn yes() -> bool {
    true
}

impl StarRocks {
    /// The port of frontends where none is given.
    pub const PORT: u16 = 9030;
    /// The shortest timeout that StarRocks takes.
    pub const SHORTEST_TIMEOUT: Period = Period::from_secs(600);
    /// The timeout where none is given: StarRocks' own default.
    pub const USUAL_TIMEOUT: Period = Period::from_secs(24 * 3600);

    /// Host and port of a frontend. `None`: it is none.
    pub fn address(frontend: &str) -> Option<(String, u16)> {
        let (host, port) = match frontend.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => match frontend.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (frontend, None),
            },
        };
        let fine = |c: char| c.is_alphanumeric() || ".-_:".contains(c);
        if host.is_empty() || !host.chars().all(fine) {
            return None;
        }
        let port = match port {
            None | Some("") => Self::PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        };
        Some((host.to_owned(), port))
    }
}

/// TLS to frontends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StarRocksTls {
    /// Certificates (PEM) to trust instead of the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// How the cluster reaches the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StarRocksStorage {
    /// The id of a key of the cluster's own; its instance profile if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretRef>,
    /// The key's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretRef>,
    /// The server as the cluster sees it; that of the repository if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region; that of the repository if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

impl StarRocksStorage {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_have_a_host_and_perhaps_a_port() {
        let address =
            |text: &str| StarRocks::address(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(address("fe-1.example").as_deref(), Some("fe-1.example 9030"));
        assert_eq!(address("10.0.0.1:9031").as_deref(), Some("10.0.0.1 9031"));
        assert_eq!(address("[::1]:9031").as_deref(), Some("::1 9031"));
        assert_eq!(address("fe:0"), None);
        assert_eq!(address("fe:x"), None);
        assert_eq!(address("jdbc:mysql://fe:9030"), None);
        assert_eq!(address(""), None);
    }
}
