//! Vantage points: whether a site can be reached, looked from several places at once.
//!
//! What is looked for is that it cannot be. So nothing but an attempt that was made, and that the network or
//! the host at its end put an end to, counts as that: a place that does not answer, a name that is not known
//! there, or a program that is missing proves nothing.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rustix::io::Errno;

use super::program::{Surroundings, run};
use super::remote::on_host;
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::Job;
use crate::policy::{Program, VantagePoint};

/// How long one address is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a look from another host may take, with the way there.
const LONGEST: Duration = Duration::from_secs(45);

/// What an attempt comes to that was made and that found nobody: in the words of the C locale.
const NOBODY: [&str; 5] = [
    "Connection refused",
    "Connection reset by peer",
    "Connection timed out",
    "Host is down",
    "No route to host",
];

/// What an address comes to that the host knows no way to, for want of the family or of a route: no attempt was
/// made. Other addresses may tell.
const NOT_HERE: [&str; 3] = [
    "Address family not supported by protocol",
    "Cannot assign requested address",
    "Network is unreachable",
];

/// What the attempt over there says first, so that one which was ended before it was made is none.
const BEGUN: &str = "begun";

/// Tries every address that a name has there. A line for each: `backstay`, how the attempt ended, the
/// address, and what was said last; `backstay` and `unknown` where the name has none.
const SCRIPT: &str = r#"export LC_ALL=C
command -v timeout >/dev/null || { echo 'backstay unknown there is no program `timeout`'; exit 0; }
found=$(timeout "$2" getent ahosts "$0") || { echo "backstay unknown \`getent ahosts $0\` finds no address"; exit 0; }
while read -r address kind _; do
  [ "$kind" = STREAM ] || continue
  said=$(timeout "$2" bash -c 'echo begun; exec 3<>"/dev/tcp/$0/$1"' "$address" "$1" 2>&1 </dev/null)
  echo "backstay $? $address ${said##*: }"
done <<< "$found""#;

/// What was seen from a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It takes connections.
    Reached,
    /// It takes none: what became of the attempt.
    Unreached(String),
    /// Nothing can be told: why.
    Unknown(String),
}

/// What was seen from one vantage point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The place, in words.
    pub place: String,
    /// The address that was tried.
    pub address: String,
    /// What came of it.
    pub seen: Seen,
}

/// Looks from all of them at once.
///
/// # Errors
/// Only where somebody stops the work.
pub fn look(points: &IndexMap<String, VantagePoint>, job: &Job<'_>) -> Result<Vec<View>> {
    let seen: Vec<Result<Seen>> = std::thread::scope(|scope| {
        let looks: Vec<_> =
            points.values().map(|point| scope.spawn(move || look_from(point, job))).collect();
        let lost = |_| Err(Error::failed("a look from a vantage point ended early"));
        looks.into_iter().map(|one| one.join().unwrap_or_else(lost)).collect()
    });
    points
        .iter()
        .zip(seen)
        .map(|((name, point), seen)| {
            let place = place(name, point);
            Ok(View { place, address: point.tcp.clone(), seen: seen? })
        })
        .collect()
}

/// A vantage point, in words.
pub fn place(name: &str, point: &VantagePoint) -> String {
    match &point.host {
        Some(host) => format!("`{name}` ({host})"),
        None => format!("`{name}` (this host)"),
    }
}

fn look_from(point: &VantagePoint, job: &Job<'_>) -> Result<Seen> {
    let Some((name, port)) = split(&point.tcp) else {
        return Ok(Seen::Unknown(format!("{} is no address of a port", point.tcp)));
    };
    match &point.host {
        None => Ok(look_here(&name, port)),
        Some(host) => look_there(host, &name, port, job),
    }
}

/// Host and port of an address, the host without the brackets that one of IPv6 has.
fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // What begins so would be an option over there.
    let valid = !bare.is_empty() && !bare.starts_with('-');
    Some((bare.to_owned(), port.parse().ok().filter(|port| valid && *port > 0)?))
}

fn look_here(name: &str, port: u16) -> Seen {
    let found = match (name, port).to_socket_addrs() {
        Ok(found) => found,
        Err(error) => return Seen::Unknown(format!("{name} has no address: {error}")),
    };
    let attempts = found.map(|address| {
        let ended = TcpStream::connect_timeout(&address, PATIENCE).map(drop);
        (address.ip().to_string(), ended.map_err(|error| said(&error)))
    });
    judge(attempts)
}

/// What an attempt came to, in the words that the shell has for it.
fn said(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => NOBODY[0],
        io::ErrorKind::ConnectionReset => NOBODY[1],
        io::ErrorKind::TimedOut => NOBODY[2],
        io::ErrorKind::HostUnreachable => NOBODY[4],
        io::ErrorKind::AddrNotAvailable => NOT_HERE[1],
        io::ErrorKind::NetworkUnreachable => NOT_HERE[2],
        _ if error.raw_os_error() == Some(Errno::HOSTDOWN.raw_os_error()) => NOBODY[3],
        _ => return error.to_string(),
    };
    words.to_owned()
}

/// What the attempts at the addresses of one name come to together.
fn judge(attempts: impl Iterator<Item = (String, std::result::Result<(), String>)>) -> Seen {
    let (mut nobody, mut other, mut unmade) = (Vec::new(), Vec::new(), Vec::new());
    for (address, ended) in attempts {
        match ended {
            Ok(()) => return Seen::Reached,
            Err(said) if NOBODY.contains(&said.as_str()) => nobody.push((address, said)),
            Err(said) if NOT_HERE.contains(&said.as_str()) => {
                unmade.push(format!("{address}: {said}"));
            }
            Err(said) => other.push(format!("{address}: {said}")),
        }
    }
    if !other.is_empty() {
        return Seen::Unknown(other.join("; "));
    }
    let Some((_, first)) = nobody.first() else {
        unmade.push("no attempt at an address could be made".to_owned());
        return Seen::Unknown(unmade.join("; "));
    };
    // One word for all where it is the same.
    if nobody.iter().all(|(_, said)| said == first) {
        return Seen::Unreached(first.clone());
    }
    let each: Vec<String> =
        nobody.iter().map(|(address, said)| format!("{address}: {said}")).collect();
    Seen::Unreached(each.join("; "))
}

fn look_there(host: &str, name: &str, port: u16, job: &Job<'_>) -> Result<Seen> {
    let (port, patience) = (port.to_string(), PATIENCE.as_secs().to_string());
    let words = ["bash", "-c", SCRIPT, name, &port, &patience].map(str::to_owned);
    let latest = Instant::now() + LONGEST;
    let deadline = Some(job.deadline.map_or(latest, |deadline| deadline.min(latest)));
    let program = Program::Argv(on_host(Some(host), words.into()));
    match run(&program, &Surroundings::default(), &Job { deadline, ..*job }, &[0], || {}) {
        Ok(ran) => Ok(read(&ran.output)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok(Seen::Unknown(error.chain())),
    }
}

/// What the script over there wrote. Other lines are those of its shell.
fn read(output: &str) -> Seen {
    let lines: Vec<&str> =
        output.lines().filter_map(|line| line.strip_prefix("backstay ")).collect();
    if let Some(why) = lines.iter().find_map(|line| line.strip_prefix("unknown ")) {
        return Seen::Unknown(why.to_owned());
    }
    judge(lines.iter().map(|line| {
        let mut words = line.splitn(3, ' ');
        let status = words.next().unwrap_or_default();
        let address = words.next().unwrap_or_default().to_owned();
        let ended = match (status, words.next().unwrap_or_default().trim()) {
            ("0", _) => Ok(()),
            // The program that ends it when it takes too long.
            ("124", BEGUN) => Err(NOBODY[2].to_owned()),
            ("124", _) => Err("it took too long to begin".to_owned()),
            (_, said) => Err(said.to_owned()),
        };
        (address, ended)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(seen: &Seen) -> bool {
        matches!(seen, Seen::Unknown(_))
    }

    #[test]
    fn only_an_attempt_that_found_nobody_counts() {
        let unreached = |said: &str| Seen::Unreached(said.to_owned());
        assert_eq!(read("backstay 0 192.0.2.1 \n"), Seen::Reached);
        assert_eq!(read("welcome\nbackstay 1 ::1 Connection refused\n"), unreached(NOBODY[0]));
        assert_eq!(read("backstay 124 192.0.2.1 begun\n"), unreached(NOBODY[2]));
        // One address that answers is the site.
        assert_eq!(read("backstay 124 2001:db8::1 begun\nbackstay 0 192.0.2.1 \n"), Seen::Reached);
        // A host without IPv6 is told by what it has.
        let without = format!("backstay 1 ::1 {}\n", NOT_HERE[1]);
        assert!(unknown(&read(&without)));
        assert_eq!(read(&format!("{without}backstay 124 192.0.2.1 begun\n")), unreached(NOBODY[2]));
        for nothing in [
            "",
            "bash: line 1: backstay: command not found\n",
            "backstay unknown `getent ahosts db` finds no address\n",
            "backstay 127 192.0.2.1 command not found\n",
            "backstay 1 192.0.2.1 No such file or directory\n",
            "backstay 1 192.0.2.1 Permission denied\nbackstay 124 192.0.2.2 begun\n",
            "backstay 124 192.0.2.1 \n",
            "backstay 1 192.0.2.1 Network is unreachable\n",
        ] {
            assert!(unknown(&read(nothing)), "{nothing}");
        }
    }

    #[test]
    fn from_this_host_a_name_that_nobody_knows_is_not_a_site_that_is_gone() {
        assert!(unknown(&look_here("no..host", 5432)));
        assert_eq!(split("[::1]:5432"), Some(("::1".to_owned(), 5432)));
        assert_eq!(split("-x:5432"), None);
        assert_eq!(split("db.example:0x"), None);
        assert_eq!(split("db.example:0"), None);
    }
}
