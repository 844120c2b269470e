//! Verify: how much of a backup is proven.
//!
//! | depth | proves |
//! |---|---|
//! | `list` | every object is there and has its size |
//! | `stored` | every stored byte has its digest; needs no key |
//! | `content` | everything decrypts and decodes, every file has its digest, archive and index agree |

mod beside;
pub mod budget;
mod content;
mod keys;
mod lists;
mod placement;
mod proofs;
mod report;
mod scope;
mod segments;
mod snapshots;
mod stored;
mod sums;
mod totals;
mod wal;

pub use beside::check_beside;
pub use keys::check_keys;
pub use proofs::{Standing, proof_depth, proofs_of};
pub use report::{Cost, Depth, Finding, Report};
pub use scope::Scope;
pub(super) use stored::digest_of;
pub use stored::{check_sizes, verify, verify_part};
