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
            Self::Denied { .. } => Error::new(ErrorKind::Denied, message)
                .with_source(self)
                .hint("check the credentials, and that they may read, list and write this prefix"),
            Self::Failed { ref source, .. } => {
                let text = text_of(source);
                let error = match io_kind(source) {
                    Some(std::io::ErrorKind::StorageFull) => {
                        Error::failed(message).hint("the repository's file system is full")
                    }
                    Some(std::io::ErrorKind::ReadOnlyFilesystem) => Error::failed(message)
                        .hint("the repository's file system is mounted read-only"),
                    Some(std::io::ErrorKind::PermissionDenied) => {
                        Error::new(ErrorKind::Denied, message)
                    }
                    Some(_) => Error::failed(message),
                    None => Error::new(ErrorKind::Unreachable, message),
                };
                let error = error.with_source(self);
                if text.contains("certificate") || text.contains("UnknownIssuer") {
                    error.hint("for a private certificate authority set `ca_file` in the policy")
                } else if text.contains("InvalidAccessKeyId") || text.contains("SignatureDoesNot") {
                    error.with_kind(ErrorKind::Denied).hint("check access key and secret key")
                } else if text.contains("NoSuchBucket") {
                    error.with_kind(ErrorKind::NotFound).hint("create the bucket first")
                } else {
                    error
                }
            }
        }
    }
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
