//! From an address to a session: TLS, start-up, passwords.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::connection;
use super::conninfo::{Host, Place, Settings};
use super::tls::SslMode;
use super::wire::{Stream, Wire};
use crate::error::{Error, ErrorKind, Result};

/// Opens a session at this host.
pub(super) fn open(settings: &Settings, host: &Host) -> Result<Wire> {
    let wants_tls: &[bool] = match (&host.place, settings.tls.mode) {
        (Place::Socket(_), _) | (_, SslMode::Disable) => &[false],
        (_, SslMode::Allow) => &[false, true],
        (_, SslMode::Prefer) => &[true, false],
        _ => &[true],
    };
    let mut first = None;
    for &tls in wants_tls {
        match open_as(settings, host, tls) {
            Ok(wire) => return Ok(wire),
            // The other way may do; if not, what the first one said is the reason.
            Err(error) if error.kind() != ErrorKind::Unreachable => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| Error::failed("no way to connect")))
}

/// Asks the server to end what the session of this key is doing. No answer comes.
pub(super) fn cancel(settings: &Settings, host: &Host, (pid, key): (i32, i32)) -> Result<()> {
    let tls = !matches!(settings.tls.mode, SslMode::Disable | SslMode::Allow);
    let stream = negotiate(settings, host, tls && matches!(host.place, Place::Name(_)))?;
    Wire::new(stream, host).send(|out| {
        frontend::cancel_request(pid, key, out);
        Ok(())
    })
}

fn open_as(settings: &Settings, host: &Host, tls: bool) -> Result<Wire> {
    let deadline = Instant::now() + settings.connect_timeout;
    let stream = negotiate(settings, host, tls)?;
    let mut wire = Wire::new(stream, host);
    wire.glance()?;
    let mut parameters = vec![
        ("user", settings.user.as_str()),
        ("replication", "true"),
        ("application_name", settings.application.as_str()),
        ("client_encoding", "UTF8"),
    ];
    if let Some(options) = &settings.options {
        parameters.push(("options", options));
    }
    wire.send(|out| frontend::startup_message(parameters, out))?;
    let mut login = Login { settings, host, wire: &mut wire, deadline, scram: None, proven: false };
    login.run()?;
    Ok(wire)
}

/// A stream to the host, within TLS where it is wanted and the server has it.
fn negotiate(settings: &Settings, host: &Host, tls: bool) -> Result<Stream> {
    let stream = Stream::connect(host, settings.connect_timeout)?;
    let lost = |error: std::io::Error| {
        Error::new(ErrorKind::Unreachable, format!("failed to reach PostgreSQL at {host}"))
            .with_source(error)
    };
    stream.set_patience(settings.connect_timeout).map_err(lost)?;
    let Stream::Tcp(mut socket) = stream else { return Ok(stream) };
    if !tls {
        return Ok(Stream::Tcp(socket));
    }
    if !settings.tls.direct {
        use std::io::{Read as _, Write as _};
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        let mut answer = [0];
        socket.write_all(&request).and_then(|()| socket.read_exact(&mut answer)).map_err(lost)?;
        match (answer, settings.tls.mode) {
            ([b'S'], _) => {}
            ([b'N'], SslMode::Prefer) => return Ok(Stream::Tcp(socket)),
            _ => {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("PostgreSQL at {host} has no TLS"),
                )
                .hint(
                    "turn it on there (`ssl = on`); or `sslmode=prefer`, if the way there is safe",
                ));
            }
        }
    }
    encrypted(settings, host, socket)
}

fn encrypted(settings: &Settings, host: &Host, mut socket: TcpStream) -> Result<Stream> {
    let name = match (&host.place, host.address) {
        (Place::Name(name), _) if !name.is_empty() => name.clone(),
        (_, Some(address)) => address.to_string(),
        _ => String::new(),
    };
    let unproven = |error: String| {
        Error::new(
            ErrorKind::Denied,
            format!("the server at {host} does not prove who it is"),
        )
        .with_source(error)
        .hint("`sslrootcert` must have signed its certificate; for `verify-full` the certificate must name this host in subjectAltName")
    };
    let name = ServerName::try_from(name).map_err(|error| unproven(error.to_string()))?;
    let config = Arc::new(settings.tls.config()?);
    let mut session =
        ClientConnection::new(config, name).map_err(|error| unproven(error.to_string()))?;
    while session.is_handshaking() {
        if let Err(error) = session.complete_io(&mut socket) {
            return Err(match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(tls @ rustls::Error::InvalidCertificate(_)) => unproven(tls.to_string()),
                _ => Error::new(ErrorKind::Unreachable, format!("failed to speak TLS with {host}"))
                    .with_source(error),
            });
        }
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
}

struct Login<'a> {
    settings: &'a Settings,
    host: &'a Host,
    wire: &'a mut Wire,
    deadline: Instant,
    scram: Option<ScramSha256>,
    /// The password was used in a way that binds it to the TLS connection.
    proven: bool,
}

impl Login<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            // Errors of this phase have explanations of their own.
            let tag = match self.wire.receive_before(self.deadline, "failed to log in") {
                Ok(tag) => tag,
                Err(error) => return Err(self.explain(error)),
            };
            match tag {
                b'R' => self.authenticate()?,
                b'K' => {
                    if let Some((pid, rest)) = self.wire.body().split_first_chunk::<4>()
                        && let Some(key) = rest.first_chunk::<4>()
                    {
                        self.wire.key = Some((i32::from_be_bytes(*pid), i32::from_be_bytes(*key)));
                    }
                }
                b'Z' => return Ok(()),
                b'v' => {}
                tag => return Err(self.wire.unexpected(tag, "failed to log in")),
            }
        }
    }

    fn explain(&self, error: Error) -> Error {
        let Some(complaint) = self.wire.complaint() else { return error };
        if complaint.said().contains("pg_hba.conf") {
            let user = &self.settings.user;
            return Error::new(
                ErrorKind::Denied,
                format!("PostgreSQL at {} does not let `{user}` replicate", self.host),
            )
            .with_source(complaint.said())
            .hint(format!(
                "add a line to pg_hba.conf, and reload: `host replication {user} ADDRESS/32 scram-sha-256` (`local` for a socket)"
            ));
        }
        if complaint.state() == postgres::error::SqlState::INSUFFICIENT_PRIVILEGE {
            let user = &self.settings.user;
            return Error::new(
                ErrorKind::Denied,
                format!("`{user}` may not replicate from {}", self.host),
            )
            .with_source(complaint.said())
            .hint(format!("ALTER ROLE {} REPLICATION", connection::ident(user)));
        }
        connection::refused(&complaint.state(), complaint.said(), self.settings, self.host)
    }

    fn authenticate(&mut self) -> Result<()> {
        let body = self.wire.body();
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Err(self.wire.nonsense("a broken request for a password"));
        };
        let rest = rest.to_vec();
        match i32::from_be_bytes(*code) {
            0 => self.accepted(),
            3 => {
                self.unbound()?;
                let password = self.password()?;
                let password = password.expose_secret().as_bytes();
                self.wire.send(|out| frontend::password_message(password, out))
            }
            5 => {
                self.unbound()?;
                let Some(salt) = rest.first_chunk::<4>() else {
                    return Err(self.wire.nonsense("a broken request for a password"));
                };
                let password = self.password()?;
                let user = self.settings.user.as_bytes();
                let hash = md5_hash(user, password.expose_secret().as_bytes(), *salt);
                self.wire.send(|out| frontend::password_message(hash.as_bytes(), out))
            }
            10 => self.begin_scram(&rest),
            11 => {
                let mut scram = self.scram.take().ok_or_else(|| self.out_of_turn())?;
                scram.update(&rest).map_err(|error| self.distrust(error))?;
                self.wire.send(|out| frontend::sasl_response(scram.message(), out))?;
                self.scram = Some(scram);
                Ok(())
            }
            12 => {
                let mut scram = self.scram.take().ok_or_else(|| self.out_of_turn())?;
                scram.finish(&rest).map_err(|error| self.distrust(error))
            }
            other => Err(Error::unsupported(format!(
                "PostgreSQL at {} asks for a way to log in that is not supported ({other})",
                self.host
            ))
            .hint("use scram-sha-256, a certificate, or peer in its pg_hba.conf")),
        }
    }

    fn accepted(&self) -> Result<()> {
        // Who only says that all is well has not proven to know the password.
        if self.scram.is_some() {
            return Err(self.out_of_turn());
        }
        self.unbound()
    }

    /// An error where the password must be bound to the TLS connection, and is not.
    fn unbound(&self) -> Result<()> {
        if self.settings.channel_binding == Some(true) && !self.proven {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("PostgreSQL at {} offers no channel binding", self.host),
            )
            .hint("`channel_binding=require` needs TLS, and a password stored as scram-sha-256"));
        }
        Ok(())
    }

    fn out_of_turn(&self) -> Error {
        self.wire.nonsense("an answer to a password that was not given")
    }

    fn distrust(&self, error: std::io::Error) -> Error {
        let user = &self.settings.user;
        // The server's proof is wrong only if it is another server; its own error came before.
        Error::new(
            ErrorKind::Denied,
            format!("failed to log in to PostgreSQL at {} as `{user}`", self.host),
        )
        .with_source(error)
    }

    fn password(&self) -> Result<secrecy::SecretString> {
        let Settings { user, .. } = self.settings;
        // Password files have lines for the database `replication`, as libpq looks them up.
        let settings = self.settings.with_database("replication");
        let found = match settings.password(self.host)? {
            None => self.settings.password(self.host)?,
            found => found,
        };
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::Denied,
                format!(
                    "PostgreSQL at {} asks for a password of `{user}`, and there is none",
                    self.host
                ),
            )
            .hint(format!(
                "write `password=${{file:PATH}}` in the connection, or a line `HOST:PORT:replication:{user}:…` into ~/.pgpass"
            ))
        })
    }

    fn begin_scram(&mut self, mechanisms: &[u8]) -> Result<()> {
        let offered: Vec<&[u8]> = mechanisms.split(|&b| b == 0).collect();
        let has = |name: &str| offered.contains(&name.as_bytes());
        let wanted = self.settings.channel_binding != Some(false);
        let end_point = match self.wire.stream() {
            Stream::Tls(tls) if wanted => {
                tls.conn.peer_certificates().and_then(|chain| end_point(chain.first()?))
            }
            _ => None,
        };
        let (mechanism, binding) = match end_point {
            Some(hash) if has(SCRAM_SHA_256_PLUS) => {
                self.proven = true;
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        self.unbound()?;
        if !has(mechanism) {
            return Err(Error::unsupported(format!(
                "PostgreSQL at {} offers no SCRAM-SHA-256",
                self.host
            )));
        }
        let password = self.password()?;
        let scram = ScramSha256::new(password.expose_secret().as_bytes(), binding);
        let message = scram.message().to_vec();
        self.scram = Some(scram);
        self.wire.send(|out| frontend::sasl_initial_response(mechanism, &message, out))
    }
}

/// What binds SCRAM to a certificate (RFC 5929, `tls-server-end-point`): its digest, by the hash of
/// its own signature, SHA-256 where that is weaker. `None` where that says no hash.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID … } … }
    let (0x30, outer, _) = der(certificate)? else { return None };
    let (0x30, _, rest) = der(outer)? else { return None };
    let (0x30, algorithm, _) = der(rest)? else { return None };
    let (0x06, oid, _) = der(algorithm)? else { return None };
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let sha = match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => 256,
        (Some([12]), _) | (_, Some([3, 3])) => 384,
        (Some([13]), _) | (_, Some([3, 4])) => 512,
        _ => return None,
    };
    Some(match sha {
        384 => Sha384::digest(certificate).to_vec(),
        512 => Sha512::digest(certificate).to_vec(),
        _ => Sha256::digest(certificate).to_vec(),
    })
}

/// Tag, content and what follows of the first value.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn certificates_say_how_they_are_bound() {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        // rcgen signs with ECDSA and SHA-256.
        assert_eq!(
            end_point(certificate.der()).unwrap(),
            Sha256::digest(certificate.der()).to_vec()
        );
        assert!(end_point(b"not a certificate").is_none());
    }
}
