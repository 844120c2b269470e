//! Servers that a service runs: they give nobody a physical backup, whatever role asks.

use crate::error::{Error, ErrorKind};
use crate::source::postgres::Connection;

/// Roles that only the makers of a service create, and how it is called.
const ROLES: [(&str, &str); 9] = [
    ("rdsadmin", "Amazon RDS"),
    ("cloudsqladmin", "Google Cloud SQL"),
    ("alloydbsuperuser", "Google AlloyDB"),
    ("azuresu", "Azure Database for PostgreSQL"),
    ("azure_pg_admin", "Azure Database for PostgreSQL"),
    ("pg_rds_superuser", "Alibaba Cloud RDS"),
    ("pg_tencentdb_superuser", "TencentDB"),
    ("avnadmin", "Aiven"),
    ("doadmin", "DigitalOcean"),
];

/// Says of a server that refused a replication connection whose it is, where that is why.
pub(super) fn explain(error: Error, sql: Option<Connection>) -> Error {
    if error.kind() != ErrorKind::Denied {
        return error;
    }
    let Some(service) = sql.and_then(service) else { return error };
    Error::unsupported(format!(
        "this server is run by {service}, which gives nobody a physical backup or its WAL"
    ))
    .with_source(error.chain())
    .hint("back its databases up with a `postgres_dump` source: roles come without their passwords")
    .hint("recovery to a point in time is up to the service: keep its own backups as well")
}

fn service(mut sql: Connection) -> Option<&'static str> {
    let names: Vec<String> = ROLES.iter().map(|(role, _)| format!("'{role}'")).collect();
    let query = format!(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) \
         ANY (ARRAY[{}]::pg_catalog.name[]) LIMIT 1",
        names.join(", ")
    );
    let rows = sql.text(&query, "failed to ask who runs the server").ok()?;
    let found = rows.into_iter().next()?.into_iter().next()??;
    ROLES.iter().find(|(role, _)| *role == found).map(|(_, service)| *service)
}
