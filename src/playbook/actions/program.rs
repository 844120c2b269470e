//! Programs that actions run: they end when this process does, and are told what they are run for.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use secrecy::SecretString;

use crate::error::Result;
use crate::playbook::action::Job;
use crate::policy::{Program, Setting};
use crate::source::command::{Pipeline, wait_for};

/// How much of what a program writes is kept: outputs are short.
pub const MOST: usize = 64 << 10;

/// How a program is run.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// Variables.
    pub environment: Option<&'a IndexMap<String, Setting>>,
    /// The working directory.
    pub directory: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug)]
pub struct Ran {
    /// The status that it ended with.
    pub code: i32,
    /// The beginning of what it wrote to its standard output.
    pub output: String,
    /// It wrote more than was kept.
    pub more: bool,
}

/// Runs a program. An error unless it ends with one of the `expected` statuses.
pub fn run(
    program: &Program,
    around: &Surroundings<'_>,
    job: &Job<'_>,
    expected: &[i32],
    started: impl FnOnce(),
) -> Result<Ran> {
    let mut environment: Vec<(String, SecretString)> = vec![
        ("BACKSTAY_RUN".into(), job.run.into()),
        ("BACKSTAY_STACK".into(), job.stack.into()),
        ("BACKSTAY_STEP".into(), job.step.into()),
        ("BACKSTAY_STEP_KEY".into(), job.key().into()),
        ("BACKSTAY_ATTEMPT".into(), job.attempt.to_string().into()),
        ("BACKSTAY_RUN_EPOCH".into(), job.epoch.to_string().into()),
        ("BACKSTAY_MODE".into(), job.mode.word().into()),
    ];
    environment
        .extend(job.before.iter().map(|(name, value)| (variable(name), value.clone().into())));
    for (name, value) in around.environment.into_iter().flatten() {
        let value = match value {
            Setting::Plain(text) => text.clone().into(),
            Setting::Secret(reference) => reference.resolve()?,
        };
        environment.push((name.clone(), value));
    }
    let pipeline = Pipeline {
        environment,
        // A program that runs this one must not be stopped where it is.
        without: vec!["BACKSTAY_FAILPOINT".to_owned()],
        directory: around.directory.clone(),
        timeout: job.left(),
        guarded: true,
        ..Pipeline::of(program)
    };
    let mut running = pipeline.start(false, true, &job.cx.reporter)?;
    started();
    let output = Arc::new(Mutex::new(Kept::default()));
    let reader = running.take_output().map(|from| {
        let into = output.clone();
        std::thread::spawn(move || keep(from, &into))
    });
    // The program is waited for, and not the end of what it writes: something that it left behind may
    // hold that open for as long as it lives.
    let ended = running.finish_as(expected);
    reader.map(wait_for);
    let output = output.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&output.bytes).into_owned();
    Ok(Ran { code: ended?, output: text, more: output.more })
}

/// What is kept of what a program writes.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// There was more than there is room for.
    more: bool,
}

/// Keeps the beginning of what a program writes. What is not read would stop it.
fn keep(mut from: impl Read, into: &Mutex<Kept>) {
    let mut buffer = [0; 8192];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            return;
        }
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(kept.bytes.len()).min(read);
        kept.bytes.extend_from_slice(&buffer[..room]);
        kept.more |= room < read;
    }
}

/// How things were before, for programs.
fn variable(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("BACKSTAY_BEFORE_{name}")
}
