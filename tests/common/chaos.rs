//! Faults between a client and an S3 server, on the level of HTTP: what is refused, lost, cut off,
//! held up or told wrong.
//!
//! Which requests are hit follows from a seed and from what they ask for, not from the time. A fault
//! that passes hits each request a few times at most, so that whoever tries again gets through; one
//! that stays hits everything from some request on.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The server does what it is asked, and the connection is closed without an answer.
    LostReply,
    /// 503 SlowDown, nothing done.
    SlowDown,
    /// 409 ConditionalRequestConflict to a create, nothing done.
    Conflict,
    /// 412 to a create that was done: a retry on the way met its own write.
    OwnWrite,
    /// The body ends before the length that was announced.
    Truncated,
    /// The body stops in the middle, and the connection stays open.
    Stalled,
    /// No answer at all, and the connection stays open.
    Silent,
    /// 200 with an error in the body, to the completion of an upload that was not completed.
    ErrorBody,
    /// A listing without what was created within the last requests.
    LaggingList,
    /// 403 ExpiredToken.
    Expired,
}

/// How long it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// So that trying again helps.
    Passing,
    /// From this request on, for good.
    From(u32),
}

/// A lagging list leaves out what was created so many requests ago.
const LAG: u32 = 5;

/// Faults by the first part of the keys they happen to: repositories side by side in one bucket.
#[derive(Default)]
pub struct Chaos(Mutex<HashMap<String, State>>);

struct State {
    fault: (Fault, Lasts),
    seed: u64,
    /// Requests since the fault was asked for.
    requests: u32,
    hits: HashMap<(Method, String), u32>,
    created: HashMap<String, u32>,
    hit: Vec<String>,
}

impl Chaos {
    /// From now on `fault` happens below `place`, the first part of a key.
    pub fn begin(&self, place: &str, fault: Fault, lasts: Lasts, seed: u64) {
        let state = State {
            fault: (fault, lasts),
            seed,
            requests: 0,
            hits: HashMap::new(),
            created: HashMap::new(),
            hit: Vec::new(),
        };
        self.0.lock().unwrap().insert(place.to_owned(), state);
    }

    /// No more faults there. Returns what was hit: keys, and the prefixes of listings.
    pub fn end(&self, place: &str) -> Vec<String> {
        self.0.lock().unwrap().remove(place).unwrap().hit
    }

    /// Lets a request pass to the server and its answer back, or not.
    pub async fn pass<F, A>(
        &self,
        request: Request<Incoming>,
        server: F,
    ) -> std::io::Result<Response<s3s::Body>>
    where
        F: FnOnce(Request<s3s::Body>) -> A,
        A: Future<Output = Response<s3s::Body>>,
    {
        let mut asked = Asked::of(&request);
        let mut request = request.map(s3s::Body::from);
        if asked.deletes {
            // The keys of a bulk deletion are in its body.
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let key = text.split("<Key>").nth(1).and_then(|rest| rest.split("</Key>").next());
            asked.speak_of(key.unwrap_or_default());
            request = Request::from_parts(parts, s3s::Body::from(bytes));
        }
        let Some(fault) = self.hits(&asked) else {
            let answer = server(request).await;
            self.note(&asked, answer.status());
            return Ok(answer);
        };
        match fault {
            Fault::SlowDown => {
                drain(request).await;
                Ok(error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your rate."))
            }
            Fault::Conflict => {
                drain(request).await;
                let message = "A conflicting conditional operation is in progress.";
                Ok(error(StatusCode::CONFLICT, "ConditionalRequestConflict", message))
            }
            Fault::Expired => {
                drain(request).await;
                let message = "The provided token has expired.";
                Ok(error(StatusCode::FORBIDDEN, "ExpiredToken", message))
            }
            Fault::ErrorBody => {
                drain(request).await;
                Ok(error(StatusCode::OK, "InternalError", "We encountered an internal error."))
            }
            Fault::Silent => {
                drain(request).await;
                std::future::pending().await
            }
            Fault::LostReply => {
                let answer = server(request).await;
                self.note(&asked, answer.status());
                // The server has acted only when its answer was read.
                let _ = answer.into_body().collect().await;
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
            Fault::OwnWrite => {
                let answer = server(request).await;
                self.note(&asked, answer.status());
                Ok(error(
                    StatusCode::PRECONDITION_FAILED,
                    "PreconditionFailed",
                    "At least one of the pre-conditions you specified did not hold",
                ))
            }
            Fault::Truncated => Ok(cut(server(request).await, Ending::Closed).await),
            Fault::Stalled => Ok(cut(server(request).await, Ending::Open).await),
            Fault::LaggingList => {
                let answer = server(request).await;
                Ok(self.without_recent(&asked, answer).await)
            }
        }
    }

    /// Whether the request is hit.
    fn hits(&self, asked: &Asked) -> Option<Fault> {
        let mut states = self.0.lock().unwrap();
        let state = states.get_mut(&asked.place)?;
        let (fault, lasts) = state.fault;
        state.requests += 1;
        let may = match fault {
            Fault::LostReply | Fault::SlowDown | Fault::Silent | Fault::Expired => true,
            Fault::Conflict | Fault::OwnWrite => asked.creates,
            Fault::Truncated | Fault::Stalled => asked.method == Method::GET || asked.deletes,
            Fault::ErrorBody => asked.completes,
            Fault::LaggingList => asked.lists,
        };
        if !may {
            return None;
        }
        let hit = match lasts {
            Lasts::From(first) => state.requests > first,
            Lasts::Passing if fault == Fault::LaggingList => true,
            Lasts::Passing => {
                let seed = state.seed;
                let name = (asked.method.clone(), asked.name.clone());
                let before = state.hits.entry(name).or_default();
                *before += 1;
                let mut hasher = DefaultHasher::new();
                (seed, &asked.kind, *before).hash(&mut hasher);
                // Whoever is held up waits, so it happens to fewer.
                let one_in = if matches!(fault, Fault::Stalled | Fault::Silent) { 5 } else { 2 };
                match *before {
                    1 => one_in == 2 || hasher.finish().is_multiple_of(one_in),
                    2 => hasher.finish().is_multiple_of(one_in),
                    _ => false,
                }
            }
        };
        if hit {
            state.hit.push(asked.about.clone());
        }
        hit.then_some(fault)
    }

    fn note(&self, asked: &Asked, status: StatusCode) {
        let mut states = self.0.lock().unwrap();
        let Some(state) = states.get_mut(&asked.place) else { return };
        if status.is_success() && (asked.method == Method::PUT || asked.completes) {
            let now = state.requests;
            state.created.insert(asked.about.clone(), now);
        }
    }

    async fn without_recent(
        &self,
        asked: &Asked,
        answer: Response<s3s::Body>,
    ) -> Response<s3s::Body> {
        let (mut parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (recent, now) = {
            let states = self.0.lock().unwrap();
            let Some(state) = states.get(&asked.place) else {
                return Response::from_parts(parts, s3s::Body::from(text));
            };
            (state.created.clone(), state.requests)
        };
        let mut kept = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("<Contents>") {
            let end = rest[at..].find("</Contents>").unwrap() + at + "</Contents>".len();
            let element = &rest[at..end];
            let key = element.split("<Key>").nth(1).unwrap().split("</Key>").next().unwrap();
            kept.push_str(&rest[..at]);
            if recent.get(key).is_none_or(|created| created + LAG <= now) {
                kept.push_str(element);
            }
            rest = &rest[end..];
        }
        kept.push_str(rest);
        parts.headers.remove("content-length");
        Response::from_parts(parts, s3s::Body::from(kept))
    }
}

/// What a request asks for.
struct Asked {
    method: Method,
    /// Path and query: what a retry has in common with the first try.
    name: String,
    /// The same without the parts that are new in every run.
    kind: String,
    /// The key, or the prefix of a listing.
    about: String,
    /// Its first part.
    place: String,
    creates: bool,
    completes: bool,
    lists: bool,
    deletes: bool,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let (method, uri) = (request.method().clone(), request.uri());
        let query = uri.query().unwrap_or_default();
        let key = uri.path().trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
        let lists = method == Method::GET && query.contains("list-type");
        let prefix = url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "prefix")
            .map(|(_, value)| value.trim_end_matches('/').to_owned());
        let about = if lists { prefix.unwrap_or_default() } else { decoded(key) };
        let last = about.rsplit('/').next().unwrap_or_default();
        let kind: String = last.chars().filter(char::is_ascii_alphabetic).collect();
        Self {
            name: format!("{}?{query}", uri.path()),
            kind: format!("{method} {kind}"),
            creates: method == Method::PUT && request.headers().contains_key("if-none-match"),
            completes: method == Method::POST && query.contains("uploadId"),
            place: about.split('/').next().unwrap_or_default().to_owned(),
            about,
            lists,
            deletes: method == Method::POST && query.starts_with("delete"),
            method,
        }
    }

    fn speak_of(&mut self, key: &str) {
        key.clone_into(&mut self.about);
        self.place = key.split('/').next().unwrap_or_default().to_owned();
        self.name.push_str(key);
    }
}

fn decoded(key: &str) -> String {
    let query = format!("key={}", key.replace('+', "%2B"));
    url::form_urlencoded::parse(query.as_bytes()).next().unwrap().1.into_owned()
}

/// A client that still sends when the answer comes would see a closed connection instead of it.
async fn drain(request: Request<s3s::Body>) {
    let _ = request.into_body().collect().await;
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<s3s::Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}\
         </Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
    );
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/xml".parse().unwrap());
    response
}

enum Ending {
    Closed,
    Open,
}

/// Half of the body, under the length of all of it.
async fn cut(answer: Response<s3s::Body>, ending: Ending) -> Response<s3s::Body> {
    let (mut parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    parts.headers.insert("content-length", bytes.len().into());
    let half = Half { bytes: Some(bytes.slice(..bytes.len() / 2)), ending };
    Response::from_parts(parts, s3s::Body::http_body(half))
}

struct Half {
    bytes: Option<Bytes>,
    ending: Ending,
}

impl Body for Half {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match (self.bytes.take(), &self.ending) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, Ending::Closed) => {
                Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
            }
            (None, Ending::Open) => Poll::Pending,
        }
    }
}
