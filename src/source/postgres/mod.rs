//! PostgreSQL: connections, and what is backed up over them.
//!
//! Everything here is threads that may block; `postgres` is the blocking face of `tokio-postgres`.

pub mod dump;
pub mod restore;

mod connection;
mod conninfo;
mod parse;
mod passfile;
mod tls;
mod tools;

pub use connection::{Connection, OLDEST, Server};
pub use conninfo::{Host, Place, Settings, Surroundings, quote_value};
pub use tls::{SslMode, Tls};
