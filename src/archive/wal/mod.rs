//! PostgreSQL's write-ahead log: positions and file names, what segments say of themselves, and
//! how files become objects.

mod header;
mod history;
pub mod mark;
mod position;

pub use header::{HEADER, WalHeader, check_segment};
pub use history::{Ancestor, History};
pub use position::{Lsn, WalRange, WalSegment, is_archived_name, is_segment_size};
