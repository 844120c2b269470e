//! Commands of this program, asked as processes of their own.
//!
//! A repository that does not answer for minutes holds nobody up so, and what a listing needs of
//! memory goes back when the process ends.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::supervise::SUPERVISOR;
use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// The most that is read of what a command says beside its answer.
const MOST_SAID: u64 = 256 << 10;

/// How often it is looked whether a command is done.
const PAUSE: Duration = Duration::from_millis(20);

/// A command that is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What is tried, for who reads of its failure.
    pub doing: &'a str,
    /// This program and the options that each of its processes gets.
    pub program: &'a [OsString],
    /// How long it may take.
    pub patience: Duration,
    /// The most bytes of its answer.
    pub most: u64,
}

/// What a command answered.
#[derive(Debug)]
struct Answered {
    data: Vec<u8>,
    said: Vec<u8>,
    status: ExitStatus,
}

impl Asking<'_> {
    /// The JSON that it prints, whatever it ends with: `status` ends with 4 where an objective is
    /// missed.
    ///
    /// # Errors
    /// The error that the command itself tells, where it prints nothing.
    pub fn json<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Value> {
        let answered = self.run(args)?;
        if answered.data.len() as u64 > self.most {
            let what = format!("{}: the answer is longer than {} bytes", self.doing, self.most);
            return Err(Error::failed(what));
        }
        serde_json::from_slice(&answered.data)
            .map_err(|_| self.told(&answered.said, answered.status))
    }

    /// The same, where only a command that was done is good.
    ///
    /// # Errors
    /// The error that the command itself tells.
    pub fn done<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Value> {
        let answered = self.run(args)?;
        if !answered.status.success() {
            return Err(self.told(&answered.said, answered.status));
        }
        Ok(serde_json::from_slice(&answered.data).unwrap_or_default())
    }

    fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Answered> {
        let (first, rest) =
            self.program.split_first().ok_or_else(|| Error::usage("there is no program"))?;
        let failed = || self.doing.to_owned();
        let mut child = Command::new(first)
            .args(rest)
            .args(args)
            .env(SUPERVISOR, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing(failed)?;
        // One byte more than may come shows that more came.
        let data = read(child.stdout.take(), self.most + 1);
        let said = read(child.stderr.take(), MOST_SAID);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().doing(failed)? {
                break status;
            }
            if begun.elapsed() > self.patience {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    format!("{}: it took too long", failed()),
                ));
            }
            std::thread::sleep(PAUSE);
        };
        let (data, said) = (data.join().unwrap_or_default(), said.join().unwrap_or_default());
        Ok(Answered { data, said, status })
    }

    /// The error that a command ended with, as it told it.
    fn told(&self, said: &[u8], status: ExitStatus) -> Error {
        let text = String::from_utf8_lossy(said);
        let told = text
            .lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|event| event["event"] == "error");
        let Some(told) = told else {
            return Error::failed(format!("{}: it ended with {status}", self.doing));
        };
        let kind = told["kind"].as_str().and_then(ErrorKind::from_word);
        let message = told["chain"].as_str().or_else(|| told["message"].as_str());
        let error = Error::new(
            kind.unwrap_or(ErrorKind::Failed),
            message.unwrap_or("it failed, and does not say why"),
        );
        let hints = told["hints"].as_array().into_iter().flatten();
        hints.filter_map(Value::as_str).fold(error, Error::hint)
    }
}

/// Reads a pipe to its end; what is beyond `most` is dropped.
fn read(pipe: Option<impl Read + Send + 'static>, most: u64) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(most).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        bytes
    })
}
