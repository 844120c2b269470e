//! References to secrets. A policy names where a secret lies and never holds its value.
//!
//! `${env:NAME}`, `${file:PATH}` and `${command:PROGRAM ARGS…}` are the three forms. Values are
//! read at the moment of use, are wiped on drop and never appear in `Debug` output.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, ErrorKind, Result};

/// Where a secret lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file; one trailing line break is dropped.
    File(String),
    /// The standard output of a command, words split on white space; one trailing line break is
    /// dropped.
    Command(String),
}

impl SecretRef {
    /// Parses `${env:NAME}`, `${file:PATH}` or `${command:…}`. `None` if `text` is none of them.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix("${")?.strip_suffix('}')?;
        let (scheme, rest) = inner.split_once(':')?;
        if rest.trim().is_empty() {
            return None;
        }
        match scheme {
            "env" => Some(Self::Env(rest.to_owned())),
            "file" => Some(Self::File(rest.to_owned())),
            "command" => Some(Self::Command(rest.to_owned())),
            _ => None,
        }
    }

    /// Reads the value, which is kept out of all that is shown from then on. Errors name the reference
    /// and never the value.
    pub fn resolve(&self) -> Result<SecretString> {
        let value = self.read()?;
        remember(&value);
        Ok(value)
    }

    /// Reads a value that is no secret, and may be shown: the name of a site.
    pub fn read(&self) -> Result<SecretString> {
        let value = match self {
            Self::Env(name) => std::env::var(name).map_err(|error| {
                Error::new(ErrorKind::NotFound, format!("failed to read secret {self}"))
                    .with_source(error)
                    .hint(format!("set the environment variable {name}"))
            })?,
            Self::File(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::io(format!("failed to read secret {self}"), error)
                    .hint(format!("the file {path} must be readable by this user"))
            })?,
            Self::Command(line) => run(line, self)?,
        };
        let value = value.strip_suffix('\n').unwrap_or(&value);
        let value = value.strip_suffix('\r').unwrap_or(value);
        if value.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("secret {self} is empty")));
        }
        Ok(SecretString::from(value.to_owned()))
    }
}

/// Shorter values are also words that mean nothing.
const SHORTEST_MASKED: usize = 6;

/// What is shown in place of a secret.
const MASK: &str = "…";

/// Every value that was read, to be kept out of what is shown.
static READ: Mutex<Vec<SecretString>> = Mutex::new(Vec::new());

fn remember(value: &SecretString) {
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let known = read.iter().any(|known| known.expose_secret() == value.expose_secret());
    if !known {
        read.push(value.clone());
    }
}

/// `text` without the secrets that this process has read. Programs repeat what they are given, and
/// what they say is shown.
pub fn mask(text: &str) -> String {
    let read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let mut parts: Vec<&str> = Vec::new();
    for value in read.iter().map(SecretString::expose_secret) {
        parts.push(value);
        // One of several lines, such as a key, may be shown a line at a time.
        parts.extend(value.lines().map(str::trim));
    }
    parts.retain(|part| part.len() >= SHORTEST_MASKED && text.contains(part));
    // What contains another goes first.
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.into_iter().fold(text.to_owned(), |text, part| text.replace(part, MASK))
}

fn run(line: &str, reference: &SecretRef) -> Result<String> {
    let failed = || Error::failed(format!("failed to read secret {reference}"));
    let mut words = line.split_whitespace();
    let program = words.next().ok_or_else(failed)?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed().with_source(error))?;
    if !output.status.success() {
        return Err(failed().with_source(format!("{program} ended with {}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(|_| failed().with_source("its output is not UTF-8"))
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "${{env:{name}}}"),
            Self::File(path) => write!(f, "${{file:{path}}}"),
            // The command may carry a token in its arguments: only the program is shown.
            Self::Command(line) => {
                let mut words = line.split_whitespace();
                let program = words.next().unwrap_or_default();
                let more = if words.next().is_some() { " …" } else { "" };
                write!(f, "${{command:{program}{more}}}")
            }
        }
    }
}
