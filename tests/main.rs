//! All integration tests, in one binary.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, clippy::print_stderr, clippy::pedantic, clippy::type_complexity)]

mod alerts;
mod api;
mod architecture;
mod budget;
mod by_hand;
mod chaos;
mod cli;
mod common;
mod copies;
mod crash;
mod daemon;
mod damage;
mod docs;
mod golden;
mod growth;
mod hostile;
mod increments;
mod inspect;
mod live;
mod metrics;
mod mistakes;
mod notify;
mod policy;
mod postgres_archive;
mod postgres_cluster;
mod postgres_connection;
mod postgres_dump;
mod postgres_incremental;
mod postgres_part;
mod postgres_proof;
mod postgres_replication;
mod postgres_wal;
mod postgres_wal_keep;
mod prune;
mod prune_model;
mod rebuild;
mod repair;
mod restore;
mod roundtrip;
mod rules;
mod s3;
mod safeguards;
mod schedule;
mod simulation;
mod slips;
mod soak;
mod sources;
mod space;
mod state;
mod state_postgres;
mod status;
mod stores;
mod versions;
