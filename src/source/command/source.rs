//! The `command` source.

use std::io::{self, Read};

use super::pipeline::Pipeline;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::Form;
use crate::error::{Error, Result};
use crate::id::BackupKind;
use crate::source::{Captured, EntrySink, ProbeNote, Source, SourceContext, SourceProbe};
use crate::telemetry::Reporter;

/// What a policy says of a command source.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The name of its one entry, and of the file it is restored to.
    pub name: String,
    /// What is run to get the stream.
    pub produce: Pipeline,
    /// What a restored stream is fed to, if the policy says.
    pub consume: Option<Pipeline>,
    /// No output at all is fine.
    pub allow_empty: bool,
}

/// The output of a command.
#[derive(Debug)]
pub struct CommandSource {
    config: Config,
}

impl CommandSource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl Source for CommandSource {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn form(&self) -> Form {
        Form::Stream
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Incremental => BackupKind::Full,
            other => other,
        }
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        let mut probe = SourceProbe::default();
        for stage in &self.config.produce.stages {
            let Some(program) = stage.argv.first() else { continue };
            let found = find_program(program);
            probe.notes.push(match found {
                Some(path) => ProbeNote::fact(format!("`{program}` is {}", path.display())),
                None => ProbeNote::fault(format!("`{program}` is not in the PATH")),
            });
        }
        Ok(probe)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let now = cx.clock.now();
        let mut entry = Entry::new(self.config.name.as_str(), EntryType::Stream);
        entry.mode = 0o600;
        entry.mtime = (now.as_second(), 0);
        entry.ctime = entry.mtime;
        let mut running = self.config.produce.start(false, true, &cx.reporter)?;
        let output = running
            .take_output()
            .ok_or_else(|| Error::failed("the command has no standard output"))?;
        let mut output = Output { inner: output, reporter: &cx.reporter, bytes: 0 };
        let stored = sink.stream(entry, &mut output);
        let bytes = output.bytes;
        // The pipe must be closed before waiting: a producer that still writes would never end.
        drop(output);
        match stored {
            Err(error) => {
                drop(running);
                return Err(error);
            }
            Ok(()) => running.finish()?,
        }
        if bytes == 0 && !self.config.allow_empty {
            return Err(Error::failed(format!(
                "`{}` ended with status 0 and wrote nothing",
                self.config.produce.name()
            ))
            .hint("an empty dump is no backup; if it may be empty set `allow_empty: true`"));
        }
        Ok(Captured::default())
    }

    fn has_consumer(&self) -> bool {
        self.config.consume.is_some()
    }

    fn consume(&self, cx: &SourceContext, input: &mut dyn Read) -> Option<Result<()>> {
        let consumer = self.config.consume.as_ref()?;
        Some(consumer.start(true, false, &cx.reporter).and_then(|mut running| {
            match (running.feed(input), &cx.reporter) {
                (Ok(()), _) => running.finish(),
                // What the consumer said of it tells more than the broken pipe.
                (Err(error), reporter) if !reporter.is_cancelled() => match running.finish() {
                    Err(said) => Err(said),
                    Ok(()) => Err(error),
                },
                (Err(error), _) => Err(error),
            }
        }))
    }
}

struct Output<'a> {
    inner: std::process::ChildStdout,
    reporter: &'a Reporter,
    bytes: u64,
}

impl Read for Output<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reporter.check().map_err(Error::into_io)?;
        let read = self.inner.read(out)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// The file of a program that can be executed: below a directory of `PATH`, or where its name says.
pub fn find_program(program: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = |path: &std::path::Path| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let path = std::path::PathBuf::from(program);
        return executable(&path).then_some(path);
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| executable(path))
}
