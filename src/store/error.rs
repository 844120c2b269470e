//! Why a request to a store failed, for those who branch on it.

use super::answer::{Answer, asks_instance, is_distrusted};
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
            E::AlreadyExists { .. } if source.status == Some(409) && !source.is(&TAKEN) => {
                Self::Failed { key, source }
            }
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
            Self::Failed { source, .. } => of_answer(source, message, Cloud::of(store)),
        };
        error.with_source(self)
    }
}

/// Whose store it is: what to set differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    S3,
    Azure,
    Google,
}

impl Cloud {
    /// By the name that locations have for people.
    fn of(store: &str) -> Self {
        match store.split_once("://") {
            Some(("az", _)) => Self::Azure,
            Some(("gs", _)) => Self::Google,
            _ => Self::S3,
        }
    }
}

/// What a person can do about an answer of any kind. Only S3's own client asks.
pub(super) fn of_any(answer: &Answer, message: String) -> Error {
    if answer.is_refusal() {
        of_refusal(answer, message)
    } else {
        of_answer(answer, message, Cloud::S3)
    }
}

/// What a person can do about an answer that is no object's absence or presence.
fn of_answer(answer: &Answer, message: String, cloud: Cloud) -> Error {
    match answer.io {
        Some(io) if answer.status.is_none() && !answer.silent => of_disk(io, message),
        _ => of_network(answer, message, cloud),
    }
}

/// A refusal: 401 or 403.
fn of_refusal(answer: &Answer, message: String) -> Error {
    let error = Error::new(ErrorKind::Denied, message);
    if answer.message.contains(super::past::READ_ONLY) {
        error.hint("leave `--repository-at` out to write")
    } else if answer.is(&BAD_KEY) {
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
    without_credentials(Error::new(ErrorKind::Denied, message), Cloud::of(name))
}

fn without_credentials(error: Error, cloud: Cloud) -> Error {
    error
        .with_kind(ErrorKind::Denied)
        .hint("no credentials were given, and this machine offers none of its own")
        .hint(match cloud {
            Cloud::S3 => {
                "set `access_key_id` and `secret_access_key` in the policy, or AWS_ACCESS_KEY_ID \
                 and AWS_SECRET_ACCESS_KEY"
            }
            Cloud::Azure => {
                "set `access_key` in the policy, or AZURE_STORAGE_ACCOUNT_KEY; for a service \
                 principal AZURE_STORAGE_CLIENT_ID, AZURE_STORAGE_CLIENT_SECRET and \
                 AZURE_STORAGE_TENANT_ID"
            }
            Cloud::Google => {
                "set `service_account_key` in the policy, or GOOGLE_SERVICE_ACCOUNT to the path of \
                 a service account's key"
            }
        })
}

/// No TLS came about, and none will.
fn without_tls(text: &str, error: Error, cloud: Cloud) -> Error {
    if text.contains("received corrupt message") {
        return error.hint("the server does not speak TLS there: check the endpoint and its port");
    }
    if text.contains("received fatal alert") {
        return error.hint("the server ended the TLS handshake: its log says why");
    }
    if ["xpired", "NotValidYet", "not valid yet"].iter().any(|words| text.contains(words)) {
        return error.hint("renew the server's certificate, or set this machine's clock");
    }
    if text.contains("NotValidForName") || text.contains("not valid for name") {
        return error.hint("the endpoint must be named as the server's certificate names it");
    }
    error.hint(match cloud {
        Cloud::S3 => {
            "for a private certificate authority set `ca_file` in the policy, or `&ca_file=PATH` in \
             the URL"
        }
        Cloud::Azure | Cloud::Google => {
            "let this machine trust the certificate's authority: install it in the system's store, \
             or set SSL_CERT_FILE"
        }
    })
}

/// A bucket's error, with what a person can do about it.
fn of_network(answer: &Answer, message: String, cloud: Cloud) -> Error {
    let text = answer.message.as_str();
    let error = Error::new(ErrorKind::Unreachable, message);
    if is_distrusted(text) {
        without_tls(text, error, cloud)
    } else if answer.is(&BAD_KEY) || answer.is(&EXPIRED) {
        of_refusal(answer, error.to_string())
    } else if answer.is(&["NoSuchBucket"]) {
        error
            .with_kind(ErrorKind::NotFound)
            .hint("create the bucket first, or check its name, the endpoint and the region")
    } else if asks_instance(text) {
        // Without keys the instance is asked for them, and here nobody answered.
        without_credentials(error, cloud)
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

/// Codes under a 409 of stores that say so of an object that is there.
const TAKEN: [&str; 3] = ["FileAlreadyExists", "BlobAlreadyExists", "ObjectAlreadyExists"];
const BAD_KEY: [&str; 2] = ["InvalidAccessKeyId", "SignatureDoesNotMatch"];
const EXPIRED: [&str; 3] = ["ExpiredToken", "TokenRefreshRequired", "InvalidToken"];
