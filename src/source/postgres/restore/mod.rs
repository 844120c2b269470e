//! Putting dumps back into a server: roles, a new database, its content, its settings, a check of
//! what arrived, and on request the swap with the one that is in use.

mod create;
mod globals;
mod plan;
mod swap;
mod work;

pub use globals::{Role, RoleStep, plan_roles, statements};
pub use plan::{DatabasePlan, Options, Plan, Rename, Target};
pub use work::{Done, Restoring};
