//! Dumps of PostgreSQL databases, as a policy writes them.

use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::value::Period;

/// Databases of a PostgreSQL server, each as one dump, with roles and what is needed to check a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresDump {
    /// A libpq connection string or URI; `password=` only as a reference.
    pub connection: String,
    /// `all`, or a list of names; the database of the connection if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Databases>,
    /// Globs of databases that `all` leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether rows are counted, in the snapshot of the dump, to check a restore by.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub counts: bool,
    /// Whether a checksum is made over each table's rows too. It reads everything once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checksums: bool,
    /// Databases dumped at once; with `scratch` tables of one database. 2 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub jobs: Option<u32>,
    /// A directory for dumps in directory format, written by several jobs and kept until stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// The directory of pg_dump, pg_dumpall and pg_restore; looked for if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// How long one database may take before its dump is ended and the backup fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

fn yes() -> bool {
    true
}

/// Which databases are dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// All of the server, those created later included.
    All,
    /// These.
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for Databases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Databases;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all` or a list of names of databases")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Databases, E> {
        if text == "all" {
            return Ok(Databases::All);
        }
        Err(E::custom(format!(
            "expected `all` or a list of names of databases\nwrite `databases: all` or `databases: [{text}]`"
        )))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Databases, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = items.next_element()? {
            names.push(name);
        }
        Ok(Databases::Names(names))
    }
}

impl Serialize for Databases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl JsonSchema for Databases {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Databases".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all`, or a list of names of databases.",
            "oneOf": [
                { "const": "all" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 }
            ]
        })
    }
}
