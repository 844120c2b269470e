//! `postgres`: what is done to the files of a server that another one takes the place of, and to the
//! process that they belong to. With the programs of PostgreSQL, here or over ssh.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::itself::backstay;
use super::program::{Ran, Surroundings, run};
use super::remote::on_host;
use super::sql::connect;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::SourceAddress;
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{PostgresAction, Program, ServerFiles};
use crate::telemetry::failpoint;

/// The pause between two looks whether a standby streams.
const LOOK: Duration = Duration::from_millis(500);

/// How long a standby may take to stream, where the step sets no limit.
const STREAMING: Duration = Duration::from_mins(5);

/// The file that makes a server start as a standby.
const SIGNAL: &str = "standby.signal";

/// What `pg_ctl status` ends with where no server runs, and where there are no files.
const STOPPED: i32 = 3;
const ABSENT: i32 = 4;

/// Does something to a server's files.
pub struct PostgresFiles {
    spec: PostgresAction,
    means: Arc<Means>,
}

/// What the control file says.
struct Control {
    lsn: String,
    timeline: String,
    state: String,
}

impl Control {
    /// Whether it was stopped in order.
    fn is_clean(&self) -> bool {
        self.state.starts_with("shut down")
    }
}

/// A server's files, for the length of a step.
struct Files<'a> {
    of: &'a ServerFiles,
    job: &'a Job<'a>,
}

impl Files<'_> {
    fn run(&self, words: Vec<String>, expected: &[i32], as_server: bool) -> Result<Ran> {
        let user = self.of.user.as_ref().filter(|_| as_server);
        let words: Vec<String> = match user {
            Some(user) => {
                ["runuser", "-u", user, "--"].map(str::to_owned).into_iter().chain(words).collect()
            }
            None => words,
        };
        let words = on_host(self.of.host.as_deref(), words);
        // Whoever the server runs as need not be allowed to be where this is.
        let around =
            Surroundings { directory: Some(PathBuf::from("/")), ..Surroundings::default() };
        run(&Program::Argv(words), &around, self.job, expected, || {})
    }

    fn tool(&self, name: &str, arguments: &[&str], expected: &[i32]) -> Result<Ran> {
        let program = match &self.of.programs {
            Some(directory) => directory.join(name).display().to_string(),
            None => name.to_owned(),
        };
        // What they say is read: it must not be in another language.
        let mut words = vec!["env".to_owned(), "LC_ALL=C".to_owned(), program];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        self.run(words, expected, true)
    }

    fn data(&self) -> String {
        self.of.data.display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.of.data.join(name).display().to_string()
    }

    fn is_running(&self) -> Result<bool> {
        let ran = self.tool("pg_ctl", &["-D", &self.data(), "status"], &[0, STOPPED, ABSENT])?;
        match ran.code {
            ABSENT => Err(Error::not_found(format!("{} is no data directory", self.data()))),
            code => Ok(code == 0),
        }
    }

    fn is_marked(&self) -> Result<bool> {
        let words = ["test", "-e", &self.file(SIGNAL)].map(str::to_owned).into();
        Ok(self.run(words, &[0, 1], true)?.code == 0)
    }

    fn mark(&self) -> Result<()> {
        self.run(["touch", &self.file(SIGNAL)].map(str::to_owned).into(), &[0], true).map(drop)
    }

    fn unmark(&self) -> Result<()> {
        let words = ["rm", "-f", "--", &self.file(SIGNAL)].map(str::to_owned).into();
        self.run(words, &[0], true).map(drop)
    }

    fn control(&self) -> Result<Control> {
        let said = self.tool("pg_controldata", &["-D", &self.data()], &[0])?.output;
        let of = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned()).ok_or_else(|| {
                Error::failed(format!("pg_controldata does not tell `{name}`"))
                    .hint("`programs` must be those of the server's own version")
            })
        };
        Ok(Control {
            lsn: of("Latest checkpoint location")?,
            timeline: of("Latest checkpoint's TimeLineID")?,
            state: of("Database cluster state")?,
        })
    }

    fn stop(&self) -> Result<()> {
        if !self.is_running()? {
            return Ok(());
        }
        if self.of.stop.is_empty() {
            // Longer than any step may take: what is not stopped in time fails by its `timeout`.
            let data = self.data();
            let words = ["-D", &data, "-m", "fast", "-w", "-t", "86400", "stop"];
            let stopped = self.tool("pg_ctl", &words, &[0]);
            // Somebody else may have been faster.
            if stopped.is_err() && !self.is_running()? {
                return Ok(());
            }
            stopped?;
        } else {
            self.run(self.of.stop.clone(), &[0], false)?;
        }
        if self.is_running()? {
            return Err(Error::failed(format!("the server of {} still runs", self.data()))
                .hint("`stop` must not end before the server has"));
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        if self.is_running()? {
            return Ok(());
        }
        if self.of.start.is_empty() {
            let (data, log) = (self.data(), self.file("backstay-start.log"));
            let config = self.of.config.as_ref().map(|path| path.display().to_string());
            let config = config.map(|path| format!("-c config_file={path}/postgresql.conf"));
            let mut words = vec!["-D", &data, "-l", &log, "-w", "-t", "86400"];
            if let Some(config) = &config {
                words.extend(["-o", config.as_str()]);
            }
            words.push("start");
            self.tool("pg_ctl", &words, &[0])
                .map_err(|error| error.hint(format!("look into {log}")))?;
        } else {
            self.run(self.of.start.clone(), &[0], false)?;
        }
        Ok(())
    }

    /// Sees to it that this is the last word of `postgresql.auto.conf` on a setting.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        const SCRIPT: &str = "touch \"$3\" || exit; test \"$(grep \"^$1 = \" \"$3\" | tail -n 1)\" = \"$1 = $2\" \
                              || printf '%s = %s\\n' \"$1\" \"$2\" >> \"$3\"";
        let value = format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        let file = self.file("postgresql.auto.conf");
        let words = ["sh", "-c", SCRIPT, "sh", name, &value, &file].map(str::to_owned).into();
        self.run(words, &[0], true).map(drop)
    }
}

impl PostgresFiles {
    /// As a step says. `None`: it is about no files.
    pub fn new(spec: &PostgresAction, means: &Arc<Means>) -> Option<Self> {
        spec.files()?;
        Some(Self { spec: spec.clone(), means: means.clone() })
    }

    fn files<'a>(&'a self, job: &'a Job<'a>) -> Result<Files<'a>> {
        let of = self.spec.files().ok_or_else(|| Error::usage("the step names no files"))?;
        Ok(Files { of, job })
    }

    /// Whether the standby streams.
    fn streams(connection: &str) -> Result<bool> {
        let mut server = connect(connection)?;
        let doing = "failed to ask whether the standby streams";
        let query = "SELECT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')";
        Ok(server.value(query, doing)? == "t")
    }

    fn demote(files: &Files<'_>) -> Result<Outputs> {
        // First: whoever starts it from here on, a service manager included, starts a standby.
        files.mark()?;
        failpoint::reach("playbook.mid_apply");
        files.stop()?;
        demoted(files)
    }

    /// Rewinds. Why `pg_rewind` could not, if it could not.
    fn try_to_rewind(files: &Files<'_>, primary: &str) -> Result<Option<Error>> {
        if files.is_running()? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the server of {} runs", files.data()),
            )
            .hint("put a step `postgres: { demote: … }` above this one"));
        }
        let (source, data) = (format!("--source-server={primary}"), files.data());
        let mut words = vec!["-D", &data, &source];
        let config = files.of.config.as_ref();
        let config = config.map(|path| format!("--config-file={}/postgresql.conf", path.display()));
        words.extend(config.as_deref());
        match files.tool("pg_rewind", &words, &[0]) {
            Ok(_) => {
                // It takes the files of the new primary along, which nothing marks as a standby's.
                files.mark()?;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Ok(Some(error)),
        }
    }

    fn rewind(&self, files: &Files<'_>, primary: &str) -> Result<Outputs> {
        // What was put aside is not rewound any more: a restore was under way.
        let aside = aside(&files.of.data, files.job.run);
        let was_restored = files.of.host.is_none() && aside.exists();
        let refused = if was_restored {
            Error::failed(format!("{} was put aside already", files.data()))
        } else {
            match Self::try_to_rewind(files, primary) {
                Ok(None) => return Ok(way("rewind")),
                Ok(Some(refused)) => refused,
                Err(error) => return Err(error),
            }
        };
        let PostgresAction::Rewind { source: Some(source), identity, .. } = &self.spec else {
            return Err(refused
                .context("failed to rewind the old primary")
                .hint("name the `source` that it is restored from instead"));
        };
        files.job.cx.reporter.note(format!(
            "pg_rewind cannot, and it is restored from the newest backup: {}",
            refused.chain()
        ));
        let data = files.data();
        let address = SourceAddress::new(&self.means.policy.stack, source).to_string();
        let mut arguments = Vec::new();
        for path in identity {
            arguments.extend(["--identity".to_owned(), path.display().to_string()]);
        }
        let rest = ["restore", &address, "--standby", "--yes", "--to", &data];
        arguments.extend(rest.map(str::to_owned));
        let kept = make_room(&files.of.data, files.job.run)?;
        backstay(&self.means, files.job, &arguments)
            .map_err(|error| error.context(format!("failed to restore {address}")))?;
        let mut outputs = way("restore");
        outputs.insert("kept".to_owned(), kept.display().to_string());
        Ok(outputs)
    }
}

/// Where the files of an old primary lie once they were put aside.
fn aside(data: &Path, run: &str) -> PathBuf {
    let name = data.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    data.with_file_name(format!("{name}.before-{run}"))
}

/// Puts what the old primary had aside, for whoever wants to look at it, and an empty directory in its
/// place. What lies there when that was done before came from an attempt of this run that did not end.
fn make_room(data: &Path, run: &str) -> Result<PathBuf> {
    let failed = || format!("failed to put {} aside", data.display());
    let aside = aside(data, run);
    if !aside.exists() {
        fs::rename(data, &aside).doing(failed)?;
        failpoint::reach("playbook.mid_apply");
    } else if data.exists() {
        fs::remove_dir_all(data).doing(failed)?;
    }
    let was = fs::metadata(&aside).doing(failed)?;
    fs::create_dir(data).doing(failed)?;
    fs::set_permissions(data, was.permissions()).doing(failed)?;
    std::os::unix::fs::chown(data, Some(was.uid()), Some(was.gid())).doing(failed)?;
    Ok(aside)
}

fn way(word: &str) -> Outputs {
    Outputs::from([("way".to_owned(), word.to_owned()), ("kept".to_owned(), String::new())])
}

fn demoted(files: &Files<'_>) -> Result<Outputs> {
    let control = files.control()?;
    let clean = if control.is_clean() { "yes" } else { "no" };
    Ok(Outputs::from([
        ("lsn".to_owned(), control.lsn),
        ("timeline".to_owned(), control.timeline),
        ("clean".to_owned(), clean.to_owned()),
    ]))
}

const fn word(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// What keeps a server's programs from answering, and what to do where it is that they refuse root.
fn unanswered(error: &Error) -> String {
    let said = error.chain();
    if said.contains("run as root") {
        return format!(
            "{said}; PostgreSQL refuses root: name the user that it runs as in `server`, such as `user: postgres`"
        );
    }
    said
}

impl Action for PostgresFiles {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let files = self.files(job)?;
        let data = files.data();
        let preview = Preview::of(match &self.spec {
            PostgresAction::Demote { .. } => {
                format!("stops the server of {data}, and makes it a standby")
            }
            PostgresAction::Rewind { .. } => format!("makes {data} follow the new primary"),
            _ => format!("starts the server of {data} as a standby"),
        });
        let running = match files.is_running() {
            Ok(running) => running,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => return Ok(preview.missing(unanswered(&error))),
        };
        Ok(match &self.spec {
            // A demotion comes before it, as a rule: that it runs now is no obstacle.
            PostgresAction::Rewind { .. } => match files.tool("pg_rewind", &["--version"], &[0]) {
                Ok(_) => preview,
                Err(error) => preview.missing(error.chain()),
            },
            PostgresAction::Demote { .. } if !running => {
                Preview { what: format!("{}; it does not run now", preview.what), ..preview }
            }
            _ => preview,
        })
    }

    fn before(&self, job: &Job<'_>) -> Result<Outputs> {
        let files = self.files(job)?;
        Ok(Outputs::from([
            ("running".to_owned(), word(files.is_running()?).to_owned()),
            ("standby".to_owned(), word(files.is_marked()?).to_owned()),
        ]))
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        let files = self.files(job)?;
        match &self.spec {
            PostgresAction::Demote { .. } => {
                if files.is_running()? || !files.is_marked()? {
                    return Ok(Observed::NotDone);
                }
                Ok(Observed::Done(demoted(&files)?))
            }
            PostgresAction::StartStandby { connection, .. } => {
                let done = files.is_running()?
                    && files.is_marked()?
                    && Self::streams(connection).unwrap_or(false);
                Ok(if done { Observed::Done(Outputs::new()) } else { Observed::NotDone })
            }
            // Where it died in the middle, only doing it again tells.
            _ => Ok(Observed::Unknown("whether all files were rewound is not known".to_owned())),
        }
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let files = self.files(job)?;
        match &self.spec {
            PostgresAction::Demote { .. } => Self::demote(&files),
            PostgresAction::Rewind { primary, .. } => self.rewind(&files, primary),
            PostgresAction::StartStandby { primary, connection, slot, .. } => {
                if files.is_running()? && !files.is_marked()? {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("the server of {} runs as a primary", files.data()),
                    )
                    .hint("put steps `postgres: { demote: … }` and `rewind` above this one"));
                }
                files.set("primary_conninfo", primary)?;
                if let Some(slot) = slot {
                    files.set("primary_slot_name", slot)?;
                }
                files.mark()?;
                failpoint::reach("playbook.mid_apply");
                files.start()?;
                // Where nobody set a limit it is not given up at once.
                let limit = job.deadline.or_else(|| Instant::now().checked_add(STREAMING));
                Job { deadline: limit, ..*job }.until(LOOK, || {
                    if Self::streams(connection)? {
                        return Ok(Outputs::new());
                    }
                    Err(Error::failed("the standby does not stream from its primary").hint(
                        "its log tells why; it may lack WAL that the primary does not have any more",
                    ))
                })
            }
            _ => Err(Error::unsupported("this is about no files")),
        }
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        let files = self.files(job)?;
        let was = |name: &str| job.before.get(name).map(String::as_str);
        match &self.spec {
            PostgresAction::Demote { .. } => {
                if was("standby") == Some("no") {
                    files.unmark()?;
                }
                if was("running") == Some("yes") {
                    files.start()?;
                }
                Ok(())
            }
            PostgresAction::StartStandby { .. } => {
                if was("running") == Some("no") {
                    files.stop()?;
                }
                Ok(())
            }
            _ => Err(Error::unsupported("what the old primary wrote alone is gone")),
        }
    }
}
