//! Remembering what a verification proved.

use crate::archive::manifest::Manifest;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::run::verify::{Depth, Report, proof_depth, proofs_of};
use crate::state::State;

/// Keeps proofs where there is a place for them. Where there is none, that is said once, and the
/// verification is as good without.
pub(super) struct Memory<'a> {
    app: &'a App,
    state: Option<State>,
}

impl<'a> Memory<'a> {
    /// Opens the state, if verifications of this depth prove anything.
    pub(super) fn new(app: &'a App, depth: Depth) -> Self {
        let state = proof_depth(depth).and_then(|_| {
            let opened = app.state();
            opened.inspect_err(|error| warn(app, error)).ok()
        });
        Self { app, state }
    }

    /// Keeps what a report proves.
    pub(super) fn keep(&mut self, opened: &Opened, manifest: &Manifest, report: &Report) {
        let Some(state) = &self.state else { return };
        let kept: Result<()> = {
            let proofs = proofs_of(report, manifest, self.app.cx.clock.now());
            state.record_proofs(&opened.repository.descriptor().id, &report.source, &proofs)
        };
        if let Err(error) = kept {
            warn(self.app, &error);
            self.state = None;
        }
    }
}

fn warn(app: &App, error: &Error) {
    app.printer.warning(&format!("what is proven will not be remembered: {}", error.chain()));
}
