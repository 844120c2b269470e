//! Whether there is what is needed to bring a backup back: looked at, and nothing done.

use std::path::Path;

use super::dump::major;
use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::run::restore::CLUSTER_KIND;
use crate::source::{mysql, postgres};

/// Looks whether there are the programs of the server that a backup is brought back into, if it is of
/// one.
pub fn can_start(manifest: &Manifest, programs: Option<&Path>) -> Result<()> {
    match manifest.source_kind.as_str() {
        CLUSTER_KIND | "postgres_dump" => {
            postgres::ThrowawayServer::can_start(major(manifest)?, programs)
        }
        mysql::KIND => {
            let server = manifest.server.as_deref().unwrap_or_default();
            mysql::ThrowawayServer::can_start(server.contains("MariaDB"), programs)
        }
        _ => Ok(()),
    }
}
