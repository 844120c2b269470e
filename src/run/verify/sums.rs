//! SHA256SUMS says what the manifest says.

use std::collections::BTreeSet;
use std::io::Read as _;

use super::report::{Finding, Report};
use super::stored::altered;
use crate::archive::digest::sha256_hex;
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::store::SourceStore;

/// Compares the list with the manifest and adds what differs to the report.
pub fn check_sums(
    source: &SourceStore,
    manifest: &Manifest,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let sums = &manifest.sums;
    if report.findings.iter().any(|finding| finding.object == sums.path) {
        return Ok(());
    }
    let mut text = String::new();
    let read = source.open(&sums.path, sums.size, &cx.reporter).whole().read_to_string(&mut text);
    if let Err(error) = read {
        let error = Error::io(format!("failed to read {}", sums.path), error);
        if error.kind() != ErrorKind::Damaged && error.kind() != ErrorKind::Failed {
            return Err(error);
        }
    }
    if sha256_hex(text.as_bytes()) != sums.sha256 {
        report.findings.push(altered(&sums.path));
        return Ok(());
    }
    let listed: BTreeSet<&str> = text.lines().collect();
    let expected: Vec<String> = manifest
        .objects()
        .filter(|(path, _, _)| *path != sums.path)
        .map(|(path, _, sha256)| format!("{sha256}  {path}"))
        .collect();
    if listed != expected.iter().map(String::as_str).collect() {
        report.findings.push(Finding {
            object: sums.path.clone(),
            problem: "lists other objects or digests than the manifest".to_owned(),
            costs: None,
        });
    }
    Ok(())
}
