//! The only place that writes to standard output and standard error.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::args::{Color, Global, Output};
use super::exit::ExitStatus;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::LoadError;
use crate::secret;

/// Writes data and talk.
#[derive(Debug, Clone)]
pub struct Printer {
    output: Output,
    quiet: bool,
    verbose: bool,
    color: bool,
    /// Tells when events happened, where that is written down.
    clock: Option<Arc<dyn Clock>>,
}

/// An event, and when it happened.
#[derive(Serialize)]
struct Dated<'a, T> {
    time: Timestamp,
    #[serde(flatten)]
    event: &'a T,
}

impl Printer {
    /// As the options say.
    pub fn new(global: &Global) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                io::stderr().is_terminal()
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Self {
            output: global.output,
            quiet: global.quiet,
            verbose: global.verbose,
            color,
            clock: None,
        }
    }

    /// The same, but each event has its time: for what goes on for months.
    #[must_use]
    pub fn dated(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Whether data is JSON.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether talk is coloured.
    pub fn color(&self) -> bool {
        self.color
    }

    /// Whether more is to be said.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Writes a line of data.
    pub fn data(&self, line: impl AsRef<str>) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line.as_ref()).map_err(output_error)
    }

    /// Writes data as it is.
    pub fn raw(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(output_error)
    }

    /// Writes a value as JSON.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
        self.data(text)
    }

    /// Writes a value as one line of JSON to standard error: an event.
    pub fn event<T: Serialize>(&self, value: &T) {
        let text = match &self.clock {
            Some(clock) => serde_json::to_string(&Dated { time: clock.now(), event: value }),
            None => serde_json::to_string(value),
        };
        if let Ok(text) = text {
            self.line(&text);
        }
    }

    /// Writes a line of talk, unless it is to be quiet. With JSON output talk is not for people.
    pub fn talk(&self, line: impl AsRef<str>) {
        if !self.quiet && !self.is_json() {
            self.line(line.as_ref());
        }
    }

    /// Writes a warning.
    pub fn warning(&self, message: &str) {
        if !self.quiet && !self.is_json() {
            self.line(&format!("{} {message}", self.paint("warning:", "33;1")));
        }
    }

    /// Writes a hint.
    pub fn hint(&self, message: &str) {
        if !self.quiet && !self.is_json() {
            self.line(&format!("{} {message}", self.paint("hint:", "36;1")));
        }
    }

    /// Writes text that is rendered already, with its own line breaks.
    pub fn rendered(&self, text: &str) {
        self.line(text.trim_end());
    }

    /// Writes an error with its causes and hints.
    pub fn error(&self, error: &Error) {
        if self.is_json() {
            self.event(&json(error));
        } else {
            self.error_text(error);
        }
    }

    /// Writes the error that the program ends with.
    pub fn last_error(&self, error: &Error, status: ExitStatus) {
        if !self.is_json() {
            return self.error_text(error);
        }
        let mut event = json(error);
        event["exit_code"] = serde_json::json!(status as u8);
        self.event(&event);
    }

    fn error_text(&self, error: &Error) {
        if let Some(refused) = refused_policy(error) {
            self.rendered(&refused.render(self.color));
            if refused.kind() != ErrorKind::Policy {
                return;
            }
        }
        self.line(&format!("{} {error}", self.paint("error:", "31;1")));
        let mut previous = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            // What was shown with the place in its file.
            if error.is::<LoadError>() {
                break;
            }
            let text = error.to_string();
            // Libraries like to repeat their causes in their own message.
            if !previous.contains(&text) {
                self.line(&format!("  caused by: {}", text.trim().replace('\n', "\n    ")));
            }
            if !previous.contains(&text) {
                previous = text;
            }
            cause = error.source();
        }
        for hint in error.hints() {
            self.line(&format!("{} {hint}", self.paint("hint:", "36;1")));
        }
    }

    /// Text in a colour, if colours are used.
    pub fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        // Nobody is left to be told that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{}", secret::mask(text));
    }
}

/// Writes what is wrong with a command line as other errors are written for programs.
pub fn usage_as_json(error: &clap::Error) {
    let text = error.render().to_string();
    let mut paragraphs = text.trim().split("\n\n");
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let hints: Vec<String> = paragraphs.map(|hint| hint.trim().to_owned()).collect();
    let _ = writeln!(
        io::stderr().lock(),
        "{}",
        serde_json::json!({
            "event": "error",
            "kind": "usage",
            "message": message,
            "chain": message,
            "hints": hints,
            "exit_code": ExitStatus::Usage as u8,
        })
    );
}

/// What is wrong with policies, if that is why.
fn refused_policy(error: &Error) -> Option<&LoadError> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

fn json(error: &Error) -> serde_json::Value {
    let mut event = serde_json::json!({
        "event": "error",
        "kind": error.kind().word(),
        "message": error.to_string(),
        "chain": error.chain(),
        "hints": error.hints(),
    });
    if let Some(refused) = refused_policy(error) {
        event["diagnostics"] = serde_json::json!(refused.diagnostics);
    }
    event
}

fn output_error(error: io::Error) -> Error {
    let closed = error.kind() == io::ErrorKind::BrokenPipe;
    let error = Error::io("failed to write the output", error);
    if closed { error.with_kind(ErrorKind::OutputClosed) } else { error }
}
