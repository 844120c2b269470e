//! Why a request to a store failed, for those who branch on it.

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
    #[error("the store refused access to {key}")]
    Denied {
        /// The key.
        key: String,
        /// What the store answered.
        source: object_store::Error,
    },
    /// Anything else, after retries.
    #[error("a request for {key} failed")]
    Failed {
        /// The key.
        key: String,
        /// What happened.
        source: object_store::Error,
    },
}

impl StoreError {
    /// Sorts an error of the library.
    pub(super) fn new(key: &str, source: object_store::Error) -> Self {
        use object_store::Error as E;
        let key = key.to_owned();
        match source {
            // A bucket that is missing is no object that is missing: nothing else will be found.
            E::NotFound { .. } if text_of(&source).contains("NoSuchBucket") => {
                Self::Failed { key, source }
            }
            E::NotFound { .. } => Self::NotFound { key },
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
        match self {
            Self::NotFound { .. } => Error::new(ErrorKind::NotFound, message).with_source(self),
            Self::Exists { .. } => Error::new(ErrorKind::Conflict, message).with_source(self),
            Self::Denied { ref source, .. } => {
                let hint = if is_bad_key(&text_of(source)) {
                    "check access key and secret key"
                } else {
                    "check the credentials, and that they may read, list and write this prefix"
                };
                Error::new(ErrorKind::Denied, message).with_source(self).hint(hint)
            }
            Self::Failed { ref source, .. } => {
                let text = text_of(source);
                match io_kind(source) {
                    Some(io) if !is_network(&text) => of_disk(io, message).with_source(self),
                    _ => of_network(&text, message).with_source(self),
                }
            }
        }
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

/// A bucket's error, with what a person can do about it.
fn of_network(text: &str, message: String) -> Error {
    let error = Error::new(ErrorKind::Unreachable, message);
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        error.hint("for a private certificate authority set `ca_file` in the policy")
    } else if is_bad_key(text) {
        error.with_kind(ErrorKind::Denied).hint("check access key and secret key")
    } else if text.contains("NoSuchBucket") {
        error
            .with_kind(ErrorKind::NotFound)
            .hint("create the bucket first, or check its name, the endpoint and the region")
    } else if text.contains("/latest/") || text.contains("169.254.") {
        // Without keys the instance is asked for them, and here nobody answered.
        error
            .with_kind(ErrorKind::Denied)
            .hint("no credentials were given, and this machine offers none of its own")
            .hint(
                "set `access_key_id` and `secret_access_key` in the policy, or AWS_ACCESS_KEY_ID \
                 and AWS_SECRET_ACCESS_KEY",
            )
    } else if text.contains("URL scheme is not allowed") {
        error
            .with_kind(ErrorKind::Policy)
            .hint("the endpoint has no TLS: `allow_http: true` in the policy takes it all the same")
    } else if is_network(text) {
        error.hint("check the endpoint, and that this machine reaches it: name, port, firewall")
    } else {
        error
    }
}

fn is_bad_key(text: &str) -> bool {
    text.contains("InvalidAccessKeyId") || text.contains("SignatureDoesNot")
}

/// Whether the request never got an answer. The cause is an I/O error then too, and not a disk's.
fn is_network(text: &str) -> bool {
    text.contains("error sending request") || text.contains("HTTP error")
}

fn text_of(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn io_kind(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}
