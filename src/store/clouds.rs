//! Buckets of Azure Blob Storage and of Google Cloud Storage.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientOptions, CredentialProvider, RetryConfig};
use secrecy::{ExposeSecret as _, SecretString};

use super::connect::Location;
use super::http::Connector;
use crate::error::{Error, ErrorKind, Result};
use crate::policy;
use crate::secret::SecretRef;

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, Default)]
pub struct AzureLocation {
    /// The container.
    pub container: String,
    /// Prefix within it, without slashes at the ends.
    pub prefix: String,
    /// The storage account; the environment's if not given.
    pub account: Option<String>,
    /// The account's URL; Azure's own if not given.
    pub endpoint: Option<String>,
    /// The account's key; without one the environment and then the machine's identity are asked.
    pub access_key: Option<SecretString>,
    /// Allow `http:` endpoints.
    pub allow_http: bool,
}

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone, Default)]
pub struct GcsLocation {
    /// The bucket.
    pub bucket: String,
    /// Prefix within it, without slashes at the ends.
    pub prefix: String,
    /// The server's URL; Google's own if not given.
    pub endpoint: Option<String>,
    /// The key of a service account, JSON; without one the environment and then the machine's
    /// identity are asked.
    pub service_account_key: Option<SecretString>,
    /// Allow `http:` endpoints.
    pub allow_http: bool,
}

/// Asks for credentials: whether there are any shows before the bucket is asked for something.
pub(super) type Known = BoxFuture<'static, object_store::Result<()>>;

/// Asks a provider, which renews what it finds by itself.
pub(super) fn known<T: Send + Sync + 'static>(
    provider: Arc<dyn CredentialProvider<Credential = T>>,
) -> Known {
    async move { provider.get_credential().await.map(drop) }.boxed()
}

/// How requests are sent.
pub(super) struct Means {
    pub(super) client: ClientOptions,
    pub(super) connector: Connector,
    pub(super) retry: RetryConfig,
}

impl Means {
    /// The same with less patience.
    pub(super) fn hasty(&self, within: Duration) -> Self {
        let retry = RetryConfig { retry_timeout: within, ..self.retry.clone() };
        Self { client: self.client.clone(), connector: self.connector, retry }
    }
}

fn resolved(secret: Option<&SecretRef>) -> Result<Option<SecretString>> {
    secret.map(SecretRef::resolve).transpose()
}

impl AzureLocation {
    /// The container that a policy names. Secret references are resolved now.
    pub(super) fn of_policy(azure: &policy::AzureRepository) -> Result<Self> {
        Ok(Self {
            container: azure.container.clone(),
            prefix: azure.prefix.trim_matches('/').to_owned(),
            account: Some(azure.account.clone()),
            endpoint: azure.endpoint.clone(),
            access_key: resolved(azure.access_key.as_ref())?,
            allow_http: azure.allow_http,
        })
    }

    /// The container, and what asks for credentials where requests have any.
    pub(super) fn build(&self, means: &Means) -> Result<(MicrosoftAzure, Option<Known>)> {
        let mut builder = if self.access_key.is_some() {
            MicrosoftAzureBuilder::new()
        } else {
            MicrosoftAzureBuilder::from_env()
        };
        builder = builder
            .with_container_name(&self.container)
            .with_allow_http(self.allow_http)
            .with_client_options(means.client.clone())
            .with_http_connector(means.connector)
            .with_retry(means.retry.clone());
        if let Some(account) = &self.account {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Some(key) = &self.access_key {
            builder = builder.with_access_key(key.expose_secret());
        }
        let signed = is_signed(builder.get_config_value(&AzureConfigKey::SkipSignature));
        let bucket = builder.build().map_err(bad_settings)?;
        let asked = signed.then(|| known(bucket.credentials().clone()));
        Ok((bucket, asked))
    }

    pub(super) fn name(&self) -> String {
        let account = self.account.as_deref().unwrap_or_default();
        named("az", &self.container, &self.prefix, self.endpoint.as_deref().unwrap_or(account))
    }
}

impl GcsLocation {
    /// The bucket that a policy names. Secret references are resolved now.
    pub(super) fn of_policy(gcs: &policy::GcsRepository) -> Result<Self> {
        Ok(Self {
            bucket: gcs.bucket.clone(),
            prefix: gcs.prefix.trim_matches('/').to_owned(),
            endpoint: gcs.endpoint.clone(),
            service_account_key: resolved(gcs.service_account_key.as_ref())?,
            allow_http: gcs.allow_http,
        })
    }

    /// The bucket, and what asks for credentials where requests have any.
    pub(super) fn build(&self, means: &Means) -> Result<(GoogleCloudStorage, Option<Known>)> {
        let mut builder = if self.service_account_key.is_some() {
            GoogleCloudStorageBuilder::new()
        } else {
            GoogleCloudStorageBuilder::from_env()
        };
        builder = builder
            .with_bucket_name(&self.bucket)
            .with_client_options(means.client.clone())
            .with_http_connector(means.connector)
            .with_retry(means.retry.clone());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        if let Some(key) = &self.service_account_key {
            builder = builder.with_service_account_key(key.expose_secret());
        }
        let signed = is_signed(builder.get_config_value(&GoogleConfigKey::SkipSignature));
        let bucket = builder.build().map_err(bad_settings)?;
        let asked = signed.then(|| known(bucket.credentials().clone()));
        Ok((bucket, asked))
    }

    pub(super) fn name(&self) -> String {
        named("gs", &self.bucket, &self.prefix, self.endpoint.as_deref().unwrap_or_default())
    }
}

/// `az://CONTAINER/PREFIX?account=NAME&endpoint=URL` and `gs://BUCKET/PREFIX?endpoint=URL`.
pub(super) fn parse(url: &url::Url) -> Result<Location, String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into a URL".to_owned());
    }
    let bucket = url.host_str().ok_or("no bucket")?.to_owned();
    let prefix = url.path().trim_matches('/').to_owned();
    let (mut account, mut endpoint) = (None, None);
    for (key, value) in url.query_pairs() {
        match &*key {
            "account" if url.scheme() == "az" => account = Some(value.into_owned()),
            "endpoint" => endpoint = Some(value.into_owned()),
            other => return Err(format!("unknown parameter `{other}`")),
        }
    }
    let allow_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    Ok(if url.scheme() == "az" {
        let container = bucket;
        let access_key = None;
        Location::Azure(AzureLocation {
            container,
            prefix,
            account,
            endpoint,
            access_key,
            allow_http,
        })
    } else {
        let service_account_key = None;
        Location::Gcs(GcsLocation { bucket, prefix, endpoint, service_account_key, allow_http })
    })
}

/// Whether requests carry credentials, as the library was told.
fn is_signed(skip: Option<String>) -> bool {
    skip.is_none_or(|skip| matches!(&*skip.to_lowercase(), "false" | "0" | "off" | "no"))
}

fn bad_settings(error: object_store::Error) -> Error {
    Error::new(ErrorKind::Policy, "bad settings").with_source(error)
}

fn named(scheme: &str, bucket: &str, prefix: &str, at: &str) -> String {
    let slash = if prefix.is_empty() { "" } else { "/" };
    let place = format!("{scheme}://{bucket}{slash}{prefix}");
    if at.is_empty() { place } else { format!("{place} at {at}") }
}
