//! The runs there are.

use super::aside::{is_end, is_for_good};
use super::compile::Plan;
use super::journal::{Journal, Place};
use super::view::RunView;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::Mode;
use crate::store::{JournalStore, Store, last_records, runs_with_journals};

/// The runs of a stack that are not over, from their last records.
pub fn open_runs(store: &Store, stack: &str) -> Result<Vec<String>> {
    let last = last_records(store, stack)?;
    Ok(last.into_iter().filter(|(_, bytes)| !is_end(bytes)).map(|(run, _)| run).collect())
}

/// Refuses to begin beside a run that is not over. Drills keep to themselves.
pub fn refuse_open(place: &Place, plan: &Plan) -> Result<()> {
    for run in open_runs(place.at.store(), &plan.stack)? {
        let read = read(place, &plan.stack, &run).map_err(|error| unreadable(error, &run))?;
        let Some(view) = read else { continue };
        if (view.plan.mode == Mode::Drill) != (plan.mode == Mode::Drill) {
            continue;
        }
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("run {run} of playbook {} is not over", view.plan.playbook),
        )
        .hint(format!("`backstay playbook show {run}` tells where it stands"))
        .hint(format!("`backstay playbook resume {run}` goes on with it, `abort` takes it back")));
    }
    Ok(())
}

/// What keeps others from beginning, and what can be done about it.
pub fn unreadable(error: Error, run: &str) -> Error {
    if !is_for_good(&error) {
        return error;
    }
    error.context(format!("run {run} may not be over, and its journal cannot be read")).hint(
        format!(
            "who knows how things stand sets it aside: `backstay playbook abort {run} --leave --reason WHY`"
        ),
    )
}

/// Where a run stands, read beside whoever acts for it. `None` where there is no such run.
pub fn read(place: &Place, stack: &str, run: &str) -> Result<Option<RunView>> {
    let place = Place {
        at: JournalStore::new(place.at.store(), stack, run),
        run: run.to_owned(),
        local: None,
        ..place.clone()
    };
    let (_, records) = Journal::open(&place)?;
    RunView::replay(&records)
}

/// The newest runs of a stack, for what they tell of the next one. Those that cannot be read are left out.
pub fn newest_runs(place: &Place, stack: &str, most: usize) -> Result<Vec<RunView>> {
    let mut runs = runs_with_journals(place.at.store(), stack)?;
    runs.drain(..runs.len().saturating_sub(most));
    Ok(runs.iter().filter_map(|run| read(place, stack, run).ok().flatten()).collect())
}
