//! The addresses, and what each answers.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::collect::collect;
use crate::clock::Clock;
use crate::daemon::board::Board;
use crate::error::{Error, IoContext as _, Result};
use crate::state::State;

/// How many connections are served at once; others wait.
const CONNECTIONS: usize = 32;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may last in all: whoever reads metrics comes again.
const LONGEST: Duration = Duration::from_mins(10);

/// What metrics are in.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What the daemon does.
    pub board: Board,
    /// Where the state lies.
    pub directory: PathBuf,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

struct Site {
    shown: Shown,
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
    let site = Arc::new(Site { shown, state: Mutex::default() });
    runtime.spawn(accept(listener, site));
    Ok(local)
}

async fn accept(listener: tokio::net::TcpListener, site: Arc<Site>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left: there will be one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let site = site.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(site.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is none of our business.
            let _ = tokio::time::timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

async fn answer(
    site: Arc<Site>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
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
            Some(state) => collect(state, &sheet, now),
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
