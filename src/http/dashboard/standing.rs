//! How each source stands: what the daemon last found in the repositories, as old as it is now.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::html::{Html, html};
use super::page::Scene;
use crate::error::Result;
use crate::policy::Policy;
use crate::state::{RunRow, State};

/// What was found of a source, as `backstay status` has it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// The newest instant that can be restored.
    pub time: Option<Timestamp>,
    /// The backup that it is restored from.
    pub backup: Option<String>,
    /// It is reached by replaying WAL.
    pub by_wal: bool,
    /// The oldest instant.
    pub oldest: Option<Timestamp>,
    /// How many backups there are.
    pub backups: u64,
    /// The repository it is backed up to.
    pub repository: Option<String>,
    /// The newest instant lies ahead: a clock was wrong, or is, and it proves nothing.
    pub ahead: bool,
    /// The newest instant in each other repository.
    pub elsewhere: BTreeMap<String, Timestamp>,
    /// Repositories that did not answer, and why.
    pub unreachable: BTreeMap<String, String>,
    /// When it was found sound, by depth.
    pub verified: BTreeMap<String, Timestamp>,
    /// Objects that are missing or altered.
    pub damaged: u64,
    /// How long the last recovery that was proven took.
    pub measured_rto_seconds: Option<u64>,
    /// When that was.
    pub measured_rto_at: Option<Timestamp>,
    /// How long it would take now.
    pub estimated_rto_seconds: Option<u64>,
    /// The last run that is over.
    pub last_run: Option<RunRow>,
    /// `unknown` where the repository did not answer.
    pub verdict: String,
}

/// How a source stands, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing of it can be restored.
    Unprotected,
    /// More would be lost than its RPO.
    RpoMissed,
    /// Objects of it are missing or altered.
    Damaged,
    /// Its recovery would take longer than its RTO.
    RtoMissed,
    /// Its repository does not answer.
    Unknown,
    /// Nobody looked yet.
    NotLooked,
    /// All is well.
    Holds,
}

/// A source of a policy.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Its policy.
    pub policy: &'a Policy,
    /// Its name.
    pub name: &'a str,
    /// When it was looked at last, and what was found.
    pub found: Option<(Timestamp, Found)>,
}

impl Source<'_> {
    /// Seconds that would be lost now.
    pub fn exposure(&self, now: Timestamp) -> Option<u64> {
        let newest = self.found.as_ref()?.1.time?;
        Some(now.duration_since(newest).max(SignedDuration::ZERO).as_secs().unsigned_abs())
    }

    /// Its RPO in seconds.
    pub fn rpo(&self) -> u64 {
        self.policy.objectives_of(self.name).rpo.as_secs()
    }

    /// Its RTO in seconds.
    pub fn rto(&self) -> u64 {
        self.policy.objectives_of(self.name).rto.as_secs()
    }

    /// How it stands.
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        let Some((_, found)) = &self.found else { return Verdict::NotLooked };
        let Some(exposure) = self.exposure(now) else {
            return if found.verdict == "unknown" {
                Verdict::Unknown
            } else {
                Verdict::Unprotected
            };
        };
        let late = found.estimated_rto_seconds.is_some_and(|seconds| seconds > self.rto());
        match () {
            () if found.verdict == "unknown" => Verdict::Unknown,
            () if found.ahead || exposure > self.rpo() => Verdict::RpoMissed,
            () if found.damaged > 0 => Verdict::Damaged,
            () if late => Verdict::RtoMissed,
            () => Verdict::Holds,
        }
    }

    /// Since when its RPO is missed, if it is.
    pub fn missed_since(&self, now: Timestamp) -> Option<Timestamp> {
        let newest = self.found.as_ref()?.1.time?;
        let rpo = SignedDuration::from_secs(i64::try_from(self.rpo()).ok()?);
        newest.checked_add(rpo).ok().filter(|since| *since < now)
    }
}

impl Verdict {
    /// The class that it is coloured by.
    pub const fn tone(self) -> &'static str {
        match self {
            Self::Unprotected | Self::RpoMissed | Self::Damaged => "bad",
            Self::RtoMissed | Self::Unknown => "warn",
            Self::NotLooked => "calm",
            Self::Holds => "good",
        }
    }

    /// The words.
    pub const fn words(self, scene: &Scene<'_>) -> &'static str {
        match self {
            Self::Unprotected => scene.say("unprotected", "未受保护"),
            Self::RpoMissed => scene.say("RPO missed", "RPO 超标"),
            Self::Damaged => scene.say("damaged", "有损坏"),
            Self::RtoMissed => scene.say("RTO missed", "RTO 超标"),
            Self::Unknown => scene.say("cannot tell", "无法判断"),
            Self::NotLooked => scene.say("not looked at yet", "尚未检查"),
            Self::Holds => scene.say("holds", "达标"),
        }
    }

    /// Whether something is wrong.
    pub const fn is_wrong(self) -> bool {
        !matches!(self, Self::Holds | Self::NotLooked)
    }
}

/// Every source of the policies in force, in their order.
pub fn sources<'a>(scene: &'a Scene<'_>, state: &State) -> Result<Vec<Source<'a>>> {
    let mut looks: BTreeMap<(String, String), (Timestamp, Found)> = state
        .looks()?
        .into_iter()
        .filter_map(|row| {
            let found = serde_json::from_str(&row.found).ok()?;
            Some(((row.stack, row.source), (row.at, found)))
        })
        .collect();
    let mut all = Vec::new();
    for policy in &*scene.sheet.policies {
        for name in policy.sources.keys() {
            let found = looks.remove(&(policy.stack.clone(), name.clone()));
            all.push(Source { policy, name, found });
        }
    }
    Ok(all)
}

/// How much of an objective is used up, as a bar of which two thirds are what is allowed.
pub fn gauge(scene: &Scene<'_>, what: &str, value: u64, of: u64, tone: &'static str) -> Html {
    let share = if of == 0 { 1.5 } else { value as f64 / of as f64 };
    let percent = (share * 100.0).round() as u64;
    let width = (share / 1.5 * 96.0).clamp(1.0, 96.0);
    let label = scene.words.pick(
        || format!("{what}: {} of {}, {percent}%", scene.words.span(value), scene.words.span(of)),
        || format!("{what}：{} / {}，{percent}%", scene.words.span(value), scene.words.span(of)),
    );
    html(
        "<svg class=\"gauge\" viewBox=\"0 0 96 10\" width=\"96\" height=\"10\" role=\"img\" aria-label=\"{}\"><title>{}</title>\
         <rect class=\"track\" x=\"0\" y=\"2\" width=\"96\" height=\"6\"/><rect class=\"{}\" x=\"0\" y=\"2\" width=\"{}\" height=\"6\"/>\
         <path class=\"limit\" d=\"M64 0V10\"/></svg>",
        &[&label, &label, &tone, &width],
    )
}
