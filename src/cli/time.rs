//! Points in time, as people give them.

use jiff::{SignedDuration, Timestamp};

use super::setup::App;
use crate::error::{Error, Result};

/// An instant without fractions of a second as the end of that second: listings show no fractions,
/// and what they show must find what they showed.
pub fn whole_second(at: Timestamp) -> Timestamp {
    if at.subsec_nanosecond() != 0 {
        return at;
    }
    at.checked_add(SignedDuration::from_nanos(999_999_999)).unwrap_or(Timestamp::MAX)
}

/// An instant with an offset; without one in this machine's zone, which is said.
pub fn instant(app: &App, text: &str) -> Result<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<jiff::Zoned>() {
        return Ok(at.timestamp());
    }
    let civil: jiff::civil::DateTime = text.replace(' ', "T").parse().map_err(|error| {
        Error::usage(format!("`{text}` is not a time"))
            .with_source(error)
            .hint("for example 2026-11-21T02:00:00Z or 2026-11-21T10:00:00+08:00")
    })?;
    let zone = jiff::tz::TimeZone::system();
    let at = civil
        .to_zoned(zone)
        .map_err(|error| Error::usage(format!("`{text}` is not a time here")).with_source(error))?;
    app.printer.talk(format!("taking `{text}` as {at}"));
    Ok(at.timestamp())
}
