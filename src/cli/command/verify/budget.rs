//! `backstay verify --budget`

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Args, Tally};
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::run::verify::budget::{
    Batch, Candidate, Coverage, RECENT_DAYS, batches, choose, coverage, gather,
};
use crate::run::verify::{Depth, Scope, Standing, proof_depth, proofs_of};
use crate::state::{Proof, ProofDepth, State};
use crate::store::SourceStore;

/// A source that is looked at.
struct Place {
    opened: usize,
    source: SourceStore,
    /// The backups that were asked for; `None` for all.
    wanted: Option<BTreeSet<BackupId>>,
}

/// All that may be proven.
struct Field {
    opened: Vec<Opened>,
    places: Vec<Place>,
    candidates: Vec<Candidate>,
}

#[derive(Serialize)]
struct Output<'a> {
    depth: Depth,
    budget: u64,
    dry_run: bool,
    /// Bytes that were read, or would be.
    read: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    planned: Vec<Planned<'a>>,
    reports: &'a [super::Report],
    /// Objects that were damaged when last looked at, which was not in this run.
    known_damage: Vec<Planned<'a>>,
    coverage: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Planned<'a> {
    repository: &'a str,
    source: String,
    object: &'a str,
    bytes: u64,
    looked_at: Option<jiff::Timestamp>,
}

#[derive(Serialize)]
struct Line<'a> {
    repository: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<&'a str>,
    #[serde(flatten)]
    coverage: Coverage,
    recent_percent: u64,
}

/// Proves as much as the budget allows.
pub(super) fn run(app: &App, args: &Args, budget: u64) -> Result<ExitStatus> {
    let Some(depth) = proof_depth(args.depth.into()) else {
        return Err(Error::usage("--depth list reads no bytes, so that --budget means nothing")
            .hint("leave out --budget, or give --depth stored or content"));
    };
    let state = app.state()?;
    let (opened, places) = places(app, args)?;
    let mut tally = Tally::default();
    let mut field = Field { opened, places, candidates: Vec::new() };
    field.fill(app, args, depth, &state, &mut tally)?;
    let chosen = choose(&field.candidates, budget);
    let mut looked: BTreeSet<usize> = BTreeSet::new();
    let mut read = 0;
    if args.dry_run {
        read = chosen.iter().map(|at| field.candidates[*at].size).sum();
        for line in chosen.iter().map(|at| field.planned(*at)).filter(|_| !app.printer.is_json()) {
            let size = format::size(line.bytes);
            let when = line.looked_at.map_or_else(|| "never".to_owned(), format::time);
            let text = format!("would read {} {}: {size}, last {when}", line.source, line.object);
            app.printer.data(text)?;
        }
    } else {
        let batches = batches(&field.candidates, &chosen);
        tally.alone = batches.len() == 1;
        for batch in batches {
            read += field.prove(app, args, &state, &batch, &mut tally)?;
            looked.extend(&batch.objects);
        }
    }
    let known = field.known_damage(&looked);
    let lines = field.coverage(app.cx.clock.now());
    if app.printer.is_json() {
        let planned = if args.dry_run { chosen.as_slice() } else { &[] };
        app.printer.json(&Output {
            depth: args.depth.into(),
            budget,
            dry_run: args.dry_run,
            read,
            planned: planned.iter().map(|at| field.planned(*at)).collect(),
            reports: &tally.reports,
            known_damage: known,
            coverage: lines,
        })?;
        return verdict(&tally, field.known_damage(&looked).len() as u64);
    }
    for line in &known {
        let when = line.looked_at.map_or_else(String::new, format::time);
        let text = format!("KNOWN    {} {}: damaged when read at {when}", line.source, line.object);
        app.printer.data(text)?;
    }
    for line in &lines {
        app.printer.data(text(line, args.depth.into()))?;
    }
    verdict(&tally, known.len() as u64)
}

fn verdict(tally: &Tally, known: u64) -> Result<ExitStatus> {
    match tally.verdict() {
        Ok(_) if known > 0 => Err(Error::damaged(format!(
            "{} damaged when last read, and not read again",
            if known == 1 {
                "1 object was".to_owned()
            } else {
                format!("{} were", format::count(known, "object"))
            }
        ))
        .hint("`backstay verify` without --budget reads everything again")),
        verdict => verdict,
    }
}

/// The sources meant, with the repositories they are in.
fn places(app: &App, args: &Args) -> Result<(Vec<Opened>, Vec<Place>)> {
    let (mut opened, mut places): (Vec<Opened>, Vec<Place>) = (Vec::new(), Vec::new());
    if args.backups.is_empty() {
        opened = app.repositories()?;
        app.miss_broken();
        for (at, repository) in opened.iter().enumerate() {
            for address in repository.repository.sources()? {
                if repository.has(&address) {
                    let source = repository.repository.source(&address);
                    places.push(Place { opened: at, source, wanted: None });
                }
            }
        }
    }
    for wanted in &args.backups {
        let (repository, manifest) = super::super::show::find(app, wanted)?;
        let name = repository.repository.store().name();
        let known = opened.iter().position(|other| other.repository.store().name() == name);
        let at = known.unwrap_or_else(|| {
            opened.push(repository);
            opened.len() - 1
        });
        let address = manifest.address();
        let known = places.iter_mut().find(|p| p.opened == at && *p.source.address() == address);
        if let Some(place) = known {
            place.wanted.get_or_insert_default().insert(manifest.backup);
        } else {
            let source = opened[at].repository.source(&address);
            let wanted = Some(BTreeSet::from([manifest.backup]));
            places.push(Place { opened: at, source, wanted });
        }
    }
    Ok((opened, places))
}

impl Field {
    /// Collects the objects of all places, with what is remembered of them.
    fn fill(
        &mut self,
        app: &App,
        args: &Args,
        depth: ProofDepth,
        state: &State,
        tally: &mut Tally,
    ) -> Result<()> {
        for (number, place) in self.places.iter().enumerate() {
            let repository = &self.opened[place.opened].repository.descriptor().id;
            let source = place.source.address().to_string();
            let proofs = state.proofs(repository, &source)?;
            let numbers = (number, self.candidates.len());
            let found = gather(&place.source, numbers, place.wanted.as_ref(), depth, &proofs)?;
            for (_, error) in &found.unreadable {
                app.printer.error(error);
                tally.damaged += 1;
            }
            if place.wanted.is_none() && found.unreadable.is_empty() && !args.dry_run {
                state.forget_proofs(repository, &source, &gone(&proofs, &found.candidates))?;
            }
            self.candidates.extend(found.candidates);
        }
        Ok(())
    }

    /// Proves one batch and returns the bytes it took.
    fn prove(
        &mut self,
        app: &App,
        args: &Args,
        state: &State,
        batch: &Batch,
        tally: &mut Tally,
    ) -> Result<u64> {
        let place = &self.places[batch.place];
        let opened = &self.opened[place.opened];
        let manifest = match place.source.manifest(&batch.backup) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                app.printer.talk(format!("skipped  {}", error.chain()));
                return Ok(0);
            }
            found => found?,
        };
        let objects: BTreeMap<String, usize> =
            batch.objects.iter().map(|at| (self.candidates[*at].path.clone(), *at)).collect();
        let paths: BTreeSet<String> = objects.keys().cloned().collect();
        let scope = Scope::Only(&paths);
        let Some(report) = super::one(app, opened, &manifest, scope, args, tally)? else {
            return Ok(0);
        };
        let proofs = proofs_of(&report, &manifest, app.cx.clock.now());
        state.record_proofs(&opened.repository.descriptor().id, &report.source, &proofs)?;
        for proof in &proofs {
            if let Some(at) = objects.get(&proof.object) {
                self.candidates[*at].note(proof);
            }
        }
        let bytes = report.bytes;
        tally.add(report);
        Ok(bytes)
    }

    fn planned(&self, at: usize) -> Planned<'_> {
        let candidate = &self.candidates[at];
        let place = &self.places[candidate.place];
        Planned {
            repository: &self.opened[place.opened].name,
            source: place.source.address().to_string(),
            object: &candidate.path,
            bytes: candidate.size,
            looked_at: candidate.standing.looked_at(),
        }
    }

    /// What was found damaged before and not looked at now.
    fn known_damage(&self, looked: &BTreeSet<usize>) -> Vec<Planned<'_>> {
        let damaged = |at: &usize| matches!(self.candidates[*at].standing, Standing::Damaged(_));
        (0..self.candidates.len())
            .filter(|at| damaged(at) && !looked.contains(at))
            .map(|at| self.planned(at))
            .collect()
    }

    /// How much of each repository is proven.
    fn coverage(&self, now: jiff::Timestamp) -> Vec<Line<'_>> {
        let lines = self.opened.iter().enumerate().map(|(at, opened)| {
            let here = |candidate: &&Candidate| self.places[candidate.place].opened == at;
            let coverage = coverage(self.candidates.iter().filter(here), now);
            Line {
                repository: &opened.name,
                stack: opened.stack.as_deref(),
                recent_percent: coverage.percent(coverage.recent_bytes),
                coverage,
            }
        });
        lines.collect()
    }
}

/// Objects that are remembered and that no backup needs any more.
fn gone(proofs: &[Proof], candidates: &[Candidate]) -> Vec<String> {
    let there: BTreeSet<&str> = candidates.iter().map(|c| c.path.as_str()).collect();
    let gone: BTreeSet<&str> =
        proofs.iter().map(|p| p.object.as_str()).filter(|path| !there.contains(path)).collect();
    gone.into_iter().map(str::to_owned).collect()
}

fn text(line: &Line<'_>, depth: Depth) -> String {
    let coverage = &line.coverage;
    let name = match line.stack {
        Some(stack) => format!("{stack}: {}", line.repository),
        None => line.repository.to_owned(),
    };
    if coverage.objects == 0 {
        return format!("{name}: there is nothing to prove");
    }
    let depth = match depth {
        Depth::Content => "content",
        Depth::List | Depth::Stored => "stored bytes",
    };
    let oldest = coverage.oldest_proof.map_or_else(
        || "none".to_owned(),
        |at| at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d").to_string(),
    );
    let mut text = format!(
        "{name}: {depth} of {}; oldest proof: {oldest}; {} % within {RECENT_DAYS} days",
        format::size(coverage.bytes),
        line.recent_percent,
    );
    if coverage.never_objects > 0 {
        let objects = format::count(coverage.never_objects, "object");
        text += &format!("; {objects} with {} never proven", format::size(coverage.never_bytes));
    }
    if coverage.damaged_objects > 0 {
        text += &format!("; {} DAMAGED", format::count(coverage.damaged_objects, "object"));
    }
    text
}
