//! SHA256SUMS says what the manifest says.

use std::fmt::Write as _;
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
    let mut stored = Vec::new();
    match source.open(&sums.path, sums.size, &cx.reporter).whole().read_to_end(&mut stored) {
        Ok(_) => {}
        Err(error) => {
            let error = Error::io(format!("failed to read {}", sums.path), error);
            // A store that cannot be read says nothing of what is stored.
            if error.kind() != ErrorKind::Damaged {
                return Err(error);
            }
        }
    }
    if sha256_hex(&stored) != sums.sha256 {
        report.findings.push(altered(&sums.path));
        return Ok(());
    }
    let mut expected = String::new();
    for (path, sha256) in manifest.summed() {
        let _ = writeln!(expected, "{sha256}  {path}");
    }
    if stored != expected.as_bytes() {
        report.findings.push(Finding {
            object: sums.path.clone(),
            problem: "lists other objects or digests than the manifest, or in another order"
                .to_owned(),
            costs: None,
        });
    }
    Ok(())
}
