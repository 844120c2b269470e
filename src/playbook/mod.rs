//! Playbooks at work: from the steps of a policy to effects, each written down before it happens.
//!
//! ```text
//! policy ─compile→ plan, with a hash ─┐
//! journal ─replay→ view ──────────────┼─decide→ moves ─engine→ intent, effect, result → journal
//! ```
//!
//! `compile`, `transition`, `view` and `decide` are pure: values in, values out. The engine does what
//! was decided and believes only the journal. Whoever takes over a run reads the journal, looks at what
//! was under way (`observe`), and goes on.
//!
//! | file | for |
//! |---|---|
//! | `compile` | a playbook to a plan: steps, what each needs, and a hash of all of it |
//! | `transition` | the one table of what may follow what |
//! | `record` | what is written down |
//! | `journal` | where: create-only numbers in a repository, and a copy on this machine |
//! | `view` | where a run stands, from its records |
//! | `decide` | what is to be done now |
//! | `engine` | doing it |
//! | `action` | what a step does: the seam |
//! | `actions` | one file for each kind |
//! | `template` | outputs of steps, put into later ones |
//! | `approval` | what people agree to |
//! | `loss` | what would be lost is agreed to, whether or not the playbook asks |
//! | `operate` | what people do to a run: approve, attest, skip, try again, abort |
//! | `aside` | a run whose journal cannot be read any more |
//! | `history` | the runs there are |
//! | `estimate` | how long a plan will take |
//! | `preflight` | whether a plan could be carried out now |
//! | `ready` | whether it could, when somebody looked last |

pub mod action;
pub mod actions;
pub mod approval;
pub mod aside;
pub mod compile;
pub mod decide;
pub mod engine;
pub mod estimate;
pub mod history;
pub mod journal;
pub mod loss;
pub mod operate;
pub mod preflight;
pub mod ready;
pub mod record;
pub mod template;
pub mod transition;
pub mod view;
