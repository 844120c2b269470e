//! Who is told: addresses, and secrets in plain sight.

use url::Url;

use super::{Findings, programs};
use crate::policy::{
    execution::Hook,
    notify::Notify,
    redact::{has_secret_within, names_a_secret},
    value::{Period, Setting},
};

/// The shortest time between two reminders.
const SHORTEST_REPEAT: Period = Period::from_secs(60);

pub(super) fn check(findings: &mut Findings<'_>) {
    let Some(notify) = &findings.policy.notify else { return };
    if findings.root.get("notify").is_some_and(|section| section.entries().is_empty()) {
        findings.warning_at_key(
            &["notify"],
            "nobody is named",
            "add a receiver, such as `webhook: { url: \"https://HOST/PATH\" }`",
        );
    }
    if notify.repeat < SHORTEST_REPEAT {
        findings.error(
            &["notify", "repeat"],
            format!("people would be told again every {}", notify.repeat),
            format!("no more often than every {SHORTEST_REPEAT}"),
        );
    }
    if let Some(url) = &notify.runbooks {
        check_url(findings, &["notify", "runbooks"], url);
    }
    check_addresses(findings, notify);
    check_headers(findings, notify);
    if let Some(command) = &notify.command {
        let hook = Hook {
            argv: command.argv.clone(),
            environment: command.environment.clone(),
            directory: command.directory.clone(),
            timeout: command.timeout,
        };
        programs::check_hook(findings, &["notify", "command"], &hook);
    }
}

fn check_addresses(findings: &mut Findings<'_>, notify: &Notify) {
    if let Some(Setting::Plain(url)) = notify.alertmanager.as_ref().map(|one| &one.url) {
        let at = ["notify", "alertmanager", "url"];
        if check_url(findings, &at, url) && url.contains("/api/") {
            findings.error(
                &at,
                "the address of Alertmanager has a path of its API in it",
                "write only `http://HOST:9093`: /api/v1 is gone since 0.27, and /api/v2 is added here",
            );
        }
    }
    if let Some(Setting::Plain(url)) = notify.webhook.as_ref().map(|one| &one.url) {
        check_url(findings, &["notify", "webhook", "url"], url);
    }
    let Some(ping) = &notify.ping else { return };
    if let Some(Setting::Plain(url)) = &ping.url {
        check_ping(findings, &["notify", "ping", "url"], url);
    }
    if ping.url.is_none() && ping.jobs.is_empty() {
        findings.error_at_key(
            &["notify", "ping"],
            "no address is named",
            "write `url: https://HOST/PATH`, or addresses of single jobs under `jobs`",
        );
    }
    for (job, url) in &ping.jobs {
        let at = ["notify", "ping", "jobs", job.as_str()];
        if !findings.names("jobs").contains(&job.as_str()) {
            let hint = crate::policy::hint_at(job, findings.names("jobs"));
            findings.error_at_key(&at, format!("unknown job `{job}`"), hint);
        }
        if let Setting::Plain(url) = url {
            check_ping(findings, &at, url);
        }
    }
}

/// An address with names to be put in.
fn check_ping(findings: &mut Findings<'_>, at: &[&str], url: &str) {
    let filled = ["{stack}", "{job}", "{source}"]
        .iter()
        .fold(url.to_owned(), |url, name| url.replace(name, "x"));
    if filled.contains(['{', '}']) {
        findings.error(
            at,
            "this is no name that is put into an address",
            "{stack}, {job} and {source} are",
        );
    } else {
        check_url(findings, at, &filled);
    }
}

fn check_headers(findings: &mut Findings<'_>, notify: &Notify) {
    let of_webhook = notify.webhook.iter().flat_map(|one| &one.headers).map(|one| ("webhook", one));
    let of_manager =
        notify.alertmanager.iter().flat_map(|one| &one.headers).map(|one| ("alertmanager", one));
    for (kind, (name, value)) in of_webhook.chain(of_manager) {
        let at = ["notify", kind, "headers", name];
        let valid = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !valid {
            findings.error_at_key(
                &at,
                "this is not the name of a header",
                "letters, digits and `-`",
            );
        } else if names_a_secret(name) && !value.is_secret() {
            findings.error(
                &at,
                format!("the header `{name}` looks secret and is written here"),
                "write ${env:NAME} or ${file:PATH}",
            );
        }
    }
}

/// Whether it is an address without a secret in it; what is wrong is told.
fn check_url(findings: &mut Findings<'_>, at: &[&str], text: &str) -> bool {
    let valid = Url::parse(text)
        .is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https"));
    if !valid {
        findings.error(at, "this is not an address", "write `https://HOST[:PORT][/PATH]`");
    } else if has_secret_within(text) {
        findings.error(
            at,
            "a password is written in the address",
            "make the whole address a reference: ${env:NAME}",
        );
    }
    valid
}
