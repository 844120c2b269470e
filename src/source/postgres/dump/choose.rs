//! Which databases are dumped: a decision over a list, and the list.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::files::LeftOut;
use crate::error::{Error, ErrorKind, Result};
use crate::source::postgres::Connection;

/// What a policy asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Which {
    /// The one that the connection names.
    #[default]
    Connected,
    /// All but those that a glob matches.
    All {
        /// The globs.
        except: Vec<String>,
    },
    /// These.
    Names(Vec<String>),
}

/// A database of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `datallowconn`.
    pub open: bool,
    /// `datconnlimit`: -1 is no limit, -2 a database that was half dropped.
    pub limit: i32,
    /// The role may connect.
    pub may_connect: bool,
}

/// The decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The databases to dump, in the order of the list.
    pub take: Vec<String>,
    /// Those that are not dumped though `all` was asked for.
    pub left_out: Vec<LeftOut>,
}

/// All databases, by name.
pub fn list(connection: &mut Connection) -> Result<Vec<Listed>> {
    let rows = connection.text(
        "SELECT datname, datallowconn, datconnlimit, \
         pg_catalog.has_database_privilege(oid, 'CONNECT') \
         FROM pg_catalog.pg_database ORDER BY datname::text COLLATE \"C\"",
        "failed to list the databases",
    )?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let [name, open, limit, may_connect] = <[_; 4]>::try_from(row).ok()?;
            Some(Listed {
                name: name?,
                open: open? == "t",
                limit: limit?.parse().ok()?,
                may_connect: may_connect? == "t",
            })
        })
        .collect())
}

/// Decides. `connected` is the database of the connection; `has_content` says whether `template1`
/// has anything of its own. A superuser is held to no limit of connections.
pub fn choose(
    listed: &[Listed],
    which: &Which,
    connected: &str,
    superuser: bool,
    has_content: &mut dyn FnMut(&str) -> Result<bool>,
) -> Result<Choice> {
    let why_not = |database: &Listed| match database {
        Listed { limit: -2, .. } => Some("it was half dropped"),
        Listed { open: false, .. } => Some("it takes no connections (datallowconn is false)"),
        Listed { limit: 0, .. } if !superuser => Some("its CONNECTION LIMIT is 0"),
        _ => None,
    };
    let mut choice = Choice::default();
    let names: Vec<&str> = match which {
        Which::Connected => vec![connected],
        Which::Names(names) => names.iter().map(String::as_str).collect(),
        Which::All { except } => {
            let except = globs(except)?;
            for database in listed {
                let name = &database.name;
                if name == "template0" || except.is_match(name) {
                    continue;
                }
                if let Some(why) = why_not(database) {
                    choice.left_out.push(LeftOut { database: name.clone(), why: why.to_owned() });
                } else if !database.may_connect {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        format!("the role may not connect to database `{name}`"),
                    )
                    .hint(format!(
                        "GRANT CONNECT ON DATABASE \"{}\", or leave it out with `exclude`",
                        name.replace('"', "\"\"")
                    )));
                } else if name != "template1" || has_content(name)? {
                    choice.take.push(name.clone());
                }
            }
            if choice.take.is_empty() {
                return Err(Error::failed("there is no database to dump").hint(
                    "`exclude` or the server leaves none: a backup of nothing is no backup",
                ));
            }
            return Ok(choice);
        }
    };
    for name in names {
        let found = listed.iter().find(|database| database.name == name).ok_or_else(|| {
            let names = listed.iter().map(|database| database.name.as_str());
            Error::not_found(format!("the server has no database `{name}`"))
                .hint(crate::policy::hint_at(name, names))
        })?;
        if let Some(why) = why_not(found) {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("database `{name}` cannot be dumped: {why}"),
            ));
        }
        choice.take.push(name.to_owned());
    }
    choice.take.sort();
    choice.take.dedup();
    Ok(choice)
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let bad = |error: globset::Error| Error::usage("a bad pattern in `exclude`").with_source(error);
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(bad)?);
    }
    set.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn server() -> Vec<Listed> {
        let one = |name: &str, open, limit, may_connect| Listed {
            name: name.into(),
            open,
            limit,
            may_connect,
        };
        vec![
            one("a", true, -1, true),
            one("half", true, -2, true),
            one("narrow", true, 0, true),
            one("off", false, -1, true),
            one("template0", false, -1, true),
            one("template1", true, -1, true),
        ]
    }

    fn choice(which: &Which, superuser: bool, content: bool) -> Result<Choice> {
        choose(&server(), which, "a", superuser, &mut |_| Ok(content))
    }

    #[test]
    fn all_leaves_out_what_cannot_be_dumped_and_says_so() {
        let all = Which::All { except: vec![] };
        let found = choice(&all, true, false).unwrap();
        assert_eq!(found.take, ["a", "narrow"]);
        let names: Vec<&str> = found.left_out.iter().map(|l| l.database.as_str()).collect();
        assert_eq!(names, ["half", "off"]);
        let found = choice(&all, false, true).unwrap();
        assert_eq!(found.take, ["a", "template1"]);
        assert_eq!(found.left_out.len(), 3);
        let none = choice(&Which::All { except: vec!["*".into()] }, true, true).unwrap_err();
        assert_eq!(none.to_string(), "there is no database to dump");
    }

    #[test]
    fn what_is_named_is_dumped_or_an_error() {
        let named = |name: &str| choice(&Which::Names(vec![name.into()]), false, true);
        assert_eq!(named("a").unwrap().take, ["a"]);
        for (name, kind) in [
            ("off", ErrorKind::Denied),
            ("narrow", ErrorKind::Denied),
            ("gone", ErrorKind::NotFound),
        ] {
            assert_eq!(named(name).unwrap_err().kind(), kind, "{name}");
        }
        assert_eq!(choice(&Which::Connected, false, true).unwrap().take, ["a"]);
    }

    #[test]
    fn a_role_that_may_not_connect_fails_the_whole() {
        let mut server = server();
        server[0].may_connect = false;
        let all = Which::All { except: vec![] };
        let error = choose(&server, &all, "x", false, &mut |_| Ok(true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let rest = Which::All { except: vec!["a".into()] };
        assert!(choose(&server, &rest, "x", false, &mut |_| Ok(true)).is_ok());
    }
}
