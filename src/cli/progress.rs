//! Events on their way to a person: a bar on a terminal, JSON lines for programs.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::{Global, Output};
use super::format;
use super::printer::Printer;
use crate::telemetry::{Event, EventSink, OfRun, ProgressSnapshot, Reporter};

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

/// Shows events.
#[derive(Clone)]
pub struct Display {
    printer: Printer,
    bar: Option<ProgressBar>,
    wanted: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    title: String,
    phase: &'static str,
}

impl Display {
    /// A bar if standard error is a terminal and nothing speaks against it.
    pub fn new(printer: &Printer, global: &Global) -> Self {
        let wanted = !global.no_progress
            && !global.quiet
            && !global.verbose
            && global.output == Output::Text
            && std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bar = wanted.then(|| {
            let bar = ProgressBar::new_spinner();
            // Cut where the line ends: one that wraps is not taken away again.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(if is_utf8() { style } else { style.tick_chars("|/-\\ ") });
            }
            bar
        });
        Self { printer: printer.clone(), bar, wanted: !global.no_progress, state: Arc::default() }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Runs `work` while its progress is shown.
    pub fn during<T>(&self, reporter: &Reporter, work: impl FnOnce() -> T) -> T {
        let stop = std::sync::atomic::AtomicBool::new(false);
        if let Some(bar) = &self.bar {
            bar.reset();
        }
        std::thread::scope(|scope| {
            let ticker = scope.spawn(|| {
                let mut ticks = 0u32;
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    std::thread::park_timeout(TICK);
                    ticks += 1;
                    // Programs need it less often than eyes.
                    if self.wanted && (self.bar.is_some() || ticks.is_multiple_of(5)) {
                        reporter.emit(Event::Progress(reporter.progress().snapshot()));
                    }
                }
            });
            // Dropped also when `work` panics: the scope waits for its threads before it goes on.
            let _stopping = Stopping { stop: &stop, ticker: ticker.thread() };
            let result = work();
            self.clear();
            result
        })
    }

    /// Runs `work` while `lines` are shown below everything that is said, drawn again and again; where
    /// nobody looks nothing is drawn.
    pub fn watching<T>(
        &self,
        lines: impl Fn() -> Vec<String> + Sync,
        work: impl FnOnce() -> T,
    ) -> T {
        let Some(bar) = &self.bar else { return work() };
        let stop = std::sync::atomic::AtomicBool::new(false);
        let usual = bar.style();
        bar.reset();
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let result = std::thread::scope(|scope| {
            let ticker = scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    bar.set_message(lines().join("\n"));
                    bar.tick();
                    std::thread::park_timeout(TICK * 2);
                }
            });
            let _stopping = Stopping { stop: &stop, ticker: ticker.thread() };
            work()
        });
        bar.set_style(usual);
        self.clear();
        result
    }

    fn show(&self, progress: &ProgressSnapshot) {
        let Some(bar) = &self.bar else { return };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set_message(line(&state, progress));
        bar.tick();
    }

    fn around(&self, print: impl FnOnce()) {
        self.quietly(print);
    }

    /// Does something while no bar is shown.
    pub fn quietly<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

/// Whether the terminal shows more than ASCII, as the locale says.
fn is_utf8() -> bool {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set).and_then(std::env::var_os);
    let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Ends the ticker.
struct Stopping<'a> {
    stop: &'a std::sync::atomic::AtomicBool,
    ticker: &'a std::thread::Thread,
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        self.ticker.unpark();
    }
}

fn line(state: &State, progress: &ProgressSnapshot) -> String {
    let ProgressSnapshot { seconds, files, bytes, total_bytes, warnings, .. } = *progress;
    let rate = bytes as f64 / seconds.max(0.1);
    let mut text = format!(
        "{} {}  {}  {}",
        state.title,
        state.phase,
        format::count(files, "file"),
        format::size(bytes)
    );
    if total_bytes > 0 {
        text.push_str(&format!(" of {}", format::size(total_bytes)));
    }
    text.push_str(&format!("  {}/s", format::size(rate as u64)));
    if total_bytes > bytes && rate > 1.0 && seconds > 1.0 {
        let left = (total_bytes - bytes) as f64 / rate;
        text.push_str(&format!("  {} left", format::seconds(left)));
    }
    if warnings > 0 {
        text.push_str(&format!("  {}", format::count(warnings, "warning")));
    }
    text
}

impl EventSink for Display {
    fn emit(&self, event: Event) {
        if self.printer.is_json() {
            self.printer.event(&event);
            return;
        }
        match &event {
            Event::Started { verb, source, backup, .. } => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.title = format!("{verb} {source}");
                state.phase = "";
                drop(state);
                if self.printer.is_verbose() {
                    let backup = backup.as_deref().unwrap_or("-");
                    self.printer.talk(format!("{verb} {source} {backup}"));
                }
            }
            Event::Phase { phase } => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).phase = phase;
                if self.printer.is_verbose() {
                    self.printer.talk(format!("  {phase}"));
                }
            }
            Event::Progress(progress) => self.show(progress),
            Event::Warning { message, .. } => self.around(|| self.printer.warning(message)),
            Event::Note { message } => self.around(|| self.printer.talk(message)),
            Event::OfRun(OfRun { code: Some(_), message, .. }) => {
                self.around(|| self.printer.warning(message));
            }
            Event::OfRun(OfRun { message, .. }) => self.around(|| self.printer.talk(message)),
        }
    }
}
