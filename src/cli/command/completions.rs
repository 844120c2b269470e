//! `backstay completions`

use clap::CommandFactory as _;

use crate::cli::setup::App;
use crate::cli::{Cli, ExitStatus};
use crate::error::Result;

/// Print shell completions.
///
/// For bash: `backstay completions bash > /etc/bash_completion.d/backstay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backstay", &mut script);
    app.printer.raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}
