//! Requests to receivers of notifications: here because only the store sees the network.
//!
//! Each is one small request with a short answer. Addresses and headers may be secrets: no error
//! shows more of them than the host.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, Uri};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
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
        Self { client: Arc::default(), runtime }
    }

    fn client(&self) -> Result<HttpClient> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let agent = HeaderValue::from_static(concat!("backstay/", env!("CARGO_PKG_VERSION")));
        // Longer than anything is waited for here.
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(PATIENCE * 2)
            .with_user_agent(agent);
        let client = ReqwestConnector::default()
            .connect(&options)
            .map_err(|error| Error::failed("failed to set up HTTP").with_source(error))?;
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Posts a body.
    pub fn post(&self, url: &str, headers: &[(String, String)], body: String) -> Result<Reply> {
        let bad = |what: &str| Error::usage(format!("this is not {what}"));
        let uri: Uri = url.parse().map_err(|_| bad("an address of HTTP"))?;
        let host = uri.host().ok_or_else(|| bad("an address of HTTP"))?.to_owned();
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| bad("the name of a header"))?;
            let value = HeaderValue::from_str(value).map_err(|_| bad("the value of a header"))?;
            request.headers_mut().insert(name, value);
        }
        let client = self.client()?;
        let answer = async {
            match timeout(PATIENCE, exchange(&client, request)).await {
                Ok(answered) => answered,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        };
        self.runtime.block_on(answer).map_err(|why| {
            Error::new(ErrorKind::Unreachable, format!("{host} does not answer: {why}"))
        })
    }
}

async fn exchange(client: &HttpClient, request: HttpRequest) -> Result<Reply, String> {
    let response = client.execute(request).await.map_err(|error| cause(&error))?;
    let status = response.status().as_u16();
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    let mut stream = response.into_body().bytes_stream();
    while let Some(part) = stream.next().await {
        body.extend_from_slice(&part.map_err(|error| cause(&error))?);
        if body.len() >= ANSWER {
            body.truncate(ANSWER);
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
