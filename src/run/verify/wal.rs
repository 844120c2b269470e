//! The WAL that a base backup needs.

use std::io;

use super::report::{Depth, Finding, Report};
use crate::archive::crypt::Keyring;
use crate::archive::manifest::Manifest;
use crate::error::{ErrorKind, Result};
use crate::run::Context;
use crate::store::{SourceStore, WalStore};

/// Looks for it; at depth `content` it is also read, and is what was stored.
pub fn check(
    source: &SourceStore,
    manifest: &Manifest,
    depth: Depth,
    keys: &Keyring,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let Some(needed) = &manifest.wal else { return Ok(()) };
    let wal = WalStore::reader(source, manifest.is_encrypted());
    let missing = wal.missing(needed)?;
    for name in needed.segments() {
        cx.reporter.check()?;
        report.objects += 1;
        let problem = if missing.contains(&name) {
            "is missing, and the backup cannot be used without it".to_owned()
        } else if depth == Depth::Content {
            let read = wal.get(needed.system_id, &name, keys, &cx.reporter, &mut io::sink());
            match read {
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::Damaged => error.chain(),
                Err(error) => return Err(error),
            }
        } else {
            continue;
        };
        let object = wal.path(needed.system_id, &name);
        report.findings.push(Finding { object, problem, costs: None });
    }
    Ok(())
}
