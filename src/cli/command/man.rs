//! `backstay man`

use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::setup::App;
use crate::cli::{Cli, ExitStatus};
use crate::error::{IoContext as _, Result};

/// Print the manual page, or write all of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write a page for every command into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let command = Cli::command();
    if let Some(directory) = &args.out {
        let failed = || format!("failed to write manual pages to {}", directory.display());
        std::fs::create_dir_all(directory).doing(failed)?;
        clap_mangen::generate_to(command, directory).doing(failed)?;
        app.printer.talk(format!("manual pages are in {}", directory.display()));
        return Ok(ExitStatus::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .doing(|| "failed to write the manual page".to_owned())?;
    app.printer.raw(&String::from_utf8_lossy(&page))?;
    Ok(ExitStatus::Done)
}
