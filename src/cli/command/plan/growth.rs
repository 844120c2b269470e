//! `backstay plan --growth`

use crate::archive::manifest::Manifest;
use crate::cli::format::{self, Align};
use crate::cli::setup::{App, Opened};
use crate::daemon::forecast::Holding;
use crate::daemon::growth::{Growth, Stored, growth};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::{Policy, SourceSpec};
use crate::run::list_backups;
use crate::store::{SourceStore, WalStore};

/// What each repository holds of each source, and will.
pub(super) fn of(app: &App, policy: &Policy, holdings: &[Holding]) -> Result<Vec<Growth>> {
    let mut lines = Vec::new();
    for name in policy.repositories.keys() {
        match app.open(policy, name) {
            Ok(opened) => lines.extend(in_one(app, policy, name, &opened, holdings)?),
            Err(error) => {
                app.missed.set(true);
                app.printer.error(&error.context(format!("what {name} holds is not known")));
            }
        }
    }
    Ok(lines)
}

fn in_one(
    app: &App,
    policy: &Policy,
    name: &str,
    opened: &Opened,
    holdings: &[Holding],
) -> Result<Vec<Growth>> {
    let now = app.cx.clock.now();
    let listed = list_backups(&opened.repository, &|address| address.stack == policy.stack)?;
    let manifests: Vec<Manifest> =
        listed.into_iter().filter_map(|listing| listing.manifest.ok()).collect();
    let mut lines = Vec::new();
    for (source, config) in &policy.sources {
        let address = SourceAddress::new(&policy.stack, source);
        let backups = manifests.iter().filter(|manifest| manifest.source == *source).collect();
        let store = opened.repository.source(&address);
        let wal = wal(&store).map_err(|error| error.context(format!("in {name}")))?;
        let stored = Stored { backups, wal };
        if stored.backups.is_empty() && stored.wal.is_empty() {
            continue;
        }
        let home = policy.repository_of(source).is_some_and(|(home, _)| home == name);
        let jobs: Vec<&Holding> = holdings
            .iter()
            .filter(|holding| policy.jobs.get(&holding.job).is_some_and(|job| job.covers(source)))
            .collect();
        let kept = match &config.spec {
            SourceSpec::PostgresCluster(cluster) => cluster.wal.as_ref().and_then(|wal| wal.keep),
            _ => None,
        };
        let days = kept.map(|kept| kept.as_secs() as f64 / 86_400.0);
        lines.push(growth((name, source), &stored, home.then_some(&jobs), days, now));
    }
    Ok(lines)
}

/// Sizes and times of the WAL of a source.
fn wal(source: &SourceStore) -> Result<Vec<(u64, jiff::Timestamp)>, Error> {
    let store = WalStore::reader(source, false);
    let mut all = Vec::new();
    for cluster in store.clusters()? {
        for timeline in store.timelines(cluster)? {
            let stored = store.list(cluster, timeline)?;
            all.extend(stored.into_iter().map(|one| (one.size, one.stored_at)));
        }
    }
    Ok(all)
}

pub(super) const HEAD: [(&str, Align); 6] = [
    ("SOURCE", Align::Left),
    ("REPOSITORY", Align::Left),
    ("HOLDS", Align::Right),
    ("WILL HOLD", Align::Right),
    ("GAINS A DAY", Align::Right),
    ("IN A YEAR", Align::Right),
];

pub(super) fn cells(line: &Growth) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), format::size);
    let gains = match line.content_bytes_a_day {
        None => "-".to_owned(),
        Some(gains) if gains < 0 => format!("-{}", format::size(gains.unsigned_abs())),
        Some(gains) => format::size(gains.unsigned_abs()),
    };
    vec![
        line.source.clone(),
        line.repository.clone(),
        format::size(line.bytes),
        size(line.settled_bytes),
        gains,
        size(line.year_bytes),
    ]
}
