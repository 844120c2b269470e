//! What programs and people read of a daemon over HTTP: metrics, health, the API, the dashboard.
//!
//! | file | for |
//! |---|---|
//! | `metrics` | every metric there is, and the text that Prometheus reads |
//! | `collect` | the values: from the state, so that they survive restarts, and from the board |
//! | `server` | connections, and who answers |
//! | `api` | what may be asked of a daemon by who has its token, and what it answers |
//! | `dashboard` | pages for people who have the token |
//! | `openapi` | every address of the API, and its description |
//! | `token` | the token that opens the API |
//! | `tls` | the certificate that is shown, where there is one |
//!
//! Without a token nothing can be changed here, and nothing that is secret is shown; but names are,
//! so that it listens on the loopback device if nothing else is said.

pub mod api;
mod collect;
pub mod dashboard;
pub mod metrics;
pub mod openapi;
pub mod server;
pub mod tls;
pub mod token;
