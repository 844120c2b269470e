//! The client for what `object_store` lacks: versions and deletion by version id.
//!
//! The SDK brings the requests and their answers. How a server is reached is `object_store`'s: the
//! same address, the same credentials and the same HTTP client, with its certificates, proxies and
//! time limits. There is one TLS stack, and one place that says how to connect.

use std::fmt;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::endpoint::{Endpoint, EndpointFuture, Params, ResolveEndpoint};
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, IdentityCache, Region, RuntimeComponents,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector as SdkConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector, http_client_fn,
};
use bytes::Bytes;
use object_store::ClientOptions;
use object_store::aws::AwsCredentialProvider;
use object_store::client::{HttpClient, HttpConnector, HttpErrorKind};

use super::answer::{Answer, io_kind, is_silence, text_of};
use super::http::Connector;

/// How a bucket is reached.
#[derive(Clone)]
pub(super) struct Reach {
    /// The bucket's own URL, with the bucket in its host or in its path.
    pub(super) url: String,
    /// Region, for signatures.
    pub(super) region: String,
    /// The bucket.
    pub(super) bucket: String,
    /// Where credentials come from; it renews them itself.
    pub(super) credentials: AwsCredentialProvider,
    /// Certificates and proxies.
    pub(super) options: ClientOptions,
    /// Sends requests.
    pub(super) connector: Connector,
    /// How often a request is tried.
    pub(super) tries: u32,
    /// The first and the longest pause between two tries.
    pub(super) pauses: (Duration, Duration),
}

impl Reach {
    /// A client for the bucket.
    pub(super) fn client(&self) -> Result<Client, Answer> {
        let http = self.connector.connect(&self.options).map_err(|error| Answer::of(&error))?;
        let retry = RetryConfig::standard()
            .with_max_attempts(self.tries)
            .with_initial_backoff(self.pauses.0)
            .with_max_backoff(self.pauses.1);
        let config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(self.region.clone()))
            .endpoint_resolver(Address(self.url.clone()))
            .credentials_provider(SameCredentials(self.credentials.clone()))
            // The provider keeps and renews them, and knows better how long they last.
            .identity_cache(IdentityCache::no_cache())
            .http_client(connector(http))
            .retry_config(retry)
            // The HTTP client has limits of its own.
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Ok(Client::from_conf(config))
    }
}

/// Every request goes to one bucket, whose address is known.
#[derive(Debug)]
struct Address(String);

impl ResolveEndpoint for Address {
    fn resolve_endpoint<'a>(&'a self, _: &'a Params) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(Endpoint::builder().url(self.0.clone()).build()))
    }
}

#[derive(Debug)]
struct SameCredentials(AwsCredentialProvider);

impl ProvideCredentials for SameCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let found = self.0.get_credential().await.map_err(CredentialsError::provider_error)?;
            let token = found.token.clone();
            let (id, secret) = (found.key_id.clone(), found.secret_key.clone());
            Ok(Credentials::new(id, secret, token, None, "object_store"))
        })
    }
}

fn connector(http: HttpClient) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(SameConnections(http));
    http_client_fn(move |_: &HttpConnectorSettings, _: &RuntimeComponents| connector.clone())
}

struct SameConnections(HttpClient);

impl fmt::Debug for SameConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SameConnections")
    }
}

impl SdkConnector for SameConnections {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.0.clone();
        HttpConnectorFuture::new(async move { send(&http, request).await })
    }
}

async fn send(http: &HttpClient, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    let Some(body) = body.bytes() else {
        return Err(ConnectorError::user("a body that streams is not sent this way".into()));
    };
    let body = Bytes::copy_from_slice(body);
    let request = object_store::client::HttpRequest::from_parts(parts, body.into());
    let failed = |error: object_store::client::HttpError| match error.kind() {
        HttpErrorKind::Timeout => ConnectorError::timeout(error.into()),
        HttpErrorKind::Unknown | HttpErrorKind::Decode => ConnectorError::other(error.into(), None),
        _ => ConnectorError::io(error.into()),
    };
    let (parts, body) = http.execute(request).await.map_err(failed)?.into_parts();
    let body = body.bytes().await.map_err(failed)?;
    http::Response::from_parts(parts, SdkBody::from(body))
        .try_into()
        .map_err(|error| ConnectorError::other(Box::new(error), None))
}

impl Answer {
    /// What the SDK says of a failed request.
    pub(super) fn of_sdk<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = error.raw_response().map(|raw| raw.status().as_u16());
        match error.as_service_error() {
            Some(service) if service.code().is_some() => Self {
                status,
                code: service.code().map(str::to_owned),
                message: service.message().unwrap_or_default().to_owned(),
                io: None,
                silent: false,
            },
            _ => {
                let message = text_of(error);
                let silent = status.is_none() && is_silence(&message);
                Self { status, code: None, message, io: io_kind(error), silent }
            }
        }
    }

    /// Whether the store refused: a right is missing, or credentials are wrong.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status, Some(401 | 403)) || self.is(&["AccessDenied"])
    }
}
