//! The kinds of actions, one file each.

mod backup;
mod build;
mod command;
mod divergence;
mod dns;
mod dns_message;
mod gate;
mod haproxy;
mod http;
mod itself;
mod notify;
mod postgres;
mod postgres_files;
mod program;
mod recovery_points;
mod redis;
mod remote;
mod restore;
mod role;
mod secret_check;
mod service;
mod sql;
mod starrocks;
mod tcp;
pub mod vantage;
mod wait;

pub use build::build;
