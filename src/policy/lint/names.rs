//! Version, names, tier and time zone.

use jiff::tz::TimeZone;

use super::Findings;
use crate::policy::{suggest, value::is_valid_name};

/// Beside the directories of stacks, a repository has these of its own.
const RESERVED_STACKS: [&str; 5] =
    ["keys", "backstay.json", "restore.md", "restore.sh", "backstay"];
/// These mean something else where the name of a source may stand.
const RESERVED_SOURCES: [&str; 2] = ["all", "none"];
/// More than this in one stack is not a policy any more.
const MAX_ITEMS: [(&str, usize); 5] =
    [("repositories", 50), ("sources", 500), ("jobs", 100), ("windows", 50), ("pools", 50)];

/// Whether the sections are of a size that the other rules, some of them quadratic, are made for.
pub(super) fn are_few(findings: &mut Findings<'_>) -> bool {
    let mut few = true;
    for (section, most) in MAX_ITEMS {
        let found = findings.names(section).len();
        if found > most {
            few = false;
            findings.error_at_key(
                &[section],
                format!("{found} {section} in one policy"),
                format!("at most {most} are taken: split the stack"),
            );
        }
    }
    few
}

pub(super) fn check(findings: &mut Findings<'_>) {
    version(findings);
    stack(findings);
    for section in
        ["repositories", "sources", "jobs", "windows", "pools", "sites", "playbooks", "drills"]
    {
        for name in findings.names(section) {
            valid(findings, &[section, name], name);
        }
    }
    for name in findings.names("sources") {
        if RESERVED_SOURCES.contains(&name) {
            findings.error_at_key(
                &["sources", name],
                format!("`{name}` cannot be the name of a source"),
                "it means all or none of them elsewhere: choose another",
            );
        }
    }
    objectives(findings);
    time_zone(findings);
    compression(findings);
}

fn version(findings: &mut Findings<'_>) {
    let version = findings.policy.version;
    if version != 1 {
        findings.error(
            &["version"],
            format!("policy version {version} is not known"),
            "this program reads version 1: write `version: 1`, or use a newer program",
        );
    }
}

fn stack(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    if findings.root.get("stack").is_none() {
        return;
    }
    valid(findings, &["stack"], &policy.stack);
    if RESERVED_STACKS.contains(&policy.stack.as_str()) {
        findings.error(
            &["stack"],
            format!("`{}` cannot be the name of a stack", policy.stack),
            "a repository has an object of that name of its own: choose another",
        );
    }
}

fn valid(findings: &mut Findings<'_>, path: &[&str], name: &str) {
    if !is_valid_name(name) {
        let message = format!("bad name `{}`", name.chars().take(70).collect::<String>());
        let hint = "names become object keys: 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit";
        if path.len() == 1 {
            findings.error(path, message, hint);
        } else {
            findings.error_at_key(path, message, hint);
        }
    }
}

fn objectives(findings: &mut Findings<'_>) {
    let targets = findings.policy.objectives;
    let unread = findings.root.get("tier").is_some() || findings.root.get("objectives").is_some();
    if findings.policy.tier.is_none() && !unread {
        findings.error_at_key(
            &["stack"],
            "neither `tier` nor `objectives` is given",
            "add `tier: production`, `staging` or `development`, or `objectives: { rto: 1h, rpo: 15m }`",
        );
    } else if findings.root.get("tier").is_none()
        && (targets.rto.is_none() || targets.rpo.is_none())
    {
        findings.error_at_key(
            &["objectives"],
            "without a tier both `rto` and `rpo` are needed",
            "add the missing one, or `tier: production`, `staging` or `development`",
        );
    }
}

fn time_zone(findings: &mut Findings<'_>) {
    let name = &findings.policy.timezone;
    if findings.root.get("timezone").is_none() {
        findings.warning_at_key(
            &["stack"],
            "no `timezone`: schedules are in UTC",
            "say which: `timezone: Asia/Shanghai`, or `timezone: UTC`",
        );
    } else if TimeZone::get(name).is_err() {
        let zones = jiff::tz::db();
        let known: Vec<String> = zones.available().map(|zone| zone.to_string()).collect();
        let hint = suggest::nearest(name, known.iter().map(String::as_str)).map_or_else(
            || "write an IANA name, such as Asia/Shanghai, Europe/Berlin or UTC".to_owned(),
            |zone| format!("did you mean `{zone}`?"),
        );
        findings.error(&["timezone"], format!("unknown time zone `{name}`"), hint);
    }
}

fn compression(findings: &mut Findings<'_>) {
    level(findings, &["compression", "level"], findings.policy.compression.level);
    for (name, source) in &findings.policy.sources {
        if let Some(compression) = source.compression {
            level(findings, &["sources", name, "compression", "level"], compression.level);
        }
    }
}

fn level(findings: &mut Findings<'_>, path: &[&str], level: u8) {
    if !(1..=19).contains(&level) {
        findings.error(
            path,
            format!("there is no compression level {level}"),
            "write 1 (fast) to 19 (small); 3 is a good choice",
        );
    }
}
