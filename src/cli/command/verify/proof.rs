//! `backstay verify --depth restore`

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Args, Found};
use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::command::restore_part::roles;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::run::prove::{Proof, Request, Verdict, prove};
use crate::state::{Recovery, State};

/// Proves the backups named, or else the newest of every source.
pub(super) fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let scratch = args.scratch.as_deref().ok_or_else(|| {
        Error::usage("--depth restore needs a directory to restore to")
            .hint("--scratch DIR, with room for the largest of the backups; it is empty afterwards")
    })?;
    if args.budget.is_some() || args.repair_from.is_some() {
        return Err(Error::usage("--depth restore goes with neither --budget nor --repair-from"));
    }
    let mut found = Found::new(app, &args.backups, None)?;
    for unreadable in &found.unreadable {
        app.printer.error(&unreadable.error);
    }
    if args.backups.is_empty() {
        newest(&mut found.backups);
    }
    let state = app.state().inspect_err(|error| forgotten(app, error)).ok();
    let (mut proofs, mut damaged, mut failed) = (Vec::new(), found.unreadable.len() as u64, None);
    let mut inconclusive = 0;
    for (at, manifest) in &found.backups {
        let begun = app.cx.clock.now();
        let opened = &found.opened[*at];
        match one(app, args, opened, manifest, scratch) {
            Ok(proof) => {
                match proof.verdict {
                    Verdict::Proven => {}
                    Verdict::Inconclusive => inconclusive += 1,
                    Verdict::Damaged => damaged += 1,
                }
                if let Some(state) = &state {
                    keep(app, state, opened, &proof, begun);
                }
                tell(app, &proof)?;
                proofs.push(proof);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                damaged += 1;
                app.printer.error(&error);
            }
            Err(error) => {
                app.printer.error(&error);
                failed = Some(format!("{}@{}", manifest.address(), manifest.backup));
            }
        }
    }
    if app.printer.is_json() {
        app.printer.json(&proofs)?;
    }
    if damaged > 0 {
        let text = format!("{} not what it should be", format::count(damaged, "backup"));
        return Err(Error::damaged(text)
            .hint("restore an older one the same way, and take a full backup of the source now"));
    }
    match failed {
        None if inconclusive == 0 => Ok(ExitStatus::Done),
        None => Err(Error::failed(format!(
            "{} came back, and could not be looked at whole",
            format::count(inconclusive, "backup")
        ))
        .hint("`not proven` says what is missing for that")),
        Some(name) => {
            Err(Error::failed(format!("{name} was not proven: nobody knows whether it restores")))
        }
    }
}

/// Remembers how long it took: that is the RTO as it was measured.
fn keep(app: &App, state: &State, opened: &Opened, proof: &Proof, begun: Timestamp) {
    let recovery = Recovery {
        backup: proof.backup.clone(),
        at: begun,
        bytes: proof.bytes,
        restore_seconds: proof.restore_seconds,
        recovery_seconds: proof.recovery_seconds,
        check_seconds: proof.check_seconds,
        verdict: proof.verdict.word().to_owned(),
    };
    let kept = state.record_recovery(&opened.repository.descriptor().id, &proof.source, &recovery);
    if let Err(error) = kept {
        forgotten(app, &error);
    }
}

fn forgotten(app: &App, error: &Error) {
    app.printer.warning(&format!("how long it took will not be remembered: {}", error.chain()));
}

/// Leaves the newest backup of each source, in each repository.
fn newest(backups: &mut Vec<(usize, Manifest)>) {
    let mut best: BTreeMap<(usize, SourceAddress), usize> = BTreeMap::new();
    for (number, (at, manifest)) in backups.iter().enumerate() {
        let place = best.entry((*at, manifest.address())).or_insert(number);
        if manifest.backup > backups[*place].1.backup {
            *place = number;
        }
    }
    let mut number = 0;
    backups.retain(|_| {
        number += 1;
        best.values().any(|kept| *kept == number - 1)
    });
}

fn one(
    app: &App,
    args: &Args,
    opened: &Opened,
    manifest: &Manifest,
    scratch: &std::path::Path,
) -> Result<Proof> {
    let cx = app.cx.fresh();
    let roles = roles(app, &manifest.address());
    let request = Request {
        source: opened.repository.source(&manifest.address()),
        manifest,
        keys: &opened.keys,
        scratch,
        programs: args.programs.as_deref(),
        roles: &roles,
        isolated: false,
    };
    let name = format!("{}@{}", manifest.address(), manifest.backup);
    let proven = app.display.during(&cx.reporter, || prove(&request, &cx));
    proven.map_err(|error| error.context(format!("failed to prove {name}")))
}

fn tell(app: &App, proof: &Proof) -> Result<()> {
    if app.printer.is_json() {
        return Ok(());
    }
    let seconds = proof.restore_seconds + proof.recovery_seconds;
    let word = match proof.verdict {
        Verdict::Proven => "proven      ",
        Verdict::Inconclusive => "INCONCLUSIVE",
        Verdict::Damaged => "DAMAGED     ",
    };
    let server = proof.server.as_ref().map(|server| format!(" by {server}")).unwrap_or_default();
    app.printer.data(format!(
        "{word} {}@{}{server}: {}, back in {}",
        proof.source,
        proof.backup,
        format::size(proof.bytes),
        format::seconds(seconds)
    ))?;
    for line in &proof.proven {
        app.printer.data(format!("    {line}"))?;
    }
    for line in &proof.findings {
        app.printer.data(format!("    WRONG: {line}"))?;
    }
    for line in &proof.not_proven {
        app.printer.data(format!("    not proven: {line}"))?;
    }
    Ok(())
}
