//! Standbys that are kept at the newest backup, as a policy writes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::starrocks::{StarRocks, StarRocksStorage, StarRocksTls};
use super::value::Period;
use crate::secret::SecretRef;

/// Keeps a standby of a StarRocks source at the newest backup. What the backup has takes the place of
/// what the last sync put there; nothing else is ever replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// The source whose backups are taken: databases of StarRocks.
    pub source: String,
    /// The repository that they are read from, such as the copy that is near the standby; that of the
    /// source if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The site that the standby is at, one of `sites`. While it is the active one nothing is synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// How old what the standby has may be at the end of a run; a longer lag is an objective missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lag: Option<Period>,
    /// The standby.
    pub to: Standby,
}

/// A cluster that is kept at the newest backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Standby {
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
    /// How the standby reaches the bucket of the repository.
    #[serde(default, skip_serializing_if = "StarRocksStorage::is_default")]
    pub storage: StarRocksStorage,
    /// How long the restore of one snapshot may take; 24 hours if left out, and at least 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

impl Standby {
    /// The same as a source would have it.
    pub fn as_source(&self) -> StarRocks {
        StarRocks {
            frontends: self.frontends.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            tls: self.tls.clone(),
            databases: None,
            exclude: Vec::new(),
            storage: self.storage.clone(),
            counts: true,
            timeout: self.timeout,
        }
    }
}
