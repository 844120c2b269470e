//! What programs read of a daemon over HTTP: metrics and health.
//!
//! | file | for |
//! |---|---|
//! | `metrics` | every metric there is, and the text that Prometheus reads |
//! | `collect` | the values: from the state, so that they survive restarts, and from the board |
//! | `server` | the addresses, and what each answers |
//!
//! Nothing can be changed here, and nothing that is secret is shown; but names are, so that it
//! listens on the loopback device if nothing else is said.

mod collect;
pub mod metrics;
pub mod server;
