//! The kinds of actions, one file each.

mod backup;
mod build;
mod command;
mod gate;
mod haproxy;
mod http;
mod itself;
mod postgres;
mod program;
mod recovery_points;
mod redis;
mod restore;
mod role;
mod secret_check;
mod service;
mod sql;
mod tcp;
mod wait;

pub use build::build;
