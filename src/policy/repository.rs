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
    /// The class that segments are stored in; the bucket's default if left out.
    pub storage_class: Option<StorageClass>,
    /// The most that all objects in it may take; `None` for as much as there is.
    pub budget: Option<Size>,
    /// How much of the network may be used.
    pub limits: Limits,
    /// How backups are removed.
    pub prune: Prune,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A directory of this machine.
    Local(LocalRepository),
    /// A bucket of an S3-compatible store.
    S3(S3Repository),
    /// A container of Azure Blob Storage.
    Azure(AzureRepository),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsRepository),
}

impl Repository {
    /// The keys of which exactly one is written.
    pub(super) const KINDS: [&'static str; 4] = ["local", "s3", "azure", "gcs"];

    /// The bucket, if it is one.
    pub const fn s3(&self) -> Option<&S3Repository> {
        match &self.storage {
            Storage::S3(s3) => Some(s3),
            _ => None,
        }
    }

    /// The directory, if it is one.
    pub const fn local(&self) -> Option<&LocalRepository> {
        match &self.storage {
            Storage::Local(local) => Some(local),
            _ => None,
        }
    }
}

/// A repository as it is written: the kind is a key beside the others.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Repository")]
struct Written {
    /// A directory. Exactly one of `local`, `s3`, `azure` and `gcs` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<LocalRepository>,
    /// A bucket of an S3-compatible store.
    #[serde(skip_serializing_if = "Option::is_none")]
    s3: Option<S3Repository>,
    /// A container of Azure Blob Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    azure: Option<AzureRepository>,
    /// A bucket of Google Cloud Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    gcs: Option<GcsRepository>,
    /// Content encryption. Without it, backups are stored readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
    /// Object lock, for buckets that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    object_lock: Option<ObjectLock>,
    /// The class that segments are stored in. Everything else stays where it is read at once. The
    /// bucket's default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<StorageClass>,
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
        let storage = match (written.local, written.s3, written.azure, written.gcs) {
            (Some(local), None, None, None) => Storage::Local(local),
            (None, Some(s3), None, None) => Storage::S3(s3),
            (None, None, Some(azure), None) => Storage::Azure(azure),
            (None, None, None, Some(gcs)) => Storage::Gcs(gcs),
            _ => return Err("exactly one of `local`, `s3`, `azure` and `gcs` is needed"),
        };
        Ok(Self {
            storage,
            encryption: written.encryption,
            object_lock: written.object_lock,
            storage_class: written.storage_class,
            budget: written.budget,
            limits: written.limits,
            prune: written.prune,
        })
    }
}

impl From<Repository> for Written {
    fn from(repository: Repository) -> Self {
        let (local, s3, azure, gcs) = match repository.storage {
            Storage::Local(local) => (Some(local), None, None, None),
            Storage::S3(s3) => (None, Some(s3), None, None),
            Storage::Azure(azure) => (None, None, Some(azure), None),
            Storage::Gcs(gcs) => (None, None, None, Some(gcs)),
        };
        Self {
            local,
            s3,
            azure,
            gcs,
            encryption: repository.encryption,
            object_lock: repository.object_lock,
            storage_class: repository.storage_class,
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
    /// What kind of store it is, where that matters: how creates are kept from overwriting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<S3Profile>,
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
        let own = self.profile.is_some_and(S3Profile::wants_virtual_hosts);
        self.virtual_hosted.unwrap_or(own || self.endpoint.is_none())
    }
}

/// Kinds of S3-compatible stores that differ where it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum S3Profile {
    /// Alibaba Cloud OSS. The bucket must keep no versions: there a create overwrites.
    Oss,
    /// Tencent Cloud COS. The bucket must keep no versions: there a create overwrites.
    Cos,
    /// Huawei Cloud OBS.
    Obs,
}

impl S3Profile {
    /// The profile of this name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "oss" => Some(Self::Oss),
            "cos" => Some(Self::Cos),
            "obs" => Some(Self::Obs),
            _ => None,
        }
    }

    /// What the store is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oss => "OSS",
            Self::Cos => "COS",
            Self::Obs => "OBS",
        }
    }

    /// Whether requests name the bucket in their host.
    pub const fn wants_virtual_hosts(self) -> bool {
        matches!(self, Self::Oss | Self::Cos)
    }

    /// The header that keeps a create from overwriting, beside `If-None-Match`. It has no effect in a
    /// bucket that keeps versions.
    pub const fn create_header(self) -> Option<&'static str> {
        match self {
            Self::Oss => Some("x-oss-forbid-overwrite"),
            Self::Cos => Some("x-cos-forbid-overwrite"),
            Self::Obs => None,
        }
    }
}

/// A container of Azure Blob Storage as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AzureRepository {
    /// The container's name.
    pub container: String,
    /// What the names of all blobs start with, without slashes at the ends.
    #[serde(default)]
    pub prefix: String,
    /// The storage account.
    pub account: String,
    /// The account's URL; `https://ACCOUNT.blob.core.windows.net` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The account's key; the environment's or the machine's identity if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<SecretRef>,
    /// Whether an endpoint without TLS is accepted.
    #[serde(default)]
    pub allow_http: bool,
}

/// A bucket of Google Cloud Storage as a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcsRepository {
    /// The bucket's name.
    pub bucket: String,
    /// What the names of all objects start with, without slashes at the ends.
    #[serde(default)]
    pub prefix: String,
    /// The server; `https://storage.googleapis.com` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The key of a service account (JSON); the environment's or the machine's identity if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_key: Option<SecretRef>,
    /// Whether an endpoint without TLS is accepted.
    #[serde(default)]
    pub allow_http: bool,
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

/// What an object costs, and how soon it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StorageClass {
    /// Read at once.
    Standard,
    /// Read at once, for a fee.
    StandardIa,
    /// The same in one zone only.
    OnezoneIa,
    /// The store decides.
    IntelligentTiering,
    /// An archive that is read at once.
    GlacierIr,
    /// An archive whose objects are thawed for hours first.
    Glacier,
    /// An archive whose objects are thawed for half a day first.
    DeepArchive,
}

impl StorageClass {
    /// Its name in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::StandardIa => "STANDARD_IA",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
            Self::Glacier => "GLACIER",
            Self::DeepArchive => "DEEP_ARCHIVE",
        }
    }

    /// How long objects are thawed by the usual way, at most, before they can be read.
    pub const fn thaws_within(self) -> Option<Period> {
        match self {
            Self::Glacier => Some(Period::from_secs(5 * 3600)),
            Self::DeepArchive => Some(Period::from_secs(12 * 3600)),
            _ => None,
        }
    }
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
