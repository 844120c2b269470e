//! `role`: a site becomes the active one. Of two that want the same epoch one wins; the hosts of the other
//! sites find themselves fenced, and stop writing.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::vantage::{Seen, View, look};
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{RoleAction, uses};
use crate::run::host_name;
use crate::store::{ActiveSite, RoleStore, Worker};

/// What the run of an epoch ends in that takes back another one.
const TAKEN_BACK: &str = " taken back";

/// Makes a site the active one.
pub struct Role {
    spec: RoleAction,
    means: Arc<Means>,
}

impl Role {
    /// As a step says.
    pub fn new(spec: RoleAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn store(&self) -> Result<RoleStore> {
        let policy = &self.means.policy;
        let role = policy.role.as_ref();
        let role = role.ok_or_else(|| Error::usage("the policy has no `role`"))?;
        Ok(RoleStore::new((self.means.open)(&role.repository)?.store(), &policy.stack))
    }

    /// How it is known that the site before takes no writes. What people attest is looked at from the vantage
    /// points now, at the moment that counts.
    fn fence(&self, job: &Job<'_>) -> Result<String> {
        let not_closed = self.spec.unreachable.iter().find(|state| *state != "closed");
        if not_closed.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "the site before can be reached"));
        }
        match (&self.spec.proof, &self.spec.attested) {
            (Some(proof), _) if !proof.is_empty() => Ok(format!("proven: {proof}")),
            (_, Some(people)) if people.contains(',') => {
                let mut fence = format!("attested by {people}");
                let views = look(&self.spec.vantage_points, job)?;
                for one in all_unreached(&views)? {
                    fence.push_str("; ");
                    fence.push_str(&one);
                }
                Ok(fence)
            }
            _ => {
                Err(Error::new(ErrorKind::Conflict, "nothing shows that the site before is fenced"))
            }
        }
    }

    /// Fails where the last epoch is too young for another one, and nobody agreed.
    fn check_settled(&self, now: Timestamp) -> Result<()> {
        let role = self.means.policy.role.as_ref();
        let Some(settle) = role.and_then(|role| role.settle) else { return Ok(()) };
        if self.spec.unsettled.as_ref().is_some_and(|people| !people.is_empty()) {
            return Ok(());
        }
        let history = self.store()?.history(&[])?;
        let Some(last) = last_that_lasted(&history) else { return Ok(()) };
        let age = now.duration_since(last.time).as_secs().max(0) as u64;
        if last.site == self.spec.to || age >= settle.as_secs() {
            return Ok(());
        }
        let until = now.checked_add(SignedDuration::from_secs((settle.as_secs() - age) as i64));
        Err(Error::new(
            ErrorKind::Conflict,
            format!("epoch {} of site {} began {age} s ago, and `role.settle` is {settle}", last.epoch, last.site),
        )
        .hint("find out why it has to move again: what goes to and fro loses something every time")
        .hint(match until {
            Ok(until) => format!("it may from {until} on; sooner where people agree: `unsettled: \"{{{{STEP.approved_by}}}}\"` in the step"),
            Err(_) => "people may agree to it: `unsettled` in the step".to_owned(),
        }))
    }

    /// What the vantage points see now. Whether they reach the site before does not matter yet.
    fn seen_now(&self, job: &Job<'_>) -> Result<Vec<View>> {
        let mut points = self.spec.vantage_points.clone();
        // Nobody knows yet what an earlier step is going to find.
        points.retain(|_, point| uses(&point.tcp).is_empty());
        look(&points, job)
    }

    fn become_active(&self, site: &str, fence: &str, key: &str, job: &Job<'_>) -> Result<Outputs> {
        let store = self.store()?;
        let current = store.current()?;
        if let Some(current) = current.as_ref().filter(|current| current.site == site) {
            return Ok(outputs(current));
        }
        // What was active when this step began is what it takes over from.
        let before = job.before.get("epoch").cloned().unwrap_or_default();
        let now = current.as_ref().map_or(0, |current| current.epoch);
        if key == job.key() && before != now.to_string() {
            let who = current.map(|current| format!("site {} by {}", current.site, current.run));
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("epoch {now} began meanwhile: {}", who.unwrap_or_default()),
            )
            .hint("somebody else made a site the active one: look before anything else is done"));
        }
        let by = Worker::here(host_name());
        let next = ActiveSite::new(now + 1, site, key, fence, by, job.cx.clock.now());
        if store.begin(&next)? {
            return Ok(outputs(&next));
        }
        Err(Error::new(ErrorKind::Conflict, format!("somebody else began epoch {}", now + 1)))
    }
}

/// The last epoch that was not taken back by the run that began it.
fn last_that_lasted(history: &[ActiveSite]) -> Option<&ActiveSite> {
    let mut rest = history;
    while let [before @ .., last] = rest {
        let Some(begun) = last.run.strip_suffix(TAKEN_BACK) else { return Some(last) };
        rest = match before {
            [earlier @ .., one] if one.run == begun => earlier,
            // It was taken back later than that: what it went back to began then.
            _ => return Some(last),
        };
    }
    None
}

/// What was seen, where nobody reaches the site before, and every place could tell.
fn all_unreached(views: &[View]) -> Result<Vec<String>> {
    let reached: Vec<String> = views
        .iter()
        .filter(|view| view.seen == Seen::Reached)
        .map(|view| format!("{} takes connections from {}", view.address, view.place))
        .collect();
    if !reached.is_empty() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the site before can be reached: {}", reached.join("; ")),
        )
        .hint("what can be reached can be written to: cut it off, whatever people said of it, then try this step again"));
    }
    let (mut unreached, mut blind) = (Vec::new(), Vec::new());
    for View { place, address, seen } in views {
        match seen {
            Seen::Unreached(how) => {
                unreached.push(format!("not reached at {address} from {place}: {how}"));
            }
            Seen::Unknown(why) => blind.push(format!("the vantage point {place}: {why}")),
            Seen::Reached => {}
        }
    }
    if !blind.is_empty() {
        let what = format!(
            "it cannot be told whether the site before can be reached: {}",
            blind.join("; ")
        );
        return Err(Error::new(ErrorKind::Conflict, what)
            .hint("a place that does not answer proves nothing: bring it back, then try this step again")
            .hint("where it is gone for good: take it out of the policy, and begin anew, so that people agree to that"));
    }
    Ok(unreached)
}

fn outputs(site: &ActiveSite) -> Outputs {
    Outputs::from([
        ("epoch".to_owned(), site.epoch.to_string()),
        ("fence".to_owned(), site.fence.clone()),
    ])
}

impl Action for Role {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let current = self.store()?.current()?;
        let (site, epoch) =
            current.map_or_else(|| ("none".to_owned(), 0), |current| (current.site, current.epoch));
        let to = &self.spec.to;
        let from = match self.spec.vantage_points.len() {
            0 => String::new(),
            1 => ", where 1 vantage point does not reach the other one".to_owned(),
            number => format!(", where none of {number} vantage points reaches the other one"),
        };
        let mut what =
            format!("makes site {to} the active one, epoch {}{from}; now: {site}", epoch + 1);
        let mut blind = Vec::new();
        for View { place, seen, .. } in self.seen_now(job)? {
            let now = match seen {
                Seen::Reached => format!(", reached from {place}"),
                // From a place that never could it is a yes for ever.
                Seen::Unreached(how) => format!(", not reached from {place}: {how}"),
                Seen::Unknown(why) => {
                    blind.push(format!("the vantage point {place}: {why}"));
                    continue;
                }
            };
            what.push_str(&now);
        }
        let mut preview = Preview::of(what);
        if let Err(error) = self.check_settled(job.cx.clock.now()) {
            preview = preview.missing(error.chain());
        }
        for problem in blind {
            preview = preview.missing(problem);
        }
        Ok(if site == *to {
            preview.missing(format!("site {to} is the active one"))
        } else {
            preview
        })
    }

    fn before(&self, _job: &Job<'_>) -> Result<Outputs> {
        let current = self.store()?.current()?;
        let mut outputs = Outputs::from([(
            "epoch".to_owned(),
            current.as_ref().map_or(0, |current| current.epoch).to_string(),
        )]);
        if let Some(current) = current {
            outputs.insert("site".to_owned(), current.site);
        }
        Ok(outputs)
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        Ok(match self.store()?.current()? {
            Some(current) if current.site == self.spec.to => Observed::Done(outputs(&current)),
            _ => Observed::NotDone,
        })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let fence = self.fence(job)?;
        self.check_settled(job.cx.clock.now())?;
        self.become_active(&self.spec.to, &fence, &job.key(), job)
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        // Epochs only go on: the site before becomes the active one again, or none if there was none.
        let site = job.before.get("site").map_or("", String::as_str);
        let current = self.store()?.current()?;
        if current.is_none_or(|current| current.run != job.key()) {
            return Ok(());
        }
        let key = format!("{}{TAKEN_BACK}", job.key());
        self.become_active(site, "taken back before the point of no return", &key, job).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_at_once_did_not_last() {
        let epochs = |runs: &[&str]| -> Vec<ActiveSite> {
            let by = || Worker::here("here".into());
            let record = |(epoch, run): (u64, &&str)| {
                ActiveSite::new(epoch, "a", run, "proven", by(), Timestamp::UNIX_EPOCH)
            };
            (1..).zip(runs).map(record).collect()
        };
        let last = |runs: &[&str]| last_that_lasted(&epochs(runs)).map(|one| one.epoch);
        assert_eq!(last(&[]), None);
        assert_eq!(last(&["r/x"]), Some(1));
        assert_eq!(last(&["r/x", "s/x"]), Some(2));
        assert_eq!(last(&["r/x", "s/x", "s/x taken back"]), Some(1));
        assert_eq!(last(&["r/x", "r/x taken back"]), None);
        assert_eq!(last(&["r/x", "s/x", "r/x taken back"]), Some(3));
        let twice = ["r/x", "s/x", "s/x taken back", "t/x", "t/x taken back"];
        assert_eq!(last(&twice), Some(1));
    }
}
