//! Repair: what is damaged in one repository is fetched from a copy of it.
//!
//! Nothing is believed and nothing removed: bytes from the copy take the place of others only once
//! they were read to their end and have the digest that the manifest says.
//!
//! | file | for |
//! |---|---|
//! | `origin` | whether the other repository may be a copy of this one |
//! | `objects` | segments, indexes, lists, SHA256SUMS |
//! | `snapshots` | what StarRocks wrote by itself |
//! | `manifest` | manifests that cannot be read |
//! | `outcome` | what became of each |

mod manifest;
mod objects;
mod origin;
mod outcome;
mod snapshots;

pub use manifest::mend_manifest;
pub use objects::mend;
pub use origin::check_origin;
pub use outcome::{Mended, Outcome, Pair};
pub use snapshots::mend_snapshots;
