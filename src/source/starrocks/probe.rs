//! Whether a backup would work. Changes nothing.

use super::cluster::{Cluster, Login};
use super::content;
use super::repository::{self, Bucket, Known};
use super::source::StarRocksSource;
use crate::error::Result;
use crate::source::{ProbeNote, SourceContext, SourceProbe};

/// Looks at frontends, backends, databases and the repository.
pub fn probe(source: &StarRocksSource, cx: &SourceContext) -> Result<SourceProbe> {
    let mut notes = Vec::new();
    let mut cluster = Cluster::open(Login::of(&source.config)?, &cx.reporter)?;
    let facts = cluster.facts()?;
    notes.push(ProbeNote::fact(format!(
        "StarRocks {}, {}: {} frontends and {} of {} backends alive",
        facts.version_text,
        facts.run_mode.replace('_', "-"),
        facts.frontends,
        facts.backends,
        facts.all_backends
    )));
    if let Err(error) = facts.check() {
        notes.push(ProbeNote::fault(error.chain()));
        return Ok(SourceProbe { notes });
    }
    if facts.backends < facts.all_backends {
        notes.push(ProbeNote::warning(format!(
            "{} of {} backends are away: a tablet without a healthy replica fails the snapshot",
            facts.all_backends - facts.backends,
            facts.all_backends
        )));
    }
    let names = content::databases(&mut cluster, &source.which())?;
    let (mut tables, mut partitions) = (0, 0);
    for name in &names {
        let database = content::look(&mut cluster, facts.version, name, false)?;
        tables += database.tables.len();
        partitions += database.tables.iter().map(|table| table.partitions.len()).sum::<usize>();
        for (table, why) in &database.left_out {
            notes.push(ProbeNote::warning(format!("`{name}`.`{table}` is left out: {why}")));
        }
        let views = database.views.len() + database.materialized.len();
        if views > 0 {
            notes.push(ProbeNote::fact(format!(
                "`{name}` has {views} views and materialized views: their definitions are kept"
            )));
        }
    }
    notes.push(ProbeNote::fact(format!(
        "{} databases with {tables} tables and {partitions} partitions",
        names.len()
    )));
    look_at_repository(source, cx, &mut cluster, &mut notes)?;
    notes.push(ProbeNote::warning(
        "StarRocks writes its snapshots by itself: backstay's encryption does not cover them; \
         turn on the bucket's own",
    ));
    Ok(SourceProbe { notes })
}

fn look_at_repository(
    source: &StarRocksSource,
    cx: &SourceContext,
    cluster: &mut Cluster,
    notes: &mut Vec<ProbeNote>,
) -> Result<()> {
    let Some(place) = &cx.snapshots else { return Ok(()) };
    let bucket = match Bucket::of(place, &source.config.storage) {
        Ok(bucket) => bucket,
        Err(error) => {
            notes.push(ProbeNote::fault(error.chain()));
            return Ok(());
        }
    };
    let name = repository::name_of(&place.address);
    notes.push(match repository::find(cluster, &name, &bucket)? {
        Known::Absent => ProbeNote::fact(format!(
            "the first backup makes the repository {name} at {}",
            bucket.location
        )),
        Known::Here { read_only: false, .. } => {
            ProbeNote::fact(format!("repository {name} at {}", bucket.location))
        }
        Known::Here { read_only: true, .. } => ProbeNote::fault(format!(
            "the cluster only reads repository {name}: it is the other site's"
        )),
        Known::Elsewhere { location } => ProbeNote::fault(format!(
            "the cluster has a repository {name} at {location}, and not at {}",
            bucket.location
        )),
    });
    if let Known::Here { trouble: Some(trouble), .. } = repository::find(cluster, &name, &bucket)? {
        notes.push(ProbeNote::warning(format!(
            "StarRocks had trouble with the repository in the last ten minutes: {trouble}"
        )));
    }
    Ok(())
}
