//! Several alerts on their way to a receiver, and the JSON that programs get.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::alert::Alert;
use super::text::Style;
use crate::archive::digest::sha256_hex;
use crate::secret;

/// What the JSON is called. Another number: fields mean something else.
pub const SCHEMA: &str = "backstay.alerts/1";

/// An alert, and how long it has fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The alert.
    pub alert: Alert,
    /// Since when.
    pub started: Timestamp,
    /// Since when it is over.
    pub resolved: Option<Timestamp>,
}

/// What a receiver is told at once.
#[derive(Debug, Clone)]
pub struct Message {
    /// The alerts, at least one.
    pub notices: Vec<Notice>,
    /// How they are written.
    pub style: Style,
    /// The page with a section for each, if the policy names one.
    pub runbooks: Option<String>,
    /// The machine that says it.
    pub host: String,
}

#[derive(Serialize)]
struct Line<'a> {
    fingerprint: String,
    name: &'static str,
    severity: &'static str,
    status: &'static str,
    labels: std::collections::BTreeMap<&'static str, &'a str>,
    summary: String,
    description: String,
    runbook_url: String,
    starts_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<Timestamp>,
}

impl Message {
    /// One line: what is wrong. Without the secrets that this process knows.
    pub fn summary(&self, alert: &Alert) -> String {
        secret::mask(&self.style.summary(alert))
    }

    /// What is known of it, without secrets.
    pub fn description(&self, alert: &Alert) -> String {
        secret::mask(&self.style.description(alert))
    }

    /// The address of the section that says what to do.
    pub fn runbook(&self, alert: &Alert) -> String {
        alert.runbook(self.runbooks.as_deref())
    }

    /// The same for the same alerts in the same state: whoever gets it twice knows that.
    pub fn id(&self) -> String {
        let parts: Vec<String> = self
            .notices
            .iter()
            .map(|one| format!("{} {} {:?}\n", one.alert.fingerprint(), one.started, one.resolved))
            .collect();
        sha256_hex(parts.concat().as_bytes())[..32].to_owned()
    }

    /// What programs get.
    pub fn json(&self, now: Timestamp) -> String {
        let lines: Vec<Line<'_>> = self
            .notices
            .iter()
            .map(|notice| Line {
                fingerprint: notice.alert.fingerprint(),
                name: notice.alert.what.name(),
                severity: notice.alert.what.severity().word(),
                status: if notice.resolved.is_some() { "resolved" } else { "firing" },
                labels: notice.alert.labels(),
                summary: self.summary(&notice.alert),
                description: self.description(&notice.alert),
                runbook_url: self.runbook(&notice.alert),
                starts_at: notice.started,
                ends_at: notice.resolved,
            })
            .collect();
        json!({
            "schema": SCHEMA,
            "id": self.id(),
            "sent_at": now,
            "host": self.host,
            "alerts": lines,
        })
        .to_string()
    }

    /// What a group of people gets, in Markdown: the worst and the newest first, no more than
    /// `limit` bytes.
    pub fn markdown(&self, limit: usize) -> (String, String) {
        let mut notices: Vec<&Notice> = self.notices.iter().collect();
        notices.sort_by_key(|one| {
            let severity = one.alert.what.severity();
            (one.resolved.is_some(), std::cmp::Reverse(severity), std::cmp::Reverse(one.started))
        });
        let mut text = String::new();
        let mut left_out = 0;
        for notice in &notices {
            let part = self.section(notice);
            // Room for the line that says how many more there are.
            if text.len() + part.len() + 32 > limit {
                left_out += 1;
            } else {
                text.push_str(&part);
            }
        }
        if left_out > 0 {
            text.push_str(&format!("… +{left_out}\n"));
        }
        let title = match notices.as_slice() {
            [] => "Backstay".to_owned(),
            [only] => self.summary(&only.alert),
            [first, more @ ..] => format!("{} (+{})", self.summary(&first.alert), more.len()),
        };
        (title, text)
    }

    fn section(&self, notice: &Notice) -> String {
        let alert = &notice.alert;
        let state = self.style.state(alert.what.severity(), notice.resolved.is_some());
        let (since, until, runbook) = self.style.words();
        let mut lines = vec![
            format!("**[{state}] {}**", plain(&self.summary(alert))),
            plain(&self.description(alert)),
            format!("{since}{}", self.style.time(notice.started)),
        ];
        if let Some(resolved) = notice.resolved {
            lines.push(format!("{until}{}", self.style.time(resolved)));
        } else {
            lines.push(format!("{runbook}{}", self.runbook(alert)));
        }
        format!("{}\n\n", lines.join("\n\n"))
    }
}

/// Text that means nothing else in Markdown: what servers say ends up in it.
fn plain(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '[' | ']' | '*' | '<' | '>' | '#' | '@' | '\n' | '\r' => ' ',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::notify::What;
    use crate::policy::Language;

    #[test]
    fn a_message_fits_and_the_worst_comes_first() {
        let notice = |source: &str, what: What| Notice {
            alert: Alert::of("shop", what).source(source),
            started: Timestamp::UNIX_EPOCH,
            resolved: None,
        };
        let why = "<at id=all></at> ".repeat(20);
        let mut notices = vec![notice("a", What::RunMissed { due: Timestamp::UNIX_EPOCH, why })];
        for number in 0..40 {
            notices.push(notice(&format!("b{number}"), What::DamageFound { objects: 1 }));
        }
        let style = Style { language: Language::En, zone: TimeZone::UTC };
        let message = Message { notices, style, runbooks: None, host: "h".into() };
        let (title, text) = message.markdown(2000);
        assert!(text.len() <= 2000, "{}", text.len());
        assert!(title.ends_with("verification found damage (+40)"), "{title}");
        assert!(text.starts_with("**[critical] shop/b0"), "{text}");
        assert!(text.trim_end().lines().last().is_some_and(|line| line.starts_with("… +")));
        let (_, all) = message.markdown(1 << 20);
        assert!(!all.contains('<'), "somebody else's words mention nobody");
    }
}
