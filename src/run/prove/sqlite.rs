//! A `SQLite` database: restored, and looked at by `SQLite` from its first page to its last.

use std::ffi::OsString;
use std::time::Instant;

use super::proof::{Proof, Request, lap};
use super::tree;
use crate::error::{IoContext as _, Result};
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::source::sqlite::check_file;

/// Restores the files, and checks each that is described by another.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    restored(request, proof, cx).map(drop)
}

/// The same, and leaves what was restored to be looked at.
pub(super) fn restored(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<Place> {
    let place = tree::restored(request, proof, cx)?;
    let mut since = Instant::now();
    cx.reporter.phase("checking");
    let data = place.path(DATA);
    for file in data.read_dir().doing(|| format!("failed to read {}", data.display()))? {
        let path = file.doing(|| format!("failed to read {}", data.display()))?.path();
        let mut facts: OsString = path.clone().into_os_string();
        facts.push(".json");
        if !std::path::Path::new(&facts).exists() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wrong = check_file(&path);
        if wrong.is_empty() {
            proof.proven.push(format!("integrity_check found nothing wrong in {name}"));
        }
        proof.findings.extend(wrong.iter().map(|line| format!("{name}: {line}")));
    }
    proof.server = Some(request.manifest.server.clone().unwrap_or_else(|| "SQLite".to_owned()));
    proof.check_seconds = lap(&mut since);
    Ok(place)
}
