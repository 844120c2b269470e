//! The one error that crosses module edges.
//!
//! Modules whose callers branch on the cause have a `thiserror` enum of their own; everything
//! else, and everything that reaches the user, is an [`Error`]: a kind (which decides the exit
//! code), a message (a lower-case fragment that names the thing tried), hints (what to do now) and
//! the cause. A message never repeats its cause: the renderer prints the chain.

use std::fmt;

/// What went wrong, as far as a caller or a script needs to tell cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The command line or a request made no sense.
    Usage,
    /// A policy file is invalid.
    Policy,
    /// The thing asked for does not exist.
    NotFound,
    /// Permission was refused, or a key does not open what it should.
    Denied,
    /// A server or store could not be reached, or did not answer in time.
    Unreachable,
    /// Something that must be created exists already, or changed meanwhile.
    Conflict,
    /// Stored data is missing, truncated, altered or contradicts itself.
    Damaged,
    /// A newer format, an unsupported kind or feature.
    Unsupported,
    /// An objective (RPO, RTO) is missed.
    Objective,
    /// A person has to act or approve first.
    Waiting,
    /// A lease or lock is held by someone else.
    Busy,
    /// The user interrupted the work.
    Interrupted,
    /// Whoever read our standard output is gone.
    OutputClosed,
    /// Anything else: the work was tried and failed.
    Failed,
}

/// An error with a kind, a message, hints and a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl ErrorKind {
    const ALL: [Self; 14] = [
        Self::Usage,
        Self::Policy,
        Self::NotFound,
        Self::Denied,
        Self::Unreachable,
        Self::Conflict,
        Self::Damaged,
        Self::Unsupported,
        Self::Objective,
        Self::Waiting,
        Self::Busy,
        Self::Interrupted,
        Self::OutputClosed,
        Self::Failed,
    ];

    /// The word for it in JSON.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The kind of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl Error {
    /// An error of `kind`; `message` is a lower-case fragment that names the thing tried.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hints: Vec::new(), source: None }))
    }

    /// An error of kind [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// An error of kind [`ErrorKind::Damaged`].
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// An error of kind [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// An error of kind [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// An error of kind [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An I/O error on a named thing. The kind follows the I/O error.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Failed,
        };
        // An `Error` that travelled through an `io::Read` or `io::Write` seam keeps its own kind and
        // says what to do.
        match source.downcast::<Error>() {
            Ok(inner) => inner.context(message),
            Err(source) => Self::new(kind, message).with_source(source),
        }
    }

    /// Adds what to do now. Shown after the message as `hint: …`.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Wraps this error in one that says what was being done. Kind and hints are kept.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let hints = std::mem::take(&mut self.0.hints);
        let mut outer = Self::new(self.kind(), message);
        outer.0.hints = hints;
        outer.0.source = Some(Box::new(self));
        outer
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Replaces the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What to do now, outermost first.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// With its causes and its hints, on one line.
    pub fn advised(&self) -> String {
        [&[self.chain()], self.hints()].concat().join("; ")
    }

    /// The error as an `io::Error`, for code behind `Read` and `Write`.
    pub fn into_io(self) -> std::io::Error {
        std::io::Error::other(self)
    }

    /// The message and every cause, joined by `: `, for places with one line to spare.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            // Libraries like to repeat their causes in their own message.
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// Adds context to I/O results.
pub trait IoContext<T> {
    /// Names the thing the I/O was tried on.
    fn doing(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn doing(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::io(message(), source))
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn doing(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::io(message(), errno.into()))
    }
}
