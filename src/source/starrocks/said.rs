//! What frontends answer. Numbers of errors differ from version to version, and texts come bare or
//! wrapped: what counts is a part of the text.

use crate::error::{Error, ErrorKind};

/// Why a statement gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The frontend refused it, in its own words.
    Said(String),
    /// The connection ended, and nobody knows what became of the statement.
    Lost(String),
}

impl Failure {
    /// Whether the frontend said this.
    pub fn has(&self, part: &str) -> bool {
        matches!(self, Self::Said(text) if text.contains(part))
    }

    /// As an error; `doing` names the thing tried.
    pub fn into_error(self, doing: &str) -> Error {
        match self {
            Self::Lost(cause) => Error::new(ErrorKind::Unreachable, format!("failed to {doing}"))
                .with_source(Error::new(ErrorKind::Unreachable, cause))
                .hint("is a frontend running, and does this machine reach its port 9030?"),
            Self::Said(text) => explain(doing, &text),
        }
    }
}

/// Part of a text, what it means, what to do.
type Known = (&'static str, ErrorKind, &'static str);

const KNOWN: &[Known] = &[
    (
        "Access denied",
        ErrorKind::Denied,
        "the user needs REPOSITORY on SYSTEM, EXPORT on the tables, and INSERT and CREATE TABLE to restore",
    ),
    (
        "already exist in repository",
        ErrorKind::Conflict,
        "StarRocks takes a name only once, also after a snapshot that was cancelled",
    ),
    (
        "Can only run one backup or restore job",
        ErrorKind::Busy,
        "`SHOW BACKUP` and `SHOW RESTORE` tell whose job it is; it has to end first",
    ),
    ("Another backup or restore job is being submitted", ErrorKind::Busy, "try again in a moment"),
    (
        "is read only",
        ErrorKind::Conflict,
        "this cluster only reads the repository; if it is to write from now on: DROP REPOSITORY, and back up again",
    ),
    ("does not exist in snapshot", ErrorKind::NotFound, "`backstay ls` lists what the backup has"),
    (
        "Maybe specified wrong backup timestamp",
        ErrorKind::Damaged,
        "`backstay verify` tells what is missing in the bucket",
    ),
    (
        "Failed to read backup meta from file",
        ErrorKind::Damaged,
        "`backstay verify` tells what is missing in the bucket; the snapshot may be of a newer StarRocks",
    ),
    (
        "invalid md5 of downloaded file",
        ErrorKind::Damaged,
        "the bucket has other bytes than were backed up: `backstay verify` names them; restore from a copy",
    ),
    (
        "md5sum does not equal",
        ErrorKind::Damaged,
        "the bucket has other bytes than were backed up: `backstay verify` names them; restore from a copy",
    ),
    (
        "get nothing from remote path",
        ErrorKind::Damaged,
        "the bucket lost objects: `backstay verify` names them; restore from a copy",
    ),
    (
        "already exist but with different",
        ErrorKind::Conflict,
        "the table there has another definition; restore into a database of another name",
    ),
    (
        "has different range with partition in repository",
        ErrorKind::Conflict,
        "the partition there has other bounds; restore into a database of another name",
    ),
    (
        "has different replication num",
        ErrorKind::Conflict,
        "the partition there has another number of replicas; restore into a database of another name",
    ),
    (
        "different hosts to create table",
        ErrorKind::Failed,
        "there are fewer living backends than replicas: `SHOW BACKENDS`",
    ),
    (
        "automatic bucket partition",
        ErrorKind::Conflict,
        "StarRocks cannot overwrite such a partition; restore into a database of another name",
    ),
    (
        "temp partitions",
        ErrorKind::Failed,
        "StarRocks takes no snapshot of a table with temporary partitions: drop them, or wait for the load that made them",
    ),
    (
        "failed to choose replica to make snapshot",
        ErrorKind::Failed,
        "a tablet has no healthy replica: `SHOW PROC '/statistic'`, and `ADMIN SHOW REPLICA STATUS`",
    ),
    (
        "version already merged",
        ErrorKind::Failed,
        "compaction was faster than the snapshot; the next attempt usually succeeds",
    ),
    (
        "Repository",
        ErrorKind::NotFound,
        "the cluster does not know the repository any more: the next backup attaches it again",
    ),
    (
        "Unknown database",
        ErrorKind::NotFound,
        "was it dropped or renamed? `databases` in the policy names it",
    ),
    ("Unknown table", ErrorKind::NotFound, "was it dropped or renamed meanwhile? run it again"),
    (
        "Incorrect table name",
        ErrorKind::NotFound,
        "was it dropped or renamed meanwhile? run it again",
    ),
    (
        "does not exist  in table",
        ErrorKind::NotFound,
        "a partition was dropped meanwhile: run it again",
    ),
    ("Unknown partition", ErrorKind::NotFound, "a partition was dropped meanwhile: run it again"),
    ("not a OLAP table", ErrorKind::Unsupported, "this version backs up tables of its own only"),
    (
        "can not support backup restore",
        ErrorKind::Unsupported,
        "this version cannot back up tables of this type",
    ),
    (
        "[TIMEOUT",
        ErrorKind::Failed,
        "raise `timeout` in the policy, or look why uploads are slow: the backends' logs tell",
    ),
    (
        "Getting syntax error",
        ErrorKind::Unsupported,
        "this version of StarRocks does not take the statement",
    ),
];

fn explain(doing: &str, text: &str) -> Error {
    let known = KNOWN.iter().find(|(part, ..)| text.contains(part));
    let kind = known.map_or(ErrorKind::Failed, |(_, kind, _)| *kind);
    let said = Error::new(kind, format!("StarRocks: {}", plain(text)));
    let error = Error::new(kind, format!("failed to {doing}")).with_source(said);
    match known {
        Some((_, _, hint)) => error.hint(*hint),
        None => error,
    }
}

/// A text without what versions wrap it in.
fn plain(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix("Unexpected exception: ").unwrap_or(text);
    match (text.starts_with("Getting analyzing error"), text.split_once("Detail message: ")) {
        (true, Some((_, detail))) => detail.strip_suffix('.').unwrap_or(detail),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_the_same_bare_and_wrapped() {
        for text in [
            "Snapshot with name 'x' already exist in repository",
            "Unexpected exception: Snapshot with name 'x' already exist in repository",
            "Getting analyzing error. Detail message: Snapshot with name 'x' already exist in repository.",
        ] {
            let error = Failure::Said(text.into()).into_error("make the snapshot x");
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert_eq!(
                error.chain(),
                "failed to make the snapshot x: StarRocks: Snapshot with name 'x' already exist in repository"
            );
        }
    }

    #[test]
    fn a_known_text_has_a_hint_and_an_unknown_one_is_told_as_it_is() {
        let known = Failure::Said("[TIMEOUT, msg: ]".into()).into_error("wait");
        assert_eq!(known.hints().len(), 1);
        let unknown = Failure::Said("something new".into()).into_error("wait");
        assert_eq!(unknown.chain(), "failed to wait: StarRocks: something new");
    }
}
