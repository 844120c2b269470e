//! Every schema there was. The number of steps taken is the database's `user_version`.

/// Steps from an empty database to the newest schema. Steps are only ever added.
pub(super) const STEPS: &[&str] = &["
    -- The last proof of each object at each depth. Times are microseconds since 1970.
    CREATE TABLE proofs (
        repository TEXT    NOT NULL,
        source     TEXT    NOT NULL,
        object     TEXT    NOT NULL,
        depth      TEXT    NOT NULL CHECK (depth IN ('stored', 'content')),
        proven_at  INTEGER NOT NULL,
        bytes      INTEGER NOT NULL CHECK (bytes >= 0),
        result     TEXT    NOT NULL CHECK (result IN ('sound', 'damaged')),
        PRIMARY KEY (repository, source, object, depth)
    ) STRICT, WITHOUT ROWID;
"];
