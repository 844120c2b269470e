//! `backstay schema`

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::Result;
use crate::policy;

/// Print the JSON Schema of policies.
///
/// Editors that know the YAML language server take it by a first line
/// `# yaml-language-server: $schema=FILE`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(app: &App, _args: &Args) -> Result<ExitStatus> {
    app.printer.json(&policy::json_schema())?;
    Ok(ExitStatus::Done)
}
