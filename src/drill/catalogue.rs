//! The drills that a repository has evidence of.

use bytes::Bytes;

use super::evidence::{EVIDENCE, Evidence, REPORT_HTML, SUMS, Severity, VERSION};
use super::seal::is_sealed;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::state::DrillRow;
use crate::store::{EvidenceStore, Store, drills_with_evidence};

/// A drill as a listing shows it.
#[derive(Debug)]
pub struct Listed {
    /// The drill.
    pub drill: String,
    /// What was written down; an error where that is missing, altered or damaged.
    pub evidence: Result<Evidence>,
}

/// What is missing of evidence: nobody removes one file alone, but a writer may be cut short.
fn missing(name: &str, drill: &str) -> Error {
    Error::damaged(format!("drill {drill} has no {name}"))
        .hint("it was cut short while it was written, or somebody removed it")
}

/// A file of evidence that its digest says is what was written.
fn sealed(name: &str, drill: &str, bytes: Option<Bytes>, sums: Option<Bytes>) -> Result<Bytes> {
    let bytes = bytes.ok_or_else(|| missing(name, drill))?;
    let sums = sums.ok_or_else(|| missing(SUMS, drill))?;
    if is_sealed(&sums, name, &bytes) {
        return Ok(bytes);
    }
    Err(Error::damaged(format!("{name} of drill {drill} was altered: it is not what {SUMS} says"))
        .hint(format!("`backstay drill verify {drill}`; compare it with a copy of the repository")))
}

/// The newest drills of a stack, at most `most`, oldest first. One whose evidence cannot be read is
/// an error in its place.
pub fn list(store: &Store, stack: &str, most: usize) -> Result<Vec<Listed>> {
    let mut drills = drills_with_evidence(store, stack)?;
    drills.retain(|drill| is_id(drill));
    let drills = drills.split_off(drills.len().saturating_sub(most));
    let read = EvidenceStore::read_of(store, stack, &drills, EVIDENCE);
    let sums = EvidenceStore::read_of(store, stack, &drills, SUMS);
    let listed =
        drills.into_iter().zip(read.into_iter().zip(sums)).map(|(drill, (bytes, sums))| {
            let evidence = bytes
                .and_then(|bytes| sealed(EVIDENCE, &drill, bytes, sums?))
                .and_then(|bytes| parse(&bytes, &drill));
            Listed { drill, evidence }
        });
    Ok(listed.collect())
}

/// The evidence of a drill; `None` if the repository has none.
pub fn read(store: &Store, stack: &str, drill: &str) -> Result<Option<Evidence>> {
    let files = EvidenceStore::new(store, stack, drill);
    let Some(bytes) = files.read(EVIDENCE)? else { return Ok(None) };
    parse(&sealed(EVIDENCE, drill, Some(bytes), files.read(SUMS)?)?, drill).map(Some)
}

/// The report as it was stored, in the language in which it was.
pub fn stored_report(store: &Store, stack: &str, drill: &str) -> Result<String> {
    let files = EvidenceStore::new(store, stack, drill);
    let bytes = sealed(REPORT_HTML, drill, files.read(REPORT_HTML)?, files.read(SUMS)?)?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Error::damaged(format!("{REPORT_HTML} of drill {drill} is no text")))
}

/// What is kept on this machine of a drill that a policy names.
pub fn in_row(evidence: &Evidence) -> DrillRow {
    let gravest = evidence.findings.iter().find(|one| one.severity > Severity::Finding);
    DrillRow {
        stack: evidence.stack.clone(),
        name: evidence.name.clone(),
        drill: evidence.drill.clone(),
        at: evidence.started,
        verdict: evidence.verdict.word().to_owned(),
        why: gravest.map(|finding| finding.text.clone()).unwrap_or_default(),
        rto: evidence.rto.from_declaration_seconds,
        rpo: evidence.rpo_seconds,
        passed: evidence.verdict.is_good().then_some(evidence.started),
    }
}

/// Whether `text` looks like the id of a drill.
pub fn is_id(text: &str) -> bool {
    BackupId::looks_like(text)
}

/// Reads `evidence.json` of a drill.
pub fn parse(bytes: &[u8], drill: &str) -> Result<Evidence> {
    let damaged = |error| {
        Error::damaged(format!("{EVIDENCE} of drill {drill} is damaged")).with_source(error)
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    let version = value.get("backstay_evidence").and_then(serde_json::Value::as_u64);
    match version {
        Some(version) if version > u64::from(VERSION) => {
            return Err(Error::unsupported(format!(
                "{EVIDENCE} of drill {drill} has format {version}; this program reads {VERSION}"
            ))
            .hint("use a newer backstay"));
        }
        Some(_) => {}
        None => {
            return Err(Error::damaged(format!("{EVIDENCE} of drill {drill} is no evidence")));
        }
    }
    let evidence: Evidence = serde_json::from_value(value).map_err(damaged)?;
    if evidence.drill != drill {
        let what = format!("{EVIDENCE} of drill {drill} is that of {}", evidence.drill);
        return Err(Error::damaged(what));
    }
    Ok(evidence)
}
