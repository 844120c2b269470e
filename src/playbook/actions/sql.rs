//! `sql`: a query of PostgreSQL gives what is expected.

use crate::error::{Error, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::SqlAction;
use crate::source::postgres::{Connection, Settings, Surroundings};

/// Asks a query.
pub struct Sql(pub SqlAction);

/// Connects to a server that a policy names.
pub fn connect(connection: &str) -> Result<Connection> {
    Connection::open(&Settings::resolve(connection, &Surroundings::here())?)
}

impl Sql {
    fn look(&self) -> Result<Outputs> {
        let doing = "failed to ask the query";
        let mut connection = connect(&self.0.connection)?;
        // Where a session of `psql` would look.
        connection.execute("RESET search_path", doing)?;
        connection.execute("BEGIN TRANSACTION READ ONLY", doing)?;
        let value = connection.value(&self.0.query, doing)?;
        connection.execute("ROLLBACK", doing)?;
        match self.0.expect.missed(&value) {
            None => Ok(Outputs::from([("value".to_owned(), value)])),
            Some(why) => {
                Err(Error::failed(format!("the query's answer is not as expected: {why}")))
            }
        }
    }
}

impl Action for Sql {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        Ok(Preview::of(format!("asks `{}`", self.0.query.trim())))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        Ok(self.look().map_or(Observed::NotDone, Observed::Done))
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        job.until(self.0.every.get(), || self.look())
    }
}
