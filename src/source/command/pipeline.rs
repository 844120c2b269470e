//! Running commands one into the next, and believing none of them before all have ended well.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, ErrorKind, Result};
use crate::policy::Program;
use crate::secret;
use crate::telemetry::Reporter;

/// How much of a stage's standard error is kept for messages.
const STDERR_KEPT: usize = 8 << 10;

/// How many lines of it are shown: the last ones say why.
const LINES_TOLD: usize = 20;

/// How often a watcher looks whether the work was given up.
const WATCH: Duration = Duration::from_millis(50);

/// How long the last words of programs that ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One command of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// Commands whose output runs into the next one's input.
#[derive(Clone, Default)]
pub struct Pipeline {
    /// In the order the bytes go.
    pub stages: Vec<Stage>,
    /// Variables added to the environment.
    pub environment: Vec<(String, SecretString)>,
    /// Variables that are not inherited.
    pub without: Vec<String>,
    /// Working directory.
    pub directory: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Its programs end when this process does, however that ended.
    pub guarded: bool,
}

/// The first argument with which this program is started to run another one, which ends when the process
/// with the number in the second does, with all that it started: see [`super::run_guarded`].
pub const GUARD: &str = "--become-guarded";

impl Pipeline {
    /// One command.
    pub fn argv(argv: Vec<String>) -> Self {
        Self { stages: vec![Stage { argv }], ..Self::default() }
    }

    /// A line for `bash`, which fails if any part of a pipe fails.
    pub fn shell(line: String) -> Self {
        Self::argv(vec!["bash".into(), "-o".into(), "pipefail".into(), "-c".into(), line])
    }

    /// What a policy says is to be run.
    pub fn of(program: &Program) -> Self {
        match program {
            Program::Argv(argv) => Self::argv(argv.clone()),
            Program::Pipeline(stages) => Self {
                stages: stages.iter().map(|argv| Stage { argv: argv.clone() }).collect(),
                ..Self::default()
            },
            Program::Shell(line) => Self::shell(line.clone()),
        }
    }

    /// The programs, for people. Arguments may hold secrets and are not shown.
    pub fn name(&self) -> String {
        let programs: Vec<&str> =
            self.stages.iter().filter_map(|stage| Some(stage.argv.first()?.as_str())).collect();
        programs.join(" | ")
    }

    /// Starts all stages. `input` says whether the first one's standard input is fed.
    pub fn start(&self, input: bool, output: bool, reporter: &Reporter) -> Result<Running> {
        let mut running = Running::new(self, reporter);
        let mut upstream: Option<ChildStdout> = None;
        for (number, stage) in self.stages.iter().enumerate() {
            let last = number + 1 == self.stages.len();
            let stdin = match upstream.take() {
                Some(previous) => Stdio::from(previous),
                None if input => Stdio::piped(),
                None => Stdio::null(),
            };
            let stdout = if last && !output {
                // What a consumer prints is talk: our own standard output is data.
                Stdio::from(io::stderr())
            } else {
                Stdio::piped()
            };
            let mut child = self.spawn(stage, stdin, stdout)?;
            if number == 0 {
                running.stdin = child.stdin.take();
            }
            upstream = child.stdout.take();
            running.add(stage, child);
        }
        running.stdout = upstream;
        running.watch(self.timeout);
        Ok(running)
    }

    fn spawn(&self, stage: &Stage, stdin: Stdio, stdout: Stdio) -> Result<Child> {
        let program = stage.argv.first().ok_or_else(|| Error::usage("an empty command"))?;
        let mut command = if self.guarded {
            let mut guard = Command::new("/proc/self/exe");
            guard.arg(GUARD).arg(std::process::id().to_string()).arg(program);
            guard
        } else {
            Command::new(program)
        };
        command.args(&stage.argv[1..]).stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        // A group of its own: Ctrl-C reaches us first, and we end it with all its children.
        command.process_group(0);
        for name in &self.without {
            command.env_remove(name);
        }
        for (name, value) in &self.environment {
            command.env(name, value.expose_secret());
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.spawn().map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let error = Error::failed(format!("failed to start `{program}`")).with_source(error);
            if missing {
                error.hint(format!("`{program}` must be installed and in the PATH of backstay"))
            } else {
                error
            }
        })
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("programs", &self.name()).finish_non_exhaustive()
    }
}

const GOING: u8 = 0;
const TIMED_OUT: u8 = 1;
const CANCELLED: u8 = 2;

/// What a stage says on its standard error, and the thread that listens.
type Talk = (Arc<Mutex<Vec<u8>>>, JoinHandle<()>);

/// Stages at work. Dropping it ends them.
pub struct Running {
    children: Vec<(String, Child)>,
    talk: Vec<Talk>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    reporter: Reporter,
    over: Arc<AtomicBool>,
    reason: Arc<AtomicU8>,
    watcher: Option<JoinHandle<()>>,
    timeout: Option<Duration>,
}

impl Running {
    fn new(pipeline: &Pipeline, reporter: &Reporter) -> Self {
        Self {
            children: Vec::new(),
            talk: Vec::new(),
            stdin: None,
            stdout: None,
            reporter: reporter.clone(),
            over: Arc::default(),
            reason: Arc::new(AtomicU8::new(GOING)),
            watcher: None,
            timeout: pipeline.timeout,
        }
    }

    fn add(&mut self, stage: &Stage, mut child: Child) {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        if let Some(mut stderr) = child.stderr.take() {
            let into = kept.clone();
            let thread = std::thread::spawn(move || keep_tail(&mut stderr, &into));
            self.talk.push((kept, thread));
        }
        self.children.push((stage.argv.first().cloned().unwrap_or_default(), child));
    }

    fn watch(&mut self, timeout: Option<Duration>) {
        let groups: Vec<u32> = self.children.iter().map(|(_, child)| child.id()).collect();
        let (over, reason, reporter) =
            (self.over.clone(), self.reason.clone(), self.reporter.clone());
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.watcher = Some(std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
                if late || reporter.is_cancelled() {
                    let why = if late { TIMED_OUT } else { CANCELLED };
                    reason.store(why, Ordering::SeqCst);
                    for group in &groups {
                        kill_group(*group);
                    }
                    return;
                }
                std::thread::park_timeout(WATCH);
            }
        }));
    }

    /// What the last stage writes.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Feeds the first stage. A stage that stops reading is no error here: its exit status is
    /// what counts.
    pub fn feed(&mut self, input: &mut dyn Read) -> Result<()> {
        let Some(mut stdin) = self.stdin.take() else { return Ok(()) };
        let mut buffer = vec![0; 256 << 10];
        loop {
            self.reporter.check()?;
            let read = match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("failed to read the backup", error)),
            };
            if let Err(error) = stdin.write_all(&buffer[..read]) {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    return Err(Error::failed("the command stopped reading before the end"));
                }
                return Err(Error::io("failed to feed the command", error));
            }
            self.reporter.progress().add_bytes(read as u64);
        }
    }

    /// Waits for all stages. An error unless every one of them ended with status 0.
    pub fn finish(self) -> Result<()> {
        self.finish_as(&[0]).map(drop)
    }

    /// The same, but the last stage may also end with one of these statuses: which one it was.
    pub fn finish_as(mut self, expected: &[i32]) -> Result<i32> {
        self.stdin = None;
        self.stdout = None;
        let mut failures = Vec::new();
        let mut code = 0;
        let last = self.children.len();
        let children = std::mem::take(&mut self.children);
        for (number, ((program, mut child), (kept, thread))) in
            (1..).zip(children.into_iter().zip(std::mem::take(&mut self.talk)))
        {
            let status = child
                .wait()
                .map_err(|error| Error::io(format!("failed to wait for `{program}`"), error))?;
            // What it left running may hold its standard error open, and would be waited for.
            kill_group(child.id());
            wait_for(thread);
            let found = status.code().filter(|found| number == last && expected.contains(found));
            code = found.unwrap_or(code);
            if found.is_none() && !status.success() {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let broken_pipe = status.signal() == Some(Signal::PIPE.as_raw())
                    || status.code() == Some(128 + Signal::PIPE.as_raw());
                failures.push((failure(&program, status, &kept), broken_pipe));
            }
        }
        match self.reason.load(Ordering::SeqCst) {
            TIMED_OUT => {
                let limit = shown(self.timeout.unwrap_or_default());
                Err(Error::failed(format!("the command was ended after {limit}"))
                    .hint("give it a longer `timeout`"))
            }
            CANCELLED => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            _ => match failures.iter().position(|(_, broken_pipe)| !broken_pipe) {
                // The first stage to fail is the cause more often than those it fed; one that
                // could not write any more died of another's end.
                Some(at) => Err(failures.swap_remove(at).0),
                None => failures.into_iter().next().map_or(Ok(code), |(error, _)| Err(error)),
            },
        }
    }
}

/// A time in words: seconds, or less.
fn shown(limit: Duration) -> String {
    // What was left of a limit a moment after it began is shown as the limit that it was.
    match (limit.as_secs_f64().round() as u64, limit.as_millis()) {
        (_, milliseconds) if milliseconds < 950 => format!("{milliseconds} ms"),
        (1, _) => "1 second".to_owned(),
        (seconds, _) => format!("{seconds} seconds"),
    }
}

/// Waits a moment for a thread that listens to a program that ended. What left the program's group may
/// hold the other end open for as long as it lives: nobody waits for that.
pub fn wait_for<T>(thread: JoinHandle<T>) -> Option<T> {
    let begun = Instant::now();
    while !thread.is_finished() {
        if begun.elapsed() > LAST_WORDS {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().ok()
}

fn failure(program: &str, status: std::process::ExitStatus, stderr: &[u8]) -> Error {
    let error = Error::failed(format!("`{program}` ended with {status}"));
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.trim().lines().collect();
    let told = lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n");
    match (told.is_empty(), lines.len() > LINES_TOLD) {
        (true, _) => error,
        (_, false) => error.with_source(format!("it said: {}", secret::mask(&told))),
        (_, true) => error.with_source(format!("it said at last: {}", secret::mask(&told))),
    }
}

fn keep_tail(from: &mut dyn Read, into: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            return;
        }
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(STDERR_KEPT);
        kept.drain(..surplus);
    }
}

fn kill_group(group: u32) {
    if let Some(group) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        for (_, child) in &mut self.children {
            kill_group(child.id());
            let _ = child.wait();
        }
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
    }
}
