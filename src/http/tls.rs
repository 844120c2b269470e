//! The certificate that the daemon shows, where it has one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, Result};

/// A certificate and its key. Renewed files are taken over; broken ones are not, and the old ones
/// are shown.
#[derive(Debug, Clone)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    loaded: Arc<Mutex<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    from: (Option<SystemTime>, Option<SystemTime>),
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// The chain of certificates and the private key in these files, as PEM.
    pub fn in_files(chain: &Path, key: &Path) -> Result<Self> {
        let loaded = Loaded { from: stamps(chain, key), config: load(chain, key)? };
        let loaded = Arc::new(Mutex::new(loaded));
        Ok(Self { chain: chain.to_owned(), key: key.to_owned(), loaded })
    }

    /// What a connection begins with.
    pub fn config(&self) -> Arc<ServerConfig> {
        let now = stamps(&self.chain, &self.key);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if now != loaded.from
            && let Ok(config) = load(&self.chain, &self.key)
        {
            *loaded = Loaded { from: now, config };
        }
        loaded.config.clone()
    }
}

fn stamps(chain: &Path, key: &Path) -> (Option<SystemTime>, Option<SystemTime>) {
    let stamp = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    (stamp(chain), stamp(key))
}

fn load(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let bad = |path: &Path, what: &str, error: &dyn std::fmt::Display| {
        Error::failed(format!("failed to read {what} in {}: {error}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| bad(chain, "the certificate", &error))?;
    if certificates.is_empty() {
        return Err(bad(chain, "the certificate", &"there is none in it"));
    }
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, "the private key", &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(chain, "the certificate", &error))?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .map_err(|error| bad(chain, "the certificate", &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
