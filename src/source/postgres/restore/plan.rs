//! What a restore into a server will do: a decision over what the backup has and what the server
//! has.

use std::collections::BTreeMap;

use super::globals::RolePlan;
use crate::error::{Error, ErrorKind, Result};
use crate::source::postgres::dump::Facts;

/// A database and the name it is restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Its name in the backup.
    pub from: String,
    /// Its name in the server; the same if `None`.
    pub to: Option<String>,
}

impl Rename {
    /// Reads `OLD` or `OLD=NEW`. Of several `=` the one is meant that makes `OLD` a database of the
    /// backup.
    pub fn parse(text: &str, known: &[String]) -> Result<Self> {
        if known.iter().any(|name| name == text) {
            return Ok(Self { from: text.to_owned(), to: None });
        }
        let splits = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let mut fits = splits.filter(|(from, _)| known.iter().any(|name| name == from));
        if let Some((from, to)) = fits.next() {
            if to.is_empty() || to.len() > 63 || to.contains('\0') {
                return Err(Error::usage(format!("`{to}` is no name for a database")));
            }
            return Ok(Self { from: from.to_owned(), to: Some(to.to_owned()) });
        }
        let from = text.split_once('=').map_or(text, |(from, _)| from);
        Err(Error::not_found(format!("the backup has no database `{from}`"))
            .hint(format!("it has {}", known.join(", "))))
    }
}

/// What a person asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Which databases, as written; all if empty.
    pub databases: Vec<String>,
    /// Only what is in these schemas.
    pub schemas: Vec<String>,
    /// Only these tables: `name` or `schema.name`.
    pub tables: Vec<String>,
    /// Everything belongs to who restores: no roles, no rights.
    pub no_owner: bool,
    /// Restore as this role.
    pub role: Option<String>,
    /// Put the new database in the place of the old one.
    pub swap: bool,
}

impl Options {
    /// Whether only a part of each database is wanted.
    pub fn is_partial(&self) -> bool {
        !self.schemas.is_empty() || !self.tables.is_empty()
    }

    /// Whether a table of a database is wanted.
    pub fn wants(&self, schema: &str, name: &str) -> bool {
        let table = |wanted: &String| {
            wanted == name
                || wanted.strip_prefix(schema).and_then(|w| w.strip_prefix('.')) == Some(name)
        };
        (self.schemas.is_empty() || self.schemas.iter().any(|wanted| wanted == schema))
            && (self.tables.is_empty() || self.tables.iter().any(table))
    }
}

/// What a name stands for in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing: the database is made.
    Absent,
    /// A database without content.
    Empty,
    /// A database with content.
    Full,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabasePlan {
    /// Its name in the backup.
    pub from: String,
    /// Its name while it is restored, and afterwards unless it is swapped.
    pub to: String,
    /// It is made; otherwise it is there and empty.
    pub create: bool,
    /// The database whose place it takes, and the name that one gets.
    pub swap: Option<(String, String)>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The databases, in order.
    pub databases: Vec<DatabasePlan>,
    /// The roles.
    pub roles: RolePlan,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Decides. `facts` has every database of the backup; `target` says what a name stands for;
/// `stamp` is the time, as part of names.
pub fn plan(
    options: &Options,
    facts: &BTreeMap<String, Facts>,
    major: u32,
    target: &mut dyn FnMut(&str) -> Result<Target>,
    stamp: &str,
) -> Result<Plan> {
    let known: Vec<String> = facts.keys().cloned().collect();
    let mut plan = Plan::default();
    let named = !options.databases.is_empty();
    let wanted: Vec<Rename> = if named {
        options.databases.iter().map(|text| Rename::parse(text, &known)).collect::<Result<_>>()?
    } else {
        known.iter().map(|name| Rename { from: name.clone(), to: None }).collect()
    };
    for Rename { from, to } in wanted {
        let fact = &facts[&from];
        let was = fact.server_version / 10_000;
        if was > major {
            return Err(Error::unsupported(format!(
                "`{from}` was dumped from PostgreSQL {was}, and this server is {major}"
            ))
            .hint(format!("restore to PostgreSQL {was} or newer")));
        }
        // These are on every server; without content there is nothing to bring.
        if !named && ["postgres", "template1"].contains(&from.as_str()) && is_bare(fact) {
            plan.notes.push(format!("`{from}` had no content and is left as it is here"));
            continue;
        }
        let database = if options.swap {
            if target(&from)? == Target::Absent {
                return Err(Error::not_found(format!(
                    "there is no database `{from}` to swap with"
                ))
                .hint("leave --swap out: it is restored under its own name"));
            }
            let to = to.unwrap_or_else(|| suffixed(&from, &format!("restored_{stamp}")));
            let swap = Some((from.clone(), suffixed(&from, &format!("before_{stamp}"))));
            DatabasePlan { create: absent(&to, target)?, from, to, swap }
        } else {
            let to = to.unwrap_or_else(|| from.clone());
            DatabasePlan { create: absent(&to, target)?, from, to, swap: None }
        };
        if plan.databases.iter().any(|other| other.to == database.to) {
            return Err(Error::usage(format!("`{}` is meant twice", database.to)));
        }
        plan.databases.push(database);
    }
    if plan.databases.is_empty() {
        return Err(Error::failed("there is nothing to restore"));
    }
    Ok(plan)
}

fn is_bare(facts: &Facts) -> bool {
    facts.tables.is_empty()
        && facts.large_objects == 0
        && facts.extensions.iter().all(|extension| extension.name == "plpgsql")
}

fn absent(name: &str, target: &mut dyn FnMut(&str) -> Result<Target>) -> Result<bool> {
    match target(name)? {
        Target::Absent => Ok(true),
        Target::Empty => Ok(false),
        Target::Full => Err(Error::new(
            ErrorKind::Conflict,
            format!("database `{name}` exists and is not empty: nothing is ever merged into it"),
        )
        .hint(format!("restore beside it: --database {name}={name}_restored"))
        .hint("--swap restores beside it and then changes their names")),
    }
}

/// A name with a suffix that is not longer than a name may be: 63 bytes.
fn suffixed(name: &str, suffix: &str) -> String {
    let mut room = 62 - suffix.len();
    while !name.is_char_boundary(room.min(name.len())) {
        room -= 1;
    }
    format!("{}_{suffix}", &name[..room.min(name.len())])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn facts(names: &[&str]) -> BTreeMap<String, Facts> {
        let one = |name: &&str| {
            let table = crate::source::postgres::dump::Table::default();
            let tables = if **name == *"postgres" { vec![] } else { vec![table] };
            ((*name).to_owned(), Facts { server_version: 170_001, tables, ..Facts::default() })
        };
        names.iter().map(one).collect()
    }

    fn target(name: &str) -> Target {
        match name {
            "live" | "postgres" => Target::Full,
            "empty" => Target::Empty,
            _ => Target::Absent,
        }
    }

    fn planned(options: &Options, names: &[&str], major: u32) -> Result<Plan> {
        plan(options, &facts(names), major, &mut |name| Ok(target(name)), "20261121T020000Z")
    }

    fn options(databases: &[&str]) -> Options {
        Options {
            databases: databases.iter().map(|name| (*name).to_owned()).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn nothing_is_merged_into_a_database_with_content() {
        let error = planned(&options(&[]), &["live"], 17).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let found = planned(&options(&["live=new"]), &["live"], 17).unwrap();
        assert_eq!((found.databases[0].to.as_str(), found.databases[0].create), ("new", true));
        let found = planned(&options(&["live=empty"]), &["live"], 18).unwrap();
        assert!(!found.databases[0].create);
        assert!(planned(&options(&["a=x", "b=x"]), &["a", "b"], 17).is_err());
        assert_eq!(planned(&options(&[]), &["a"], 16).unwrap_err().kind(), ErrorKind::Unsupported);
        let found = planned(&options(&[]), &["a", "postgres"], 17).unwrap();
        assert_eq!((found.databases.len(), found.notes.len()), (1, 1));
    }

    #[test]
    fn a_swap_restores_beside_and_needs_something_to_swap_with() {
        let swap = |databases: &[&str]| Options { swap: true, ..options(databases) };
        let found = planned(&swap(&["live"]), &["live"], 17).unwrap().databases.remove(0);
        assert_eq!(found.to, "live_restored_20261121T020000Z");
        assert_eq!(found.swap, Some(("live".into(), "live_before_20261121T020000Z".into())));
        assert!(planned(&swap(&["gone"]), &["gone"], 17).is_err());
        let long = "é".repeat(31);
        assert!(suffixed(&long, "before_20261121T020000Z").len() <= 63);
    }

    #[test]
    fn names_with_equals_signs_are_told_apart() {
        let known = ["a=b".to_owned(), "a".to_owned()];
        let parse = |text: &str| Rename::parse(text, &known).unwrap();
        assert_eq!(parse("a=b"), Rename { from: "a=b".into(), to: None });
        assert_eq!(parse("a=b=c"), Rename { from: "a".into(), to: Some("b=c".into()) });
        assert!(Rename::parse("x=a", &known).is_err());
    }

    #[test]
    fn tables_are_wanted_by_schema_and_name() {
        let wanted = Options { tables: vec!["s.t".into(), "u".into()], ..Options::default() };
        assert!(wanted.wants("s", "t") && wanted.wants("any", "u") && !wanted.wants("x", "t"));
        let schema = Options { schemas: vec!["s".into()], ..Options::default() };
        assert!(schema.wants("s", "x") && !schema.wants("t", "x"));
    }
}
