//! From the settings of a step to its action.

use std::sync::Arc;

use super::backup::Backup;
use super::command::Command;
use super::divergence::Divergence;
use super::dns::Dns;
use super::gate::Gate;
use super::haproxy::Haproxy;
use super::http::Http;
use super::notify::Notify;
use super::postgres::Postgres;
use super::postgres_files::PostgresFiles;
use super::recovery_points::RecoveryPoints;
use super::redis::RedisFlush;
use super::restore::Restore;
use super::role::Role;
use super::secret_check::SecretCheck;
use super::service::Service;
use super::sql::Sql;
use super::starrocks::StarRocks;
use super::tcp::Tcp;
use super::wait::Wait;
use crate::error::Result;
use crate::playbook::action::{Action, Means};
use crate::policy::ActionSpec;

/// The action that a step's settings describe.
pub fn build(spec: &ActionSpec, means: &Arc<Means>) -> Result<Box<dyn Action>> {
    Ok(match spec {
        ActionSpec::Command(spec) => Box::new(Command(spec.clone())),
        ActionSpec::Wait(spec) => Box::new(Wait(spec.clone())),
        ActionSpec::Tcp(spec) => Box::new(Tcp(spec.clone())),
        ActionSpec::SecretCheck(spec) => Box::new(SecretCheck::new(spec.clone(), means.clone())),
        ActionSpec::RecoveryPoints(spec) => {
            Box::new(RecoveryPoints::new(spec.clone(), means.clone()))
        }
        ActionSpec::Role(spec) => Box::new(Role::new(spec.clone(), means.clone())),
        ActionSpec::Http(spec) => Box::new(Http::new(spec.clone(), means.clone())),
        ActionSpec::Sql(spec) => Box::new(Sql(spec.clone())),
        ActionSpec::Service(spec) => Box::new(Service(spec.clone())),
        ActionSpec::Haproxy(spec) => Box::new(Haproxy(spec.clone())),
        ActionSpec::Divergence(spec) => Box::new(Divergence(spec.clone())),
        ActionSpec::Dns(spec) => Box::new(Dns(spec.clone())),
        ActionSpec::RedisFlush(spec) => Box::new(RedisFlush(spec.clone())),
        ActionSpec::Postgres(spec) => match PostgresFiles::new(spec, means) {
            Some(action) => Box::new(action),
            None => Box::new(Postgres::new(spec.clone(), means.clone())),
        },
        ActionSpec::Starrocks(spec) => Box::new(StarRocks(spec.clone())),
        ActionSpec::Notify(spec) => Box::new(Notify::new(spec.clone(), means.clone())),
        ActionSpec::Restore(spec) => Box::new(Restore::new(spec.clone(), means.clone())),
        ActionSpec::Backup(spec) => Box::new(Backup::new(spec.clone(), means.clone())),
        ActionSpec::Manual(_) | ActionSpec::Approval(_) => Box::new(Gate(spec.clone())),
    })
}
