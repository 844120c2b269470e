//! From a policy's source to a source.

use super::bucket::{self, BucketSource};
use super::command::{CommandSource, Pipeline};
use super::directory::{self, DirectorySource};
use super::mysql::{self, MysqlSource};
use super::postgres::cluster::{self, ClusterSource};
use super::postgres::dump::{self, DumpSource};
use super::secrets::SecretsSource;
use super::sqlite::{self, SqliteSource};
use super::starrocks::StarRocksSource;
use super::{Source, command::Config};
use crate::error::Result;
use crate::policy::{self, Databases, Program, Setting, SourceSpec};

/// Builds the source that `spec` describes. `name` is its name in the policy.
pub fn build(name: &str, spec: &SourceSpec) -> Result<Box<dyn Source>> {
    match spec {
        SourceSpec::Directory(config) => Ok(Box::new(DirectorySource::new(directory::Config {
            paths: config.paths().map(std::path::Path::to_path_buf).collect(),
            relative: config.path.is_some(),
            exclude: excluded(config),
            one_file_system: config.one_file_system,
            exclude_caches: config.exclude_caches,
            allow_live: config.allow_live,
            allow_empty: config.allow_empty,
        })?)),
        SourceSpec::Command(config) => Ok(Box::new(command_source(name, config)?)),
        SourceSpec::Secrets(values) => Ok(Box::new(SecretsSource::new(
            values.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        ))),
        SourceSpec::PostgresDump(config) => Ok(Box::new(DumpSource::new(dump_config(config)))),
        SourceSpec::MysqlDump(config) => Ok(Box::new(MysqlSource::new(mysql_config(config)))),
        SourceSpec::Bucket(config) => Ok(Box::new(BucketSource::new(bucket::Config {
            bucket: config.s3.clone(),
            exclude: config.exclude.clone(),
            versions: config.versions,
        }))),
        SourceSpec::Sqlite(config) => Ok(Box::new(SqliteSource::new(sqlite::Config {
            path: config.path.clone(),
            scratch: config.scratch.clone(),
        }))),
        SourceSpec::StarRocks(config) => Ok(Box::new(StarRocksSource::new(config.clone()))),
        SourceSpec::PostgresCluster(config) => Ok(Box::new(ClusterSource::new(cluster::Config {
            connection: config.connection.clone(),
            fast_checkpoint: config.checkpoint == policy::Checkpoint::Fast,
            max_rate: config.max_rate.map(policy::Size::bytes),
            archives: config.wal.is_some(),
        }))),
    }
}

/// What a policy leaves out, and a heartbeat that is being written: it is gone in a moment.
fn excluded(config: &policy::DirectorySource) -> Vec<String> {
    let name = policy::Heartbeat::NEW;
    let unfinished = match (&config.path, config.paths().next()) {
        (Some(_), _) => Some(format!("/{name}")),
        (None, Some(path)) => path.to_str().map(|path| format!("{}/{name}", globset::escape(path))),
        (None, None) => None,
    };
    config.exclude.iter().cloned().chain(unfinished).collect()
}

fn dump_config(config: &policy::PostgresDump) -> dump::Config {
    dump::Config {
        connection: config.connection.clone(),
        which: match &config.databases {
            None => dump::Which::Connected,
            Some(Databases::All) => dump::Which::All { except: config.exclude.clone() },
            Some(Databases::Names(names)) => dump::Which::Names(names.clone()),
        },
        counts: config.counts,
        checksums: config.checksums,
        jobs: config.jobs.map(|jobs| jobs as usize),
        scratch: config.scratch.clone(),
        programs: config.programs.clone(),
        timeout: config.timeout.map(policy::Period::get),
    }
}

fn mysql_config(config: &policy::MysqlDump) -> mysql::Config {
    mysql::Config {
        connection: config.connection.clone(),
        which: match &config.databases {
            None | Some(Databases::All) => mysql::Which::All { except: config.exclude.clone() },
            Some(Databases::Names(names)) => mysql::Which::Names(names.clone()),
        },
        lock: config.lock,
        binlog: config.binlog,
        counts: config.counts,
        checksums: config.checksums,
        programs: config.programs.clone(),
        timeout: config.timeout.map(policy::Period::get),
    }
}

fn command_source(name: &str, config: &policy::CommandSource) -> Result<CommandSource> {
    let mut environment = Vec::new();
    for (variable, value) in &config.environment {
        let value = match value {
            Setting::Plain(text) => text.clone().into(),
            Setting::Secret(reference) => reference.resolve()?,
        };
        environment.push((variable.clone(), value));
    }
    let pipeline = |program: &Program| Pipeline {
        environment: environment.clone(),
        directory: config.directory.clone(),
        timeout: config.timeout.map(policy::Period::get),
        ..Pipeline::of(program)
    };
    Ok(CommandSource::new(Config {
        name: name.to_owned(),
        produce: pipeline(&config.program),
        consume: config.restore.as_ref().map(pipeline),
        allow_empty: config.allow_empty,
    }))
}
