//! What `check` says of a bucket.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Result;
use crate::source::{ProbeNote, SourceProbe};
use crate::store::Objects;

/// Objects that are asked whether their replication ever met them.
const SAMPLE: usize = 10;

/// Looks at a bucket. `versions`: what lies behind its objects is to be stored too.
pub fn probe(objects: &Objects, versions: bool) -> Result<SourceProbe> {
    let mut notes = Vec::new();
    let listed = match objects.list(None) {
        Ok((found, more)) => {
            let more = if more.is_some() { " and more" } else { "" };
            notes.push(ProbeNote::fact(format!(
                "{}: {} objects{more}",
                objects.name(),
                found.len()
            )));
            found
        }
        Err(error) => {
            return Ok(SourceProbe { notes: vec![ProbeNote::fault(error.advised())] });
        }
    };
    let settings = objects.settings()?;
    let versioning = settings.get("versioning").and_then(|found| found.as_str());
    notes.push(ProbeNote::fact(format!(
        "versioning is {}",
        versioning.unwrap_or("not known of this store")
    )));
    if versions && versioning == Some("off") {
        notes.push(ProbeNote::warning(
            "`versions: true`, and the bucket keeps none: turn versioning on, or leave it out",
        ));
    }
    if versions && let Err(error) = objects.list_versions(None) {
        notes.push(ProbeNote::fault(format!(
            "versions cannot be listed: {}; it takes the right s3:ListBucketVersions",
            error.chain()
        )));
    }
    let keys: Vec<&str> = listed.iter().take(SAMPLE).map(|one| one.key.as_str()).collect();
    notes.extend(replication(objects, &settings, versioning, &keys)?);
    Ok(SourceProbe { notes })
}

/// What is to be known of a bucket that is replicated: that it is no backup, and what would make it
/// less of a danger.
fn replication(
    objects: &Objects,
    settings: &BTreeMap<String, Value>,
    versioning: Option<&str>,
    keys: &[&str],
) -> Result<Vec<ProbeNote>> {
    let Some(rules) = settings.get("replication").and_then(Value::as_array) else {
        return Ok(Vec::new());
    };
    let mut notes = Vec::new();
    notes.push(ProbeNote::warning(no_backup(rules)));
    if versioning != Some("on") {
        notes.push(ProbeNote::warning(
            "it keeps no versions: what a replication does on this side cannot be undone",
        ));
    }
    if !settings.contains_key("object_lock") {
        notes.push(ProbeNote::warning(
            "it has no object lock: whoever may delete here may delete versions too",
        ));
    }
    let mut others: Vec<&str> = rules.iter().filter_map(|rule| rule["to"].as_str()).collect();
    others.sort_unstable();
    others.dedup();
    for to in others {
        notes.push(other_side(objects, to));
    }
    let mut met = 0;
    for key in keys {
        met += usize::from(objects.replication_of(key)?.is_some());
    }
    if met < keys.len() {
        notes.push(ProbeNote::warning(format!(
            "{} of {} objects that were looked at were never replicated: those from before the rule are not, unless somebody does so",
            keys.len() - met,
            keys.len()
        )));
    } else if met > 0 {
        notes.push(ProbeNote::fact(format!("{met} objects that were looked at are replicated")));
    }
    Ok(notes)
}

/// What replication takes along.
fn no_backup(rules: &[Value]) -> &'static str {
    if rules.iter().any(|rule| rule["deletes"] == "Enabled") {
        "it is replicated, which is no backup: what is overwritten here is overwritten there, and what is deleted here is deleted there"
    } else {
        "it is replicated, which is no backup: what is overwritten here is overwritten there"
    }
}

fn other_side(objects: &Objects, to: &str) -> ProbeNote {
    let side = objects.other_side(to);
    match (side.versions, side.locks) {
        (Some(true), Some(true)) => {
            ProbeNote::fact(format!("the other side, {to}, keeps versions and can lock them"))
        }
        (None, _) => ProbeNote::warning(format!(
            "the other side, {to}, does not tell these credentials whether it keeps versions and locks them: look there"
        )),
        (Some(false), _) => ProbeNote::warning(format!(
            "the other side, {to}, keeps no versions: what is overwritten there is gone"
        )),
        (Some(true), locks) => ProbeNote::warning(format!(
            "the other side, {to}, keeps versions and {}",
            if locks.is_some() {
                "locks none: they can be deleted"
            } else {
                "does not tell whether it locks them"
            }
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn deletions_that_are_passed_on_are_said_so() {
        let said = "what is deleted here is deleted there";
        let rule = |deletes: &str| json!({ "to": "arn:aws:s3:::other", "deletes": deletes });
        assert!(no_backup(&[rule("Enabled")]).contains(said));
        assert!(no_backup(&[rule("Disabled"), rule("Enabled")]).contains(said));
        for rules in [vec![rule("Disabled")], vec![json!({ "to": "arn:aws:s3:::other" })]] {
            assert!(!no_backup(&rules).contains(said));
            assert!(no_backup(&rules).contains("no backup"));
        }
    }
}
