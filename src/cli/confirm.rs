//! Asking before something is replaced.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::error::{Error, ErrorKind, Result};

/// Asks for `name` to be typed. Without a terminal nobody can answer, and nothing is done.
pub fn type_name(what: &str, name: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(ErrorKind::Waiting, format!("{what}: this needs a confirmation"))
            .hint("there is no terminal to ask on: give --yes if that is what you want"));
    }
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{what}. Type `{name}` to go on: ");
    let _ = err.flush();
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::io("failed to read the answer", error))?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Interrupted, "not confirmed; nothing was done"))
}
