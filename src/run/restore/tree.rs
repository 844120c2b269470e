//! Restoring a tree, or part of one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Instant;

use super::plan::{self, Pieces, Plan, failed};
use super::request::{Failures, Finding, Missing, Outcome, Request};
use super::worker::{self, Shared};
use crate::archive::entry::{Entry, EntryType, is_safe};
use crate::archive::sort::Sorter;
use crate::error::{Error, ErrorKind, Result};
use crate::run::crew::crew;
use crate::run::{Context, hold};
use crate::source::directory::extract::{Existing, Extractor};
use crate::telemetry::{Event, failpoint};

/// Restores what the request selects into its target directory.
///
/// Entries that cannot be restored are findings in the outcome; an error means that the restore
/// as a whole did not come to its end.
pub fn restore_tree(request: &Request<'_>, cx: &Context) -> Result<Outcome> {
    let started = Instant::now();
    let manifest = request.manifest;
    cx.reporter.emit(Event::Started {
        verb: "restore",
        source: manifest.address().to_string(),
        backup: Some(manifest.backup.to_string()),
        kind: Some(manifest.kind.to_string()),
    });
    cx.reporter.phase("planning");
    if request.dry_run {
        let plan = Plan::make(request, cx, &mut |_| Ok(true))?;
        nothing_selected(request, &plan)?;
        let mut outcome = Outcome { files: plan.files, ..plan.outcome() };
        if request.existing != Existing::Refuse && request.target.is_dir() {
            compare(request, cx, &mut outcome)?;
        }
        return Ok(outcome);
    }
    let _held = hold::hold(&request.source, manifest, "restore", cx)?;
    let is_new = !request.target.exists();
    let target = Extractor::open_placed(
        &request.target,
        &request.placement,
        request.existing,
        request.numeric_owner,
    )?;
    let mut plan = {
        let mut cursor = target.cursor();
        Plan::make(request, cx, &mut |entry| {
            if entry.kind == EntryType::Dir {
                return cursor.directory(entry).map(|()| true);
            }
            if request.existing == Existing::Delta && worker::is_right(&mut cursor, entry, cx)? {
                return Ok(false);
            }
            cursor.create_large(entry).map(|()| true)
        })?
    };
    nothing_selected(request, &plan).inspect_err(|_| {
        if is_new {
            // It fails where it is not empty, and then it is no leftover of ours.
            let _ = std::fs::remove_dir(&request.target);
        }
    })?;
    for pattern in request.selection.unmatched() {
        let message = "matches nothing in the backup".to_owned();
        plan.refused.push(Finding { path: pattern.to_owned(), message, damage: false });
    }
    cx.reporter.progress().expect(plan.files, plan.bytes);
    cx.reporter.phase("restoring");
    let mut outcome = plan.outcome();
    let Plan { content, increments, late, attributes, kept, kept_bytes, .. } = plan;

    let shared = Shared::default();
    write_content(request, cx, &target, content, &shared)?;
    write_increments(request, cx, &target, increments, &shared)?;
    let results = shared.into_results();
    if let Some(error) = results.fatal {
        return Err(error);
    }
    outcome.files = results.written;
    outcome.kept = kept + results.kept;
    outcome.bytes = results.bytes.saturating_add(kept_bytes);
    outcome.failed.extend(results.failed);

    let missing = results.missing;
    create_late(cx, &target, late, &missing, &mut outcome.failed)?;
    failpoint::reach("restore.before_attributes");
    set_attributes(cx, &target, attributes, &missing, &mut outcome.failed)?;
    failpoint::reach("restore.before_sync");
    cx.reporter.phase("writing to disk");
    target.sync()?;
    outcome.not_set = target
        .problems()
        .into_iter()
        .map(|(what, (count, example))| (what, count, example))
        .collect();
    outcome.fetched = cx.reporter.progress().snapshot().stored_bytes;
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Counts what a restore would find in its target.
fn compare(request: &Request<'_>, cx: &Context, outcome: &mut Outcome) -> Result<()> {
    let target = Extractor::open(&request.target, request.existing, request.numeric_owner)?;
    let mut cursor = target.cursor();
    for entry in request.source.index(request.manifest, &request.keys, &cx.reporter.fresh())? {
        cx.reporter.check()?;
        let entry = entry?;
        let wanted = matches!(entry.kind, EntryType::File | EntryType::Stream);
        if !wanted || !is_safe(&entry.path) || !request.selection.contains(&entry.path) {
            continue;
        }
        let there = request.target.join(OsStr::from_bytes(&entry.path));
        if request.existing == Existing::Delta && worker::right(&mut cursor, &entry, cx)?.is_some()
        {
            outcome.kept += 1;
            outcome.files = outcome.files.saturating_sub(1);
        } else if there.symlink_metadata().is_ok() {
            outcome.replaced += 1;
        }
    }
    Ok(())
}

fn nothing_selected(request: &Request<'_>, plan: &Plan) -> Result<()> {
    let nothing = plan.files + plan.directories + plan.others == 0 && plan.refused.count == 0;
    if nothing && !request.selection.is_all() {
        let error = Error::not_found(format!(
            "nothing in {} matches {}",
            request.manifest.backup,
            request.selection.patterns().join(", ")
        ))
        .hint(format!("`backstay ls {}` shows what is in it", request.manifest.backup));
        return Err(request.selection.hints().fold(error, Error::hint));
    }
    Ok(())
}

fn write_content(
    request: &Request<'_>,
    cx: &Context,
    target: &Extractor,
    content: Sorter,
    shared: &Shared,
) -> Result<()> {
    write_pieces(request, cx, target, (&mut content.finish()?.peekable(), None), shared)
}

/// Each backup's increments are laid over what older ones made, when all of that is there.
fn write_increments(
    request: &Request<'_>,
    cx: &Context,
    target: &Extractor,
    increments: Sorter,
    shared: &Shared,
) -> Result<()> {
    let mut pieces = increments.finish()?.peekable();
    while let Some(writer) = plan::next_writer(&mut pieces) {
        write_pieces(request, cx, target, (&mut pieces, Some(&writer)), shared)?;
    }
    Ok(())
}

fn write_pieces(
    request: &Request<'_>,
    cx: &Context,
    target: &Extractor,
    (pieces, of): (&mut Pieces, Option<&[u8]>),
    shared: &Shared,
) -> Result<()> {
    let segments = request.manifest.segments_by_reference()?;
    std::thread::scope(|scope| {
        let send = crew(scope, cx.tuning.workers, cx.tuning.workers, |batches| {
            worker::work(request, cx, target, shared, batches);
        });
        plan::batches(pieces, of, &segments, &mut |batch| {
            cx.reporter.check()?;
            if shared.is_over() {
                // The reason is in the results.
                return Ok(());
            }
            send.send(batch).map_err(|_| Error::failed("the threads that restore are gone"))
        })
    })
}

fn create_late(
    cx: &Context,
    target: &Extractor,
    late: Sorter,
    missing: &Missing,
    findings: &mut Failures,
) -> Result<()> {
    let mut cursor = target.cursor();
    for record in late.finish()? {
        cx.reporter.check()?;
        let entry = parse(&record?.1)?;
        let made = match &entry.hardlink {
            // What lies at its name, if anything, is not what was backed up.
            Some(leader) if missing.contains(leader) => Err(Error::damaged(format!(
                "its first name, `{}`, could not be restored",
                crate::archive::entry::display_path(leader)
            ))),
            Some(leader) => cursor.link(&entry, leader),
            None => cursor.special(&entry),
        };
        match made {
            Ok(()) => cx.reporter.progress().add_file(),
            Err(error) if error.kind() == ErrorKind::Failed => return Err(error),
            Err(error) => findings.push(failed(&entry, &error)),
        }
    }
    Ok(())
}

fn set_attributes(
    cx: &Context,
    target: &Extractor,
    attributes: Sorter,
    missing: &Missing,
    findings: &mut Failures,
) -> Result<()> {
    let mut cursor = target.cursor();
    for record in attributes.finish()? {
        cx.reporter.check()?;
        let entry = parse(&record?.1)?;
        if missing.contains(&entry.path) {
            cursor.remove_incomplete(&entry);
            continue;
        }
        if let Err(error) = cursor.attributes(&entry)
            && error.kind() != ErrorKind::NotFound
        {
            findings.push(failed(&entry, &error));
        }
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<Entry> {
    serde_json::from_slice(line)
        .map_err(|error| Error::failed("failed to read back an entry").with_source(error))
}
