//! `backstay drill report`

use super::place::{self, LanguageArg};
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::drill::catalogue;
use crate::drill::evidence::Evidence;
use crate::drill::report;
use crate::error::{Error, Result};
use crate::policy::Language;

/// Show the report of a drill.
///
/// What it is made of is compared with its digest: evidence that was altered is not shown, with exit code 5.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The drill: its id or the start of it. Default: the newest.
    #[arg(value_name = "ID")]
    drill: Option<String>,

    /// What changed since the drill of the same name before it, or since the one given.
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    compare: Option<String>,

    /// As what.
    #[arg(long, value_enum, default_value_t = FormatArg::Md)]
    format: FormatArg,

    /// In which language.
    #[arg(long, value_enum)]
    language: Option<LanguageArg>,

    /// The page as it was stored, and not one that is made of the evidence now.
    #[arg(long, conflicts_with_all = ["compare", "format", "language"])]
    stored: bool,
}

/// What a report looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// A page that needs nothing else.
    Html,
    /// Text.
    Md,
    /// The evidence, for programs.
    Json,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let found = place::find_drill(app, args.drill.as_deref())?;
    if args.stored {
        let page = catalogue::stored_report(&found.store, &found.stack, &found.drill)?;
        if app.printer.is_json() {
            app.printer.json(&serde_json::json!({ "drill": found.drill, "report": page }))?;
        } else {
            app.printer.raw(&page)?;
        }
        return Ok(ExitStatus::Done);
    }
    let evidence = read(&found)?;
    let language = args.language.map_or_else(Language::default, Language::from);
    if let Some(other) = &args.compare {
        return tell_changes(app, &found, &evidence, other, language);
    }
    let text = match args.format {
        FormatArg::Json => {
            app.printer.json(&evidence)?;
            return Ok(ExitStatus::Done);
        }
        FormatArg::Html => report::html(&evidence, language),
        FormatArg::Md if app.printer.is_json() => {
            app.printer.json(&evidence)?;
            return Ok(ExitStatus::Done);
        }
        FormatArg::Md => report::markdown(&evidence, language),
    };
    app.printer.raw(&text)?;
    Ok(ExitStatus::Done)
}

fn read(found: &place::Found) -> Result<Evidence> {
    catalogue::read(&found.store, &found.stack, &found.drill)?
        .ok_or_else(|| Error::damaged(format!("drill {} has no evidence.json", found.drill)))
}

fn tell_changes(
    app: &App,
    found: &place::Found,
    evidence: &Evidence,
    other: &str,
    language: Language,
) -> Result<ExitStatus> {
    let before = if other.is_empty() {
        let earlier = catalogue::list(&found.store, &found.stack, 1000)?
            .into_iter()
            .filter_map(|listed| listed.evidence.ok())
            .rfind(|one| one.name == evidence.name && one.drill < evidence.drill);
        earlier.ok_or_else(|| {
            Error::not_found(format!(
                "there is no drill `{}` before {}",
                evidence.name, evidence.drill
            ))
        })?
    } else {
        read(&place::find_drill(app, Some(other))?)?
    };
    let changes = report::compare(&before, evidence, language);
    if app.printer.is_json() {
        app.printer.json(&changes)?;
        return Ok(ExitStatus::Done);
    }
    app.printer.data(format!("since {}:", before.drill))?;
    if changes.is_empty() {
        app.printer.data("  nothing changed")?;
    }
    for change in changes {
        app.printer.data(format!("  {}: {} → {}", change.what, change.before, change.now))?;
    }
    Ok(ExitStatus::Done)
}
