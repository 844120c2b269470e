//! The roles of `globals.sql`: which of them are made.

use std::collections::BTreeSet;

/// A statement about a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// `CREATE ROLE name`.
    Create(String),
    /// `ALTER ROLE name …`, `COMMENT ON ROLE name …`.
    Change(String),
    /// `GRANT group TO member …`.
    Member(String, String),
    /// Anything about a tablespace.
    Tablespace(String),
    /// Anything else that would be run.
    Other,
    /// Settings of the session, and what `psql` alone understands.
    Nothing,
}

/// What is done with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleStep {
    /// The statement, ready to be run.
    pub sql: String,
    /// The role it is about.
    pub role: String,
}

/// Which roles are made, and which are left as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolePlan {
    /// Statements to run, in order.
    pub steps: Vec<RoleStep>,
    /// Roles that are made.
    pub made: Vec<String>,
    /// Roles that are there and are not touched.
    pub kept: Vec<String>,
    /// Tablespaces of the old server.
    pub tablespaces: Vec<String>,
}

/// Decides over `globals.sql`: roles that exist are kept as they are, others are made as they were,
/// with their passwords, settings and memberships. Tablespaces are never made: where they were is
/// of no meaning on another machine.
pub fn plan_roles(sql: &str, existing: &BTreeSet<String>) -> RolePlan {
    let mut plan = RolePlan::default();
    let mut made = BTreeSet::new();
    for statement in statements(sql) {
        let step = |role: &str| RoleStep { sql: statement.clone(), role: role.to_owned() };
        match kind(&statement) {
            Role::Create(name) if existing.contains(&name) => plan.kept.push(name),
            Role::Create(name) => {
                plan.steps.push(step(&name));
                made.insert(name.clone());
                plan.made.push(name);
            }
            Role::Change(name) if made.contains(&name) => plan.steps.push(step(&name)),
            Role::Member(group, member) if made.contains(&group) || made.contains(&member) => {
                // Who granted it there is of no meaning here, and may not exist.
                let sql = without_grantor(&statement).to_owned();
                plan.steps.push(RoleStep { sql, role: member });
            }
            Role::Tablespace(name) if !name.is_empty() => plan.tablespaces.push(name),
            _ => {}
        }
    }
    plan
}

fn without_grantor(statement: &str) -> &str {
    // A name may hold the words too: they are taken for a clause only outside of quotes.
    let mut quoted = false;
    let mut at = None;
    for (index, c) in statement.char_indices() {
        quoted ^= c == '"';
        if !quoted && statement[index..].starts_with(" GRANTED BY ") {
            at = Some(index);
        }
    }
    at.map_or(statement, |at| &statement[..at])
}

fn kind(statement: &str) -> Role {
    let after = |prefix: &str| statement.strip_prefix(prefix);
    if let Some(rest) = after("CREATE ROLE ") {
        return Role::Create(name(rest).0);
    }
    if let Some(rest) = after("ALTER ROLE ").or_else(|| after("COMMENT ON ROLE ")) {
        return Role::Change(name(rest).0);
    }
    if let Some(rest) = after("CREATE TABLESPACE ") {
        return Role::Tablespace(name(rest).0);
    }
    if statement.contains(" TABLESPACE ") {
        return Role::Tablespace(String::new());
    }
    if let Some(rest) = after("GRANT ") {
        let (group, rest) = name(rest);
        if let Some(rest) = rest.trim_start().strip_prefix("TO ") {
            return Role::Member(group, name(rest).0);
        }
        return Role::Other;
    }
    if after("SET ").is_some() || after("SELECT ").is_some() { Role::Nothing } else { Role::Other }
}

/// The identifier that a text begins with, and what follows.
fn name(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
        let end = end.unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return (name, &quoted[at + 1..]);
        }
    }
    (name, "")
}

/// The statements of a script, without comments, semicolons and the commands of `psql`.
pub fn statements(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let start_of_line = current.trim().is_empty();
        let length = match c {
            '-' if rest.starts_with("--") => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
                continue;
            }
            // `\restrict`, `\connect`.
            '\\' if start_of_line => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
                continue;
            }
            '\'' => {
                let escapes = current.ends_with(['E', 'e']);
                literal_length(rest, '\'', escapes)
            }
            '"' => literal_length(rest, '"', false),
            ';' => {
                let statement = std::mem::take(&mut current);
                if !statement.trim().is_empty() {
                    found.push(statement.trim().to_owned());
                }
                rest = &rest[1..];
                continue;
            }
            c => c.len_utf8(),
        };
        current.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    if !current.trim().is_empty() {
        found.push(current.trim().to_owned());
    }
    found
}

/// The length of a quoted text with its quotes; a doubled quote is part of it.
fn literal_length(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBALS: &str = "\
--
-- PostgreSQL database cluster dump
--

\\restrict abc
SET default_transaction_read_only = off;

CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b--c';
CREATE ROLE \"odd; \"\"name\";
ALTER ROLE \"odd; \"\"name\" WITH NOLOGIN;
COMMENT ON ROLE \"odd; \"\"name\" IS 'it''s -- a\ncomment;';
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER;
ALTER ROLE postgres SET search_path TO 'x', E'a\\'b;';

GRANT app TO \"odd; \"\"name\" WITH ADMIN OPTION, INHERIT TRUE GRANTED BY postgres;
GRANT pg_read_all_data TO app;
GRANT pg_monitor TO postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/mnt/fast';
GRANT ALL ON TABLESPACE fast TO app;
\\unrestrict abc
";

    #[test]
    fn statements_end_where_they_end() {
        let found = statements(GLOBALS);
        assert_eq!(found.len(), 14, "{found:#?}");
        assert_eq!(
            found[2],
            "ALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b--c'"
        );
        assert_eq!(found[5], "COMMENT ON ROLE \"odd; \"\"name\" IS 'it''s -- a\ncomment;'");
        assert_eq!(found[8], "ALTER ROLE postgres SET search_path TO 'x', E'a\\'b;'");
    }

    #[test]
    fn roles_that_exist_are_kept_and_others_made_whole() {
        let existing = BTreeSet::from(["postgres".to_owned()]);
        let plan = plan_roles(GLOBALS, &existing);
        assert_eq!(plan.made, ["app", "odd; \"name"]);
        assert_eq!(plan.kept, ["postgres"]);
        assert_eq!(plan.tablespaces, ["fast"]);
        let steps: Vec<&str> = plan.steps.iter().map(|step| step.sql.as_str()).collect();
        assert_eq!(steps.len(), 7, "{steps:#?}");
        assert_eq!(steps[5], "GRANT app TO \"odd; \"\"name\" WITH ADMIN OPTION, INHERIT TRUE");
        assert_eq!(steps[6], "GRANT pg_read_all_data TO app");
        let all: BTreeSet<String> = ["postgres", "app", "odd; \"name"].map(str::to_owned).into();
        assert!(plan_roles(GLOBALS, &all).steps.is_empty());
    }
}
