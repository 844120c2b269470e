//! `backstay verify --repair-from`

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Args, Found, Report};
use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::policy::{self, PolicySet};
use crate::run::repair::{
    Mended, Outcome, Pair, check_origin, mend, mend_manifest, mend_snapshots,
};
use crate::run::verify::check_keys;
use crate::store::{Repository, bring_key, layout};

/// Where good bytes come from.
enum From {
    /// The repository that each policy calls so.
    Named(PolicySet),
    /// This one.
    At(Repository),
}

/// Repairs what verification finds damaged.
pub(super) struct Medic<'a> {
    app: &'a App,
    name: &'a str,
    from: From,
    dry_run: bool,
    /// For each repository that is verified, by number, the one that helps it.
    helpers: Vec<Option<Repository>>,
    mended: Vec<Mended>,
    /// What was tried: repository, source and object. Nothing is tried twice.
    tried: BTreeSet<(usize, String, String)>,
}

#[derive(Serialize)]
struct Output<'a> {
    repair_from: &'a str,
    dry_run: bool,
    repairs: &'a [Mended],
    reports: &'a [Report],
}

impl<'a> Medic<'a> {
    /// Finds the repository that helps. `None` if none was asked for.
    pub(super) fn new(app: &'a App, args: &'a Args) -> Result<Option<Self>> {
        let Some(name) = args.repair_from.as_deref() else { return Ok(None) };
        let from = if id::is_name(name) && app.repository_url().is_none() {
            let set = app.policies_to_read()?;
            let known = || set.policies.iter().flat_map(|policy| policy.repositories.keys());
            if !known().any(|known| known == name) {
                let message = format!("there is no repository `{name}` in the policies");
                return Err(Error::usage(message)
                    .hint(policy::hint_at(name, known().map(String::as_str)))
                    .hint("a directory is written with a slash: ./copy"));
            }
            From::Named(set)
        } else {
            From::At(Repository::open(&app.connect_url(name, false)?)?)
        };
        Ok(Some(Self {
            app,
            name,
            from,
            dry_run: args.dry_run,
            helpers: Vec::new(),
            mended: Vec::new(),
            tried: BTreeSet::new(),
        }))
    }

    /// Whether this is the repository that helps: it is not verified itself.
    pub(super) fn is_helper(&self, opened: &Opened) -> bool {
        match &self.from {
            From::Named(_) => opened.name == self.name,
            From::At(helper) => helper.store().name() == opened.repository.store().name(),
        }
    }

    /// Opens the helper of each repository, and looks whether it may help.
    pub(super) fn meet(&mut self, opened: &[Opened]) -> Result<()> {
        if opened.is_empty() {
            return Err(Error::usage(format!("{} cannot be repaired from itself", self.name))
                .hint("--repository says what is repaired, --repair-from where from"));
        }
        for opened in opened {
            let helper = match &self.from {
                From::At(helper) => Some(helper.clone()),
                From::Named(set) => {
                    let own = set.policies.iter().find(|p| Some(&p.stack) == opened.stack.as_ref());
                    let config = own.and_then(|policy| policy.repositories.get(self.name));
                    let open = |config| Repository::open(&self.app.connect(config, false)?);
                    config.map(open).transpose()?
                }
            };
            if let Some(helper) = &helper {
                check_origin(&opened.repository, helper)?;
            }
            self.helpers.push(helper);
        }
        Ok(())
    }

    /// Fetches manifests that cannot be read, so that their backups can be verified.
    pub(super) fn mend_manifests(&mut self, found: &mut Found) -> Result<()> {
        for unreadable in std::mem::take(&mut found.unreadable) {
            let Some(helper) = &self.helpers[unreadable.at] else {
                found.unreadable.push(unreadable);
                continue;
            };
            let here = found.opened[unreadable.at].repository.source(&unreadable.address);
            let there = helper.source(&unreadable.address);
            let cx = self.app.cx.fresh();
            let pair = Pair { here: &here, there: &there, dry_run: self.dry_run, cx: &cx };
            if unreadable.error.kind() != ErrorKind::Damaged {
                found.unreadable.push(unreadable);
                continue;
            }
            let (result, manifest) = mend_manifest(pair, &unreadable.backup)?;
            self.keep(Mended {
                source: unreadable.address.to_string(),
                object: layout::commit(&unreadable.backup),
                bytes: 0,
                result,
            })?;
            found.backups.extend(manifest.map(|manifest| (unreadable.at, manifest)));
            if result != Outcome::Fetched {
                found.unreadable.push(unreadable);
            }
        }
        Ok(())
    }

    /// Fetches what a report finds damaged. Whether anything was, so that another look is worth it.
    pub(super) fn mend(
        &mut self,
        at: usize,
        opened: &Opened,
        manifest: &Manifest,
        report: &Report,
    ) -> Result<bool> {
        let Some(helper) = &self.helpers[at] else { return Ok(false) };
        let address = manifest.address();
        let (here, there) = (opened.repository.source(&address), helper.source(&address));
        let cx = self.app.cx.fresh();
        let pair = Pair { here: &here, there: &there, dry_run: self.dry_run, cx: &cx };
        let wanted = |path: &str| {
            let place = (at, report.source.clone(), path.to_owned());
            let named = report.names(path) || (path.ends_with('/') && report.names_below(path));
            named && !self.tried.contains(&place)
        };
        let mended = self.app.display.during(&cx.reporter, || -> Result<Vec<Mended>> {
            let mut mended = mend(pair, manifest, &wanted)?;
            mended.extend(mend_snapshots(pair, manifest, &wanted)?);
            Ok(mended)
        })?;
        let fetched = mended.iter().any(|mended| mended.result == Outcome::Fetched);
        for mended in mended {
            self.tried.insert((at, report.source.clone(), mended.object.clone()));
            self.keep(mended)?;
        }
        Ok(fetched)
    }

    /// Fetches keys that the backup needs and that are gone.
    pub(super) fn mend_keys(
        &mut self,
        at: usize,
        opened: &mut Opened,
        manifest: &Manifest,
    ) -> Result<()> {
        let Some(helper) = &self.helpers[at] else { return Ok(()) };
        let source = manifest.address().to_string();
        let mut mended = Vec::new();
        for finding in check_keys(&opened.repository, manifest) {
            if !self.tried.insert((at, source.clone(), finding.object.clone())) {
                continue;
            }
            let there = helper.keys().iter().find(|key| {
                layout::wrapped_key(&key.id, 1) == finding.object && !key.wraps.is_empty()
            });
            let result = match there {
                None => Outcome::NotThere,
                Some(_) if self.dry_run => Outcome::WouldFetch,
                Some(key) => {
                    bring_key(helper, key, opened.repository.store())?;
                    Outcome::Fetched
                }
            };
            let object = finding.object;
            mended.push(Mended { source: source.clone(), object, bytes: 0, result });
        }
        if mended.iter().any(|mended| mended.result == Outcome::Fetched) {
            opened.repository = Repository::open(opened.repository.store())?;
            let printer = &self.app.printer;
            opened.keys =
                opened.repository.unlock(&opened.keys, &mut |error| printer.error(&error))?;
        }
        mended.into_iter().try_for_each(|mended| self.keep(mended))
    }

    fn keep(&mut self, mended: Mended) -> Result<()> {
        if !self.app.printer.is_json() {
            self.app.printer.data(self.text(&mended))?;
        }
        self.mended.push(mended);
        Ok(())
    }

    fn text(&self, mended: &Mended) -> String {
        let (object, name) = (format!("{} {}", mended.source, mended.object), self.name);
        let size = if mended.bytes == 0 {
            String::new()
        } else {
            format!("{}, ", format::size(mended.bytes))
        };
        match mended.result {
            Outcome::Fetched => format!("repaired {object}: {size}from {name}"),
            Outcome::WouldFetch => format!("would fetch {object}: {size}from {name}"),
            Outcome::NotThere => format!("lost     {object}: {name} has none"),
            Outcome::AlteredThere => format!("lost     {object}: in {name} it is damaged as well"),
            Outcome::ManifestsDiffer => format!(
                "left     {object}: the manifest here and that in {name} differ, and one of them \
                 was altered"
            ),
            Outcome::AsStored => {
                format!("left     {object}: it is as it was stored, so that a copy is no better")
            }
        }
    }

    /// Shows everything as JSON, and says how it ended.
    pub(super) fn end(&self, tally: &super::Tally) -> Result<ExitStatus> {
        if self.app.printer.is_json() {
            self.app.printer.json(&Output {
                repair_from: self.name,
                dry_run: self.dry_run,
                repairs: &self.mended,
                reports: &tally.reports,
            })?;
        }
        let left = self.mended.iter().filter(|mended| !mended.result.is_mended()).count() as u64;
        let mut hints = Vec::new();
        if left > 0 {
            let objects = format::count(left, "object");
            hints.push(format!("{objects} could not be repaired from {}", self.name));
        }
        if self.mended.iter().any(|mended| mended.result == Outcome::WouldFetch) {
            hints.push("without --dry-run what would be fetched is repaired".to_owned());
        }
        tally.verdict_with(&hints)
    }
}
