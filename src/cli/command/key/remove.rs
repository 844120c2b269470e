//! `backstay key remove-recipient`

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::archive::crypt::{Keyring, Recipients};
use crate::cli::ExitStatus;
use crate::cli::confirm;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Erased, KeyInfo, is_passphrase_wrap, layout, wrap_key};

/// Who goes and who stays.
pub struct Asked<'a> {
    /// Whose keys open the repository no longer.
    pub gone: &'a [String],
    /// Passphrases open it no longer.
    pub passphrases: bool,
    /// Who stays, as far as it was said here.
    pub stay: &'a [String],
    /// Nobody is asked.
    pub yes: bool,
    /// Nothing is done.
    pub dry_run: bool,
}

/// What is done for one key.
struct Step<'a> {
    key: &'a KeyInfo,
    secret: SecretString,
    /// Wraps that go.
    old: Vec<String>,
    /// The number of the one that takes their place, if any has to.
    new: Option<u32>,
}

#[derive(Serialize)]
struct Report {
    stay: Vec<String>,
    wrote: Vec<String>,
    removed: Vec<String>,
    /// What object lock keeps still opens its key.
    locked: Vec<String>,
}

/// Runs the command for `opened`. `in_policy` are the recipients that its policy names.
pub fn run(
    app: &App,
    opened: &Opened,
    in_policy: &[String],
    asked: &Asked<'_>,
) -> Result<ExitStatus> {
    Recipients::parse(asked.gone).map_err(|error| error.with_kind(ErrorKind::Usage))?;
    let listed = if asked.stay.is_empty() { in_policy } else { asked.stay };
    let stay: Vec<String> =
        listed.iter().filter(|one| !asked.gone.contains(one)).cloned().collect();
    if !asked.gone.is_empty() && stay.is_empty() {
        return Err(Error::usage("nobody would be left who opens the repository").hint(
            "say with --keep who stays: a wrap does not tell whose it is, so all are made anew",
        ));
    }
    let people = Recipients::parse(&stay).map_err(|error| {
        if asked.stay.is_empty() { error } else { error.with_kind(ErrorKind::Usage) }
    })?;
    let identities = app.identities()?;
    if !asked.gone.is_empty() {
        check_staying(&people, &identities)?;
    }
    let steps = plan(opened, &identities, asked)?;
    if asked.dry_run {
        for step in &steps {
            if let Some(number) = step.new {
                app.printer
                    .talk(format!("would write {}", layout::wrapped_key(&step.key.id, number)));
            }
            for wrap in &step.old {
                app.printer.talk(format!("would remove {wrap}"));
            }
        }
        return Ok(ExitStatus::Done);
    }
    let count: usize = steps.iter().map(|step| step.old.len()).sum();
    if count > 0 {
        let what = format!(
            "{} of {} go, and with them everybody but {}",
            format::count(count as u64, "wrap"),
            opened.name,
            if asked.gone.is_empty() { "who has a key".to_owned() } else { stay.join(", ") }
        );
        confirm::type_name(app, &what, &opened.name, asked.yes)?;
    }
    let mut report = Report { stay, wrote: Vec::new(), removed: Vec::new(), locked: Vec::new() };
    for step in &steps {
        carry_out(opened, step, &people, &identities, &mut report)?;
    }
    tell(app, asked, &report)
}

/// The new wraps are opened before the old ones go: whoever does this is somebody who stays.
fn check_staying(people: &Recipients, identities: &Keyring) -> Result<()> {
    let sealed = people
        .encrypt_all(b"\n")
        .map_err(|error| Error::io("failed to encrypt to those who stay", error))?;
    identities.decrypt(&sealed[..], "what those who stay open").map(drop).map_err(|error| {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        Error::new(ErrorKind::Denied, "none of the identities given is of somebody who stays")
            .hint("give one with --identity FILE: what takes the place of the old is opened first")
            .hint("who stays is said by the policy's `encryption.recipients`, or with --keep")
    })
}

fn plan<'a>(opened: &'a Opened, identities: &Keyring, asked: &Asked<'_>) -> Result<Vec<Step<'a>>> {
    let mut steps = Vec::new();
    for key in opened.repository.keys() {
        let secret = opened.repository.secret_of(key, identities)?.ok_or_else(|| {
            Error::new(ErrorKind::Denied, format!("no identity given opens key {}", key.id))
                .hint("give a recovery identity with --identity FILE")
        })?;
        let mut old = Vec::new();
        for wrap in &key.wraps {
            let goes = if is_passphrase_wrap(opened.repository.store(), wrap)? {
                asked.passphrases
            } else {
                !asked.gone.is_empty()
            };
            if goes {
                old.push(wrap.clone());
            }
        }
        if asked.gone.is_empty() && old.len() == key.wraps.len() && !old.is_empty() {
            return Err(Error::usage(format!("nothing but passphrases opens key {}", key.id))
                .hint("first let somebody in who has a key: `backstay key add-recipient`"));
        }
        let new = if asked.gone.is_empty() { None } else { Some(super::free_number(key)) };
        steps.push(Step { key, secret, old, new });
    }
    Ok(steps)
}

fn carry_out(
    opened: &Opened,
    step: &Step<'_>,
    people: &Recipients,
    identities: &Keyring,
    report: &mut Report,
) -> Result<()> {
    let store = opened.repository.store();
    if let Some(number) = step.new {
        let wrap = wrap_key(store, &step.key.id, number, &step.secret, people)?;
        let only = KeyInfo { wraps: vec![wrap.clone()], ..step.key.clone() };
        let opens = opened.repository.secret_of(&only, identities)?;
        if opens.is_none_or(|found| found.expose_secret() != step.secret.expose_secret()) {
            return Err(Error::damaged(format!(
                "{wrap} was written and does not open: nothing was removed"
            )));
        }
        report.wrote.push(wrap);
    }
    for (wrap, erased) in store.erase(&step.old) {
        match erased? {
            Erased::Gone | Erased::Absent => report.removed.push(wrap),
            Erased::Retained { .. } => report.locked.push(wrap),
        }
    }
    Ok(())
}

fn tell(app: &App, asked: &Asked<'_>, report: &Report) -> Result<ExitStatus> {
    if app.printer.is_json() {
        app.printer.json(report)?;
    }
    for wrap in &report.wrote {
        app.printer.talk(format!("wrote {wrap}"));
    }
    for wrap in &report.removed {
        app.printer.talk(format!("removed {wrap}"));
    }
    for wrap in &report.locked {
        app.printer.warning(&format!("object lock keeps {wrap}: who could open it still can"));
    }
    if report.wrote.is_empty() && report.removed.is_empty() && report.locked.is_empty() {
        app.printer.talk("there was nothing to remove");
        return Ok(ExitStatus::Done);
    }
    if !asked.gone.is_empty() {
        app.printer.talk(format!("opened by: {}", report.stay.join(", ")));
    }
    app.printer.talk(
        "what they have opened or copied they keep: `key rotate` shuts them out of backups to come",
    );
    app.printer.talk("do the same in every repository that this one is copied to");
    Ok(ExitStatus::Done)
}
