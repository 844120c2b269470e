//! Connections, and who answers.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_LANGUAGE, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    COOKIE, HOST, LOCATION, ORIGIN, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::api::{Answer, Api, Asked, Opens};
use super::collect::collect;
use super::dashboard::request::{self, Reply};
use super::dashboard::site::Dashboard;
use super::tls::Certificate;
use crate::clock::Clock;
use crate::daemon::board::Board;
use crate::error::{Error, IoContext as _, Result};
use crate::state::State;

/// How many connections are served at once; others wait.
const CONNECTIONS: usize = 512;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may last in all: whoever reads metrics comes again.
const LONGEST: Duration = Duration::from_mins(10);

/// The longest body that is read.
const BODY: usize = 64 << 10;

/// What metrics are in.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is shown.
#[derive(Clone)]
pub struct Shown {
    /// What the daemon does.
    pub board: Board,
    /// Where the state lies.
    pub directory: PathBuf,
    /// Opens the runs.
    pub ledger: Opens,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// What may be asked by who has a token.
    pub api: Option<Arc<Api>>,
    /// What is shown first, where connections are encrypted.
    pub certificate: Option<Certificate>,
}

struct Site {
    shown: Shown,
    /// Pages for people, where there is a token to log in with.
    dashboard: Option<Arc<Dashboard>>,
    /// Opened when it is first asked for, and again when it could not be read.
    state: Mutex<Option<State>>,
}

/// Serves at `address` for as long as `runtime` lives. Gives the address, whose port may have been
/// left to the system.
pub fn serve(address: SocketAddr, runtime: &Handle, shown: Shown) -> Result<SocketAddr> {
    let failed = || format!("failed to listen at {address}");
    let listener = TcpListener::bind(address)
        .doing(failed)
        .map_err(|error| error.hint("another program may: give another address to --listen"))?;
    let local = listener.local_addr().doing(failed)?;
    listener.set_nonblocking(true).doing(failed)?;
    let inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).doing(failed)?;
    drop(inside);
    let dashboard = shown.api.clone().map(|api| {
        let encrypted = shown.certificate.is_some();
        Arc::new(Dashboard::new(api, shown.directory.clone(), encrypted, local.port()))
    });
    let site = Arc::new(Site { shown, dashboard, state: Mutex::default() });
    runtime.spawn(accept(listener, site));
    Ok(local)
}

async fn accept(listener: tokio::net::TcpListener, site: Arc<Site>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, from)) = listener.accept().await else {
            // No descriptor is left: there will be one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let site = site.clone();
        tokio::spawn(async move {
            let certificate = site.shown.certificate.clone();
            // A client that goes away is none of our business.
            let served = async {
                let Some(certificate) = certificate else {
                    return converse(site, stream, from.ip()).await;
                };
                let acceptor = TlsAcceptor::from(certificate.config());
                if let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await {
                    converse(site, stream, from.ip()).await;
                }
            };
            let _ = timeout(LONGEST, served).await;
            drop(place);
        });
    }
}

async fn converse(site: Arc<Site>, stream: impl AsyncRead + AsyncWrite + Unpin, from: IpAddr) {
    let service = service_fn(move |request| answer(site.clone(), request, from));
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    site: Arc<Site>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if path.starts_with("/api/") {
        return Ok(asked(site, request).await);
    }
    if let Some(dashboard) = &site.dashboard
        && !["/metrics", "/healthz", "/readyz"].contains(&path)
    {
        return Ok(read(dashboard.clone(), request, from).await);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let health = |wrong: Option<String>, well: String| match wrong {
        None => respond(StatusCode::OK, PLAIN, well),
        Some(why) => respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
    };
    Ok(match request.uri().path() {
        "/metrics" => metrics(site).await,
        "/healthz" => health(site.shown.board.sheet().is_stuck(), "ok\n".to_owned()),
        "/readyz" => {
            let sheet = site.shown.board.sheet();
            let old = if sheet.invalid.is_some() {
                "; the changed policies are invalid, the old ones are in force"
            } else {
                ""
            };
            health(sheet.is_not_ready(), format!("ready{old}\n"))
        }
        "/" => respond(StatusCode::OK, PLAIN, "/metrics\n/healthz\n/readyz\n".to_owned()),
        _ => respond(StatusCode::NOT_FOUND, PLAIN, "there is nothing here\n".to_owned()),
    })
}

/// Something of the API.
async fn asked(site: Arc<Site>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(api) = site.shown.api.clone() else {
        let error =
            Error::not_found("this daemon has no API").hint("start it with --token-file FILE");
        return give(Answer::error(&error));
    };
    let (head, body) = request.into_parts();
    let body = timeout(PATIENCE, Limited::new(body, BODY).collect()).await;
    let Ok(Ok(body)) = body else {
        let error = Error::usage(format!("the body is longer than {BODY} bytes, or does not come"));
        return give(Answer { status: StatusCode::PAYLOAD_TOO_LARGE, ..Answer::error(&error) });
    };
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        authorization: authorization.map(str::to_owned),
        body: body.to_bytes().to_vec(),
    };
    // Files and databases block.
    match tokio::task::spawn_blocking(move || api.answer(&asked)).await {
        Ok(answer) => give(answer),
        Err(_) => give(Answer::error(&Error::failed("it broke"))),
    }
}

/// A page of the dashboard.
async fn read(
    dashboard: Arc<Dashboard>,
    request: Request<Incoming>,
    from: IpAddr,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if ![Method::GET, Method::HEAD, Method::POST].contains(&head.method) {
        let text = "only GET and POST\n".to_owned();
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        return response;
    }
    let body = timeout(PATIENCE, Limited::new(body, BODY).collect()).await;
    let Ok(Ok(body)) = body else {
        let text = format!("the body is longer than {BODY} bytes, or does not come\n");
        return respond(StatusCode::PAYLOAD_TOO_LARGE, PLAIN, text);
    };
    let header = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let asked = request::Request {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        body: body.to_bytes().to_vec(),
        from,
        host: header(HOST).map(str::to_owned),
        origin: header(ORIGIN).map(str::to_owned),
        cookies: header(COOKIE).unwrap_or_default().to_owned(),
        languages: header(ACCEPT_LANGUAGE).map(str::to_owned),
        method: head.method,
    };
    // Files, databases and commands block.
    match tokio::task::spawn_blocking(move || dashboard.answer(&asked)).await {
        Ok(reply) => page(reply),
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "it broke\n".to_owned()),
    }
}

/// What a browser may do with a page: nothing but show it, with what lies here.
const GUARDS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    // Without one a form would not tell where it comes from.
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The same for a page that was stored: it has its own style in it, and is of no site.
const STORED: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; \
                      frame-ancestors 'none'; base-uri 'none'; sandbox";

fn page(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = respond(reply.status, reply.kind, reply.body);
    let headers = response.headers_mut();
    for (name, value) in GUARDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if reply.stored {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(STORED));
    }
    if reply.lasting {
        let forever = "public, max-age=31536000, immutable";
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(forever));
    }
    let texts =
        [(LOCATION, reply.location), (RETRY_AFTER, reply.again.map(|seconds| seconds.to_string()))];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    for cookie in reply.cookies {
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            headers.append(SET_COOKIE, value);
        }
    }
    response
}

fn give(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = respond(answer.status, answer.kind, answer.body);
    if answer.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn metrics(site: Arc<Site>) -> Response<Full<Bytes>> {
    // SQLite blocks.
    let collected = tokio::task::spawn_blocking(move || site.metrics()).await;
    match collected {
        Ok(Ok(text)) => respond(StatusCode::OK, METRICS, text),
        Ok(Err(error)) => {
            respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{}\n", error.chain()))
        }
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "it broke\n".to_owned()),
    }
}

impl Site {
    fn metrics(&self) -> Result<String> {
        let now = self.shown.clock.now();
        let sheet = self.shown.board.sheet();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some(State::open(&self.shown.directory, now)?);
        }
        let collected = match state.as_ref() {
            Some(state) => collect(state, (self.shown.ledger)(), &sheet, now),
            None => Err(Error::failed("there is no state")),
        };
        if collected.is_err() {
            *state = None;
        }
        collected
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
