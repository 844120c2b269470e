//! Azurite, Microsoft's emulator of Azure Blob Storage. One per test that needs it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};

/// The account that every emulator has.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key, which is the same everywhere.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
pub const CONTAINER: &str = "backups";

pub struct Azurite {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Azurite {
    /// Starts a server with one empty container. `None` where it cannot be had, which is a failure
    /// where `CI` is set.
    pub fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/azurite.sh");
        let found = Command::new(script).output().unwrap();
        if !found.status.success() {
            let why = String::from_utf8_lossy(&found.stderr).into_owned();
            super::cannot(&format!("Azurite could not be installed\n{why}"));
            return None;
        }
        let program = String::from_utf8(found.stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new(program.trim())
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"])
            .args(["--disableTelemetry", "--location"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let port = loop {
            let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
            let listens = said.split_once("successfully listen").map(|(_, after)| after);
            if let Some((_, after)) = listens.and_then(|it| it.split_once("http://127.0.0.1:")) {
                let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
                if after.len() > digits.len() {
                    break digits.parse().unwrap();
                }
            }
            let ended = child.try_wait().unwrap();
            let waited = begun.elapsed() > Duration::from_secs(120);
            assert!(ended.is_none() && !waited, "Azurite did not start ({ended:?}):\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        };
        let azurite = Self { child, port, _dir: dir };
        azurite.create_container();
        Some(azurite)
    }

    /// The account's address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    fn create_container(&self) {
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let version = "2021-12-02";
        let signed = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n\
             /{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        );
        let base64 = base64::engine::general_purpose::STANDARD;
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&base64.decode(KEY).unwrap()).unwrap();
        mac.update(signed.as_bytes());
        let signature = base64.encode(mac.finalize().into_bytes());
        let request = format!(
            "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\
             Connection: close\r\nContent-Length: 0\r\nx-ms-date: {date}\r\nx-ms-version: {version}\r\n\
             Authorization: SharedKey {ACCOUNT}:{signature}\r\n\r\n",
            self.port
        );
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
