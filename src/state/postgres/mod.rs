//! The state that several daemons share: a PostgreSQL database.
//!
//! | file | for |
//! |---|---|
//! | `session` | the connection: opened again when it is lost; transactions; the newest schema |
//! | `schema` | every schema there was |
//! | `queue` | the runs: claims, leases, fences |
//!
//! Leases are timed by the server's clock alone, and every write about a run that goes on carries
//! the number under which it was claimed: a daemon that stood still changes nothing any more.

mod queue;
mod schema;
mod session;

pub use session::{Connect, SharedState};
