//! A real S3 server in this process, over a directory, with a record of what was asked of it.
//!
//! Beside the bucket it plays what lies around one: an instance metadata service, a container
//! credentials service, a TLS listener with a certificate of its own, and a proxy (a request with
//! an absolute URI is answered as well, so that any host name can be tried without a resolver).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::host::MultiDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::chaos::Chaos;

pub const ACCESS_KEY: &str = "AKIDTESTING0001";
pub const SECRET_KEY: &str = "s3cr3t/Never+Printed0123456789";
pub const TOKEN: &str = "session-token-that-is-secret-too";
pub const BUCKET: &str = "backups";

/// The domain whose subdomains are buckets.
pub const DOMAIN: &str = "s3.test";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub host: String,
    pub path: String,
    pub query: String,
    pub token: Option<String>,
    /// What kept it from overwriting, beside `If-None-Match`: `oss`, `cos` or `goog`.
    pub create: Option<String>,
}

/// Whose answers the server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Those of S3.
    S3,
    /// Alibaba's: creates are kept from overwriting by a header of its own, and only where no versions
    /// are kept.
    Oss { versions: bool },
    /// Tencent's: the same with another header.
    Cos { versions: bool },
    /// Google's XML interface.
    Gcs,
}

pub struct S3Server {
    pub root: tempfile::TempDir,
    pub port: u16,
    /// The certificate authority's certificate, for a server with TLS.
    pub ca: Option<PathBuf>,
    /// Faults on the way to the server and back; none until they are asked for.
    pub chaos: Arc<Chaos>,
    latency: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<Seen>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Handler {
    s3: S3Service,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// s3s-fs looks whether the object exists and then writes it: conditional creates that race
    /// would all win. A real store decides once, so they are let in one at a time.
    creating: tokio::sync::Mutex<()>,
    /// Where to remove what exists before it is created again, so that every create succeeds.
    overwrite: Option<PathBuf>,
    chaos: Arc<Chaos>,
    root: PathBuf,
    dialect: Dialect,
    latency: Arc<AtomicU64>,
}

impl S3Server {
    pub fn start() -> Self {
        Self::with(false, false, Dialect::S3)
    }

    /// A server that answers as another kind of store does.
    pub fn start_as(dialect: Dialect) -> Self {
        Self::with(false, false, dialect)
    }

    pub fn start_tls() -> Self {
        Self::with(true, false, Dialect::S3)
    }

    /// A server that does not know `If-None-Match`, as some do: every create overwrites.
    pub fn start_lying() -> Self {
        Self::with(false, true, Dialect::S3)
    }

    fn with(tls: bool, lies: bool, dialect: Dialect) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        if dialect == Dialect::S3 {
            builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        }
        builder.set_host(MultiDomain::new([DOMAIN]).unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let chaos: Arc<Chaos> = Arc::default();
        let latency: Arc<AtomicU64> = Arc::default();
        let handler = Arc::new(Handler {
            s3: builder.build(),
            seen: seen.clone(),
            creating: tokio::sync::Mutex::default(),
            overwrite: lies.then(|| root.path().to_owned()),
            chaos: chaos.clone(),
            root: root.path().to_owned(),
            dialect,
            latency: latency.clone(),
        });
        let (acceptor, ca) = if tls {
            let (acceptor, pem) = certificates();
            let path = root.path().with_extension("ca.pem");
            std::fs::write(&path, pem).unwrap();
            (Some(acceptor), Some(path))
        } else {
            (None, None)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<AtomicU64> = Arc::default();
        let counted = connections.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (handler, acceptor) = (handler.clone(), acceptor.clone());
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(socket, handler).await,
                        Some(acceptor) => {
                            // A client that does not trust the certificate hangs up here.
                            if let Ok(socket) = acceptor.accept(socket).await {
                                serve(socket, handler).await;
                            }
                        }
                    }
                });
            }
        });
        Self { root, port, ca, chaos, latency, connections, seen, runtime: Some(runtime) }
    }

    pub fn endpoint(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Connections that were opened, whatever became of them.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on every answer waits so long.
    pub fn delay(&self, latency: Duration) {
        self.latency.store(latency.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Keys in the bucket, sorted. Names with a leading dot are the server's own.
    pub fn keys(&self) -> Vec<String> {
        self.keys_below("")
    }

    /// Keys in a directory of the bucket, sorted.
    pub fn keys_below(&self, directory: &str) -> Vec<String> {
        let bucket = self.root.path().join(BUCKET);
        let mut found = Vec::new();
        let mut todo = vec![bucket.join(directory)];
        while let Some(directory) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    found.push(path.strip_prefix(&bucket).unwrap().display().to_string());
                }
            }
        }
        found.retain(|key| !key.rsplit('/').next().unwrap().starts_with('.'));
        found.sort();
        found
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(ca) = &self.ca {
            let _ = std::fs::remove_file(ca);
        }
    }
}

async fn serve<S>(socket: S, handler: Arc<Handler>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let handler = handler.clone();
        // An error closes the connection: the client never learns what became of its request.
        async move { handler.clone().chaos.clone().pass(request, |r| handler.answer(r)).await }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

impl Handler {
    /// The request as s3s knows it, or the answer.
    async fn translate(
        &self,
        request: &mut Request<s3s::Body>,
        seen: &Seen,
    ) -> Option<Response<s3s::Body>> {
        let (versions, code, status) = match self.dialect {
            Dialect::S3 => return None,
            Dialect::Oss { versions } | Dialect::Cos { versions } => {
                (versions, "FileAlreadyExists", StatusCode::CONFLICT)
            }
            Dialect::Gcs => (false, "PreconditionFailed", StatusCode::PRECONDITION_FAILED),
        };
        let say = |status: StatusCode, text: String| {
            let mut response = Response::new(s3s::Body::from(text));
            *response.status_mut() = status;
            Some(response)
        };
        if seen.query.starts_with("versioning") {
            let status = if versions { "<Status>Enabled</Status>" } else { "" };
            let text = format!("<VersioningConfiguration>{status}</VersioningConfiguration>");
            return say(StatusCode::OK, text);
        }
        let headers = request.headers_mut();
        // Signatures are not what is tried here, and no such store knows these.
        for name in ["authorization", "if-none-match", "x-amz-content-sha256"] {
            headers.remove(name);
        }
        let there = self.root.join(seen.path.trim_start_matches('/')).is_file();
        if seen.create.is_some() && there && !versions {
            return say(
                status,
                format!("<Error><Code>{code}</Code><Message>it is there</Message></Error>"),
            );
        }
        None
    }

    async fn answer(&self, mut request: Request<s3s::Body>) -> Response<s3s::Body> {
        let latency = self.latency.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        let header = |name: &str| {
            request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
        };
        let seen = Seen {
            method: request.method().to_string(),
            host: header("host").unwrap_or_default(),
            // Google's clients write slashes of keys as `%2F`.
            path: match self.dialect {
                Dialect::Gcs => decoded(request.uri().path()),
                _ => request.uri().path().to_owned(),
            },
            query: request.uri().query().unwrap_or_default().to_owned(),
            token: header("x-amz-security-token"),
            create: [
                ("x-oss-forbid-overwrite", "true", "oss"),
                ("x-cos-forbid-overwrite", "true", "cos"),
                ("x-goog-if-generation-match", "0", "goog"),
            ]
            .into_iter()
            .find(|(name, value, _)| header(name).as_deref() == Some(value))
            .map(|(.., whose)| whose.to_owned()),
        };
        self.seen.lock().unwrap().push(seen.clone());
        if let Some(text) = credentials(&seen, header("authorization").as_deref()) {
            return Response::new(s3s::Body::from(text));
        }
        // s3s-fs makes directories as it goes, missing buckets included; a real store does not.
        if !seen.host.ends_with(DOMAIN) && seen.path.split('/').nth(1) != Some(BUCKET) {
            let text = "<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>";
            let mut response = Response::new(s3s::Body::from(text.to_owned()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        let creates =
            (header("if-none-match").is_some() || seen.create.is_some()) && seen.method == "PUT";
        if creates && let Some(root) = &self.overwrite {
            let _ = std::fs::remove_file(root.join(seen.path.trim_start_matches('/')));
        }
        let turn = if creates { Some(self.creating.lock().await) } else { None };
        if let Some(answer) = self.translate(&mut request, &seen).await {
            return answer;
        }
        if seen.method == "PUT" && seen.query.is_empty() && seen.path.len() > LONGEST_PATH {
            return self.put_long(request, &seen.path).await;
        }
        let answer = self.s3.call(request).await;
        drop(turn);
        answer.unwrap_or_else(|error| {
            let mut response = Response::new(s3s::Body::from(format!("{error:?}")));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

/// s3s-fs keeps a file beside each object, with the whole key in its name: no file system takes that
/// of a key longer than this. Such objects are written without one.
const LONGEST_PATH: usize = 150;

impl Handler {
    async fn put_long(&self, request: Request<s3s::Body>, path: &str) -> Response<s3s::Body> {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let file = self.root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let new = file.with_extension("new");
        std::fs::write(&new, &body).unwrap();
        std::fs::rename(new, file).unwrap();
        let tag = hex::encode(<md5::Md5 as md5::Digest>::digest(&body));
        let mut response = Response::new(s3s::Body::empty());
        response.headers_mut().insert("etag", format!("\"{tag}\"").parse().unwrap());
        response
    }
}

/// What an instance metadata service and a container credentials service say.
fn credentials(seen: &Seen, authorization: Option<&str>) -> Option<String> {
    let json = |access: &str| {
        format!(
            r#"{{"Code":"Success","Type":"AWS-HMAC","LastUpdated":"2026-01-01T00:00:00Z",
               "{access}":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}","Token":"{TOKEN}",
               "Expiration":"2099-01-01T00:00:00Z"}}"#
        )
    };
    match (seen.method.as_str(), seen.path.as_str()) {
        ("PUT", "/latest/api/token") => Some("metadata-token".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/") => Some("backup-role".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/backup-role") => {
            Some(json("AccessKeyId"))
        }
        ("GET", "/container-credentials") if authorization == Some("pod-token") => {
            Some(json("AccessKeyId"))
        }
        _ => None,
    }
}

/// A certificate for 127.0.0.1 and the authority that signed it.
fn certificates() -> (TlsAcceptor, String) {
    let (authority, certificate, key) = authority_and_certificate();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority)
}

/// An authority, a certificate for 127.0.0.1 that it signed, and its key: as PEM.
pub fn authority_and_certificate() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    (ca_pem, certificate.pem(), key.serialize_pem())
}
