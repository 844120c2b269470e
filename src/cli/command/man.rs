//! `backstay man`

use std::io::Write as _;
use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::setup::App;
use crate::cli::{Cli, EXIT_CODES, ExitStatus};
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
        clap_mangen::generate_to(command.clone(), directory).doing(failed)?;
        std::fs::write(directory.join("backstay.1"), page(command)?).doing(failed)?;
        app.printer.talk(format!("manual pages are in {}", directory.display()));
        return Ok(ExitStatus::Done);
    }
    app.printer.raw(&String::from_utf8_lossy(&page(command)?))?;
    Ok(ExitStatus::Done)
}

/// The page of the program itself, with the sections that people look for.
fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut environment: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|arg| {
            let name = arg.get_env()?.to_string_lossy().into_owned();
            Some((name, format!("What --{} says, where that is not given.", arg.get_long()?)))
        })
        .collect();
    environment.push(("NO_COLOR".to_owned(), "Use no colour.".to_owned()));
    let codes: Vec<(String, String)> = EXIT_CODES
        .iter()
        .map(|(code, what)| ((*code as u8).to_string(), (*what).to_owned()))
        .collect();
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    let files: Vec<(String, String)> = FILES.iter().map(pair).collect();
    let examples: Vec<(String, String)> = EXAMPLES.iter().map(pair).collect();

    let man = clap_mangen::Man::new(command.after_help("").after_long_help(""));
    let mut page = Vec::new();
    let mut render = || -> std::io::Result<()> {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_subcommands_section(&mut page)?;
        section(&mut page, "EXIT STATUS", &codes)?;
        section(&mut page, "ENVIRONMENT", &environment)?;
        section(&mut page, "FILES", &files)?;
        section(&mut page, "EXAMPLES", &examples)?;
        man.render_version_section(&mut page)
    };
    render().doing(|| "failed to write the manual page".to_owned())?;
    Ok(page)
}

const FILES: [(&str, &str); 3] = [
    ("./policies, /etc/backstay/policies", "Policies, where --policy says nothing else."),
    ("/var/lib/backstay", "What this machine remembers, for root."),
    ("$XDG_STATE_HOME/backstay, ~/.local/state/backstay", "The same for others."),
];

const EXAMPLES: [(&str, &str); 4] = [
    ("backstay backup", "Back up everything that the policies describe."),
    ("backstay list", "What there is."),
    ("backstay restore STACK/SOURCE --to DIR --identity FILE", "Get the latest backup back."),
    ("backstay verify --depth content --identity FILE", "Prove that every file can be restored."),
];

fn section(out: &mut Vec<u8>, title: &str, items: &[(String, String)]) -> std::io::Result<()> {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('-', "\\-");
    writeln!(out, ".SH \"{title}\"")?;
    for (term, text) in items {
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(text))?;
    }
    Ok(())
}
