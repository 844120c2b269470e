//! Sends requests, and gives up on a server that is silent.
//!
//! A limit on a whole request must leave room for the largest part over the slowest line. A server
//! that stands still, before its answer or in the middle of it, is noticed much sooner here.
//! `object_store` then asks again; an object from where it was.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::time::{Instant, Sleep};

use super::answer::{is_distrusted, text_of};

/// For every so many bytes that are sent a server may be silent once more: it can answer only when
/// it has them, and the line may be slow.
const SENDING: usize = 2 << 20;

/// Where a server may take so many times longer: it puts an upload of many parts together, or
/// deletes a thousand objects.
const LONG_WORK: u32 = 5;

/// Makes clients that notice silence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connector {
    /// How long a server may be silent.
    pub(super) silence: Duration,
    /// A header that a create has beside `If-None-Match`, for stores that know only theirs.
    pub(super) create_header: Option<&'static str>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { inner, silence: self.silence, create: self.create_header }))
    }
}

#[derive(Debug)]
struct Watched {
    inner: HttpClient,
    silence: Duration,
    create: Option<&'static str>,
}

/// The server said nothing for so long.
#[derive(Debug, thiserror::Error)]
#[error("the server was silent for {} s", .0.as_secs())]
struct Silent(Duration);

#[async_trait]
impl HttpService for Watched {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(header) = self.create
            && request.method() == Method::PUT
            && request.headers().contains_key(http::header::IF_NONE_MATCH)
        {
            // Signatures cover what was there before, and stores take more.
            request.headers_mut().insert(header, http::HeaderValue::from_static("true"));
        }
        let method = request.method().clone();
        let streams = method == Method::GET && is_object(request.uri().query());
        let result = self.answer(request, streams).await;
        result.map_err(|error| match error.kind() {
            // Asked again, the server shows the same certificate.
            HttpErrorKind::Connect if is_distrusted(&text_of(&error)) => {
                HttpError::new(HttpErrorKind::Unknown, error)
            }
            // Deleting twice is deleting: like a GET it may be sent again whatever became of the first.
            HttpErrorKind::Timeout | HttpErrorKind::Interrupted if method == Method::DELETE => {
                HttpError::new(HttpErrorKind::Request, error)
            }
            _ => error,
        })
    }
}

impl Watched {
    async fn answer(&self, request: HttpRequest, streams: bool) -> Result<HttpResponse, HttpError> {
        let sending = (request.body().content_length() / SENDING) as u32;
        let work = if request.method() == Method::POST { LONG_WORK } else { 1 };
        let patience = self.silence * (work + sending);
        let asked = tokio::time::timeout(patience, self.inner.execute(request)).await;
        let response = asked.unwrap_or_else(|_| Err(silent(patience)))?;
        let (parts, body) = response.into_parts();
        let body = HttpResponseBody::new(Stream {
            body,
            silence: self.silence * work,
            deadline: Box::pin(tokio::time::sleep(self.silence * work)),
        });
        if streams && parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, body));
        }
        // Small, and worth nothing until it is whole. Read here, where a failure counts as one of
        // the request, which is then tried again.
        let bytes = body.bytes().await.map_err(|error| match error.kind() {
            HttpErrorKind::Timeout => error,
            _ => HttpError::new(HttpErrorKind::Interrupted, error),
        })?;
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}

/// Whether a GET with this query asks for an object: a listing and a setting have other names.
fn is_object(query: Option<&str>) -> bool {
    query.is_none_or(|query| query.is_empty() || query.starts_with("versionId="))
}

fn silent(patience: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Silent(patience))
}

/// A body whose next bytes must come in time.
struct Stream {
    body: HttpResponseBody,
    silence: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl Body for Stream {
    type Data = bytes::Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.silence;
            self.deadline.as_mut().reset(next);
            return Poll::Ready(frame);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(silent(self.silence))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::is_object;

    #[test]
    fn only_an_object_may_be_too_large_to_keep() {
        assert!(is_object(None) && is_object(Some("")) && is_object(Some("versionId=x")));
        for query in ["list-type=2&prefix=a", "versions=&prefix=a", "versioning", "uploads"] {
            assert!(!is_object(Some(query)), "{query}");
        }
    }
}
