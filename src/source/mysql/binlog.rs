//! Binary logs: from a server into a backup, and out of it into a server again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::client::Client;
use super::tools::{Credentials, Tools};
use crate::error::{Error, IoContext as _, Result};
use crate::source::Arriving;
use crate::source::command::Running;
use crate::telemetry::Reporter;

/// The directory of binary logs in a backup.
pub const BINLOG: &str = "binlog";

/// How every binary log begins.
const MAGIC: &[u8] = b"\xfebin";

/// How often it is looked whether a program began to write.
const PAUSE: Duration = Duration::from_millis(5);

/// The server's binary logs with their sizes, oldest first.
pub fn logs(client: &mut Client) -> Result<Vec<(String, u64)>> {
    let rows = client.rows("SHOW BINARY LOGS", "failed to list the binary logs")?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut cells = row.into_iter();
            Some((cells.next()??, cells.next()??.parse().ok()?))
        })
        .collect())
}

/// One log as the server sends it, through a pipe with a name: the program writes files only, and
/// nothing is to lie on disk.
pub struct Log {
    name: String,
    pipe: File,
    running: Option<Running>,
    ended: Arc<AtomicBool>,
    begun: bool,
    head: Vec<u8>,
    _directory: tempfile::TempDir,
}

impl Log {
    /// Begins to read the log `name` from a server.
    pub fn open(
        name: &str,
        tools: &Tools,
        credentials: &Credentials,
        timeout: Option<Duration>,
        reporter: &Reporter,
    ) -> Result<Self> {
        let failed = || format!("failed to read binary log {name}");
        let directory = tempfile::Builder::new().prefix("backstay-").tempdir().doing(failed)?;
        let path = directory.path().join(name);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .doing(failed)?;
        // Whoever only reads must not wait for a writer that may never come.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = rustix::fs::open(&path, flags, Mode::empty()).doing(failed)?;
        let arguments = vec![
            "--read-from-remote-server".to_owned(),
            "--raw".to_owned(),
            format!("--result-file={}/", directory.path().display()),
            "--".to_owned(),
            name.to_owned(),
        ];
        let mut pipeline = credentials.pipeline(&tools.binlog()?, arguments);
        pipeline.timeout = timeout;
        let mut running = pipeline.start(false, true, reporter)?;
        let ended = Arc::new(AtomicBool::new(false));
        if let Some(mut output) = running.take_output() {
            let ended = ended.clone();
            // It says nothing there; that it closes it means that it is gone.
            std::thread::spawn(move || {
                let _ = io::copy(&mut output, &mut io::sink());
                ended.store(true, Ordering::SeqCst);
            });
        }
        Ok(Self {
            name: name.to_owned(),
            pipe: pipe.into(),
            running: Some(running),
            ended,
            begun: false,
            head: Vec::new(),
            _directory: directory,
        })
    }

    fn finish(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.finish().map_err(|error| {
            let text = error.chain();
            let error = error.context(format!("failed to read binary log {}", self.name));
            if text.contains("Could not find first log") || text.contains("1236") {
                error.hint("the server purged it meanwhile: what is not archived before it is purged is a gap, and the next backup is a full (binlog_expire_logs_seconds)")
            } else if text.contains("1227") || text.contains("Access denied") {
                error.hint("GRANT REPLICATION SLAVE ON *.* TO the user")
            } else {
                error
            }
        })?;
        if self.head == MAGIC {
            return Ok(());
        }
        Err(Error::failed(format!("what the server sent as {} is no binary log", self.name)))
    }
}

impl Read for Log {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            // Asked before the pipe is: what was written until then is in it.
            let ended = self.ended.load(Ordering::SeqCst);
            match self.pipe.read(out) {
                Ok(0) if ended || self.running.is_none() => {
                    self.finish().map_err(Error::into_io)?;
                    return Ok(0);
                }
                Ok(0) => {}
                Ok(read) => {
                    if !self.begun {
                        self.begun = true;
                        // From now on there is a writer, whose end is the end.
                        rustix::fs::fcntl_setfl(&self.pipe, OFlags::empty())?;
                    }
                    let missing = MAGIC.len() - self.head.len();
                    self.head.extend_from_slice(&out[..read.min(missing)]);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Arriving for Log {}

/// Up to where binary logs are replayed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Goal {
    /// All there is.
    #[default]
    End,
    /// All that was committed until the end of this second.
    Time(Timestamp),
    /// A byte of a log: `log.000012:4711`.
    Position {
        /// The log.
        file: String,
        /// Bytes into it.
        position: u64,
    },
    /// The transactions of this set, as MariaDB writes it: `0-1-4711`.
    Gtid(String),
}

impl Goal {
    /// Reads `FILE:POSITION`.
    pub fn position(text: &str) -> Result<Self> {
        let parts = text.rsplit_once(':').filter(|(file, _)| !file.is_empty());
        let found = parts.and_then(|(file, at)| Some((file.to_owned(), at.parse().ok()?)));
        let (file, position) = found.ok_or_else(|| {
            Error::usage(format!("`{text}` is no position in a binary log"))
                .hint("write FILE:POSITION, such as mysql-bin.000012:4711")
        })?;
        Ok(Self::Position { file, position })
    }
}

/// Replays binary logs, which lie in `directory`, into a server. `from` is where they begin.
pub fn replay(
    tools: &Tools,
    credentials: &Credentials,
    directory: &Path,
    (names, from): (&[String], u64),
    goal: &Goal,
    reporter: &Reporter,
) -> Result<()> {
    let mut arguments = vec![format!("--start-position={from}")];
    let mut names = names.to_vec();
    match goal {
        Goal::End => {}
        Goal::Time(time) => {
            // It stops before the first event of this second or a later one.
            let second = Timestamp::from_second(time.as_second() + 1)
                .map_err(|error| Error::usage("no such time").with_source(error))?;
            arguments.push(format!("--stop-datetime={}", second.strftime("%Y-%m-%d %H:%M:%S")));
        }
        Goal::Position { file, position } => {
            let at = names.iter().position(|name| name == file).ok_or_else(|| {
                Error::not_found(format!("the backup has no binary log {file}"))
                    .hint(format!("it has {}", shown(&names)))
            })?;
            names.truncate(at + 1);
            arguments.push(format!("--stop-position={position}"));
        }
        Goal::Gtid(gtid) => {
            if !tools.mariadb || tools.version < (10, 8) {
                return Err(Error::unsupported(format!("{} stops at no GTID", tools.text))
                    .hint("give a position, --binlog FILE:POSITION, or a time, --at TIME"));
            }
            arguments.push(format!("--stop-position={gtid}"));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    arguments.push("--".to_owned());
    let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
    arguments.extend(paths.iter().map(|path| path.display().to_string()));
    let mut pipeline = credentials.pipeline(&tools.binlog()?, arguments);
    let client = vec!["--binary-mode".to_owned(), "--max-allowed-packet=1G".to_owned()];
    pipeline.stages.extend(credentials.pipeline(&tools.client()?, client).stages);
    reporter.phase("replaying binary logs");
    let running = pipeline.start(false, false, reporter)?;
    running.finish().map_err(|error| error.context(format!("failed to replay {}", shown(&names))))
}

fn shown(names: &[String]) -> String {
    match names {
        [] => "no binary logs".to_owned(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn positions_are_read() {
        let found = Goal::position("mysql-bin.000012:4711").unwrap();
        assert_eq!(found, Goal::Position { file: "mysql-bin.000012".into(), position: 4711 });
        for bad in ["", "x", ":4", "x:", "x:y"] {
            assert!(Goal::position(bad).is_err(), "{bad}");
        }
    }
}
