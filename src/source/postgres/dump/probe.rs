//! What `check` looks at: whether a dump would work, and the statement that mends what is missing.

use super::source::DumpSource;
use crate::error::Result;
use crate::source::postgres::connection::ident;
use crate::source::postgres::{Connection, Server, Settings};
use crate::source::{ProbeNote, SourceProbe};

/// Databases looked into; of more the rest is not.
const MOST: usize = 50;

/// What the role cannot read in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Unreadable {
    /// Tables and sequences, and one of them.
    relations: (u64, String),
    /// Schemas, and one of them.
    schemas: (u64, String),
    /// Tables whose policies would hide rows, and one of them.
    hidden: (u64, String),
    /// Large objects.
    large_objects: u64,
}

/// Looks. Changes nothing.
pub fn probe(source: &DumpSource) -> Result<SourceProbe> {
    let mut probe = SourceProbe::default();
    let mut note = |ok: bool, text: String| probe.notes.push(ProbeNote::new(ok, text));
    let mut connection = match source.settings().and_then(|settings| Connection::open(&settings)) {
        Ok(connection) => connection,
        Err(error) => {
            note(false, error.advised());
            return Ok(probe);
        }
    };
    let server = connection.server().clone();
    let settings = connection.settings().clone();
    note(true, described(&server, &settings));
    for name in ["pg_dump", "pg_dumpall"] {
        match source.tool(name, server.major()) {
            Ok(tool) => note(true, format!("{} is {name} {}", tool.path.display(), tool.version)),
            Err(error) => note(false, error.advised()),
        }
    }
    let choice = match source.choice(&mut connection) {
        Ok(choice) => choice,
        Err(error) => {
            note(false, error.advised());
            return Ok(probe);
        }
    };
    for left in &choice.left_out {
        note(true, format!("database `{}` is left out: {}", left.database, left.why));
    }
    for database in choice.take.iter().take(MOST) {
        match look_into(&settings, &server, database) {
            Ok(unreadable) => {
                let found = findings(database, &settings.user, server.major(), &unreadable);
                if found.is_empty() {
                    note(true, format!("`{}` may read all of `{database}`", settings.user));
                }
                for text in found {
                    note(false, text);
                }
            }
            Err(error) => {
                note(false, error.advised());
            }
        }
    }
    if choice.take.len() > MOST {
        note(true, format!("{} more databases were not looked into", choice.take.len() - MOST));
    }
    let passwords = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    if connection.value(passwords, "failed to look at the role's rights")? != "t" {
        note(
            true,
            format!(
                "roles are dumped without their passwords, which only a superuser reads (GRANT SELECT ON pg_catalog.pg_authid TO {} lets this role)",
                ident(&settings.user)
            ),
        );
    }
    if let Some(scratch) = &source.config.scratch
        && !scratch.is_dir()
    {
        note(false, format!("there is no directory {} for `scratch`", scratch.display()));
    }
    Ok(probe)
}

fn described(server: &Server, settings: &Settings) -> String {
    let mut text = format!("PostgreSQL {} at {}", server.version_text, server.host);
    if server.standby {
        text.push_str(", a standby");
    }
    text.push_str(&format!(", as `{}`", settings.user));
    if server.superuser {
        text.push_str(" (superuser)");
    }
    text
}

fn look_into(settings: &Settings, server: &Server, database: &str) -> Result<Unreadable> {
    let mut connection = Connection::open_same(&settings.with_database(database), server)?;
    if server.superuser {
        return Ok(Unreadable::default());
    }
    let row = connection.text(
        "WITH r AS (SELECT c.oid, c.relkind, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, \
            c.relrowsecurity FROM pg_catalog.pg_class c \
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind IN ('r', 'p', 'S', 'm', 'f') AND c.relpersistence <> 't' \
            AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND n.nspname <> 'information_schema'), \
         u AS (SELECT name FROM r WHERE NOT CASE WHEN relkind = 'S' \
            THEN pg_catalog.has_sequence_privilege(oid, 'SELECT') \
            ELSE pg_catalog.has_table_privilege(oid, 'SELECT') END), \
         s AS (SELECT pg_catalog.quote_ident(nspname) AS name FROM pg_catalog.pg_namespace \
            WHERE nspname OPERATOR(pg_catalog.!~) '^pg_' \
            AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE')), \
         h AS (SELECT name FROM r WHERE relrowsecurity AND NOT EXISTS (SELECT 1 \
            FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolbypassrls) \
            AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.oid = r.oid \
            AND NOT c.relforcerowsecurity AND pg_catalog.pg_has_role(c.relowner, 'USAGE'))), \
         l AS (SELECT 1 FROM pg_catalog.pg_largeobject_metadata m \
            WHERE NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE') AND NOT EXISTS (SELECT 1 \
            FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
            AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))) \
         SELECT (SELECT count(*) FROM u), (SELECT min(name) FROM u), (SELECT count(*) FROM s), \
            (SELECT min(name) FROM s), (SELECT count(*) FROM h), (SELECT min(name) FROM h), \
            (SELECT count(*) FROM l)",
        "failed to look at the role's rights",
    )?;
    let mut cells = row.into_iter().flatten().map(Option::unwrap_or_default);
    let mut next = || cells.next().unwrap_or_default();
    let mut pair = || (next().parse().unwrap_or(0), next());
    let (relations, schemas, hidden) = (pair(), pair(), pair());
    let (large_objects, _) = pair();
    Ok(Unreadable { relations, schemas, hidden, large_objects })
}

/// What is wrong, with what mends it.
fn findings(database: &str, role: &str, major: u32, found: &Unreadable) -> Vec<String> {
    let role = ident(role);
    let mut lines = Vec::new();
    if found.relations.0 + found.schemas.0 > 0 {
        let (count, example) =
            if found.relations.0 > 0 { &found.relations } else { &found.schemas };
        let mend = if major >= 14 {
            format!("GRANT pg_read_all_data TO {role}")
        } else {
            format!(
                "for each schema: GRANT USAGE ON SCHEMA s TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA s TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA s TO {role}"
            )
        };
        lines.push(format!(
            "{role} may not read {count} of the tables, sequences and schemas of `{database}`, such as {example}: {mend}"
        ));
    }
    if found.hidden.0 > 0 {
        lines.push(format!(
            "policies would hide rows of {} tables of `{database}` from {role}, such as {}: ALTER ROLE {role} BYPASSRLS",
            found.hidden.0, found.hidden.1
        ));
    }
    if found.large_objects > 0 {
        lines.push(format!(
            "{role} may not read {} large objects of `{database}`: dump as their owner or a superuser, or for each: GRANT SELECT ON LARGE OBJECT n TO {role}",
            found.large_objects
        ));
    }
    lines
}
