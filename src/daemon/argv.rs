//! What a person would type for a run.

use std::ffi::OsString;
use std::path::Path;

use crate::policy::{Job, Policy, Work};
use crate::state::RunRow;

/// The command line of a run, from the program and its own options on.
pub(super) fn argv(
    program: &[OsString],
    in_force: &Path,
    policy: &Policy,
    job: &Job,
    row: &RunRow,
) -> Vec<OsString> {
    let mut argv = program.to_vec();
    // What is not of one source is of this stack alone.
    let policies = if row.slot.source.is_empty() { policy.file.as_path() } else { in_force };
    argv.extend(["--policy".into(), policies.into()]);
    match &job.work {
        Work::Backup { .. } => {
            argv.extend(["backup", "--job", &row.slot.job, "--run", &row.id].map(Into::into));
            argv.push(format!("{}/{}", row.slot.stack, row.slot.source).into());
        }
        Work::Copy(copy) => {
            argv.extend(["copy", "--to", &copy.to].map(Into::into));
            let sources = policy.sources.keys();
            argv.extend(sources.map(|source| format!("{}/{source}", policy.stack).into()));
        }
        Work::Sync(_) => {
            argv.push("sync".into());
            argv.push(format!("{}/{}", row.slot.stack, row.slot.job).into());
        }
        Work::Verify(verify) => {
            argv.extend(["verify", "--depth", verify.depth.word()].map(Into::into));
            if let Some(budget) = verify.budget {
                argv.extend(["--budget".into(), budget.to_string().into()]);
            }
            if let Some(scratch) = &verify.scratch {
                argv.extend(["--scratch".into(), scratch.into()]);
            }
            if let Some(programs) = &verify.programs {
                argv.extend(["--programs".into(), programs.into()]);
            }
            let sources = verify.sources.iter().flatten();
            argv.extend(sources.map(|source| format!("{}/{source}", policy.stack).into()));
        }
        Work::Prune(_) => {
            argv.extend(["prune", "--yes"].map(Into::into));
        }
        Work::Drill(name) => {
            argv.extend(["drill", "run"].map(Into::into));
            argv.push(format!("{}/{name}", policy.stack).into());
        }
    }
    argv
}
