//! A run whose journal cannot be read any more keeps others from beginning until a person says that they
//! know how things stand. What is there of the journal stays as it is, for whoever looks into it.

use serde_json::Value;

use super::engine::take_lease;
use super::journal::{Journal, Place};
use super::record::{Event, Outcome, Person};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::Mode;
use crate::run::Context;

/// Why the journal of a run cannot be read, and will not be by itself. `None` for one that can be.
///
/// # Errors
/// Where that cannot be told: the repository does not answer, or a newer program wrote the journal.
pub fn why_unreadable(place: &Place) -> Result<Option<Error>> {
    match Journal::open(place) {
        Ok(_) => Ok(None),
        Err(error) if is_for_good(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Whether an error of a journal stays until a person does something about it.
pub fn is_for_good(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Waiting)
}

/// Ends a run whose journal cannot be read: a record behind all that is there.
///
/// # Errors
/// [`ErrorKind::Conflict`] where the journal can be read, or the run is over.
pub fn set_aside(place: &Place, stack: &str, who: &Person, why: &str, cx: &Context) -> Result<()> {
    let what = format!("set run {} aside", place.run);
    // Whether it was a drill nobody can tell: whoever acts on the real thing must not be under way.
    let _lease = take_lease(place, stack, Mode::Ungraceful, &what, cx)?;
    let Some(damage) = why_unreadable(place)? else {
        let what = format!("the journal of run {} can be read", place.run);
        return Err(Error::new(ErrorKind::Conflict, what).hint("try again: it is not set aside"));
    };
    let last = place.at.last()?;
    if last.as_ref().is_some_and(|(_, bytes)| is_end(bytes)) {
        let what = format!("run {} is set aside already", place.run);
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let why = Some(format!("{why} ({damage})"));
    let ended = Event::Ended { outcome: Outcome::Left, who: Some(who.clone()), why };
    Journal::behind(place, last).append(ended).map(drop)
}

/// Whether a record says that its run ended.
pub fn is_end(record: &[u8]) -> bool {
    serde_json::from_slice::<Value>(record).is_ok_and(|record| record["event"] == "ended")
}
