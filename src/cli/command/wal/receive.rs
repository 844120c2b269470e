//! `backstay wal receive`

use std::time::Duration;

use super::{ClusterArgs, by_policy, connection, to_write};
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::policy::Period;
use crate::run::wal::{ReceiveRequest, receive};
use crate::source::postgres::{Settings, Surroundings};

/// From which cluster, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The replication slot, made where there is none. Default: backstay_STACK_SOURCE.
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,

    /// How often what came is stored: what may be lost when the server burns down.
    #[arg(long, value_name = "PERIOD", default_value = "5s")]
    every: Period,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Receives until it is told to end.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (set, address) = by_policy(app, &args.cluster)?;
    let policy = app.policy_of(&set, &address)?;
    let text = connection(policy, &address)?;
    let settings = Settings::resolve(text, &Surroundings::here())
        .map_err(|error| error.context(format!("in the connection of {address}")))?;
    let slot = match &args.slot {
        Some(slot) if is_slot(slot) => slot.clone(),
        Some(slot) => {
            return Err(Error::usage(format!("`{slot}` is no name of a replication slot"))
                .hint("small letters, digits and underscores, 63 at the most"));
        }
        None => slot_of(&address.to_string()),
    };
    let every = args.every.get();
    if every < Duration::from_secs(1) {
        return Err(Error::usage("--every is less than a second"));
    }
    let archives = to_write(app, &set, &address)?;
    let request = ReceiveRequest {
        name: address.to_string(),
        settings: &settings,
        slot: &slot,
        every,
        archives: &archives,
    };
    app.while_active(policy, || receive(&request, &app.cx))?;
    Ok(ExitStatus::Done)
}

fn is_slot(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !name.is_empty() && name.len() <= 63 && name.chars().all(plain)
}

/// `backstay_STACK_SOURCE`, of what slots may be called.
fn slot_of(address: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = address.chars().map(plain).collect();
    format!("backstay_{name}").chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_after_its_source() {
        assert_eq!(slot_of("shop/main-Cluster.1"), "backstay_shop_main_cluster_1");
        assert!(is_slot(&slot_of(&"x/".repeat(100))));
        for wrong in ["", "Big", "a-b", "a b", &"x".repeat(64)] {
            assert!(!is_slot(wrong), "{wrong}");
        }
    }
}
