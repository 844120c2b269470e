//! Requests to receivers of notifications: here because only the store sees the network.
//!
//! Each is one small request with a short answer. Addresses and headers may be secrets: no error
//! shows more of them than the host.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, Uri};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
use object_store::{Certificate, ClientOptions};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind, Result};

/// How long one request may take, answer included.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much of an answer is read.
const ANSWER: usize = 64 << 10;

/// Sends requests. Cheap to clone; every call blocks the calling thread, which must not be one of
/// the runtime's.
#[derive(Debug, Clone)]
pub struct Web {
    client: Arc<OnceLock<HttpClient>>,
    runtime: Handle,
    patience: Duration,
    answer: usize,
    authority: Option<Arc<[u8]>>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
    /// When to come again, if it says so in seconds.
    pub retry_after: Option<Duration>,
}

impl Reply {
    /// Whether the status says that it was taken.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

impl Web {
    /// A client whose requests run on `runtime`. It is set up when it is first needed: reading the
    /// system's certificates takes a moment that a daemon without receivers need not wait for.
    pub fn new(runtime: Handle) -> Self {
        let client = Arc::default();
        Self { client, runtime, patience: PATIENCE, answer: ANSWER, authority: None }
    }

    /// Waits so long for an answer, and reads so many bytes of it.
    #[must_use]
    pub fn patient(self, patience: Duration, answer: usize) -> Self {
        Self { client: Arc::default(), patience, answer, ..self }
    }

    /// Trusts certificates of this authority too: one or more, as PEM.
    #[must_use]
    pub fn trusting(self, authority: Vec<u8>) -> Self {
        Self { client: Arc::default(), authority: Some(authority.into()), ..self }
    }

    fn client(&self) -> Result<HttpClient> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let agent = HeaderValue::from_static(concat!("backstay/", env!("CARGO_PKG_VERSION")));
        // Longer than anything is waited for here.
        let mut options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(self.patience * 2)
            .with_connect_timeout(PATIENCE)
            .with_user_agent(agent);
        if let Some(authority) = &self.authority {
            let certificates = Certificate::from_pem_bundle(authority).map_err(|error| {
                Error::failed("failed to read the authority's certificate").with_source(error)
            })?;
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        let client = ReqwestConnector::default()
            .connect(&options)
            .map_err(|error| Error::failed("failed to set up HTTP").with_source(error))?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Posts a body.
    pub fn post(&self, url: &str, headers: &[(String, String)], body: String) -> Result<Reply> {
        self.send(Method::POST, url, headers, body)
    }

    /// Asks for what is there.
    pub fn get(&self, url: &str, headers: &[(String, String)]) -> Result<Reply> {
        self.send(Method::GET, url, headers, String::new())
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(String, String)],
        body: String,
    ) -> Result<Reply> {
        let bad = |what: &str| Error::usage(format!("this is not {what}"));
        let uri: Uri = url.parse().map_err(|_| bad("an address of HTTP"))?;
        let host = uri.host().ok_or_else(|| bad("an address of HTTP"))?.to_owned();
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| bad("the name of a header"))?;
            let value = HeaderValue::from_str(value).map_err(|_| bad("the value of a header"))?;
            request.headers_mut().insert(name, value);
        }
        let client = self.client()?;
        let answer = async {
            match timeout(self.patience, exchange(&client, request, self.answer)).await {
                Ok(answered) => answered,
                Err(_) => Err(format!("no answer within {} s", self.patience.as_secs())),
            }
        };
        self.runtime.block_on(answer).map_err(|why| {
            Error::new(ErrorKind::Unreachable, format!("{host} does not answer: {why}"))
        })
    }
}

async fn exchange(client: &HttpClient, request: HttpRequest, most: usize) -> Result<Reply, String> {
    let response = client.execute(request).await.map_err(|error| cause(&error))?;
    let status = response.status().as_u16();
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    let mut stream = response.into_body().bytes_stream();
    while let Some(part) = stream.next().await {
        body.extend_from_slice(&part.map_err(|error| cause(&error))?);
        if body.len() >= most {
            body.truncate(most);
            break;
        }
    }
    Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned(), retry_after })
}

/// What is at the bottom of an error: what lies above it repeats the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(below) = last.source() {
        last = below;
    }
    last.to_string()
}
