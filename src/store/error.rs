//! Why a request to a store failed, for those who branch on it.

use super::answer::Answer;
use crate::error::{Error, ErrorKind};

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("there is no object {key}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The object exists and was to be created, or a precondition did not hold.
    #[error("the object {key} exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// The store refused the credentials or the right.
    #[error("the store refused access{}", if key.is_empty() { String::new() } else { format!(" to {key}") })]
    Denied {
        /// The key.
        key: String,
        /// What the store answered.
        source: Answer,
    },
    /// Anything else, after retries.
    #[error("a request{} failed", if key.is_empty() { String::new() } else { format!(" for {key}") })]
    Failed {
        /// The key.
        key: String,
        /// What happened.
        source: Answer,
    },
}

impl StoreError {
    /// Sorts an error of the library.
    #[expect(clippy::needless_pass_by_value, reason = "it is done with")]
    pub(super) fn new(key: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let key = key.to_owned();
        let source = Answer::of(&error);
        match error {
            // A bucket that is missing is no object that is missing: nothing else will be found.
            E::NotFound { .. } if source.is(&["NoSuchBucket"]) => Self::Failed { key, source },
            E::NotFound { .. } => Self::NotFound { key },
            // Two requests met and neither was done: the library says that the object exists.
            E::AlreadyExists { .. } if source.status == Some(409) => Self::Failed { key, source },
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                Self::Exists { key }
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::Denied { key, source },
            _ => Self::Failed { key, source },
        }
    }

    /// As the crate's error, saying what was tried.
    pub fn into_error(self, doing: &str, store: &str) -> Error {
        let message = format!("failed to {doing} in {store}");
        let error = match &self {
            Self::NotFound { .. } => Error::new(ErrorKind::NotFound, message),
            Self::Exists { .. } => Error::new(ErrorKind::Conflict, message),
            Self::Denied { source, .. } => of_refusal(source, message),
            Self::Failed { source, .. } => of_answer(source, message),
        };
        error.with_source(self)
    }
}

/// What a person can do about an answer of any kind.
pub(super) fn of_any(answer: &Answer, message: String) -> Error {
    if answer.is_refusal() { of_refusal(answer, message) } else { of_answer(answer, message) }
}

/// What a person can do about an answer that is no object's absence or presence.
fn of_answer(answer: &Answer, message: String) -> Error {
    match answer.io {
        Some(io) if answer.status.is_none() && !answer.silent => of_disk(io, message),
        _ => of_network(answer, message),
    }
}

/// A refusal: 401 or 403.
fn of_refusal(answer: &Answer, message: String) -> Error {
    let error = Error::new(ErrorKind::Denied, message);
    if answer.is(&BAD_KEY) {
        error.hint("check access key and secret key")
    } else if answer.is(&EXPIRED) {
        error.hint("the credentials are no longer valid: get new ones, then run this again")
    } else if answer.is(&["RequestTimeTooSkewed"]) {
        error.hint("this machine's clock differs from the store's: set it")
    } else {
        error.hint("check the credentials, and that they may read, list and write this prefix")
    }
}

/// A local store's error.
fn of_disk(kind: std::io::ErrorKind, message: String) -> Error {
    use std::io::ErrorKind as Io;
    match kind {
        Io::StorageFull => Error::failed(message).hint("the repository's file system is full"),
        Io::ReadOnlyFilesystem => {
            Error::failed(message).hint("the repository's file system is mounted read-only")
        }
        Io::PermissionDenied => Error::new(ErrorKind::Denied, message),
        _ => Error::failed(message),
    }
}

/// There are no credentials for the bucket.
pub(super) fn no_credentials(name: &str) -> Error {
    let message = format!("there are no credentials for {name}");
    without_credentials(Error::new(ErrorKind::Denied, message))
}

fn without_credentials(error: Error) -> Error {
    error
        .with_kind(ErrorKind::Denied)
        .hint("no credentials were given, and this machine offers none of its own")
        .hint(
            "set `access_key_id` and `secret_access_key` in the policy, or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
        )
}

/// A bucket's error, with what a person can do about it.
fn of_network(answer: &Answer, message: String) -> Error {
    let text = answer.message.as_str();
    let error = Error::new(ErrorKind::Unreachable, message);
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        error.hint("for a private certificate authority set `ca_file` in the policy")
    } else if answer.is(&BAD_KEY) || answer.is(&EXPIRED) {
        of_refusal(answer, error.to_string())
    } else if answer.is(&["NoSuchBucket"]) {
        error
            .with_kind(ErrorKind::NotFound)
            .hint("create the bucket first, or check its name, the endpoint and the region")
    } else if text.contains("/latest/") || text.contains("169.254.") {
        // Without keys the instance is asked for them, and here nobody answered.
        without_credentials(error)
    } else if text.contains("URL scheme is not allowed") {
        error
            .with_kind(ErrorKind::Policy)
            .hint("the endpoint has no TLS: `allow_http: true` in the policy takes it all the same")
    } else if answer.status == Some(409) {
        error
            .with_kind(ErrorKind::Conflict)
            .hint("somebody else writes the same object at the same time: run this again")
    } else if answer.is(&["SlowDown", "InternalError"])
        || answer.status.is_some_and(|status| status >= 500)
    {
        error.hint("the store is overloaded or in trouble: run this again later")
    } else if answer.silent {
        error.hint("check the endpoint, and that this machine reaches it: name, port, firewall")
    } else {
        error
    }
}

const BAD_KEY: [&str; 2] = ["InvalidAccessKeyId", "SignatureDoesNotMatch"];
const EXPIRED: [&str; 3] = ["ExpiredToken", "TokenRefreshRequired", "InvalidToken"];
