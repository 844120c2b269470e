//! The command line: one file per command, one place for output, progress and exit codes.
//!
//! Nothing below this module prints. Standard output is data, standard error is talk.

mod args;
mod command;
mod confirm;
mod contract;
mod exit;
mod format;
mod gantt;
mod ledger;
mod names;
mod passphrase;
mod printer;
mod progress;
mod remote;
mod setup;
mod site;
mod start;
mod time;

pub use args::Cli;
pub use exit::{EXIT_CODES, ExitStatus};
pub use start::main;
