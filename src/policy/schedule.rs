//! When jobs run, and the longest interval between their runs.
//!
//! `cron` is civil time in the policy's time zone; `every` is elapsed time and knows no clock
//! changes; `after` follows other jobs.

use std::{fmt, time::Duration};

use indexmap::IndexMap;
use jiff::{Timestamp, ToSpan as _, Zoned, civil::Date, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    cron::{Cron, Minutes, resolve, sample, time_of},
    job::Job,
    value::Period,
};

/// When a job runs: a mapping with one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// At times of the calendar.
    Cron(Cron),
    /// Again and again after this much time.
    Every(Period),
    /// After each success of one of these jobs.
    After(Vec<String>),
}

/// What makes jobs run, `after` resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rhythm {
    /// Times of the calendar.
    Cron(Cron),
    /// Elapsed time.
    Every(Period),
}

/// What makes a job run: its own schedule, or those of the jobs it comes after, through any
/// number of steps. Unknown jobs and cycles add nothing.
pub fn rhythms(jobs: &IndexMap<String, Job>, job: &str) -> Vec<Rhythm> {
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![job];
    while let Some(name) = open.pop() {
        let Some((name, job)) = jobs.get_key_value(name) else {
            continue;
        };
        if !seen.insert(name) {
            continue;
        }
        match &job.schedule {
            Schedule::Cron(cron) => found.push(Rhythm::Cron(cron.clone())),
            Schedule::Every(period) => found.push(Rhythm::Every(*period)),
            Schedule::After(names) => open.extend(names.iter().map(String::as_str)),
        }
    }
    found
}

/// The longest interval between two runs, and an example of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorstGap {
    /// How long it is.
    pub length: Period,
    /// A run with that interval after it; `None` for elapsed time.
    pub from: Option<Zoned>,
    /// The run at its end; `None` for elapsed time.
    pub until: Option<Zoned>,
}

impl fmt::Display for WorstGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.length.fmt(f)?;
        if let (Some(from), Some(until)) = (&self.from, &self.until) {
            let format =
                if self.length.as_secs() < 6 * 86_400 { "%a %H:%M" } else { "%Y-%m-%d %H:%M" };
            write!(f, " ({} to {}", from.strftime(format), until.strftime(format))?;
            if from.offset() != until.offset() {
                let change = from.time_zone().following(from.timestamp()).next();
                let day = change.map_or(until.timestamp(), |change| change.timestamp());
                let day = day.to_zoned(until.time_zone().clone());
                write!(f, ", where the clocks change on {}", day.strftime("%Y-%m-%d"))?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// The longest interval between runs when several rhythms drive the same work.
///
/// Intervals are elapsed time between civil times in `zone`: an hour longer where the clocks go
/// back. `None` if there is no rhythm.
pub fn worst_gap(rhythms: &[Rhythm], zone: &TimeZone) -> Option<WorstGap> {
    let every = rhythms
        .iter()
        .filter_map(|rhythm| match rhythm {
            Rhythm::Every(period) => Some(*period),
            Rhythm::Cron(_) => None,
        })
        .min()
        .map(|length| WorstGap { length, from: None, until: None });
    let crons: Vec<&Cron> = rhythms
        .iter()
        .filter_map(|rhythm| match rhythm {
            Rhythm::Cron(cron) => Some(cron),
            Rhythm::Every(_) => None,
        })
        .collect();
    let calendar = calendar_gap(&crons, zone);
    // Both may bound it: whichever comes sooner.
    match (every, calendar) {
        (Some(every), Some(calendar)) if calendar.length < every.length => Some(calendar),
        (every, calendar) => every.or(calendar),
    }
}

fn calendar_gap(crons: &[&Cron], zone: &TimeZone) -> Option<WorstGap> {
    let mut worst: Option<(Duration, Timestamp, Timestamp)> = None;
    let mut last: Option<Timestamp> = None;
    let mut measure = |from: Timestamp, until: Timestamp| {
        let length = until.duration_since(from).unsigned_abs();
        if worst.is_none_or(|(longest, ..)| length > longest) {
            worst = Some((length, from, until));
        }
    };
    for (index, day) in sample().enumerate() {
        let due: Vec<&Cron> = crons.iter().copied().filter(|cron| cron.runs_on(index)).collect();
        let Some(runs) = DayRuns::of(day, &due, zone) else {
            continue;
        };
        if let Some(last) = last {
            measure(last, runs.first);
        }
        if let Some((from, until)) = runs.widest {
            measure(from, until);
        }
        last = Some(runs.last);
    }
    let (length, from, until) = worst?;
    Some(WorstGap {
        length: Period::new(length),
        from: Some(from.to_zoned(zone.clone())),
        until: Some(until.to_zoned(zone.clone())),
    })
}

/// What matters of the runs of one day.
struct DayRuns {
    first: Timestamp,
    last: Timestamp,
    /// The two neighbours farthest apart.
    widest: Option<(Timestamp, Timestamp)>,
}

impl DayRuns {
    fn of(day: Date, due: &[&Cron], zone: &TimeZone) -> Option<Self> {
        if due.is_empty() {
            return None;
        }
        let start = instant(day, 0, zone)?;
        let end = instant(day.saturating_add(1.day()), 0, zone)?;
        if end.duration_since(start).as_secs() != 86_400 {
            return Self::at_clock_change(day, due, zone);
        }
        let mut minutes = Minutes::default();
        for cron in due {
            minutes.add(cron.minutes());
        }
        let mut minutes = minutes.iter();
        let first = minutes.next()?;
        let (mut last, mut widest) = (first, None);
        for minute in minutes {
            if widest.is_none_or(|(from, until)| minute - last > until - from) {
                widest = Some((last, minute));
            }
            last = minute;
        }
        Some(Self {
            first: instant(day, first, zone)?,
            last: instant(day, last, zone)?,
            widest: match widest {
                Some((from, until)) => {
                    Some((instant(day, from, zone)?, instant(day, until, zone)?))
                }
                None => None,
            },
        })
    }

    /// On days that are not 24 hours long every time counts for itself.
    fn at_clock_change(day: Date, due: &[&Cron], zone: &TimeZone) -> Option<Self> {
        let minutes = due.iter().flat_map(|cron| cron.minutes().iter());
        let mut runs: Vec<Timestamp> =
            minutes.filter_map(|minute| instant(day, minute, zone)).collect();
        runs.sort_unstable();
        runs.dedup();
        let apart = |pair: &&[Timestamp]| pair[1].duration_since(pair[0]);
        Some(Self {
            first: *runs.first()?,
            last: *runs.last()?,
            widest: runs.windows(2).max_by_key(apart).map(|pair| (pair[0], pair[1])),
        })
    }
}

fn instant(day: Date, minute: usize, zone: &TimeZone) -> Option<Timestamp> {
    resolve(time_of(day, minute), zone)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn gap(zone: &str, crons: &[&str]) -> WorstGap {
        let rhythms: Vec<Rhythm> =
            crons.iter().map(|cron| Rhythm::Cron(cron.parse().unwrap())).collect();
        worst_gap(&rhythms, &TimeZone::get(zone).unwrap()).unwrap()
    }

    #[test]
    fn gaps_without_clock_changes() {
        for (crons, length) in [
            (&["*/15 * * * *"][..], 900),
            (&["30 */4 * * *"], 4 * 3600),
            (&["0 3 * * 0", "0 3 * * 1-6"], 24 * 3600),
            (&["0 3 * * 0"], 7 * 86_400),
            (&["0 9-17 * * 1-5"], 64 * 3600),
            (&["0 0 1 * *"], 31 * 86_400),
            (&["0 0 29 2 *"], 1461 * 86_400),
            (&["* * * 1-6 *"], 184 * 86_400 + 60),
            (&["0 4 1 1,4,7,10 *"], 92 * 86_400),
            (&["0 0 * * *", "0 6 * * *", "0 20 * * *"], 14 * 3600),
        ] {
            assert_eq!(gap("Asia/Shanghai", crons).length.as_secs(), length, "{crons:?}");
        }
    }

    #[test]
    fn clocks_that_go_back_make_an_hour_more() {
        assert_eq!(gap("Europe/Berlin", &["0 3 * * *"]).length.as_secs(), 25 * 3600);
        assert!(gap("Europe/Berlin", &["0 3 * * *"]).to_string().contains("clocks change"));
        // A time that exists twice is due once.
        assert_eq!(gap("Europe/Berlin", &["*/15 * * * *"]).length.as_secs(), 3600 + 900);
    }

    #[test]
    fn elapsed_time_and_calendar_bound_each_other() {
        let every = Rhythm::Every("6h".parse().unwrap());
        let daily = Rhythm::Cron("0 3 * * *".parse().unwrap());
        let hourly = Rhythm::Cron("0 * * * *".parse().unwrap());
        let length =
            |rhythms: &[Rhythm]| worst_gap(rhythms, &TimeZone::UTC).unwrap().length.to_string();
        assert_eq!(length(&[every.clone(), daily]), "6h");
        assert_eq!(length(&[every, hourly]), "1h");
        assert_eq!(worst_gap(&[], &TimeZone::UTC), None);
    }
}
