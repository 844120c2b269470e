//! What a bucket has, page by page: its objects, or all versions of them and marks that something was
//! deleted.

use crate::error::{Error, Result};
use crate::store::{ListedObject, ListedVersion, Objects, VersionsFrom};

/// One thing that a bucket has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The object.
    pub object: ListedObject,
    /// What it is among the versions of its key.
    pub what: What,
    /// How many of its key are newer.
    pub nth: u32,
}

/// What something is among the versions of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// What one gets who asks for the key.
    Current,
    /// A version behind it.
    Older(String),
    /// A mark that it was deleted.
    Deleted {
        /// The mark's own version.
        version: String,
        /// Who asks for the key is told that it is not there.
        latest: bool,
    },
}

impl Found {
    fn of(one: ListedVersion) -> Self {
        let what = match (one.deleted, one.latest) {
            (true, latest) => What::Deleted { version: one.version, latest },
            (false, true) => What::Current,
            (false, false) => What::Older(one.version),
        };
        Self { object: one.object, what, nth: 0 }
    }
}

/// A listing.
pub struct Listing<'a> {
    objects: &'a Objects,
    next: Next,
    last: Option<String>,
    newer: u32,
}

enum Next {
    Objects(Option<String>),
    Versions(Option<VersionsFrom>),
    Nothing,
}

impl<'a> Listing<'a> {
    /// Of the objects, or with `versions` of everything that lies behind them as well.
    pub fn new(objects: &'a Objects, versions: bool) -> Self {
        let next = if versions { Next::Versions(None) } else { Next::Objects(None) };
        Self { objects, next, last: None, newer: 0 }
    }

    /// The next page; `None` after the last one.
    pub fn page(&mut self) -> Result<Option<Vec<Found>>> {
        let mut found: Vec<Found> = match &self.next {
            Next::Nothing => return Ok(None),
            Next::Objects(token) => {
                let (page, next) = self.objects.list(token.as_deref())?;
                self.next = next.map_or(Next::Nothing, |token| Next::Objects(Some(token)));
                page.into_iter()
                    .map(|object| Found { object, what: What::Current, nth: 0 })
                    .collect()
            }
            Next::Versions(from) => {
                let (page, next) = self.objects.list_versions(from.as_ref())?;
                self.next = next.map_or(Next::Nothing, |from| Next::Versions(Some(from)));
                page.into_iter().map(Found::of).collect()
            }
        };
        self.check_order(&mut found)?;
        Ok(Some(found))
    }

    /// Paths are made of keys that come in order.
    fn check_order(&mut self, page: &mut [Found]) -> Result<()> {
        for found in page {
            let key = &found.object.key;
            let again = found.what != What::Current;
            let before = self.last.as_ref();
            let fits = before.is_none_or(|last| last < key || (again && last == key));
            if !fits {
                return Err(Error::unsupported(format!(
                    "{} lists its objects in no order: `{key}` came after `{}`",
                    self.objects.name(),
                    self.last.clone().unwrap_or_default()
                )));
            }
            self.newer = if before == Some(key) { self.newer + 1 } else { 0 };
            self.last = Some(key.clone());
            found.nth = self.newer;
        }
        Ok(())
    }
}
