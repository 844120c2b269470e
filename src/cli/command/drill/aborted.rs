//! Drills of this machine that were killed or stopped: the next one writes down that there were some.

use std::path::PathBuf;

use super::run::{Given, evidence_store, files, signer};
use crate::cli::setup::App;
use crate::drill::begun::{Aborted, Begun, aborted};
use crate::error::{ErrorKind, Result};
use crate::store::EvidenceStore;

fn root(app: &App) -> Result<PathBuf> {
    Ok(app.state_directory()?.join("drills-begun"))
}

/// Notes that a drill begins, where this machine can.
pub(super) fn begin(app: &App, drill: &str) -> Option<Begun> {
    match root(app).and_then(|root| Begun::begin(&root, drill)) {
        Ok(begun) => Some(begun),
        Err(error) => {
            app.printer.warning(&format!(
                "if it is killed, the next drill will not know of it: {}",
                error.chain()
            ));
            None
        }
    }
}

/// Writes evidence of drills of the stack that were killed.
pub(super) fn keep(app: &App, given: &Given<'_>) {
    let kept = root(app)
        .and_then(|root| aborted(&root, &given.policy.stack, app.cx.clock.now()))
        .and_then(|all| all.into_iter().try_for_each(|one| keep_one(app, given, one)));
    if let Err(error) = kept {
        app.printer.warning(&format!(
            "a drill that was killed could not be written down: {}",
            error.chain()
        ));
    }
}

fn keep_one(app: &App, given: &Given<'_>, one: Aborted) -> Result<()> {
    let drill = given.policy.drills.get(&one.evidence.name).cloned().unwrap_or_default();
    let (store, lock) = evidence_store(given, &drill, app.cx.clock.now())?;
    let signer = if one.evidence.says_signed() { signer(app, &drill)? } else { None };
    let files = files(&one.evidence, &one.journal, &drill, signer.as_ref())?;
    let id = one.evidence.drill.clone();
    let place = EvidenceStore::new(store.store(), &given.policy.stack, &id).locked(lock);
    match files.iter().try_for_each(|(name, bytes)| place.create(name, bytes)) {
        // It was killed when its evidence was being written: what is there stays as it is.
        Err(error) if error.kind() == ErrorKind::Conflict => {}
        Err(error) => return Err(error),
        Ok(()) => {
            app.printer.talk(format!("  drill {id} was killed or stopped: it is listed as such"));
        }
    }
    one.is_kept();
    Ok(())
}
