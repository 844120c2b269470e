//! Encryption on the way to a server, by `sslmode`.
//!
//! Follows "34.19. SSL Support" of PostgreSQL's documentation: what is proven of the server differs
//! from mode to mode.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, ErrorKind, Result};

/// What is asked of encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    Disable,
    /// Only where the server refuses to talk without.
    Allow,
    /// Where the server can.
    Prefer,
    /// Always; whoever answers.
    Require,
    /// Always; the certificate is signed by one that is trusted.
    VerifyCa,
    /// Always; and it is that of the host.
    VerifyFull,
}

impl SslMode {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Disable, "disable"),
        (Self::Allow, "allow"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(mode, _)| *mode)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

/// Mode and files.
#[derive(Debug, Clone)]
pub struct Tls {
    /// What is asked for.
    pub mode: SslMode,
    /// Certificates that are trusted; `system`: those of the operating system.
    pub root: Option<PathBuf>,
    /// The client's own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// TLS from the first byte, without asking (PostgreSQL 17 and later).
    pub direct: bool,
}

impl Tls {
    /// The configuration that holds to the mode. The mode itself says whether to use it.
    pub fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier {
            roots: self.roots()?,
            name: self.mode == SslMode::VerifyFull,
            provider: provider.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::failed("failed to set TLS up").with_source(error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    Error::failed(format!("failed to use {}", certificate.display()))
                        .with_source(error)
                })?
            }
            (Some(_), None) => {
                return Err(Error::usage("the connection has an `sslcert` without an `sslkey`"));
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(config)
    }

    /// What the server's certificate is held to. `None`: nothing.
    fn roots(&self) -> Result<Option<Roots>> {
        let path = match (&self.root, self.mode) {
            (Some(path), SslMode::VerifyCa | SslMode::VerifyFull) => path,
            // As libpq: with certificates at hand, `require` is as `verify-ca`.
            (Some(path), SslMode::Require) if path.exists() => path,
            (None, SslMode::VerifyCa | SslMode::VerifyFull) => {
                return Err(Error::usage(format!(
                    "`sslmode={}` and no certificate to trust",
                    self.mode.name()
                ))
                .hint("name one with `sslrootcert=PATH`, or `sslrootcert=system` for those of this machine"));
            }
            _ => return Ok(None),
        };
        let trusted = if path == Path::new("system") {
            rustls_native_certs::load_native_certs().certs
        } else {
            certificates(path)?
        };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(trusted.iter().cloned());
        if added == 0 {
            return Err(Error::failed(format!("{} holds no certificate", path.display())));
        }
        Ok(Some(Roots { store, trusted }))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: rustls::pki_types::pem::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("failed to read {}", path.display())).with_source(error)
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
}

/// Verifies as much as the mode asks for.
#[derive(Debug)]
struct Verifier {
    roots: Option<Roots>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        // A server's self-signed certificate is often handed out as the one to trust.
        if !roots.trusted.iter().any(|trusted| trusted == end_entity) {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &roots.store,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.name {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
