//! `backstay logs`

use std::io::{BufRead as _, BufReader, Cursor, Read};

use serde_json::Value;

use crate::cli::ExitStatus;
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::App;
use crate::daemon::words;
use crate::error::{Error, IoContext as _, Result};

/// Show what a run of the daemon said.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run, or the start of its id: `backstay runs` lists them.
    #[arg(value_name = "RUN")]
    run: String,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let said: Box<dyn Read> = if let Some(remote) = args.remote.open(app)? {
        Box::new(Cursor::new(remote.log(&args.run)?))
    } else {
        let ledger = app.ledger()?;
        let row = ledger.run(&args.run)?.ok_or_else(|| unknown(&args.run))?;
        words::of(&*ledger, &app.state_directory()?.join("runs"), &row, None)?
    };
    for line in BufReader::new(said).split(b'\n') {
        let line = line.doing(|| format!("failed to read what run {} said", args.run))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        if app.printer.is_json() {
            app.printer.data(line)?;
        } else {
            app.printer.data(shown(&line))?;
        }
    }
    Ok(ExitStatus::Done)
}

/// The error for a run that is not there.
pub fn unknown(run: &str) -> Error {
    Error::not_found(format!("there is no run `{run}`")).hint("`backstay runs` lists them")
}

/// An event as a person reads it; other lines as they are.
fn shown(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    match text("event") {
        "error" => format!("error: {}", text("chain")),
        "warning" => match event["subject"].as_str() {
            Some(subject) => format!("warning: {subject}: {}", text("message")),
            None => format!("warning: {}", text("message")),
        },
        "note" => text("message").to_owned(),
        "phase" => text("phase").to_owned(),
        "started" => {
            format!("{} {} {}", text("verb"), text("source"), text("kind")).trim_end().to_owned()
        }
        _ => line.to_owned(),
    }
}
