//! What would be lost is agreed to: a plan that makes a copy the real thing asks a person before, where more
//! than the RPO would be lost or nobody knows how much, whether or not its playbook says so. Pure.
//!
//! The question is a step like any other, so that it is in the plan and its hash, and what was found of
//! the loss, with the recovery point, is among what an approval is bound to.

use std::collections::{BTreeMap, BTreeSet};

use super::compile::PlannedStep;
use super::transition::StepState;
use super::view::RunView;
use crate::policy::{
    ActionSpec, ApprovalAction, Mode, Period, Phase, PostgresAction, RecoveryPointsAction,
    RestoreAction, Retry, StarRocksAction, uses,
};

/// The output that says whether more would be lost than the RPO allows: `yes` or `no`.
pub const OUTPUT: &str = "beyond_rpo";

/// Puts the questions into the steps of a plan: before the step that cannot be taken back, and before
/// the epoch that leads to it. In mode `drill` too: what a drill must not do for real is not in that mode.
pub fn guard(steps: &mut Vec<PlannedStep>, mode: Mode, rpo: Period) {
    let barriers: Vec<String> =
        steps.iter().filter(|step| is_barrier(step)).map(|step| step.name.clone()).collect();
    for barrier in barriers {
        let Some(found) = look(steps, &barrier, mode) else { continue };
        let Some(at) = steps.iter().position(|step| step.name == found.before) else { continue };
        let guarded = steps[at].clone();
        let own = |name: &str, needs: Vec<String>, action: ActionSpec| PlannedStep {
            name: format!("{barrier}:{name}"),
            phase: guarded.phase,
            needs,
            action,
            description: None,
            timeout: None,
            retry: Retry { times: 0, ..Retry::default() },
            critical: true,
            when: guarded.when.clone(),
            point_of_no_return: false,
            excluded: false,
            beyond_rpo: None,
        };
        let mut inserted = Vec::new();
        let mut needs = guarded.needs.clone();
        let mut tellers = found.tellers;
        if let Some(standby) = found.standby {
            let loss = PostgresAction::Loss { standby, primary: None, limit: None };
            let step = own("loss", needs, ActionSpec::Postgres(loss));
            needs = vec![step.name.clone()];
            tellers.push(step.name.clone());
            inserted.push(step);
        }
        for (number, (repository, sources)) in (1..).zip(found.restored) {
            let name = if number == 1 { "points".to_owned() } else { format!("points-{number}") };
            let points =
                RecoveryPointsAction { sources, repository, max_loss: None, max_skew: None };
            let step = own(&name, needs, ActionSpec::RecoveryPoints(points));
            needs = vec![step.name.clone()];
            tellers.push(step.name.clone());
            inserted.push(step);
        }
        let approval = ApprovalAction { of: 1, from: Vec::new(), text: Some(text(&tellers, rpo)) };
        let mut asked = own("agreed", needs, ActionSpec::Approval(approval));
        asked.beyond_rpo = Some(tellers);
        steps[at].needs = vec![asked.name.clone()];
        inserted.push(asked);
        steps.splice(at..at, inserted);
    }
}

fn text(tellers: &[String], rpo: Period) -> String {
    match tellers {
        [] => format!(
            "nobody tells how much would be lost, and the RPO is {rpo}: add a step `recovery_points` to know it"
        ),
        names => format!(
            "more would be lost than the RPO allows ({rpo} for the stack), or nobody knows how much: see what `{}` found",
            names.join("`, `")
        ),
    }
}

/// What is in the way of a step that cannot be taken back.
struct Found {
    /// The step before which a person is asked.
    before: String,
    /// The steps that tell how much would be lost.
    tellers: Vec<String>,
    /// The standby of which none of them tells.
    standby: Option<String>,
    /// The sources that are restored, and of which none of them tells, by the repository they come from.
    restored: Restored,
}

type Restored = BTreeMap<Option<String>, Vec<String>>;

/// A step that makes a copy the real thing, or after which there is no way back.
pub fn is_barrier(step: &PlannedStep) -> bool {
    !step.excluded
        && step.phase != Phase::Cleanup
        && (step.point_of_no_return || promoted(step).is_some() || activates(step))
}

fn promoted(step: &PlannedStep) -> Option<&String> {
    match &step.action {
        ActionSpec::Postgres(PostgresAction::Promote { connection }) => Some(connection),
        _ => None,
    }
}

fn activates(step: &PlannedStep) -> bool {
    matches!(step.action, ActionSpec::Starrocks(StarRocksAction::Activate { .. }))
}

/// `None` where nothing would be lost that anybody knows of, or people are asked in any case.
fn look(steps: &[PlannedStep], name: &str, mode: Mode) -> Option<Found> {
    let barrier = steps.iter().find(|step| step.name == name)?;
    let before = earlier(steps, barrier);
    let standby = promoted(barrier);
    if standby.is_some_and(|standby| has_everything(steps, &before, standby)) {
        return None;
    }
    let done = |step: &&PlannedStep| !step.excluded && before.contains(step.name.as_str());
    let tellers: Vec<&PlannedStep> = steps.iter().filter(done).filter(|one| tells(one)).collect();
    // With one standby it is that one, however it is written.
    let alone = steps.iter().filter(|step| promoted(step).is_some()).count() == 1;
    let told = |wanted: &String| {
        tellers.iter().any(|step| match &step.action {
            ActionSpec::Postgres(PostgresAction::Loss { standby, .. }) => {
                alone || standby == wanted
            }
            _ => false,
        })
    };
    let standby = standby.filter(|standby| !told(standby));
    let untold: Vec<&PlannedStep> =
        steps.iter().filter(done).filter(|one| is_untold(one, &tellers)).collect();
    let nobody_tells = tellers.is_empty() && standby.is_none() && untold.is_empty();
    if nobody_tells && !(activates(barrier) && mode == Mode::Ungraceful) {
        return None;
    }
    let know = |one: &PlannedStep| {
        let before = earlier(steps, one);
        tellers.iter().chain(&untold).all(|teller| before.contains(teller.name.as_str()))
    };
    let asks = |step: &PlannedStep| {
        matches!(step.action, ActionSpec::Approval(_)) && step.when.is_none() && know(step)
    };
    if standby.is_none() && steps.iter().filter(done).any(asks) {
        return None;
    }
    // The other site is left alone for as long as nobody agreed.
    let takes_over = |step: &&PlannedStep| {
        matches!(step.action, ActionSpec::Role(_)) && step.when == barrier.when && know(step)
    };
    let guarded = steps.iter().filter(done).find(takes_over).unwrap_or(barrier);
    let (named, newest): (Vec<&PlannedStep>, Vec<&PlannedStep>) =
        untold.into_iter().partition(|step| restores(step).is_some_and(|one| one.backup.is_some()));
    let mut restored = Restored::new();
    for restore in newest.into_iter().filter_map(restores) {
        let sources = restored.entry(restore.repository.clone()).or_default();
        if !sources.contains(&restore.source) {
            sources.push(restore.source.clone());
        }
    }
    // Of a backup that somebody named nobody tells how old it is: the question names the step.
    let tellers = tellers.into_iter().chain(named).map(|step| step.name.clone()).collect();
    Some(Found { before: guarded.name.clone(), tellers, standby: standby.cloned(), restored })
}

fn restores(step: &PlannedStep) -> Option<&RestoreAction> {
    match &step.action {
        ActionSpec::Restore(restore) => Some(restore),
        _ => None,
    }
}

/// Whether a step restores something of which nobody tells how old it is. What an earlier step has just
/// backed up is not old.
fn is_untold(step: &PlannedStep, tellers: &[&PlannedStep]) -> bool {
    let Some(restore) = restores(step) else { return false };
    let made = restore.backup.as_ref().is_some_and(|backup| !uses(backup).is_empty());
    let told = tellers.iter().any(|teller| match &teller.action {
        ActionSpec::RecoveryPoints(points) => {
            restore.backup.is_none()
                && points.repository == restore.repository
                && points.sources.contains(&restore.source)
        }
        _ => false,
    });
    !made && !told
}

/// Whether a step tells how much would be lost.
fn tells(step: &PlannedStep) -> bool {
    matches!(
        step.action,
        ActionSpec::RecoveryPoints(_) | ActionSpec::Postgres(PostgresAction::Loss { .. })
    )
}

/// Whether it is waited for that a standby has all that was written before nobody could write any more.
fn has_everything(steps: &[PlannedStep], before: &BTreeSet<&str>, standby: &str) -> bool {
    let ends = |lsn: &str| {
        let [Some(used)] = uses(lsn)[..] else { return false };
        let Some((name, "lsn")) = used.split_once('.') else { return false };
        steps.iter().any(|step| {
            let stops = matches!(
                step.action,
                ActionSpec::Postgres(
                    PostgresAction::StopWriters { .. } | PostgresAction::Demote { .. }
                )
            );
            step.name == name && stops
        })
    };
    steps.iter().filter(|step| before.contains(step.name.as_str())).any(|step| {
        let ActionSpec::Postgres(PostgresAction::WaitFor { connection, lsn }) = &step.action else {
            return false;
        };
        let surely = !step.excluded && step.critical && step.when.is_none();
        surely && connection == standby && ends(lsn)
    })
}

/// The names of all steps that are done whenever one begins.
fn earlier<'a>(steps: &'a [PlannedStep], step: &'a PlannedStep) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = step.needs.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        if found.insert(name)
            && let Some(one) = steps.iter().find(|step| step.name == name)
        {
            open.extend(one.needs.iter().map(String::as_str));
        }
    }
    found
}

/// Why a person need not be asked, if that is so: all that tell of the loss found it within the RPO, or
/// somebody agreed who knew what they found.
pub fn answered(view: &RunView, step: &PlannedStep) -> Option<&'static str> {
    let tellers = step.beyond_rpo.as_ref()?;
    let within = |name: &String| {
        let found = view.steps.get(name).and_then(|step| step.outputs.get(OUTPUT));
        found.is_some_and(|found| found == "no")
    };
    if !tellers.is_empty() && tellers.iter().all(within) {
        return Some("no more would be lost than the RPO allows");
    }
    let agreed = view.earlier(step).into_iter().any(|one| {
        matches!(one.action, ActionSpec::Approval(_))
            && view.state(&one.name) == StepState::Succeeded
            && tellers
                .iter()
                .all(|teller| view.earlier(one).iter().any(|known| known.name == *teller))
    });
    agreed.then_some("what would be lost was agreed to")
}
