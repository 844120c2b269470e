//! From arguments to an exit code.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::Resettable;
use clap::error::ErrorKind as ClapErrorKind;
use clap::{CommandFactory as _, Parser as _};
pub use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Cli, Command};
use super::command;
use super::contract::Contract;
use super::exit::ExitStatus;
use super::passphrase::Talk;
use super::printer::{self, Printer};
use super::progress::Display;
use super::setup::App;
use crate::archive::person::ask_with;
use crate::clock;
use crate::daemon::supervise::{LEASE, SUPERVISOR};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Context, Tuning};
use crate::source::command::{GUARD, PATIENT_GUARD, run_guarded};
use crate::source::directory::raise_file_limit;
use crate::telemetry::Reporter;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == GUARD) {
        return guarded(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|first| first == PATIENT_GUARD) {
        return guarded_patiently(&arguments[2..]);
    }
    let contract = Contract::of(&arguments);
    let code = std::panic::catch_unwind(|| run(&arguments, contract));
    ExitCode::from(code.unwrap_or_else(|_| contract.panicked()))
}

/// Runs a program that ends when the one that asked for it does: `PID PROGRAM ARGUMENTS…`.
fn guarded(arguments: &[OsString]) -> ExitCode {
    run_guarded(arguments).map_or_else(
        |error| {
            let _ = writeln!(std::io::stderr(), "{}", error.chain());
            ExitCode::from(127)
        },
        ExitCode::from,
    )
}

/// The same for a program that may be told to end: this process hears SIGTERM, and does nothing. Nor does
/// what it runs outlive the lease of a daemon that stands still.
fn guarded_patiently(arguments: &[OsString]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let within = runtime.as_ref().ok().map(Runtime::enter);
    let _heard = within.as_ref().and_then(|_| signal(SignalKind::terminate()).ok());
    if let (Some(lease), Some(parent)) = (lease(), arguments.first().and_then(|one| one.to_str())) {
        let parent = parent.to_owned();
        let end = || {
            let group = rustix::process::getpgrp();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        };
        std::thread::spawn(move || end_when_it_stands_still(&parent, lease, end));
    }
    guarded(arguments)
}

fn run(arguments: &[OsString], contract: Contract) -> u8 {
    let wants_json = wants_json(arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => Cli { global: cli.global.without_empty(), ..cli },
        Err(error) => {
            let asked =
                matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion);
            let error = if asked { error } else { without_environment(error, arguments) };
            if !asked && wants_json {
                printer::usage_as_json(&error);
            } else {
                let _ = error.print();
            }
            return if asked { 0 } else { contract.failed(ExitStatus::Usage) };
        }
    };
    let printer = Printer::new(&cli.global);
    let printer = match &cli.command {
        Command::Daemon(_) => printer.dated(clock::from_environment()),
        _ => printer,
    };
    match start(cli, &printer, contract) {
        Ok(status) => status as u8,
        // `backstay list | head -1` is well.
        Err(error) if error.kind() == ErrorKind::OutputClosed && contract == Contract::Usual => 0,
        Err(error) => {
            let status = error.kind().into();
            printer.last_error(&error, status);
            contract.failed(status)
        }
    }
}

/// The same error without what the environment says: clap shows a usage in which that were required.
fn without_environment(error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let mut command = Cli::command();
    for name in ["policy", "identity", "state_dir"] {
        command = command.mut_arg(name, |arg| arg.env(Resettable::Reset));
    }
    match command.try_get_matches_from(arguments) {
        Err(plain) if plain.kind() == error.kind() => plain,
        _ => error,
    }
}

/// Whether errors are for programs, as far as a command line that makes no sense tells.
fn wants_json(arguments: &[OsString]) -> bool {
    let joined = arguments.iter().any(|argument| argument == "--output=json");
    joined || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

fn start(cli: Cli, printer: &Printer, contract: Contract) -> Result<ExitStatus> {
    // Not fatal: only very deep trees need it.
    let _ = raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(|error| Error::io("failed to start", error))?;
    let display = Display::new(printer, &cli.global);
    let reporter = Reporter::new(Arc::new(display.clone()));
    let interrupted = reporter.clone();
    runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if interrupted.is_cancelled() {
                leave(contract);
            }
            interrupted.cancel();
        }
    });
    // A hangup does not end a daemon: it reads its policies again.
    let is_daemon = matches!(cli.command, Command::Daemon(_));
    let mut kinds = vec![SignalKind::terminate()];
    // Whoever started us with `nohup` wants it to have no effect.
    if !hangup_is_ignored() {
        kinds.push(SignalKind::hangup());
    }
    for kind in kinds {
        let interrupted = reporter.clone();
        runtime.spawn(async move {
            let Ok(mut signals) = signal(kind) else { return };
            while signals.recv().await.is_some() {
                if is_daemon && kind == SignalKind::hangup() {
                    interrupted.hang_up();
                } else {
                    interrupted.cancel();
                }
            }
        });
    }
    end_with_the_supervisor(&reporter);
    let cx =
        Context { reporter, clock: clock::from_environment(), tuning: Tuning::from_environment() };
    ask_with(Box::new(Talk(printer.clone())));
    let app = App {
        global: cli.global,
        printer: printer.clone(),
        display,
        cx,
        runtime,
        missed: Cell::new(false),
        broken: Cell::new(false),
        exposed: Cell::new(false),
        standings: RefCell::default(),
        unlocked: RefCell::default(),
    };
    let status = match &cli.command {
        Command::Init(args) => command::init::run(&app, args),
        Command::Check(args) => command::check::run(&app, args),
        Command::Schema(args) => command::schema::run(&app, args),
        Command::Notify(args) => command::notify::run(&app, args),
        Command::Backup(args) => command::backup::run(&app, args),
        Command::List(args) => command::list::run(&app, args),
        Command::Show(args) => command::show::run(&app, args),
        Command::Ls(args) => command::ls::run(&app, args),
        Command::Plan(args) => command::plan::run(&app, args),
        Command::Playbook(args) => command::playbook::run(&app, args),
        Command::Policy(args) => command::policy::run(&app, args),
        Command::Drill(args) => command::drill::run(&app, args),
        Command::Daemon(args) => command::daemon::run(&app, args),
        Command::Status(args) => command::status::run(&app, args),
        Command::Role(args) => command::role::run(&app, args),
        Command::Runs(args) => command::runs::run(&app, args),
        Command::Logs(args) => command::logs::run(&app, args),
        Command::Cancel(args) => command::cancel::run(&app, args),
        Command::Trigger(args) => command::trigger::run(&app, args),
        Command::State(args) => command::state::run(&app, args),
        Command::Find(args) => command::find::run(&app, args),
        Command::Diff(args) => command::diff::run(&app, args),
        Command::Restore(args) => command::restore::run(&app, args),
        Command::Verify(args) => command::verify::run(&app, args),
        Command::Copy(args) => command::copy::run(&app, args),
        Command::Sync(args) => command::sync::run(&app, args),
        Command::Prune(args) => command::prune::run(&app, args),
        Command::Pin(args) => command::pin::run(&app, args),
        Command::Unpin(args) => command::unpin::run(&app, args),
        Command::Thaw(args) => command::thaw::run(&app, args),
        Command::Delete(args) => command::delete::run(&app, args),
        Command::Wal(args) => command::wal::run(&app, args),
        Command::Key(args) => command::key::run(&app, args),
        Command::Completions(args) => command::completions::run(&app, args),
        Command::Man(args) => command::man::run(&app, args),
    };
    app.display.clear();
    let App { runtime, missed, .. } = app;
    runtime.shutdown_background();
    match status {
        Ok(ExitStatus::Done) if missed.get() => Ok(ExitStatus::Failed),
        status => status,
    }
}

/// A run of the daemon ends when the daemon does, however that ended.
fn end_with_the_supervisor(reporter: &Reporter) {
    let Ok(supervisor) = std::env::var(SUPERVISOR) else { return };
    let told =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    // It may be gone already: then nobody is going to tell.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if told.is_err() || parent.as_deref() != Some(supervisor.as_str()) {
        reporter.cancel();
    }
    if let Some(lease) = lease() {
        let reporter = reporter.clone();
        let end = move || reporter.cancel();
        std::thread::spawn(move || end_when_it_stands_still(&supervisor, lease, end));
    }
}

/// How long a daemon may stand still before others take over what it does, if there are others.
fn lease() -> Option<Duration> {
    std::env::var(LEASE).ok()?.parse().ok().map(Duration::from_secs)
}

/// What a daemon does that was stopped (SIGSTOP) is taken over by another one when its lease is
/// over. It ends before, so that it is not done by both.
fn end_when_it_stands_still(supervisor: &str, lease: Duration, end: impl FnOnce()) {
    let path = format!("/proc/{supervisor}/stat");
    let mut since: Option<Instant> = None;
    loop {
        std::thread::sleep((lease / 10).max(Duration::from_millis(100)));
        let stat = std::fs::read_to_string(&path).unwrap_or_default();
        // `pid (name) state …`, and the name may have anything in it.
        let stopped = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
        since = stopped.then(|| since.unwrap_or_else(Instant::now));
        if since.is_some_and(|since| since.elapsed() >= lease / 2) {
            end();
            return;
        }
    }
}

/// Whether this process was started with SIGHUP ignored, the first bit of a mask.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Ends at once: somebody asked twice. Whatever is under way was not committed.
#[expect(clippy::exit, reason = "the thread that works may wait for a store for minutes")]
fn leave(contract: Contract) {
    std::process::exit(contract.failed(ExitStatus::Interrupted).into());
}
