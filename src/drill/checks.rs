//! What is looked at in what was brought back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};

use super::evidence::{Check, CheckState};
use crate::archive::digest::Digest;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::policy::{DrillCheck, FilesCheck, HttpCheck, Program, Setting, SqlCheck};
use crate::run::Context;
use crate::run::prove::Live;
use crate::source::command::{Pipeline, find_program};
use crate::source::mysql::Client;
use crate::store::Web;

/// How long a check may take where nothing is said.
const USUAL: Duration = Duration::from_hours(1);

/// Why what a bucket names is not run: a query can start programs, and a request reach anything.
pub const UNTRUSTED: &str = "the policy comes from the repository: its queries, requests and commands \
                         are made with --trust-policy";

/// How much of what a program or a page says is shown.
const SHOWN: usize = 300;

/// How much of the end of what a program that failed says is kept, and how many lines.
const KEPT: usize = 2000;
const LINES: usize = 20;

/// What checks work with.
pub struct Surroundings<'a> {
    /// The drill.
    pub drill: &'a str,
    /// The stack.
    pub stack: &'a str,
    /// Whether everything came back that should have.
    pub complete: bool,
    /// What was brought back, by source.
    pub lives: &'a BTreeMap<String, Live>,
    /// Sends requests.
    pub web: &'a Web,
    /// Whether commands may be run.
    pub commands: bool,
    /// Reporter, clock and sizes.
    pub cx: &'a Context,
}

/// Whether something is as expected. An error says that it could not be looked at.
struct Looked {
    passed: bool,
    found: String,
}

impl Looked {
    fn well(found: impl Into<String>) -> Self {
        Self { passed: true, found: found.into() }
    }

    fn wrong(found: impl Into<String>) -> Self {
        Self { passed: false, found: found.into() }
    }
}

/// Makes a check.
pub fn make(name: &str, spec: &DrillCheck, around: &Surroundings<'_>) -> Result<Check> {
    let since = Instant::now();
    let live = spec.source.as_ref().map(|source| {
        around
            .lives
            .get(source)
            .ok_or_else(|| Error::failed(format!("`{source}` was not brought back")))
    });
    let limit = spec.timeout.map_or(USUAL, crate::policy::Period::get);
    let looked = live.transpose().and_then(|live| match (spec, live) {
        _ if !around.commands && spec.files.is_none() => Err(Error::failed(UNTRUSTED)),
        (_, None) if !around.complete => {
            Err(Error::failed("not everything came back that it may look at"))
        }
        (DrillCheck { sql: Some(sql), .. }, Some(live)) => ask(sql, limit, live),
        (DrillCheck { files: Some(files), .. }, Some(live)) => look_at_files(files, live),
        (DrillCheck { http: Some(http), .. }, _) => get(http, around),
        (DrillCheck { command: Some(program), .. }, _) => run(program, limit, around),
        _ => Err(Error::failed("nothing says what is looked at")),
    });
    let (asked, expected) = describe(spec);
    let (state, found) = match looked {
        Ok(Looked { passed: true, found }) => (CheckState::Passed, shortened(&found)),
        Ok(Looked { passed: false, found }) => (CheckState::Failed, tail(&found, 2 * KEPT)),
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) => (CheckState::NotRun, shortened(&error.chain())),
    };
    Ok(Check {
        name: name.to_owned(),
        kind: spec.kind().to_owned(),
        source: spec.source.clone(),
        state,
        asked,
        expected,
        found: Some(crate::secret::mask(&found)),
        seconds: since.elapsed().as_secs_f64(),
        baseline_seconds: None,
    })
}

/// What is asked and what is expected, in words.
fn describe(spec: &DrillCheck) -> (Option<String>, Option<String>) {
    match spec {
        DrillCheck { sql: Some(sql), .. } => {
            (Some(sql.query.trim().to_owned()), Some(expectation(&sql.expect)))
        }
        DrillCheck { files: Some(files), .. } => {
            let mut parts: Vec<String> =
                files.present.iter().map(|path| format!("`{path}`")).collect();
            parts.extend(files.sha256.keys().map(|path| format!("`{path}` with its SHA-256")));
            parts.extend(files.at_least.map(|count| format!("at least {count} files")));
            (None, Some(parts.join(", ")))
        }
        DrillCheck { http: Some(http), .. } => {
            let contains = http.contains.as_ref().map(|text| format!("`{text}` in the answer"));
            (Some(http.url.clone()), contains)
        }
        DrillCheck { command: Some(program), .. } => {
            (Some(Pipeline::of(program).name()), Some("ends with 0".to_owned()))
        }
        _ => (None, None),
    }
}

fn expectation(expect: &crate::policy::Expectation) -> String {
    let parts: Vec<String> = [
        expect.is.as_ref().map(|value| format!("is `{value}`")),
        expect.is_not.as_ref().map(|value| format!("is not `{value}`")),
        expect.at_least.map(|value| format!("at least {value}")),
        expect.at_most.map(|value| format!("at most {value}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "a value".to_owned() } else { parts.join(", ") }
}

/// Asks a recovered server.
fn ask(sql: &SqlCheck, limit: Duration, live: &Live) -> Result<Looked> {
    const DOING: &str = "failed to ask the query";
    let value = if let Some(server) = live.postgres() {
        server.connect(&sql.database).and_then(|mut session| {
            session.execute("RESET search_path", DOING)?;
            let limit = limit.as_millis().min(i32::MAX as u128);
            session.execute(&format!("SET statement_timeout = {limit}"), DOING)?;
            session.execute("BEGIN TRANSACTION READ ONLY", DOING)?;
            session.value(&sql.query, DOING)
        })
    } else if let Some(server) = live.mysql() {
        Client::open(&server.settings()?).and_then(|mut session| {
            let database = sql.database.replace('`', "``");
            session.execute(&format!("USE `{database}`"), DOING)?;
            // MariaDB calls it so, MySQL so; each refuses the other's.
            let (seconds, millis) = (limit.as_secs().max(1), limit.as_millis());
            let _ = session
                .execute(&format!("SET SESSION max_statement_time = {seconds}"), DOING)
                .or_else(|_| {
                    session.execute(&format!("SET SESSION max_execution_time = {millis}"), DOING)
                });
            session.execute("START TRANSACTION READ ONLY", DOING)?;
            session.value(&sql.query, DOING)
        })
    } else {
        return Err(Error::failed("it has no server that takes queries"));
    };
    match value {
        Ok(value) => Ok(match sql.expect.missed(&value) {
            None => Looked::well(value),
            Some(why) => Looked::wrong(why),
        }),
        // What is asked for is not in the copy: that was looked at, and is wrong.
        Err(error) if is_missing(&error.chain()) => Ok(Looked::wrong(error.chain())),
        Err(error) => Err(error),
    }
}

/// Whether a server says that something is not there, in the words of PostgreSQL and of MySQL.
fn is_missing(said: &str) -> bool {
    said.contains("does not exist")
        || said.contains("doesn't exist")
        || said.contains("Unknown database")
}

fn look_at_files(files: &FilesCheck, live: &Live) -> Result<Looked> {
    let root = live.directory().ok_or_else(|| Error::failed("it has no files of its own"))?;
    let mut wrong = Vec::new();
    let there = |path: &str| root.join(path).symlink_metadata().is_ok();
    wrong.extend(
        files.present.iter().filter(|path| !there(path)).map(|path| format!("`{path}` is missing")),
    );
    for (path, wanted) in &files.sha256 {
        if !there(path) {
            wrong.push(format!("`{path}` is missing"));
            continue;
        }
        let found = digest_of(&root.join(path))?;
        if !found.eq_ignore_ascii_case(wanted) {
            wrong.push(format!("`{path}` has {found}"));
        }
    }
    let count = count_files(&root)?;
    if files.at_least.is_some_and(|least| count < least) {
        wrong.push(format!("there are {count} files"));
    }
    Ok(if wrong.is_empty() {
        Looked::well(format!("{count} files"))
    } else {
        Looked::wrong(wrong.join("; "))
    })
}

fn digest_of(path: &Path) -> Result<String> {
    let doing = || format!("failed to read {}", path.display());
    let mut file = File::open(path).doing(doing)?;
    let mut digest = Digest::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).doing(doing)? {
            0 => return Ok(hex::encode(digest.finish())),
            read => digest.update(&buffer[..read]),
        }
    }
}

fn count_files(root: &Path) -> Result<u64> {
    let mut todo: Vec<PathBuf> = vec![root.to_path_buf()];
    let mut count = 0;
    while let Some(directory) = todo.pop() {
        let doing = || format!("failed to read {}", directory.display());
        for entry in directory.read_dir().doing(doing)? {
            let entry = entry.doing(doing)?;
            if entry.file_type().doing(doing)?.is_dir() {
                todo.push(entry.path());
            } else {
                count += 1;
            }
        }
    }
    Ok(count)
}

fn get(http: &HttpCheck, around: &Surroundings<'_>) -> Result<Looked> {
    let mut headers = Vec::new();
    for (name, value) in &http.headers {
        let value = match value {
            Setting::Plain(text) => text.clone(),
            Setting::Secret(reference) => reference.resolve()?.expose_secret().to_owned(),
        };
        headers.push((name.clone(), value));
    }
    let reply = match around.web.get(&http.url, &headers) {
        Ok(reply) => reply,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) => return Ok(Looked::wrong(error.chain())),
    };
    let body = reply.body.split_whitespace().collect::<Vec<_>>().join(" ");
    let well = match http.status.as_slice() {
        [] => reply.is_success(),
        wanted => wanted.contains(&reply.status),
    };
    let said = format!("{} {}", reply.status, shortened(&body));
    Ok(match &http.contains {
        _ if !well => Looked::wrong(said),
        Some(text) if !reply.body.contains(text.as_str()) => {
            Looked::wrong(format!("the answer has no `{text}` in it: {said}"))
        }
        _ => Looked::well(format!("answered {}", reply.status)),
    })
}

fn run(program: &Program, timeout: Duration, around: &Surroundings<'_>) -> Result<Looked> {
    let mut environment: Vec<(String, SecretString)> = vec![
        ("BACKSTAY_DRILL".into(), around.drill.into()),
        ("BACKSTAY_STACK".into(), around.stack.into()),
    ];
    for (source, live) in around.lives {
        environment.push((variable(source), live.address().into()));
    }
    let pipeline = Pipeline {
        environment,
        without: vec!["BACKSTAY_FAILPOINT".to_owned()],
        timeout: Some(timeout),
        guarded: true,
        ..Pipeline::of(program)
    };
    for stage in &pipeline.stages {
        let name = stage.argv.first().map(String::as_str).unwrap_or_default();
        if find_program(name).is_none() {
            return Err(Error::not_found(format!("there is no program `{name}`")));
        }
    }
    let mut running = pipeline.start(false, true, &around.cx.reporter)?;
    let mut said = Vec::new();
    let mut last = Vec::new();
    if let Some(mut output) = running.take_output() {
        let doing = || format!("failed to read from {}", pipeline.name());
        output.by_ref().take(SHOWN as u64 * 4).read_to_end(&mut said).doing(doing)?;
        last.clone_from(&said);
        // What is not read would stop it, and what it says last is why it failed.
        let mut buffer = [0; 8 << 10];
        loop {
            match output.read(&mut buffer).doing(doing)? {
                0 => break,
                read => last.extend_from_slice(&buffer[..read]),
            }
            last.drain(..last.len().saturating_sub(KEPT));
        }
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match running.finish() {
        Ok(()) => {
            let said = if said.is_empty() { "ended with 0".to_owned() } else { said };
            Ok(Looked::well(shortened(&said)))
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => {
            let lines = last_lines(&String::from_utf8_lossy(&last));
            let chain = tail(&error.chain(), KEPT);
            Ok(Looked::wrong(if lines.is_empty() {
                chain
            } else {
                format!("{chain}; its output ends with: {lines}")
            }))
        }
    }
}

/// The last lines of what a program printed, in as much room as they may take.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    tail(&lines[lines.len().saturating_sub(LINES)..].join("\n"), KEPT)
}

/// The end of a text.
fn tail(text: &str, most: usize) -> String {
    match text.chars().count().checked_sub(most) {
        None | Some(0) => text.to_owned(),
        Some(more) => ['…'].into_iter().chain(text.chars().skip(more)).collect(),
    }
}

/// The variable that tells where a source was brought back.
pub fn variable(source: &str) -> String {
    let name: String = source
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("BACKSTAY_SOURCE_{name}")
}

pub fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}
