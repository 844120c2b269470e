//! `dns`: the records of a name, changed at the server that holds them.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;

use super::dns_message::{Answer, Key, LIMIT, Records, answer, canonical, question, update};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::DnsAction;

/// How long the server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes the records of a name.
pub struct Dns(pub DnsAction);

impl Dns {
    fn wanted(&self) -> Result<Records> {
        let mut values = Vec::new();
        for text in &self.0.values {
            values.push(canonical(self.0.kind, text)?);
        }
        values.sort_unstable();
        values.dedup();
        let ttl = u32::try_from(self.0.ttl.as_secs()).unwrap_or(u32::MAX >> 1);
        Ok(Records { ttl, values })
    }

    fn key(&self) -> Result<Key> {
        let secret = self.0.key.secret.resolve()?;
        let secret = STANDARD.decode(secret.expose_secret().trim()).map_err(|_| {
            Error::usage("the secret of the key is not base64")
                .hint("`keymgr -t NAME` and `tsig-keygen NAME` write keys")
        })?;
        Ok(Key { name: self.0.key.name.clone(), algorithm: self.0.key.algorithm, secret })
    }

    fn found(&self) -> Result<Records> {
        let id = fastrand::u16(..);
        let reply = self.exchange(&question(id, &self.0.name, self.0.kind)?)?;
        answer(&reply, id)?.records(&self.0.name, self.0.kind).map_err(|error| self.naming(error))
    }

    fn put(&self, records: &Records, job: &Job<'_>) -> Result<()> {
        let id = fastrand::u16(..);
        let key = self.key()?;
        let mut message = update(id, &self.0.zone, &self.0.name, self.0.kind, records)?;
        let time = job.cx.clock.now().as_second().unsigned_abs();
        let mac = key.sign(&mut message, time)?;
        let found = answer(&self.exchange(&message)?, id)?;
        let checked = |found: &Answer| {
            found.check()?;
            found.check_signature(&key, &mac, job.cx.clock.now().as_second().unsigned_abs())
        };
        checked(&found).map_err(|error| self.naming(error))?;
        // What the server says of itself counts, and not what it promised.
        let now = self.found()?;
        if now.values == records.values {
            return Ok(());
        }
        Err(Error::failed(format!("{} is {} all the same", self.0.name, listed(&now.values)))
            .hint("the server took the change and did not make it: its log says why"))
    }

    fn naming(&self, error: Error) -> Error {
        error.context(format!("failed to ask the name server {}", self.0.server))
    }

    fn exchange(&self, message: &[u8]) -> Result<Vec<u8>> {
        let doing = || format!("failed to ask the name server {}", self.0.server);
        let unreachable = |error| Error::io(doing(), error).with_kind(ErrorKind::Unreachable);
        let addresses = self.0.server.to_socket_addrs().map_err(unreachable)?;
        let mut last = std::io::Error::other("it has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(mut stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).doing(doing)?;
                    stream.set_write_timeout(Some(PATIENCE)).doing(doing)?;
                    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
                    framed.extend(message);
                    stream.write_all(&framed).map_err(unreachable)?;
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).map_err(unreachable)?;
                    let mut reply = vec![0; usize::from(u16::from_be_bytes(length)).min(LIMIT)];
                    stream.read_exact(&mut reply).map_err(unreachable)?;
                    return Ok(reply);
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }

    fn outputs(records: &Records) -> Outputs {
        Outputs::from([
            ("values".to_owned(), records.values.join(" ")),
            ("ttl".to_owned(), records.ttl.to_string()),
        ])
    }
}

fn listed(values: &[String]) -> String {
    if values.is_empty() { "nothing".to_owned() } else { values.join(", ") }
}

impl Action for Dns {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let wanted = self.wanted()?;
        let preview = |now: &str| {
            Preview::of(format!("{} becomes {}{now}", self.0.name, listed(&wanted.values)))
        };
        if let Err(error) = self.key() {
            return Ok(preview("").missing(error.chain()));
        }
        Ok(match self.found() {
            Ok(now) => preview(&format!("; now: {}", listed(&now.values))),
            Err(error) => preview("").missing(error.chain()),
        })
    }

    fn before(&self, _job: &Job<'_>) -> Result<Outputs> {
        Ok(Self::outputs(&self.found()?))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        let (now, wanted) = (self.found()?, self.wanted()?);
        Ok(if now == wanted { Observed::Done(Self::outputs(&now)) } else { Observed::NotDone })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let wanted = self.wanted()?;
        self.put(&wanted, job)?;
        Ok(Self::outputs(&wanted))
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        // What it was before the step first began; nothing, where there was none.
        let Some(values) = job.before.get("values") else { return Ok(()) };
        let ttl = job.before.get("ttl").and_then(|ttl| ttl.parse().ok()).unwrap_or(0);
        let before =
            Records { ttl, values: values.split_whitespace().map(str::to_owned).collect() };
        // Where nothing was changed nothing has to be, and the server may not even take a change.
        if self.found()? == before { Ok(()) } else { self.put(&before, job) }
    }
}
