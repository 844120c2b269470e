//! A daemon elsewhere, asked over its API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::{Host, Url};

use super::setup::App;
use crate::daemon::trigger::Wish;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::http::token::read_private;
use crate::state::{RunFilter, RunRow};
use crate::store::{Reply, Web};

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take for `status`, which lists repositories.
const LISTING: Duration = Duration::from_mins(10);

/// The longest answer that is read.
const ANSWER: usize = 64 << 20;

/// Options of commands that can ask a daemon elsewhere.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "A daemon elsewhere")]
pub struct RemoteArgs {
    /// Ask the daemon at this address, such as `https://backup.example:9187`.
    ///
    /// It was started with --listen and --token-file. No policy and no state is read here.
    #[arg(long, value_name = "URL", env = "BACKSTAY_REMOTE", hide_env_values = true)]
    remote: Option<String>,

    /// The file with the daemon's token.
    #[arg(long, value_name = "FILE", env = "BACKSTAY_TOKEN_FILE", value_parser = NonEmptyStringValueParser::new())]
    token_file: Option<String>,

    /// Trust certificates of the authority in this PEM file too.
    #[arg(long, value_name = "FILE", env = "BACKSTAY_REMOTE_CA")]
    remote_ca: Option<PathBuf>,
}

/// A daemon elsewhere.
pub struct Remote {
    web: Web,
    root: String,
    headers: Vec<(String, String)>,
}

impl RemoteArgs {
    /// The daemon that is meant, if one elsewhere is.
    pub fn open(&self, app: &App) -> Result<Option<Remote>> {
        let Some(given) = self.remote.as_deref().filter(|given| !given.is_empty()) else {
            return Ok(None);
        };
        let bad = || {
            Error::usage(format!("`{given}` is not the address of a daemon"))
                .hint("write https://HOST:PORT, or http://127.0.0.1:PORT")
        };
        let url = Url::parse(given).map_err(|_| bad())?;
        let (scheme, host) = (url.scheme(), url.host().ok_or_else(bad)?);
        if !matches!(scheme, "http" | "https") || url.query().is_some() || url.username() != "" {
            return Err(bad());
        }
        let here = match host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        if scheme == "http" && !here {
            return Err(Error::usage("the token would go to another machine in plain text")
                .hint("write https://, and start the daemon with --tls-certificate and --tls-key")
                .hint("or reach it through a tunnel: ssh -L 9187:127.0.0.1:9187 HOST"));
        }
        let file = self.token_file.as_deref().ok_or_else(|| {
            Error::usage("there is no token for the daemon")
                .hint("give --token-file FILE or set BACKSTAY_TOKEN_FILE")
        })?;
        let token = read_private(Path::new(file))?;
        let mut web = Web::new(app.runtime.handle().clone()).patient(PATIENCE, ANSWER);
        if let Some(authority) = &self.remote_ca {
            let name = authority.display();
            web =
                web.trusting(std::fs::read(authority).doing(|| format!("failed to read {name}"))?);
        }
        let root = format!("{}/api/v1", given.trim_end_matches('/'));
        let headers = vec![
            ("authorization".to_owned(), format!("Bearer {}", token.trim())),
            ("content-type".to_owned(), "application/json".to_owned()),
        ];
        Ok(Some(Remote { web, root, headers }))
    }
}

impl Remote {
    /// How well everything is protected.
    pub fn status<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let web = self.web.clone().patient(LISTING, ANSWER);
        read(&taken(web.get(&format!("{}/status", self.root), &self.headers)?)?)
    }

    /// Runs, the newest last.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let named = [("stack", &filter.stack), ("source", &filter.source), ("job", &filter.job)];
        for (name, value) in named {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        for state in &filter.states {
            query.append_pair("state", state.word());
        }
        query.append_pair("limit", &filter.limit.to_string());
        read(&self.get(&format!("/runs?{}", query.finish()))?)
    }

    /// What a run said.
    pub fn log(&self, run: &str) -> Result<String> {
        self.get(&format!("/runs/{}/log", segment(run)))
    }

    /// Ends a run.
    pub fn cancel(&self, run: &str) -> Result<RunRow> {
        read(&self.post(&format!("/runs/{}/cancel", segment(run)), &Value::Null)?)
    }

    /// Has a job done.
    pub fn trigger(&self, wish: &Wish) -> Result<Vec<RunRow>> {
        let body = json!({ "stack": wish.stack, "job": wish.job, "sources": wish.sources });
        read(&self.post("/runs", &body)?)
    }

    fn get(&self, path: &str) -> Result<String> {
        taken(self.web.get(&format!("{}{path}", self.root), &self.headers)?)
    }

    fn post(&self, path: &str, body: &Value) -> Result<String> {
        let url = format!("{}{path}", self.root);
        taken(self.web.post(&url, &self.headers, body.to_string())?)
    }
}

/// A name as a part of an address.
fn segment(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T> {
    serde_json::from_str(body).map_err(|error| {
        Error::failed("the daemon answered something else than it should")
            .hint("is it another program, or a newer version?")
            .with_source(error)
    })
}

/// The body, or the error that the daemon told.
fn taken(reply: Reply) -> Result<String> {
    if reply.is_success() {
        return Ok(reply.body);
    }
    let told: Option<Value> = serde_json::from_str(&reply.body).ok();
    let said = told.as_ref().map(|told| &told["error"]);
    let Some(message) = said.and_then(|said| said["message"].as_str()) else {
        return Err(Error::failed(format!("the daemon answered with status {}", reply.status))
            .hint("is it another program that listens there?"));
    };
    let kind = said.and_then(|said| ErrorKind::from_word(said["kind"].as_str()?));
    let hints = said.and_then(|said| said["hints"].as_array()).into_iter().flatten();
    let error = Error::new(kind.unwrap_or(ErrorKind::Failed), message);
    Err(hints.filter_map(Value::as_str).fold(error, Error::hint))
}
