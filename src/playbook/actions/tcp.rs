//! `tcp`: a port takes connections, or takes none.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{Port, TcpAction};

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last try of a step may take at least: one that is given no time finds nothing out.
const SHORTEST: Duration = Duration::from_millis(500);

/// Looks at a port.
pub struct Tcp(pub TcpAction);

impl Tcp {
    fn found(&self) -> Outputs {
        let state = match self.0.expect {
            Port::Open => "open",
            Port::Closed => "closed",
        };
        Outputs::from([("state".to_owned(), state.to_owned())])
    }

    fn look(&self, job: &Job<'_>) -> Result<()> {
        let address = &self.0.address;
        let opens = connect(address, patience(job));
        match (self.0.expect, opens) {
            (Port::Open, Ok(())) | (Port::Closed, Err(_)) => Ok(()),
            (Port::Open, Err(why)) => {
                let what = format!("{address} takes no connections: {why}");
                Err(Error::new(ErrorKind::Unreachable, what))
            }
            (Port::Closed, Ok(())) => {
                Err(Error::failed(format!("{address} still takes connections")))
            }
        }
    }
}

/// How long one try may take now: no longer than the step.
fn patience(job: &Job<'_>) -> Duration {
    job.left().map_or(PATIENCE, |left| left.clamp(SHORTEST, PATIENCE))
}

fn connect(address: &str, patience: Duration) -> Result<(), String> {
    let found = address.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "it has no address".to_owned();
    for address in found {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

impl Action for Tcp {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let state = match self.0.expect {
            Port::Open => "takes connections",
            Port::Closed => "takes none",
        };
        let preview = Preview::of(format!("waits until {} {state}", self.0.address));
        Ok(match self.0.address.to_socket_addrs() {
            Ok(_) => preview,
            Err(error) => preview.missing(format!("{}: {error}", self.0.address)),
        })
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        Ok(if self.look(job).is_ok() { Observed::Done(self.found()) } else { Observed::NotDone })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        job.until(self.0.every.get(), || self.look(job)).map(|()| self.found())
    }
}
