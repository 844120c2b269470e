//! A backup that a site wrote after another one had become the active one.

use crate::archive::manifest::Manifest;
use crate::cli::confirm;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};

/// What a fenced site wrote is restored only where somebody says that it is what they want.
pub fn confirm(
    app: &App,
    (allowed, dry_run): (bool, bool),
    opened: Opened,
    manifest: &Manifest,
) -> Result<Opened> {
    let source = opened.repository.source(&manifest.address());
    let Some(divergence) = source.epochs().of(manifest) else { return Ok(opened) };
    let what = format!("{} is divergent: it was {divergence}", manifest.backup);
    if dry_run {
        app.printer.warning(&what);
    } else {
        confirm::type_name(app, &what, manifest.backup.as_str(), allowed).map_err(|error| {
            // `--yes` is not enough: who restores by a script means what counts.
            Error::new(error.kind(), error.to_string())
                .hint("`--allow-divergent` says that it is wanted; `--yes` does not")
        })?;
    }
    Ok(opened.ignoring_epochs())
}
