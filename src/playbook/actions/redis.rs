//! `redis_flush`: databases of Redis are emptied. What a cache and a queue know is of a time that was
//! restored away.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use secrecy::ExposeSecret as _;

use crate::error::{Error, IoContext as _, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::RedisFlushAction;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest line that is read.
const MOST: u64 = 64 << 10;

/// Empties databases.
pub struct RedisFlush(pub RedisFlushAction);

struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn ask(&mut self, words: &[&str]) -> Result<String> {
        let failed = || format!("failed to ask Redis to {}", words.first().unwrap_or(&""));
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes()).doing(failed)?;
        let mut line = String::new();
        self.stream.by_ref().take(MOST).read_line(&mut line).doing(failed)?;
        match line.trim_end().split_at_checked(1) {
            Some(("+" | ":", answer)) => Ok(answer.to_owned()),
            Some(("-", why)) => Err(Error::failed(failed()).with_source(why.to_owned())),
            _ => {
                Err(Error::failed(failed()).with_source("it does not speak the protocol of Redis"))
            }
        }
    }
}

impl RedisFlush {
    fn session(&self) -> Result<Session> {
        let address = &self.0.address;
        let failed = || format!("failed to reach Redis at {address}");
        let found = address.to_socket_addrs().doing(failed)?.next();
        let found = found.ok_or_else(|| Error::failed(failed()))?;
        let stream = TcpStream::connect_timeout(&found, PATIENCE).doing(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).doing(failed)?;
        let mut session = Session { stream: BufReader::new(stream) };
        if let Some(password) = &self.0.password {
            session.ask(&["AUTH", password.resolve()?.expose_secret()])?;
        }
        Ok(session)
    }

    /// How many keys each database has.
    fn sizes(&self) -> Result<Vec<(u32, String)>> {
        let mut session = self.session()?;
        let mut sizes = Vec::new();
        for number in &self.0.databases {
            session.ask(&["SELECT", &number.to_string()])?;
            sizes.push((*number, session.ask(&["DBSIZE"])?));
        }
        Ok(sizes)
    }
}

impl Action for RedisFlush {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let sizes = self.sizes()?;
        let keys = |(number, keys): &(u32, String)| format!("{number} ({keys} keys)");
        let all: Vec<String> = sizes.iter().map(keys).collect();
        Ok(Preview::of(format!("empties databases of {}: {}", self.0.address, all.join(", "))))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        let empty = self.sizes()?.iter().all(|(_, keys)| keys == "0");
        Ok(if empty { Observed::Done(Outputs::new()) } else { Observed::NotDone })
    }

    fn apply(&self, _job: &Job<'_>) -> Result<Outputs> {
        let mut session = self.session()?;
        for number in &self.0.databases {
            session.ask(&["SELECT", &number.to_string()])?;
            session.ask(&["FLUSHDB"])?;
        }
        Ok(Outputs::new())
    }
}
