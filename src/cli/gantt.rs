//! Runs as bars, one line a job.

use jiff::{SignedDuration, Timestamp};

use crate::daemon::timetable::Run;
use crate::id::BackupKind;
use crate::policy::Policy;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// 24 hours, half an hour a column.
    Day,
    /// 7 days, three hours a column.
    Week,
}

impl Span {
    const fn columns(self) -> usize {
        match self {
            Self::Day => 48,
            Self::Week => 56,
        }
    }

    const fn column(self) -> SignedDuration {
        match self {
            Self::Day => SignedDuration::from_mins(30),
            Self::Week => SignedDuration::from_hours(3),
        }
    }

    /// Columns between two labels.
    const fn label_every(self) -> usize {
        match self {
            Self::Day => 6,
            Self::Week => 8,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Day => "%H:%M",
            Self::Week => "%a %d",
        }
    }
}

/// A line of hours or days, a line a window, a line a job, and what the letters mean. Plain text: a
/// letter a column.
pub fn draw(policy: &Policy, runs: &[Run], from: Timestamp, span: Span) -> Vec<String> {
    let names = policy.jobs.keys().chain(policy.windows.keys());
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).max(3);
    let zone = policy.time_zone();
    let start = |column: usize| {
        let offset = span.column().checked_mul(i32::try_from(column).unwrap_or(i32::MAX));
        from.checked_add(offset.unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
    };
    let row = |name: &str, cells: &str| format!("{name:width$}  |{cells}|");
    let mut head = String::new();
    for column in (0..span.columns()).step_by(span.label_every()) {
        let label = start(column).to_zoned(zone.clone()).strftime(span.label()).to_string();
        head.push_str(&format!("{label:<every$}", every = span.label_every()));
    }
    let mut lines = vec![format!("{:width$}   {}", "", head.trim_end())];
    for (name, window) in &policy.windows {
        let open = |column: usize| {
            let opens = window.opens_from(start(column), &zone);
            if opens.is_some_and(|opens| opens < start(column + 1)) { '=' } else { ' ' }
        };
        lines.push(row(name, &(0..span.columns()).map(open).collect::<String>()));
    }
    for name in policy.jobs.keys() {
        let mut cells = vec![' '; span.columns()];
        for run in runs.iter().filter(|run| run.job == *name && !run.is_covered()) {
            for (column, cell) in cells.iter_mut().enumerate() {
                let begins = run.start >= start(column) && run.start < start(column + 1);
                let goes_on = run.start < start(column) && run.end > start(column);
                if begins || goes_on {
                    *cell = letter(run);
                }
            }
        }
        lines.push(row(name, &cells.into_iter().collect::<String>()));
    }
    lines.push("F full, I incremental, S snapshot, C copy, V verify, P prune, = window".to_owned());
    lines
}

fn letter(run: &Run) -> char {
    match (run.kind, run.verb) {
        (Some(BackupKind::Full), _) => 'F',
        (Some(BackupKind::Incremental), _) => 'I',
        (Some(BackupKind::Snapshot), _) => 'S',
        (None, "verify") => 'V',
        (None, "prune") => 'P',
        (None, _) => 'C',
    }
}
