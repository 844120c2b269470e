//! What is said of dumps that were put back into a server.

use crate::cli::printer::Printer;
use crate::cli::{ExitStatus, format};
use crate::error::{Error, Result};
use crate::source::Restored;

/// Tables that differ and are named.
const NAMED: usize = 20;

/// Says what came of databases, and is an error if a table is not as it was recorded. `drop` tells
/// how to get rid of what was put aside, `who` may have written to a table meanwhile.
pub(super) fn conclude(
    printer: &Printer,
    databases: &[Restored],
    drop: &dyn Fn(&str) -> String,
    who: &str,
) -> Result<ExitStatus> {
    for restored in databases {
        printer.talk(summary(restored));
        for note in &restored.notes {
            printer.warning(note);
        }
        if let Some(aside) = &restored.aside {
            printer.talk(format!("  {}", drop(aside)));
        }
        for found in restored.differ.iter().take(NAMED) {
            printer.warning(&format!(
                "{}: {} in the backup, {} here",
                found.table, found.recorded, found.found
            ));
        }
    }
    let differ: usize = databases.iter().map(|database| database.differ.len()).sum();
    if differ == 0 {
        return Ok(ExitStatus::Done);
    }
    Err(Error::damaged(format!(
        "{} not as recorded in the backup's snapshot",
        if differ == 1 { "1 table is".to_owned() } else { format!("{differ} tables are") }
    ))
    .hint(format!("does {who} write to it? what was restored is left there; nothing was swapped")))
}

fn summary(restored: &Restored) -> String {
    let mut text = format!("restored `{}`", restored.from);
    if restored.from != restored.to {
        text.push_str(&format!(" as `{}`", restored.to));
    }
    text.push_str(&format!(" in {}", format::seconds(restored.seconds)));
    if restored.tables_equal > 0 {
        text.push_str(&format!(
            "; {} in {} as in the snapshot",
            format::count(restored.rows, "row"),
            format::count(restored.tables_equal, "table")
        ));
    } else {
        text.push_str("; no rows were recorded to compare");
    }
    if restored.checksums_equal > 0 {
        text.push_str(", checksums equal");
    }
    text
}
