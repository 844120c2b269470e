//! Every schema there was. The number of steps taken is the database's `user_version`.

/// Steps from an empty database to the newest schema. Steps are only ever added.
pub(super) const STEPS: &[&str] = &[
    "
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
",
    "
    -- Every time that a job was due for a source, and what came of it.
    CREATE TABLE runs (
        id         TEXT    NOT NULL PRIMARY KEY,
        stack      TEXT    NOT NULL,
        job        TEXT    NOT NULL,
        source     TEXT    NOT NULL,
        nominal    TEXT    NOT NULL,
        due        INTEGER NOT NULL,
        not_before INTEGER NOT NULL,
        state      TEXT    NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed',
                                                     'skipped', 'missed', 'abandoned')),
        why        TEXT,
        attempts   INTEGER NOT NULL DEFAULT 0,
        owner      TEXT,
        heartbeat  INTEGER,
        started    INTEGER,
        ended      INTEGER,
        backup     TEXT,
        cancelled  INTEGER NOT NULL DEFAULT 0,
        UNIQUE (stack, job, source, nominal)
    ) STRICT;
    CREATE INDEX runs_open ON runs (due) WHERE state IN ('waiting', 'running');
    CREATE INDEX runs_due ON runs (due);
    CREATE INDEX runs_of_source ON runs (stack, job, source, state, due);

    -- Up to when the slots of a job are rows of `runs`.
    CREATE TABLE cursors (
        stack TEXT    NOT NULL,
        job   TEXT    NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (stack, job)
    ) STRICT, WITHOUT ROWID;
",
];
