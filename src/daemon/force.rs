//! The policies in force: what was valid when it was taken over, as it was then.
//!
//! Runs are processes of their own and read policies themselves. What they read is a copy, so that
//! a file that somebody is in the middle of changing, or broke, keeps no run from its work.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::id;
use crate::policy::{self, Fingerprint, LoadError, Policy};

/// Policies in force.
#[derive(Debug)]
pub(super) struct InForce {
    /// Where a person keeps them.
    from: PathBuf,
    /// Where their copies lie, each in a directory of its own.
    kept: PathBuf,
    seen: Fingerprint,
    /// The copy that runs read.
    path: PathBuf,
}

impl InForce {
    /// Takes over what is there; invalid policies are an error.
    pub(super) fn begin(from: &Path, kept: &Path) -> Result<(Self, Vec<Policy>)> {
        let seen = policy::fingerprint(from);
        let mut this = Self { from: from.into(), kept: kept.into(), seen, path: PathBuf::new() };
        let policies = this.take()?;
        Ok((this, policies))
    }

    /// What runs read.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes over what changed, or what is there where `anyway` says so. `None`: nothing changed. After an error the
    /// old ones stay in force.
    pub(super) fn renew(&mut self, anyway: bool) -> Option<Result<Vec<Policy>>> {
        let now = policy::fingerprint(&self.from);
        if now == self.seen && !anyway {
            return None;
        }
        self.seen = now;
        Some(self.take())
    }

    fn take(&mut self) -> Result<Vec<Policy>> {
        let directory = self.kept.join(id::random_suffix(10));
        // What is judged is the copy: a file that is written to meanwhile is seen to have changed.
        let loaded = policy::keep(&self.from, &directory)
            .and_then(|path| Ok((policy::load_kept(&path, &self.from)?, path)));
        let (set, path) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                return Err(error);
            }
        };
        let before = std::mem::replace(&mut self.path, path);
        self.sweep(&directory, &before);
        Ok(set.policies)
    }

    /// Removes copies that no run reads any more. The last one may be read by one that begins now.
    fn sweep(&self, directory: &Path, before: &Path) {
        let Ok(entries) = fs::read_dir(&self.kept) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path != directory && !before.starts_with(&path) {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// Why policies are refused, with everything that is wrong in them.
pub(super) fn told(error: &Error) -> String {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<LoadError>()) {
        Some(refused) => refused.render(false).trim_end().to_owned(),
        None => error.chain(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const TEXT: &str = "version: 1\nstack: shop\ntier: development\ntimezone: UTC\nrepositories:\n  \
        main: { local: { path: /srv/repo } }\nsources:\n  files: { directory: { path: /srv/files } }\n\
        jobs:\n  daily: { sources: all, kind: full, schedule: { every: 12h }, keep: { for: 7d, at_least: 3 } }\n";

    #[test]
    fn what_is_in_force_stays_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let (file, kept) = (place.path().join("shop.yaml"), place.path().join("kept"));
        fs::write(&file, TEXT).unwrap();
        let (mut force, policies) = InForce::begin(&file, &kept).unwrap();
        assert_eq!(policies[0].stack, "shop");
        assert!(policies[0].file.starts_with(&kept));
        assert!(force.renew(false).is_none());
        let first = force.path().to_owned();

        fs::write(&file, "version: 1\nnonsense: true\n").unwrap();
        let error = force.renew(false).unwrap().unwrap_err();
        assert!(
            error.chain().contains("shop.yaml") && !error.chain().contains("kept"),
            "{error:?}"
        );
        assert_eq!(force.path(), first);
        assert_eq!(fs::read_to_string(&first).unwrap(), TEXT);

        fs::write(&file, TEXT.replace("12h", "6h")).unwrap();
        force.renew(false).unwrap().unwrap();
        assert_ne!(force.path(), first);
        fs::write(&file, TEXT.replace("12h", "8h")).unwrap();
        force.renew(false).unwrap().unwrap();
        assert!(!first.exists(), "copies do not pile up");
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_of_policies_is_kept_as_one() {
        let place = tempfile::tempdir().unwrap();
        let (from, kept) = (place.path().join("policies"), place.path().join("kept"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a.yaml"), TEXT).unwrap();
        fs::write(from.join("b.yml"), TEXT.replace("shop", "other")).unwrap();
        fs::write(from.join("README"), "not one").unwrap();
        let (force, policies) = InForce::begin(&from, &kept).unwrap();
        assert_eq!(policies.len(), 2);
        assert_eq!(fs::read_dir(force.path()).unwrap().count(), 2);
    }
}
