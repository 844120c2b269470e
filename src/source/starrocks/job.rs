//! Seeing a job of StarRocks through to its end. A submitted job is not a done one: its state is
//! asked for until it says so, and the row that is looked at has to be that of the job.

use std::time::Duration;

use jiff::Timestamp;

use super::cluster::Cluster;
use super::rows::{Row, Rows};
use super::sql;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Reporter, WarningCode};

/// The first pause between two looks; it grows.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a job may be nowhere before it is given up.
const LOST_AFTER: u32 = 10;
/// How often a cancelled job is looked at before it is left to itself.
const CANCEL_LOOKS: u32 = 20;

/// Pauses that grow.
pub struct Pause(Duration);

impl Pause {
    /// The shortest.
    pub fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Waits, in small steps, so that nobody who wants it to stop waits for it.
    pub fn wait(&mut self, reporter: &Reporter) -> Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        let mut left = self.0;
        while !left.is_zero() {
            reporter.check()?;
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
        self.0 = (self.0 * 3 / 2).min(LONGEST_PAUSE);
        reporter.check()
    }
}

/// What kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// `BACKUP`.
    Backup,
    /// `RESTORE`.
    Restore,
}

impl Work {
    fn show(self, database: &str) -> String {
        match self {
            Self::Backup => sql::show_backup(database),
            Self::Restore => sql::show_restore(database),
        }
    }

    fn cancel(self, database: &str) -> String {
        match self {
            Self::Backup => sql::cancel_backup(database),
            Self::Restore => sql::cancel_restore(database),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Backup => "SnapshotName",
            Self::Restore => "Label",
        }
    }
}

/// What a row says of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is under way.
    Running {
        /// In this state.
        state: String,
        /// Tasks done, and all of them, as far as it tells.
        tasks: Option<(u64, u64)>,
        /// What went wrong with tasks that are tried again.
        trouble: Option<String>,
    },
    /// It is done.
    Finished,
    /// It ended, for this reason.
    Cancelled(String),
    /// There is no such job: it never was, another one took its place, or nobody may see it.
    Nowhere,
}

/// Reads the state of a job. `timestamp` belongs to restores.
pub fn state(rows: &Rows, work: Work, label: &str, timestamp: Option<&str>) -> State {
    let is_it = |row: &Row<'_>| {
        row.text(work.label()) == label
            && timestamp.is_none_or(|timestamp| row.text("Timestamp") == timestamp)
    };
    let Some(row) = rows.iter().find(is_it) else { return State::Nowhere };
    match row.text("State") {
        "FINISHED" => State::Finished,
        "CANCELLED" => State::Cancelled(row.text("Status").to_owned()),
        state => State::Running {
            state: state.to_owned(),
            tasks: tasks(row.text("Progress")),
            trouble: row.get("TaskErrMsg").filter(|text| !text.is_empty()).map(str::to_owned),
        },
    }
}

/// `[10: 3/5], [11: 5/5]`: all of what is done, and all of what there is.
fn tasks(text: &str) -> Option<(u64, u64)> {
    let mut sum = None;
    for task in text.split("], [") {
        let Some((_, counts)) = task.trim_matches(['[', ']', ' ']).split_once(':') else {
            continue;
        };
        let Some((done, all)) = counts.split_once('/') else { continue };
        let (Ok(done), Ok(all)) = (done.trim().parse::<u64>(), all.trim().parse::<u64>()) else {
            continue;
        };
        let (before, of) = sum.unwrap_or((0, 0));
        sum = Some((before + done, of + all));
    }
    sum
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Well.
    Finished,
    /// StarRocks ended it, for this reason.
    Cancelled(String),
    /// It was nowhere to be seen any more.
    Lost,
}

/// A job that was submitted.
pub struct Job<'a> {
    /// Where it runs.
    pub cluster: &'a mut Cluster,
    /// What kind.
    pub work: Work,
    /// Its database.
    pub database: &'a str,
    /// Its label.
    pub label: &'a str,
    /// The timestamp of what is restored.
    pub timestamp: Option<&'a str>,
    /// The repository, where a snapshot shows up when it is done.
    pub repository: &'a str,
    /// Who is told.
    pub reporter: &'a Reporter,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// When it is cancelled.
    pub deadline: Timestamp,
}

impl Job<'_> {
    /// Waits for its end. Interrupted, or at its deadline, it is cancelled.
    pub fn wait(&mut self) -> Result<End> {
        match self.watch() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.cancel();
                Err(error)
            }
            Err(error) => Err(error),
            Ok(None) => {
                self.cancel();
                Ok(End::Cancelled(
                    "[TIMEOUT, msg: it was cancelled at the policy's timeout]".into(),
                ))
            }
            Ok(Some(end)) => Ok(end),
        }
    }

    /// `None`: the deadline passed.
    fn watch(&mut self) -> Result<Option<End>> {
        let mut pause = Pause::new();
        let (mut told, mut troubled) = (String::new(), String::new());
        let (mut nowhere, mut hidden) = (0, false);
        let mut job = String::new();
        loop {
            pause.wait(self.reporter)?;
            let rows = self.look()?;
            let id = rows.first().map(|row| row.text("JobId").to_owned()).unwrap_or_default();
            let seen = state(&rows, self.work, self.label, self.timestamp);
            match seen {
                State::Finished => return Ok(Some(End::Finished)),
                State::Cancelled(status) => return Ok(Some(End::Cancelled(status))),
                State::Nowhere => {
                    if self.work == Work::Backup && self.is_in_repository()? {
                        return Ok(Some(End::Finished));
                    }
                    if rows.rows.is_empty() && self.is_hidden()? {
                        if !hidden {
                            let message = "StarRocks shows no job: does the user lack EXPORT? The repository is asked until it has the snapshot";
                            let about = self.database.to_owned();
                            self.reporter.warn(WarningCode::Other, about, message);
                            hidden = true;
                        }
                    } else {
                        nowhere += 1;
                    }
                    if nowhere > LOST_AFTER {
                        return Ok(Some(End::Lost));
                    }
                }
                State::Running { state, tasks, trouble } => {
                    nowhere = 0;
                    if !job.is_empty() && job != "-1" && id != job && id != "-1" {
                        self.reporter.note(format!(
                            "{}: a frontend was restarted, and the job began again",
                            self.database
                        ));
                    }
                    job = id;
                    let line = match tasks {
                        Some((done, all)) => format!("{state}, {done} of {all}"),
                        None => state,
                    };
                    if line != told {
                        self.reporter.note(format!("{}: {line}", self.database));
                        told = line;
                    }
                    if let Some(trouble) = trouble.as_ref().filter(|text| is_for_good(text)) {
                        self.cancel();
                        return Ok(Some(End::Cancelled(trouble.clone())));
                    }
                    if let Some(trouble) = trouble.filter(|trouble| *trouble != troubled) {
                        let message = format!(
                            "StarRocks tries again what failed, until the timeout: {trouble}"
                        );
                        let about = self.database.to_owned();
                        self.reporter.warn(WarningCode::Other, about, message);
                        troubled = trouble;
                    }
                }
            }
            if self.clock.now() > self.deadline {
                return Ok(None);
            }
        }
    }

    fn look(&mut self) -> Result<Rows> {
        let statement = self.work.show(self.database);
        self.cluster.ask(&statement).map_err(|failure| {
            failure.into_error(&format!("ask how far the job {} is", self.label)).hint(format!(
                "it may still run: `{statement}` tells, `{}` ends it",
                self.work.cancel(self.database)
            ))
        })
    }

    /// Whether neither kind of job is shown: then none took the place of this one, and it may well
    /// run where the user cannot see it.
    fn is_hidden(&mut self) -> Result<bool> {
        if self.work != Work::Backup {
            return Ok(false);
        }
        let other = Work::Restore.show(self.database);
        let rows = self.cluster.ask(&other).map_err(|failure| {
            failure.into_error(&format!("look who has the place of the job {}", self.label))
        })?;
        Ok(rows.rows.is_empty())
    }

    /// Whether the repository has the snapshot, whole as far as StarRocks knows.
    fn is_in_repository(&mut self) -> Result<bool> {
        let statement = sql::show_snapshot(self.repository, self.label);
        let rows = self.cluster.ask(&statement).map_err(|failure| {
            failure.into_error(&format!("look for the snapshot {}", self.label))
        })?;
        Ok(is_ok(&rows, self.label))
    }

    /// Ends it, and sees that it ended. What cannot be ended is left to its timeout.
    fn cancel(&mut self) {
        let statement = self.work.cancel(self.database);
        let asked = self.cluster.submit(&statement);
        // Whoever interrupted this waits for it.
        let patient = self.reporter.fresh();
        for _ in 0..CANCEL_LOOKS {
            let Ok(rows) = self.cluster.submit(&self.work.show(self.database)) else { break };
            let seen = state(&rows, self.work, self.label, self.timestamp);
            if !matches!(seen, State::Running { .. }) {
                patient.note(format!("{}: cancelled {}", self.database, self.label));
                return;
            }
            std::thread::sleep(FIRST_PAUSE);
        }
        let why = match asked {
            Ok(_) => "it did not end yet".to_owned(),
            Err(failure) => failure.into_error("cancel it").chain(),
        };
        let message = format!(
            "the job {} runs on: {why}; `{statement}` ends it, and so does its timeout",
            self.label
        );
        self.reporter.warn(WarningCode::Other, self.database.to_owned(), message);
    }
}

/// Whether trying again is of no use: the bucket has other bytes than it should.
fn is_for_good(trouble: &str) -> bool {
    ["invalid md5 of downloaded file", "md5sum does not equal", "get nothing from remote path"]
        .iter()
        .any(|part| trouble.contains(part))
}

/// Whether the row of a snapshot says that it is whole. There is a row also where there is none.
pub fn is_ok(rows: &Rows, label: &str) -> bool {
    rows.iter().any(|row| row.text("Snapshot") == label && row.text("Status") == "OK")
}

/// The timestamp of a snapshot. Several of one label, or one that did not end, are none.
pub fn timestamp(rows: &Rows, label: &str) -> Result<String> {
    let row = rows.iter().find(|row| row.text("Snapshot") == label);
    let (stamp, status) =
        row.map(|row| (row.text("Timestamp"), row.text("Status"))).unwrap_or_default();
    if status == "OK" && !stamp.is_empty() && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    {
        return Ok(stamp.to_owned());
    }
    Err(Error::failed(format!(
        "the snapshot {label} is not whole: timestamp `{}`, status `{}`",
        stamp.escape_debug(),
        status.escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], values: &[&[&str]]) -> Rows {
        let text = |one: &&str| (*one).to_owned();
        Rows {
            columns: columns.iter().map(text).collect(),
            rows: values
                .iter()
                .map(|row| row.iter().map(|value| Some((*value).to_owned())).collect())
                .collect(),
        }
    }

    const COLUMNS: &[&str] =
        &["JobId", "SnapshotName", "State", "Progress", "TaskErrMsg", "Status"];

    #[test]
    fn the_row_of_another_job_is_none_of_this_one() {
        let shown = rows(COLUMNS, &[&["7", "other", "FINISHED", "", "", "[OK]"]]);
        assert_eq!(state(&shown, Work::Backup, "ours", None), State::Nowhere);
        assert_eq!(state(&shown, Work::Backup, "other", None), State::Finished);
        assert_eq!(state(&rows(COLUMNS, &[]), Work::Backup, "ours", None), State::Nowhere);
    }

    #[test]
    fn progress_is_the_sum_of_tasks() {
        let shown = rows(
            COLUMNS,
            &[&["7", "ours", "UPLOADING", "[10: 3/5], [11: 5/5]", "[10: curlCode: 28]", "[OK]"]],
        );
        assert_eq!(
            state(&shown, Work::Backup, "ours", None),
            State::Running {
                state: "UPLOADING".into(),
                tasks: Some((8, 10)),
                trouble: Some("[10: curlCode: 28]".into())
            }
        );
    }

    #[test]
    fn a_row_is_no_snapshot() {
        let columns = ["Snapshot", "Timestamp", "Status"];
        let none = rows(&columns, &[&["l", "", "ERROR: no snapshot"]]);
        assert!(!is_ok(&none, "l"));
        assert!(timestamp(&none, "l").is_err());
        let two =
            rows(&columns, &[&["l", "2026-01-01-00-00-00-000\n2026-01-02-00-00-00-000", "OK"]]);
        assert!(timestamp(&two, "l").is_err());
        let one = rows(&columns, &[&["l", "2026-01-01-00-00-00-000", "OK"]]);
        assert_eq!(timestamp(&one, "l").expect("whole"), "2026-01-01-00-00-00-000");
    }
}
