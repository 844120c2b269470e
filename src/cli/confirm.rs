//! Asking before something is replaced.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::setup::App;
use crate::error::{Error, ErrorKind, Result};

/// How often somebody who is asked is looked for in vain.
const LOOK: Duration = Duration::from_millis(50);

/// Asks for `name` to be typed. Without a terminal nobody can answer, and nothing is done.
pub fn type_name(app: &App, what: &str, name: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(ErrorKind::Waiting, format!("{what}: this needs a confirmation"))
            .hint("there is no terminal to ask on: give --yes if that is what you want"));
    }
    let answer = app.display.quietly(|| {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "{what}. Type `{name}` to go on: ");
        let _ = err.flush();
        drop(err);
        answer(app)
    })?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Waiting, "not confirmed; nothing was done"))
}

/// A line from standard input. Read in a thread that may wait for ever: Ctrl-C ends the program,
/// not the read.
pub(super) fn answer(app: &App) -> Result<String> {
    let (send, answers) = channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        let _ = send.send(read.map(|_| answer));
    });
    loop {
        match answers.recv_timeout(LOOK) {
            Ok(answer) => {
                return answer.map_err(|error| Error::io("failed to read the answer", error));
            }
            Err(RecvTimeoutError::Timeout) => app.cx.reporter.check().inspect_err(|_| {
                // The prompt stands in this line.
                let _ = writeln!(std::io::stderr());
            })?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::failed("failed to read the answer"));
            }
        }
    }
}
