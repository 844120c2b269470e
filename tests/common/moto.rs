//! moto, an S3 server that keeps versions and locks objects. One per test that needs it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backstay::store::{Location, S3Location, Store};

pub const BUCKET: &str = "kept";

pub struct Moto {
    child: Child,
    port: u16,
    log: tempfile::NamedTempFile,
    pub runtime: tokio::runtime::Runtime,
}

impl Moto {
    /// Starts a server with one empty bucket. `None` where it cannot be had, which is a failure
    /// where `CI` is set.
    pub fn start() -> Option<Self> {
        Self::with(&[])
    }

    fn with(headers: &[(&str, &str)]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/moto.sh");
        let found = Command::new(script).output().unwrap();
        if !found.status.success() {
            let why = String::from_utf8_lossy(&found.stderr).into_owned();
            super::cannot(&format!("moto could not be installed\n{why}"));
            return None;
        }
        let program = String::from_utf8(found.stdout).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = Command::new(program.trim())
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let port = loop {
            let said = std::fs::read_to_string(log.path()).unwrap();
            if let Some((_, after)) = said.split_once("Running on http://127.0.0.1:") {
                let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
                // The line may be half written.
                if after.len() > digits.len() {
                    break digits.parse().unwrap();
                }
            }
            let ended = child.try_wait().unwrap();
            let waited = begun.elapsed() > Duration::from_secs(120);
            assert!(ended.is_none() && !waited, "moto did not start ({ended:?}):\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let moto = Self { child, port, log, runtime };
        moto.expect("PUT", "", headers, "");
        Some(moto)
    }

    /// A server whose bucket keeps versions.
    pub fn start_versioned() -> Option<Self> {
        let moto = Self::start()?;
        moto.versioning("Enabled");
        Some(moto)
    }

    /// A server whose bucket keeps versions and can lock them.
    pub fn start_locking() -> Option<Self> {
        let moto = Self::with(&[("x-amz-bucket-object-lock-enabled", "true")])?;
        moto.versioning("Enabled");
        Some(moto)
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn versioning(&self, status: &str) {
        let body =
            format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        self.expect("PUT", "?versioning", &[], &body);
    }

    /// The bucket under a prefix, as the program sees it.
    pub fn store(&self, prefix: &str) -> Store {
        let location = Location::S3(S3Location {
            bucket: BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("AKIDMOTO".to_owned().into()),
            secret_access_key: Some("not-checked".to_owned().into()),
            allow_http: true,
            ..S3Location::default()
        });
        location.connect(self.runtime.handle(), true).unwrap()
    }

    /// How many requests of this kind came, by the server's own log.
    pub fn seen(&self, line: &str) -> usize {
        std::fs::read_to_string(self.log.path()).unwrap().matches(line).count()
    }

    /// A request to the bucket that must succeed; returns the head and the body of the answer.
    #[track_caller]
    pub fn expect(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> String {
        let answer = self.ask(method, target, headers, body);
        let ok = answer.starts_with("HTTP/1.1 2") || answer.starts_with("HTTP/1.0 2");
        assert!(ok, "{method} {target}: {answer}");
        answer
    }

    /// A request to the bucket. moto checks no signatures, but there must be one.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
        let slash = if target.starts_with('?') || target.is_empty() { "" } else { "/" };
        let mut request = format!(
            "{method} /{BUCKET}{slash}{target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: \
             close\r\nContent-Length: {}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=AKIDMOTO/20261121/us-east-1/s3/aws4_request, SignedHeaders=host, \
             Signature=0\r\n",
            self.port,
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Every `<Key>` in a listing of all versions and markers, by the server itself.
    pub fn left(&self) -> Vec<String> {
        let listed = self.expect("GET", "?versions", &[], "");
        listed
            .split("<Key>")
            .skip(1)
            .map(|rest| rest.split("</Key>").next().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
