//! The API: what may be asked of a daemon, and what it answers.
//!
//! Every request but that for the description carries the token of the daemon's file. What is
//! changed here is what `backstay cancel` and `backstay trigger` change: never a policy, never a
//! backup.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::openapi;
use super::token::Token;
use crate::clock::Clock;
use crate::daemon::board::Board;
use crate::daemon::trigger::{Wish, wished};
use crate::daemon::{look, words};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Ledger, RunFilter, RunRow, RunState};

/// Where everything here lies.
pub const ROOT: &str = "/api/v1";

/// Runs in a list, where nothing else is asked for.
const RUNS: usize = 50;

/// The most runs in a list.
const MOST_RUNS: usize = 10_000;

/// The most that is shown of what a run said: the end of it.
const WORDS: u64 = 16 << 20;

/// Opens the state of the runs.
pub type Opens = Arc<dyn Fn() -> Result<Box<dyn Ledger>> + Send + Sync>;

/// What the API works with.
pub struct Api {
    /// Who may ask.
    pub token: Token,
    /// The runs.
    pub ledger: Opens,
    /// Where what runs say is kept.
    pub logs: PathBuf,
    /// This program, and the options that each of its processes gets.
    pub program: Vec<OsString>,
    /// This machine, for sources that lie on one.
    pub host: String,
    /// What the daemon does.
    pub board: Board,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// One look into the repositories at a time.
    pub looking: Mutex<()>,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// GET or POST.
    pub method: Method,
    /// `/api/v1/…`.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// What stands in `Authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

const JSON: &str = "application/json";

impl Answer {
    fn json(status: StatusCode, value: &Value) -> Self {
        Self { status, kind: JSON, body: format!("{value}\n") }
    }

    /// What went wrong, for programs: `{"error": {"kind", "message", "hints"}}`.
    pub fn error(error: &Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Usage | ErrorKind::Policy => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Denied => StatusCode::UNAUTHORIZED,
            ErrorKind::Conflict | ErrorKind::Busy => StatusCode::CONFLICT,
            ErrorKind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let said = json!({
            "kind": error.kind().word(),
            "message": error.chain(),
            "hints": error.hints(),
        });
        Self::json(status, &json!({ "error": said }))
    }
}

impl Api {
    /// Answers. Blocks: on files, on the state, and on repositories for `status`.
    pub fn answer(&self, asked: &Asked) -> Answer {
        self.try_answer(asked).unwrap_or_else(|error| Answer::error(&error))
    }

    fn try_answer(&self, asked: &Asked) -> Result<Answer> {
        let path = asked.path.strip_prefix(ROOT).unwrap_or_default();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let found = openapi::ROUTES.iter().filter(|route| route.fits(&segments));
        let routes: Vec<_> = found.collect();
        let Some(route) = routes.iter().find(|route| route.method == asked.method.as_str()) else {
            self.token.check(asked.authorization.as_deref())?;
            return Ok(if routes.is_empty() {
                Answer::error(
                    &Error::not_found(format!("there is nothing at {}", asked.path))
                        .hint(format!("{ROOT}/openapi.json lists what there is")),
                )
            } else {
                let error = Error::usage(format!("{} is not for {}", asked.path, asked.method));
                Answer { status: StatusCode::METHOD_NOT_ALLOWED, ..Answer::error(&error) }
            });
        };
        if route.needs_token {
            self.token.check(asked.authorization.as_deref())?;
        }
        if route.needs_token && self.board.sheet().loaded.is_none() {
            return Err(Error::new(ErrorKind::Unreachable, "the daemon is starting"));
        }
        let run = segments.get(1).copied().unwrap_or_default();
        match route.id {
            "describe" => Ok(Answer::json(StatusCode::OK, &openapi::document())),
            "status" => self.status(),
            "jobs" => Ok(Answer::json(StatusCode::OK, &self.jobs())),
            "runs" => self.runs(&asked.query),
            "trigger" => self.trigger(&asked.body),
            "run" => {
                let row = find(&*(self.ledger)()?, run)?;
                Ok(Answer::json(StatusCode::OK, &json!(row)))
            }
            "log" => self.log(run),
            "cancel" => self.cancel(run),
            other => Err(Error::failed(format!("`{other}` is described and not there"))),
        }
    }

    /// What `backstay status` says, from the repositories as they are now.
    fn status(&self) -> Result<Answer> {
        let sheet = self.board.sheet();
        let mut program = self.program.clone();
        program.push("--policy".into());
        program.push(sheet.path.as_os_str().to_owned());
        // Each is a listing of every repository: those who ask at once wait for one another.
        let _one = self.looking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sources = look::ask(&program)?;
        Ok(Answer::json(StatusCode::OK, &Value::Array(sources)))
    }

    fn jobs(&self) -> Value {
        let sheet = self.board.sheet();
        let jobs = sheet.policies.iter().flat_map(|policy| {
            policy.jobs.iter().map(|(name, job)| {
                let due = sheet.due.get(&(policy.stack.clone(), name.clone()));
                json!({
                    "stack": policy.stack,
                    "job": name,
                    "kind": job.kind(),
                    "sources": policy.sources.keys().filter(|source| job.covers(source)).collect::<Vec<_>>(),
                    "next_due": due.copied().flatten(),
                })
            })
        });
        Value::Array(jobs.collect())
    }

    fn runs(&self, query: &str) -> Result<Answer> {
        let filter = filter(query)?;
        let rows = (self.ledger)()?.runs(&filter)?;
        Ok(Answer::json(StatusCode::OK, &json!(rows)))
    }

    fn trigger(&self, body: &[u8]) -> Result<Answer> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            stack: Option<String>,
            job: String,
            #[serde(default)]
            sources: Vec<String>,
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            Error::usage("the body is not what it should be").with_source(error)
        })?;
        let wish = Wish { stack: body.stack, job: body.job, sources: body.sources };
        Ok(Answer::json(StatusCode::ACCEPTED, &json!(self.begin(&wish)?)))
    }

    /// Adds the runs of a wish.
    pub(super) fn begin(&self, wish: &Wish) -> Result<Vec<RunRow>> {
        let ledger = (self.ledger)()?;
        let host = (!ledger.is_shared()).then_some(self.host.as_str());
        let now = self.clock.now();
        let runs = wished(&self.board.sheet().policies, wish, host, now)?;
        ledger.add_runs(&runs)?;
        runs.iter().map(|run| find(&*ledger, &run.id)).collect()
    }

    fn log(&self, run: &str) -> Result<Answer> {
        let ledger = (self.ledger)()?;
        let row = find(&*ledger, run)?;
        let said = words::of(&*ledger, &self.logs, &row, Some(WORDS))?;
        let mut bytes = Vec::new();
        said.take(WORDS)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("failed to read what run {run} said"), error))?;
        let body = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { status: StatusCode::OK, kind: "application/jsonl", body })
    }

    fn cancel(&self, run: &str) -> Result<Answer> {
        Ok(Answer::json(StatusCode::ACCEPTED, &json!(self.end(run)?)))
    }

    /// Ends a run.
    pub(super) fn end(&self, run: &str) -> Result<RunRow> {
        let ledger = (self.ledger)()?;
        let row = find(&*ledger, run)?;
        if !ledger.cancel(&row.id, self.clock.now())? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("run {} is {} already", row.id, row.state.word()),
            ));
        }
        find(&*ledger, &row.id)
    }
}

/// A run, by its id or the start of it.
pub(super) fn find(ledger: &dyn Ledger, run: &str) -> Result<RunRow> {
    ledger.run(run)?.ok_or_else(|| {
        Error::not_found(format!("there is no run `{run}`"))
            .hint("`backstay runs` lists those that are remembered")
    })
}

/// `stack=…&source=…&job=…&state=…&limit=…`; `state` may be there several times.
fn filter(query: &str) -> Result<RunFilter> {
    let mut filter = RunFilter { limit: RUNS, ..RunFilter::default() };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let bad = || Error::usage(format!("`{value}` is no `{name}`"));
        match &*name {
            "stack" => filter.stack = Some(value.into_owned()),
            "source" => filter.source = Some(value.into_owned()),
            "job" => filter.job = Some(value.into_owned()),
            "state" => filter.states.push(RunState::from_word(&value).ok_or_else(bad)?),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_RUNS).contains(limit));
                filter.limit = limit.ok_or_else(bad)?;
            }
            _ => return Err(Error::usage(format!("nothing is asked by `{name}`"))),
        }
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_query_is_a_filter() {
        let filter = filter("stack=a&state=failed&state=missed&limit=7&job=x%2By").unwrap();
        assert_eq!(filter.stack.as_deref(), Some("a"));
        assert_eq!(filter.job.as_deref(), Some("x+y"));
        assert_eq!(filter.states, [RunState::Failed, RunState::Missed]);
        assert_eq!(filter.limit, 7);
        for wrong in ["limit=0", "limit=x", "limit=99999", "state=lost", "where=1"] {
            assert_eq!(super::filter(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
