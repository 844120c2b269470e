//! Prometheus Alertmanager: `POST /api/v2/alerts`.
//!
//! It forgets what it does not hear of: what fires is sent again and again with an end in the near
//! future, so that a daemon that dies does not leave alerts behind for ever.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::message::Message;
use super::receiver::{RESEND, Refused, headers_of, shown, taken, text_of};
use crate::policy::Alertmanager;
use crate::store::Web;

pub(super) fn deliver(
    manager: &Alertmanager,
    message: &Message,
    web: &Web,
    now: Timestamp,
) -> Result<String, Refused> {
    let url = format!("{}/api/v2/alerts", text_of(&manager.url)?.trim_end_matches('/'));
    let reply = web.post(&url, &headers_of(&manager.headers)?, body(message, now))?;
    Ok(shown(&taken(reply)?))
}

fn body(message: &Message, now: Timestamp) -> String {
    let soon = SignedDuration::try_from(RESEND * 3).unwrap_or(SignedDuration::ZERO);
    let until = now.checked_add(soon).unwrap_or(now);
    let alerts: Vec<_> = message
        .notices
        .iter()
        .map(|notice| {
            json!({
                "labels": notice.alert.labels(),
                "annotations": {
                    "summary": message.summary(&notice.alert),
                    "description": message.description(&notice.alert),
                    "runbook_url": message.runbook(&notice.alert),
                },
                "startsAt": notice.started,
                "endsAt": notice.resolved.unwrap_or(until),
            })
        })
        .collect();
    json!(alerts).to_string()
}
