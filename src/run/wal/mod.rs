//! PostgreSQL's `archive_command` and `restore_command`.

mod archive;
mod get;
mod keep;
mod notes;
mod push;
mod receive;
mod status;

pub use archive::{Archive, system_id_of};
pub use get::{Got, Wanted, get, get_ahead, get_fetched};
pub use keep::{Base, Boundary, Reach, reach};
pub use notes::Notes;
pub use push::{Candidate, Pushed, push, pushed_ahead};
pub use receive::{Request as ReceiveRequest, receive};
pub use status::{ArchivedTimeline, ArchivedWal, Gap, archived};
