//! Whether production can be reached from where the servers of a drill run.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::evidence::{Probe, Reach};
use crate::policy::{Policy, SourceSpec, StarRocks};
use crate::source::isolation;
use crate::source::mysql;
use crate::source::postgres::{Place, Settings, Surroundings};

/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An address of production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT`, or the path of a socket.
    pub text: String,
    /// The source whose connection names it.
    pub of: String,
    /// Where to connect to; none for sockets in the file system.
    found: Option<Vec<SocketAddr>>,
}

/// The servers that the connections of a policy name. Names are looked up here: inside there is nobody
/// to ask.
pub fn addresses(policy: &Policy) -> Vec<Address> {
    let mut found: Vec<Address> = Vec::new();
    let mut add = |of: &str, host: &str, port: u16| {
        let text =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        if !found.iter().any(|one| one.text == text) {
            let resolved =
                (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            found.push(Address { text, of: of.to_owned(), found: Some(resolved) });
        }
    };
    let mut sockets = Vec::new();
    for (name, source) in &policy.sources {
        match &source.spec {
            SourceSpec::PostgresCluster(cluster) => {
                sockets.extend(postgres(name, &cluster.connection, &mut add));
            }
            SourceSpec::PostgresDump(dump) => {
                sockets.extend(postgres(name, &dump.connection, &mut add));
            }
            SourceSpec::MysqlDump(dump) => {
                if let Ok(settings) = mysql::Settings::parse(&dump.connection) {
                    match settings.socket {
                        Some(path) => sockets.push((name.clone(), path.display().to_string())),
                        None => add(name, &settings.host, settings.port),
                    }
                }
            }
            SourceSpec::StarRocks(cluster) => {
                for frontend in &cluster.frontends {
                    if let Some((host, port)) = StarRocks::address(frontend) {
                        add(name, &host, port);
                    }
                }
            }
            _ => {}
        }
    }
    for (of, text) in sockets {
        if !found.iter().any(|one| one.text == text) {
            found.push(Address { text, of, found: None });
        }
    }
    found
}

fn postgres(
    name: &str,
    connection: &str,
    add: &mut impl FnMut(&str, &str, u16),
) -> Vec<(String, String)> {
    let Ok(settings) = Settings::resolve(connection, &Surroundings::here()) else {
        return Vec::new();
    };
    let mut sockets = Vec::new();
    for host in &settings.hosts {
        match (&host.place, host.address) {
            (_, Some(address)) => add(name, &address.to_string(), host.port),
            (Place::Name(text), None) => add(name, text, host.port),
            (Place::Socket(_), None) => sockets.push((name.to_owned(), host.to_string())),
        }
    }
    sockets
}

impl Address {
    /// Tries to reach it from where the servers run.
    pub fn reach(&self, isolated: bool) -> Reach {
        let Some(found) = &self.found else { return Reach::LocalSocket };
        let answers =
            || found.iter().any(|address| TcpStream::connect_timeout(address, PATIENCE).is_ok());
        // Where there is no namespace after all, it is tried from here.
        let reached = if isolated { isolation::inside(answers).unwrap_or(true) } else { answers() };
        if reached { Reach::Reachable } else { Reach::Unreachable }
    }

    /// The first try.
    pub fn probe(&self, isolated: bool) -> Probe {
        let before = self.reach(isolated);
        Probe { address: self.text.clone(), of: self.of.clone(), before, after: None }
    }
}
