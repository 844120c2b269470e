//! Telling people and programs what is wrong.
//!
//! | file | for |
//! |---|---|
//! | `alert` | what may be wrong, how bad that is, and what makes two alerts the same |
//! | `text` | what people read, in English and Chinese |
//! | `message` | several alerts on their way to a receiver, and the JSON that programs get |
//! | `receiver` | who is told, and how often they may be |
//! | `alertmanager`, `webhook`, `robot`, `command` | how each kind is told |
//! | `ping` | dead man's switches, which hear of every run |
//!
//! Nothing here decides when somebody is told, and nothing waits for long: `daemon::watch` does.

pub mod alert;
mod alertmanager;
mod command;
pub mod message;
pub mod ping;
pub mod receiver;
mod robot;
pub mod text;
mod webhook;

pub use alert::{Alert, What};
pub use message::{Message, Notice};
pub use receiver::{Receiver, Refused};
