//! Which state the policies name, and how to reach it.

use std::sync::Arc;
use std::time::Duration;

use super::setup::App;
use crate::error::{Error, ErrorKind, Result};
use crate::http::api::Opens;
use crate::policy::{self, Policy, State as Named};
use crate::source::postgres::{Connection, Settings, Surroundings, Wanted};
use crate::state::{Ledger, SharedState, State};

/// How long a host may take to answer: a daemon has other things to do meanwhile.
const CONNECT: Duration = Duration::from_secs(5);

/// How long what was sent to it may stay unanswered.
const UNANSWERED: Duration = Duration::from_secs(15);

impl App {
    /// Opens the state that the policies name; that of this machine where they name none, or where
    /// there are none.
    pub fn ledger(&self) -> Result<Box<dyn Ledger>> {
        let given = self.global.policy.is_some();
        let policies = match self.policy_path() {
            Err(_) => Vec::new(),
            Ok(path) => match policy::load_valid(&path) {
                Ok((set, _)) => set.policies,
                Err(error) if error.kind() == ErrorKind::NotFound && !given => Vec::new(),
                Err(error) => {
                    self.printer.warning(&format!(
                        "{error}: if the policies name a shared state, this is not it"
                    ));
                    Vec::new()
                }
            },
        };
        self.ledger_of(&policies)
    }

    /// Opens the state that these policies name.
    pub fn ledger_of(&self, policies: &[Policy]) -> Result<Box<dyn Ledger>> {
        match shared(policies)? {
            None => Ok(Box::new(self.state()?)),
            Some(connection) => Ok(Box::new(open_shared(&settings_of(connection)?)?)),
        }
    }

    /// What opens the state that these policies name, again and again and on any thread.
    pub fn opens(&self, policies: &[Policy]) -> Result<Opens> {
        let (directory, clock) = (self.state_directory()?, self.cx.clock.clone());
        let settings = shared(policies)?.map(settings_of).transpose()?;
        Ok(Arc::new(move || {
            Ok(match &settings {
                None => Box::new(State::open(&directory, clock.now())?),
                Some(settings) => Box::new(open_shared(settings)?),
            })
        }))
    }
}

fn settings_of(connection: &str) -> Result<Settings> {
    let mut settings = Settings::resolve(connection, &Surroundings::here())
        .map_err(|error| error.context("failed to read where the state lies"))?;
    settings.connect_timeout = settings.connect_timeout.min(CONNECT);
    settings.unanswered = settings.unanswered.or(Some(UNANSWERED));
    // Of several servers the one that takes writes.
    settings.wanted = Wanted::ReadWrite;
    Ok(settings)
}

fn open_shared(settings: &Settings) -> Result<SharedState> {
    let place = format!("{}/{}", settings.server(), settings.database);
    let settings = settings.clone();
    let connect = move || Ok(Connection::open(&settings)?.into_client());
    SharedState::open(place, Box::new(connect))
}

/// The database that all of these policies name. `None` if none names one.
fn shared(policies: &[Policy]) -> Result<Option<&str>> {
    let of = |policy: &Policy| match &policy.state {
        Some(Named::Postgres { connection }) => Some(connection.clone()),
        Some(Named::Sqlite { .. }) | None => None,
    };
    let Some(first) = policies.first() else { return Ok(None) };
    if let Some(other) = policies.iter().find(|policy| of(policy) != of(first)) {
        return Err(Error::new(
            ErrorKind::Policy,
            format!("the policies of {} and {} name different states", first.stack, other.stack),
        )
        .hint("write the same `state:` into every policy of a directory"));
    }
    Ok(match &first.state {
        Some(Named::Postgres { connection }) => Some(connection),
        Some(Named::Sqlite { .. }) | None => None,
    })
}
