//! Drills: recovering for practice, to measure it and to be able to show it.
//!
//! ```text
//! policy ─plan→ what is brought back, and what is looked at
//!   sandbox: restore → start → check ─→ journal ─measure→ evidence, with a verdict ─seal→ repository
//! ```
//!
//! A verdict is a function of what was found. What could not be looked at is no success: it makes the
//! verdict INCONCLUSIVE.
//!
//! | file | for |
//! |---|---|
//! | `plan` | what is going to be done: pure |
//! | `ready` | looking whether it could be done |
//! | `hold` | doing it, from a plan to evidence |
//! | `assess` | which backups are brought back |
//! | `scenario` | scenarios that say by themselves which backup is brought back |
//! | `work` | what is done in the sandbox |
//! | `sandbox` | the place, and what killed drills left there |
//! | `contain` | whether production can be reached from it |
//! | `checks` | what the policy wants looked at |
//! | `heartbeat` | how new a copy is, by what the daemon wrote at the source |
//! | `begun` | what this machine knows of drills that go on, and of killed ones |
//! | `journal` | what happens, line by line, each with the digest of the one before |
//! | `measure` | RTO, RPO and the verdict: pure |
//! | `evidence` | what is written down: the types of `evidence.json` |
//! | `report` | the same for people |
//! | `seal` | digests and signature, and whether evidence is what was written |
//! | `sshsig` | signatures as OpenSSH makes and checks them |
//! | `coverage` | what is proven of which source, and since when: pure |
//! | `catalogue` | the drills that a repository has evidence of |

mod assess;
mod checks;
mod contain;
mod heartbeat;
mod journal;
mod measure;
mod sandbox;
mod scenario;
mod work;

pub mod begun;
pub mod catalogue;
pub mod coverage;
pub mod evidence;
pub mod hold;
pub mod plan;
pub mod ready;
pub mod report;
pub mod seal;
pub mod sshsig;

pub use measure::only_objectives;
