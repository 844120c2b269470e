//! Which databases are dumped.

use globset::{Glob, GlobSetBuilder};

use crate::error::{Error, Result};

/// What a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All but those that a glob matches.
    All {
        /// The globs.
        except: Vec<String>,
    },
    /// These.
    Names(Vec<String>),
}

impl Default for Which {
    fn default() -> Self {
        Self::All { except: Vec::new() }
    }
}

/// Decides. `listed` are the server's databases but its own, in order.
pub fn choose(listed: &[String], which: &Which) -> Result<Vec<String>> {
    let mut take: Vec<String> = match which {
        Which::All { except } => {
            let bad = |error| Error::usage("a bad pattern in `exclude`").with_source(error);
            let mut set = GlobSetBuilder::new();
            for pattern in except {
                set.add(Glob::new(pattern).map_err(bad)?);
            }
            let set = set.build().map_err(bad)?;
            listed.iter().filter(|name| !set.is_match(name)).cloned().collect()
        }
        Which::Names(names) => {
            for name in names {
                if !listed.contains(name) {
                    let all = listed.iter().map(String::as_str);
                    return Err(Error::not_found(format!("the server has no database `{name}`"))
                        .hint(crate::policy::hint_at(name, all))
                        .hint("databases that this user may not see are not there for it"));
                }
            }
            names.clone()
        }
    };
    take.sort();
    take.dedup();
    if take.is_empty() {
        return Err(Error::failed("there is no database to dump").hint(
            "a user sees only databases that it has a right in; a backup of nothing is no backup",
        ));
    }
    if let Some(odd) = take.iter().find(|name| name.chars().any(char::is_control)) {
        return Err(Error::unsupported(format!(
            "the name of database `{}` has control characters",
            odd.escape_debug()
        )));
    }
    Ok(take)
}
