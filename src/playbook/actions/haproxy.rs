//! `haproxy`: servers behind it are sent to work or to rest, by its runtime API.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{HaproxyAction, ServerState};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read of an answer.
const MOST: u64 = 16 << 20;

/// Somebody said `maint`, or `drain`: bits of `srv_admin_state`.
const FORCED_MAINT: u32 = 0x01;
const FORCED_DRAIN: u32 = 0x08;

/// Sends servers to work or to rest.
pub struct Haproxy(pub HaproxyAction);

impl Haproxy {
    fn ask(&self, command: &str) -> Result<String> {
        let socket = &self.0.socket;
        let failed = || format!("failed to ask HAProxy at {socket}");
        let answer = if socket.starts_with('/') {
            let stream = UnixStream::connect(socket).doing(failed)?;
            stream.set_read_timeout(Some(PATIENCE)).doing(failed)?;
            exchange(stream, command)
        } else {
            let address = socket.to_socket_addrs().doing(failed)?.next();
            let address = address.ok_or_else(|| Error::failed(failed()))?;
            let stream = TcpStream::connect_timeout(&address, PATIENCE).doing(failed)?;
            stream.set_read_timeout(Some(PATIENCE)).doing(failed)?;
            exchange(stream, command)
        };
        let answer = answer.doing(failed)?;
        if answer.contains("Permission denied") {
            return Err(Error::new(ErrorKind::Denied, failed())
                .with_source(answer.trim().to_owned())
                .hint("its `stats socket` needs `level admin`"));
        }
        Ok(answer)
    }

    /// What every server was told to do, by `BACKEND/SERVER`.
    fn states(&self) -> Result<BTreeMap<String, ServerState>> {
        let answer = self.ask("show servers state")?;
        let mut columns: Vec<&str> = Vec::new();
        let mut states = BTreeMap::new();
        for line in answer.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                columns = head.split(' ').collect();
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let of = |name: &str| {
                columns.iter().position(|column| *column == name).and_then(|at| words.get(at))
            };
            let (Some(backend), Some(server), Some(state)) =
                (of("be_name"), of("srv_name"), of("srv_admin_state"))
            else {
                continue;
            };
            let bits: u32 = state.parse().unwrap_or(0);
            let state = match bits {
                bits if bits & FORCED_MAINT != 0 => ServerState::Maint,
                bits if bits & FORCED_DRAIN != 0 => ServerState::Drain,
                _ => ServerState::Ready,
            };
            states.insert(format!("{backend}/{server}"), state);
        }
        Ok(states)
    }

    fn set(&self, server: &str, state: ServerState) -> Result<()> {
        let said = self.ask(&format!("set server {server} state {}", state.word()))?;
        if !said.trim().is_empty() {
            return Err(Error::failed(format!("HAProxy does not set {server}: {}", said.trim())));
        }
        if self.0.end_sessions && state != ServerState::Ready {
            self.ask(&format!("shutdown sessions server {server}"))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<Option<String>> {
        let states = self.states()?;
        Ok(self.0.servers.iter().find_map(|(server, wanted)| match states.get(server) {
            Some(found) if found == wanted => None,
            Some(found) => Some(format!("{server} is told to be {}", found.word())),
            None => Some(format!("there is no server {server}")),
        }))
    }
}

fn exchange<S: Read + Write>(mut stream: S, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    Ok(answer)
}

impl Action for Haproxy {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let all: Vec<String> =
            self.0.servers.iter().map(|(name, state)| format!("{name} {}", state.word())).collect();
        let mut preview = Preview::of(format!("tells HAProxy: {}", all.join(", ")));
        let states = self.states()?;
        for server in self.0.servers.keys().filter(|server| !states.contains_key(*server)) {
            preview = preview.missing(format!("HAProxy has no server {server}"));
        }
        Ok(preview)
    }

    fn before(&self, _job: &Job<'_>) -> Result<Outputs> {
        let states = self.states()?;
        let known = |name: &String| Some((name.clone(), states.get(name)?.word().to_owned()));
        Ok(self.0.servers.keys().filter_map(known).collect())
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        Ok(if self.check()?.is_none() { Observed::Done(Outputs::new()) } else { Observed::NotDone })
    }

    fn apply(&self, _job: &Job<'_>) -> Result<Outputs> {
        // Those that rest first: two that work at once are worse than none for a moment.
        let rest = |state: &ServerState| *state != ServerState::Ready;
        for (server, state) in self.0.servers.iter().filter(|(_, state)| rest(state)) {
            self.set(server, *state)?;
        }
        for (server, state) in self.0.servers.iter().filter(|(_, state)| !rest(state)) {
            self.set(server, *state)?;
        }
        match self.check()? {
            None => Ok(Outputs::new()),
            Some(why) => Err(Error::failed(format!("HAProxy did not do as it was told: {why}"))),
        }
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        for resting in [true, false] {
            for (server, was) in job.before.iter().filter(|(_, was)| (*was != "ready") == resting) {
                let state = match was.as_str() {
                    "maint" => ServerState::Maint,
                    "drain" => ServerState::Drain,
                    _ => ServerState::Ready,
                };
                self.set(server, state)?;
            }
        }
        Ok(())
    }
}
