//! Repositories: where backups live.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Period, Size};
use crate::secret::SecretRef;

/// A place for backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct Repository {
    /// Where it is.
    pub storage: Storage,
    /// How content is encrypted; `None` stores it readable.
    pub encryption: Option<Encryption>,
    /// Protection against deletion, by the store.
    pub object_lock: Option<ObjectLock>,
    /// The most that all objects in it may take; `None` for as much as there is.
    pub budget: Option<Size>,
    /// How much of the network may be used.
    pub limits: Limits,
    /// How backups are removed.
    pub prune: Prune,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a policy has a handful of them")]
pub enum Storage {
    /// A directory of this machine.
    Local(LocalRepository),
    /// A bucket of an S3-compatible store.
    S3(S3Repository),
}

impl Repository {
    /// The keys of which exactly one is written.
    pub(super) const KINDS: [&'static str; 2] = ["local", "s3"];

    /// The bucket, if it is one.
    pub const fn s3(&self) -> Option<&S3Repository> {
        match &self.storage {
            Storage::S3(s3) => Some(s3),
            Storage::Local(_) => None,
        }
    }

    /// The directory, if it is one.
    pub const fn local(&self) -> Option<&LocalRepository> {
        match &self.storage {
            Storage::Local(local) => Some(local),
            Storage::S3(_) => None,
        }
    }
}

/// A repository as it is written: the kind is a key beside the others.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Repository")]
struct Written {
    /// A directory. Exactly one of `local` and `s3` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<LocalRepository>,
    /// A bucket. Exactly one of `local` and `s3` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    s3: Option<S3Repository>,
    /// Content encryption. Without it, backups are stored readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
    /// Object lock, for buckets that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    object_lock: Option<ObjectLock>,
    /// The most that all objects in it may take: a backup that would take more does not begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Size>,
    /// Bandwidth and connections.
    #[serde(default)]
    limits: Limits,
    /// How backups are removed.
    #[serde(default, skip_serializing_if = "Prune::is_default")]
    prune: Prune,
}

impl TryFrom<Written> for Repository {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let storage = match (written.local, written.s3) {
            (Some(local), None) => Storage::Local(local),
            (None, Some(s3)) => Storage::S3(s3),
            _ => return Err("exactly one of `local` and `s3` is needed"),
        };
        Ok(Self {
            storage,
            encryption: written.encryption,
            object_lock: written.object_lock,
            budget: written.budget,
            limits: written.limits,
            prune: written.prune,
        })
    }
}

impl From<Repository> for Written {
    fn from(repository: Repository) -> Self {
        let (local, s3) = match repository.storage {
            Storage::Local(local) => (Some(local), None),
            Storage::S3(s3) => (None, Some(s3)),
        };
        Self {
            local,
            s3,
            encryption: repository.encryption,
            object_lock: repository.object_lock,
            budget: repository.budget,
            limits: repository.limits,
            prune: repository.prune,
        }
    }
}

/// A directory as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalRepository {
    /// An absolute path.
    pub path: PathBuf,
}

/// A bucket as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Repository {
    /// The bucket's name.
    pub bucket: String,
    /// What the keys of all objects start with, without slashes at the ends.
    #[serde(default)]
    pub prefix: String,
    /// The server, `https://host[:port]`; AWS of `region` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region; many servers take any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The key's id; the environment's or instance's credentials if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretRef>,
    /// The key's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretRef>,
    /// The token of temporary credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    /// `bucket.host/key` instead of `host/bucket/key`; by default where `endpoint` is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_hosted: Option<bool>,
    /// Certificates (PEM) to trust beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whether an endpoint without TLS is accepted.
    #[serde(default)]
    pub allow_http: bool,
    /// How long the server may be silent before a request is tried again. Default: a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// How long a failed request is tried again. Default: three minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_for: Option<Period>,
}

impl S3Repository {
    /// Whether the bucket is part of the host name.
    pub fn uses_virtual_hosts(&self) -> bool {
        self.virtual_hosted.unwrap_or(self.endpoint.is_none())
    }
}

/// Content encryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// age recipients (`age1…`) whose identities can recover everything.
    pub recipients: Vec<String>,
    /// The identity that opens only what the next incremental needs, shared by a stack's daemons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer_identity: Option<SecretRef>,
    /// An identity of a recovery recipient. A host that has it can read every backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SecretRef>,
    /// The repository's public key (`age1…`), so that a swapped key is noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_key: Option<String>,
}

/// Protection against deletion, by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLock {
    /// Who may lift it.
    pub mode: LockMode,
}

/// Who may lift an object lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Those with a special permission.
    Governance,
    /// Nobody, before it ends.
    Compliance,
}

/// How backups are removed from a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// From the announcement that something goes to its deletion; 24h, and no less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<Period>,
    /// The id of a key that may delete, so that the one backups are written with need not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretRef>,
    /// The key's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretRef>,
    /// The token of temporary credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
}

impl Prune {
    /// Hours of grace, at least.
    pub const SHORTEST_GRACE: Period = Period::from_secs(24 * 3600);

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Repository {
    /// The repository with the credentials that may delete, where there are any.
    #[must_use]
    pub fn for_pruning(&self) -> Self {
        let mut own = self.clone();
        if let (Storage::S3(s3), Some(id)) = (&mut own.storage, &self.prune.access_key_id) {
            s3.access_key_id = Some(id.clone());
            s3.secret_access_key.clone_from(&self.prune.secret_access_key);
            s3.session_token.clone_from(&self.prune.session_token);
        }
        own
    }
}

/// How much of the network may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes per second sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<Size>,
    /// Bytes per second received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<Size>,
    /// Connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
}
