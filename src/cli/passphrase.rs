//! Passphrases: from where a reference points, or from a person at a terminal.

use std::io::{IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;

use super::confirm::answer;
use super::printer::Printer;
use super::setup::App;
use crate::archive::person::Ask;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretRef;

/// What the option says where a person is to be asked.
const ASK: &str = "ask";

impl App {
    /// The passphrase that `--passphrase` says; a person is asked only on a terminal.
    pub fn given_passphrase(&self, question: &str) -> Result<Option<SecretString>> {
        let Some(given) = self.global.passphrase.as_deref() else { return Ok(None) };
        if given == ASK {
            return ask(self, question).map(Some);
        }
        let reference = SecretRef::parse(given).ok_or_else(|| {
            Error::usage("`--passphrase` takes a reference, and never the passphrase itself")
                .hint("give '${file:PATH}', '${env:NAME}' or '${command:PROGRAM …}', or `ask`")
        })?;
        reference.resolve().map(Some)
    }

    /// The same, and a person is asked where nothing was said.
    pub fn passphrase(&self, question: &str) -> Result<SecretString> {
        match self.given_passphrase(question)? {
            Some(given) => Ok(given),
            None => ask(self, question),
        }
    }
}

/// Asks without showing what is typed.
fn ask(app: &App, question: &str) -> Result<SecretString> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(ErrorKind::Denied, format!("{question}: a passphrase is needed"))
            .hint(
                "there is no terminal to ask on: `--passphrase '${file:PATH}'` says where it lies",
            ));
    }
    app.display.quietly(|| {
        let _silence = Silence::begin();
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "{question}: ");
        let _ = err.flush();
        drop(err);
        let typed = answer(app);
        let _ = writeln!(std::io::stderr());
        let typed = typed?;
        let typed = typed.trim_end_matches(['\r', '\n']);
        if typed.is_empty() {
            return Err(Error::new(ErrorKind::Denied, "no passphrase was given"));
        }
        Ok(SecretString::from(typed.to_owned()))
    })
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silence(Option<Termios>);

impl Silence {
    fn begin() -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &quiet);
        }
        Self(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// What plugins of age say, on standard error. A PIN is asked for only by the plugin itself.
pub struct Talk(pub Printer);

impl Ask for Talk {
    fn tell(&self, message: &str) {
        self.0.talk(message);
    }

    fn secret(&self, _: &str) -> Option<SecretString> {
        None
    }
}
