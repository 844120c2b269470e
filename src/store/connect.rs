//! From a location to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::blocking::{BucketAddress, Store};
use super::clouds::{self, AzureLocation, GcsLocation, Known, Means, known};
use super::erase::Place;
use super::error::{StoreError, no_credentials};
use super::http::Connector;
use super::layout;
use super::past::{self, Past};
use super::sdk::Reach;
use super::versions::Bucket;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::policy::{self, Storage};
use crate::secret::SecretRef;

/// How long a server may take for its first answer, retries included.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// How often a request is tried again. The time it may take is what ends it.
const RETRIES: usize = 40;
/// By how much pauses grow at most: each is drawn between the first one and so many times the one
/// before. With less than 3 they hardly grow, and a server that restarts is not outlasted.
const GROWTH: f64 = 6.0;
/// How long a server is asked that nobody has spoken to yet.
const GREETING: Duration = Duration::from_secs(4);
/// How long, if nothing else is said.
const RETRY_FOR: Duration = Duration::from_mins(3);
/// How long a server may be silent, if nothing else is said.
const SILENCE: Duration = Duration::from_mins(1);
/// The pause before a request is tried again for the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a request is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Where a repository lies.
#[derive(Debug, Clone)]
pub enum Location {
    /// A directory of this machine.
    Local(PathBuf),
    /// A bucket, or a prefix in one.
    S3(S3Location),
    /// A container of Azure Blob Storage, or a prefix in one.
    Azure(AzureLocation),
    /// A bucket of Google Cloud Storage, or a prefix in one.
    Gcs(GcsLocation),
}

/// A bucket of an S3-compatible store.
#[derive(Debug, Clone, Default)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// Prefix within it, without slashes at the ends.
    pub prefix: String,
    /// Endpoint URL; `None` is AWS.
    pub endpoint: Option<String>,
    /// Region; `us-east-1` if not given.
    pub region: Option<String>,
    /// Access key; without one the environment and then instance credentials are asked.
    pub access_key_id: Option<SecretString>,
    /// Secret key.
    pub secret_access_key: Option<SecretString>,
    /// Session token.
    pub session_token: Option<SecretString>,
    /// `bucket.endpoint` instead of `endpoint/bucket`.
    pub virtual_hosted: bool,
    /// What kind of store it is, where that matters.
    pub profile: Option<policy::S3Profile>,
    /// PEM file of a private certificate authority.
    pub ca_file: Option<PathBuf>,
    /// Allow `http:` endpoints.
    pub allow_http: bool,
    /// Somebody said that plain text is meant.
    pub http_is_meant: bool,
    /// How long the server may be silent before a request is tried again; a minute if not given.
    pub timeout: Option<Duration>,
    /// How long a request is tried again; three minutes if not given.
    pub retry_for: Option<Duration>,
    /// Look at the bucket as it was then, and write nothing.
    pub at: Option<Timestamp>,
}

impl Location {
    /// Parses a path, `file:` URL or `s3://BUCKET/PREFIX?endpoint=URL&region=R&ca_file=PATH`
    /// (also `virtual_hosted=true`, `allow_http=true`, `timeout=30s` and `retry_for=5m`). S3 credentials come from the environment (`AWS_…`).
    pub fn parse(text: &str) -> Result<Self> {
        if !text.contains("://") {
            let path = std::path::absolute(text)
                .doing(|| format!("failed to make `{text}` an absolute path"))?;
            return Ok(Self::Local(path));
        }
        let bad = |what: &str| {
            Error::usage(format!("`{}` is no repository: {what}", without_login(text))).hint(
                "give a directory, file:///PATH, s3://BUCKET/PREFIX?endpoint=URL&region=REGION, \
                 az://CONTAINER/PREFIX?account=NAME or gs://BUCKET/PREFIX",
            )
        };
        let url = url::Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        match url.scheme() {
            "file" => Ok(Self::Local(url.to_file_path().map_err(|()| bad("not a path"))?)),
            "s3" => {
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(bad("credentials do not belong into a URL")
                        .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
                }
                let mut s3 = S3Location {
                    bucket: url.host_str().ok_or_else(|| bad("no bucket"))?.to_owned(),
                    prefix: url.path().trim_matches('/').to_owned(),
                    ..S3Location::default()
                };
                for (key, value) in url.query_pairs() {
                    match &*key {
                        "endpoint" => {
                            s3.allow_http |= value.starts_with("http://");
                            s3.endpoint = Some(value.into_owned());
                        }
                        "allow_http" => s3.http_is_meant = value == "true",
                        "region" => s3.region = Some(value.into_owned()),
                        "ca_file" => s3.ca_file = Some(value.into_owned().into()),
                        "profile" => {
                            let profile = policy::S3Profile::parse(&value)
                                .ok_or_else(|| bad("`profile` is one of oss, cos and obs"))?;
                            s3.virtual_hosted |= profile.wants_virtual_hosts();
                            s3.profile = Some(profile);
                        }
                        "virtual_hosted" => s3.virtual_hosted = value == "true",
                        "timeout" => s3.timeout = Some(period(&value).map_err(|e| bad(&e))?),
                        "retry_for" => s3.retry_for = Some(period(&value).map_err(|e| bad(&e))?),
                        other => return Err(bad(&format!("unknown parameter `{other}`"))),
                    }
                }
                Ok(Self::S3(s3))
            }
            "az" | "gs" => clouds::parse(&url).map_err(|what| bad(&what)),
            other => Err(bad(&format!("unknown scheme `{other}`"))),
        }
    }

    /// The location that a policy names. Secret references are resolved now.
    pub fn from_policy(repository: &policy::Repository) -> Result<Self> {
        match &repository.storage {
            Storage::Local(local) => Ok(Self::Local(local.path.clone())),
            Storage::S3(s3) => Self::of_s3(s3),
            Storage::Azure(azure) => AzureLocation::of_policy(azure).map(Self::Azure),
            Storage::Gcs(gcs) => GcsLocation::of_policy(gcs).map(Self::Gcs),
        }
    }

    /// A bucket that a policy names. Secret references are resolved now.
    pub fn of_s3(s3: &policy::S3Repository) -> Result<Self> {
        let resolve =
            |secret: &Option<SecretRef>| secret.as_ref().map(SecretRef::resolve).transpose();
        Ok(Self::S3(S3Location {
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.trim_matches('/').to_owned(),
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            access_key_id: resolve(&s3.access_key_id)?,
            secret_access_key: resolve(&s3.secret_access_key)?,
            session_token: resolve(&s3.session_token)?,
            virtual_hosted: s3.uses_virtual_hosts(),
            profile: s3.profile,
            ca_file: s3.ca_file.clone(),
            allow_http: s3.allow_http,
            http_is_meant: true,
            timeout: s3.timeout.map(policy::Period::get),
            retry_for: s3.retry_for.map(policy::Period::get),
            at: None,
        }))
    }

    /// The same as it was at some time, if one is given.
    pub fn at(mut self, at: Option<Timestamp>) -> Result<Self> {
        match (&mut self, at) {
            (_, None) => {}
            (Self::S3(s3), at) => s3.at = at,
            (Self::Azure(_) | Self::Gcs(_), Some(_)) => {
                return Err(Error::unsupported(format!(
                    "{}: only S3-compatible stores are read as they were",
                    self.name()
                )));
            }
            (Self::Local(path), Some(_)) => {
                let message = format!("{} keeps no versions: it is a directory", path.display());
                return Err(Error::usage(message)
                    .hint("`--repository-at` is for buckets; leave it out, or use a snapshot of the file system"));
            }
        }
        Ok(self)
    }

    /// Whether what is sent can be read on the way, and nobody said that this is meant.
    pub fn is_exposed(&self) -> bool {
        let (Self::S3(S3Location { endpoint: Some(endpoint), http_is_meant: false, .. })
        | Self::Azure(AzureLocation { endpoint: Some(endpoint), access_key: None, .. })
        | Self::Gcs(GcsLocation {
            endpoint: Some(endpoint), service_account_key: None, ..
        })) = self
        else {
            return false;
        };
        let host = endpoint.strip_prefix("http://").unwrap_or_default();
        !host.is_empty() && !["127.", "localhost", "[::1]"].iter().any(|own| host.starts_with(own))
    }

    /// The location for people: never with credentials.
    pub fn name(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::Azure(azure) => azure.name(),
            Self::Gcs(gcs) => gcs.name(),
            Self::S3(s3) => {
                let place = match (&s3.endpoint, s3.prefix.is_empty()) {
                    (None, true) => format!("s3://{}", s3.bucket),
                    (None, false) => format!("s3://{}/{}", s3.bucket, s3.prefix),
                    (Some(endpoint), true) => format!("s3://{} at {endpoint}", s3.bucket),
                    (Some(endpoint), false) => {
                        format!("s3://{}/{} at {endpoint}", s3.bucket, s3.prefix)
                    }
                };
                match s3.at {
                    Some(at) => format!("{place} as of {at}"),
                    None => place,
                }
            }
        }
    }

    /// Connects, and makes sure that a bucket answers at all. A local directory is created only if
    /// `create`.
    pub fn connect(&self, runtime: &Handle, create: bool) -> Result<Store> {
        let mut greeted: Option<(Arc<dyn ObjectStore>, Option<Known>)> = None;
        let (objects, place): (Arc<dyn ObjectStore>, Place) = match self {
            Self::Local(path) => {
                (Arc::new(local(path, create)?), Place::Directory(path.as_path().into()))
            }
            Self::S3(s3) => {
                let (bucket, reach) = s3.build().map_err(|error| {
                    Error::new(ErrorKind::Policy, format!("failed to set up {}", self.name()))
                        .with_source(error)
                })?;
                let hasty = s3.retry_for.unwrap_or(RETRY_FOR).min(GREETING);
                let hasty = S3Location { retry_for: Some(hasty), ..s3.clone() }.build()?.0;
                let asked = known(reach.credentials.clone());
                greeted = Some((below(Arc::new(hasty), &s3.prefix), Some(asked)));
                let versions = Arc::new(Bucket::new(reach, &s3.prefix));
                let objects = below(Arc::new(bucket), &s3.prefix);
                let objects = match s3.at {
                    Some(at) => Arc::new(Past::new(objects, versions.clone(), at)),
                    None => objects,
                };
                (objects, Place::Bucket(versions))
            }
            Self::Azure(azure) => {
                let means = means(None, azure.allow_http);
                let (hasty, asked) = azure.build(&means.hasty(GREETING))?;
                let prefix = azure.prefix.as_str();
                greeted = Some((below(Arc::new(hasty), prefix), asked));
                (below(Arc::new(azure.build(&means)?.0), prefix), Place::Other)
            }
            Self::Gcs(gcs) => {
                let means = means(None, gcs.allow_http);
                let (hasty, asked) = gcs.build(&means.hasty(GREETING))?;
                let prefix = gcs.prefix.as_str();
                greeted = Some((below(Arc::new(hasty), prefix), asked));
                (below(Arc::new(gcs.build(&means)?.0), prefix), Place::Other)
            }
        };
        let mut store = Store::new(objects, runtime.clone(), &self.name()).at(place);
        if let Self::S3(s3) = self {
            store = store.in_bucket(BucketAddress {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone(),
                endpoint: s3.endpoint.clone(),
                region: s3.region.clone(),
                virtual_hosted: s3.virtual_hosted,
            });
        }
        if let Some((hasty, asked)) = greeted {
            greet(&Store::new(hasty, runtime.clone(), &self.name()), asked)?;
        }
        if let Self::S3(S3Location { profile: Some(profile), at: None, .. }) = self {
            check_profile(&store, *profile)?;
        }
        if let Self::S3(S3Location { at: Some(_), .. }) = self {
            past::check(&store)?;
        }
        Ok(store)
    }
}

fn period(text: &str) -> Result<Duration, String> {
    text.parse::<policy::Period>().map(policy::Period::get).map_err(|error| error.message)
}

/// A URL as it may be shown: what somebody wrote before the `@` is likely to be a secret.
fn without_login(url: &str) -> String {
    match url.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('@'))) {
        Some((scheme, Some((_, rest)))) => format!("{scheme}://…@{rest}"),
        _ => url.to_owned(),
    }
}

/// Asks for one small object with less patience than the work has: a long backup should outlast a
/// server's restart, and a person who mistyped an endpoint should not wait minutes to learn it.
fn greet(store: &Store, credentials: Option<Known>) -> Result<()> {
    let path = object_store::path::Path::from(layout::DESCRIPTOR);
    let soon = |error| move |_| error;
    let asked = store.runtime().block_on(async {
        // First by themselves: an instance that keeps silent is not the bucket's silence.
        if let Some(credentials) = credentials {
            let known = timeout(FIRST_ANSWER, credentials);
            match known.await.map_err(soon(no_credentials(store.name())))? {
                Ok(()) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let asked = timeout(FIRST_ANSWER, store.objects().get(&path));
        asked.await.map_err(soon(no_answer(store.name())))
    })?;
    match asked.map_err(|error| StoreError::new(layout::DESCRIPTOR, error)) {
        // No repository yet, but a bucket.
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => {
            let doing = format!("read {}", layout::DESCRIPTOR);
            Err(error.into_error(&doing, store.name()))
        }
    }
}

/// How requests to other stores than S3 are sent.
fn means(timeout: Option<Duration>, allow_http: bool) -> Means {
    Means {
        client: ClientOptions::new()
            .with_allow_http(allow_http)
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(Duration::from_mins(5)),
        connector: Connector { silence: timeout.unwrap_or(SILENCE), create_header: None },
        retry: retry(RETRY_FOR),
    }
}

fn retry(within: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: FIRST_PAUSE,
            max_backoff: LONGEST_PAUSE,
            base: GROWTH,
        },
        max_retries: RETRIES,
        retry_timeout: within,
    }
}

fn below(objects: Arc<dyn ObjectStore>, prefix: &str) -> Arc<dyn ObjectStore> {
    if prefix.is_empty() { objects } else { Arc::new(PrefixStore::new(objects, prefix)) }
}

/// Refuses a bucket whose creates would overwrite.
fn check_profile(store: &Store, profile: policy::S3Profile) -> Result<()> {
    if profile.create_header().is_none() || !store.versioning()?.keeps() {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{}: the bucket keeps versions, and there {} lets a create overwrite",
        store.name(),
        profile.name()
    ))
    .hint("use a bucket that never kept versions: suspending them is not enough"))
}

fn no_answer(name: &str) -> Error {
    let message = format!("{name} did not answer within {} s", FIRST_ANSWER.as_secs());
    Error::new(ErrorKind::Unreachable, message)
        .hint("check the endpoint, and that this machine reaches it: name, port, firewall")
}

fn local(path: &Path, create: bool) -> Result<LocalFileSystem> {
    if create {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .doing(|| format!("failed to create {}", path.display()))?;
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| {
        // The library's cause says no more than that, in more words.
        if !path.exists() {
            return Error::not_found(format!("there is no repository at {}", path.display()))
                .hint("`backstay init` creates one; check the path if there should be one");
        }
        Error::failed(format!("failed to open the repository at {}", path.display()))
            .with_source(error)
    })?;
    Ok(store.with_fsync(true))
}

impl S3Location {
    /// The bucket for `object_store`, and how the SDK reaches it.
    pub(super) fn build(&self) -> Result<(AmazonS3, Reach), Error> {
        let mut client = ClientOptions::new()
            .with_allow_http(self.allow_http)
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(Duration::from_mins(5));
        if let Some(path) = &self.ca_file {
            let failed = || format!("failed to read the certificates in {}", path.display());
            let pem = std::fs::read(path).doing(failed)?;
            let bundle = Certificate::from_pem_bundle(&pem)
                .map_err(|error| Error::failed(failed()).with_source(error))?;
            for certificate in bundle {
                client = client.with_root_certificate(certificate);
            }
        }
        let connector = Connector {
            silence: self.timeout.unwrap_or(SILENCE),
            create_header: self.profile.and_then(policy::S3Profile::create_header),
        };
        // Only what the policy leaves open is taken from the environment: credentials, and where
        // an instance gets them from.
        let mut builder = if self.access_key_id.is_some() {
            AmazonS3Builder::new()
        } else {
            AmazonS3Builder::from_env()
        };
        builder = builder
            .with_bucket_name(&self.bucket)
            .with_allow_http(self.allow_http)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_client_options(client.clone())
            .with_http_connector(connector)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry(self.retry_for.unwrap_or(RETRY_FOR)));
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            let endpoint = if self.virtual_hosted {
                hosted(endpoint, &self.bucket)?
            } else {
                endpoint.clone()
            };
            // Both: the one for S3 alone may be set in the environment, and would be preferred.
            builder = builder
                .with_endpoint(&endpoint)
                .with_config(AmazonS3ConfigKey::S3Endpoint, &endpoint);
        }
        let values =
            [(&self.access_key_id, 0), (&self.secret_access_key, 1), (&self.session_token, 2)];
        for (value, field) in values {
            let Some(value) = value else { continue };
            let value = value.expose_secret();
            builder = match field {
                0 => builder.with_access_key_id(value),
                1 => builder.with_secret_access_key(value),
                _ => builder.with_token(value),
            };
        }
        let (url, region) = self.address(&builder);
        let bucket = builder
            .build()
            .map_err(|error| Error::new(ErrorKind::Policy, "bad settings").with_source(error))?;
        let reach = Reach {
            url,
            region,
            bucket: self.bucket.clone(),
            credentials: bucket.credentials().clone(),
            options: client,
            connector,
            tries: tries(self.retry_for.unwrap_or(RETRY_FOR)),
            pauses: (FIRST_PAUSE, LONGEST_PAUSE),
        };
        Ok((bucket, reach))
    }

    /// The bucket's URL and region, as `object_store` makes them of what it was told.
    fn address(&self, builder: &AmazonS3Builder) -> (String, String) {
        let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
        let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = value(AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| value(AmazonS3ConfigKey::Endpoint))
            .map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        let bucket = &self.bucket;
        let url = match (endpoint, self.virtual_hosted) {
            (Some(endpoint), true) => endpoint,
            (Some(endpoint), false) => format!("{endpoint}/{bucket}"),
            (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        (url, region)
    }
}

/// How often a client that counts tries, not time, may try within so long.
fn tries(within: Duration) -> u32 {
    let (mut pause, mut waited, mut tries) = (FIRST_PAUSE, Duration::ZERO, 1);
    while tries <= RETRIES as u32 && waited + pause <= within {
        waited += pause;
        pause = (pause * 2).min(LONGEST_PAUSE);
        tries += 1;
    }
    tries
}

/// The endpoint with the bucket before its host, as virtual-hosted requests need it.
fn hosted(endpoint: &str, bucket: &str) -> Result<String> {
    let mut url = url::Url::parse(endpoint)
        .map_err(|error| Error::usage(format!("bad endpoint `{endpoint}`")).with_source(error))?;
    let host = url.host_str().unwrap_or_default();
    if !host.starts_with(&format!("{bucket}.")) {
        let host = format!("{bucket}.{host}");
        url.set_host(Some(&host))
            .map_err(|error| Error::usage(format!("bad host `{host}`")).with_source(error))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_fit_into_their_time() {
        assert_eq!(tries(Duration::from_millis(50)), 1);
        assert_eq!(tries(Duration::from_secs(1)), 4);
        assert_eq!(tries(RETRY_FOR), 19);
    }

    #[test]
    fn the_bucket_has_one_address() {
        let at = |endpoint: Option<&str>, virtual_hosted| {
            let endpoint = endpoint.map(str::to_owned);
            let bucket = "b".to_owned();
            let access = Some(SecretString::from("access".to_owned()));
            let s3 = S3Location {
                bucket,
                endpoint,
                virtual_hosted,
                secret_access_key: access.clone(),
                access_key_id: access,
                ..S3Location::default()
            };
            s3.build().map(|(_, reach)| reach.url).unwrap_or_default()
        };
        assert_eq!(at(Some("https://s3.test:9000/"), false), "https://s3.test:9000/b");
        assert_eq!(at(Some("https://s3.test:9000"), true), "https://b.s3.test:9000");
        assert_eq!(at(Some("https://b.s3.test"), true), "https://b.s3.test");
        assert_eq!(at(None, true), "https://b.s3.us-east-1.amazonaws.com");
        assert_eq!(at(None, false), "https://s3.us-east-1.amazonaws.com/b");
    }
}
