//! Putting a restored database in the place of the one in use, by names.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::source::postgres::Connection;
use crate::source::postgres::connection::{ident, literal};

/// How long sessions may take to end once they are told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Renames `live` to `aside` and `new` to `live`, in one transaction. Meanwhile nobody can connect
/// to either, and who is connected is disconnected. `aside` takes no connections afterwards, so
/// that nothing is written to it by mistake. `connection` is with another database.
pub fn swap(connection: &mut Connection, live: &str, new: &str, aside: &str) -> Result<()> {
    let allow = |connection: &mut Connection, name: &str, yes: bool| {
        connection.execute(
            &format!("ALTER DATABASE {} ALLOW_CONNECTIONS {yes}", ident(name)),
            &format!("failed to {} database `{name}`", if yes { "open" } else { "close" }),
        )
    };
    let was = connection.value(
        &format!(
            "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = {}",
            literal(live)
        ),
        "failed to look at the database to swap",
    )? == "t";
    allow(connection, live, false)?;
    let renamed = disconnect(connection, live).and_then(|()| {
        disconnect(connection, new)?;
        let sql = format!(
            "BEGIN; ALTER DATABASE {live} RENAME TO {aside}; ALTER DATABASE {new} RENAME TO {live}; COMMIT",
            live = ident(live),
            new = ident(new),
            aside = ident(aside)
        );
        connection.execute(&sql, "failed to change the names")
    });
    if let Err(error) = renamed {
        let _ = connection.execute("ROLLBACK", "failed to roll back");
        if was {
            allow(connection, live, true)?;
        }
        return Err(error.hint(format!("`{live}` is as it was; the restored one is `{new}`")));
    }
    Ok(())
}

/// Ends all sessions with a database, and waits until they are gone.
fn disconnect(connection: &mut Connection, name: &str) -> Result<()> {
    let doing = format!("failed to disconnect who uses `{name}`");
    let sql = format!(
        "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) \
         FROM pg_catalog.pg_stat_activity \
         WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid()",
        literal(name)
    );
    let deadline = Instant::now() + PATIENCE;
    while connection.value(&sql, &doing)? != "0" {
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::Busy, doing)
                .with_source("sessions do not end though they were told to"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
