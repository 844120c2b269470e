//! Every schema there was. The number of steps taken stands in `backstay.schema_version`.

/// Steps from an empty database to the newest schema. Steps are only ever added.
///
/// Times are microseconds since 1970, as in SQLite: those of slots by the daemons' clocks, those of
/// leases (`heartbeat`) by the server's.
pub(super) const STEPS: &[&str] = &["
    -- Every time that a job was due for a source, and what came of it.
    CREATE TABLE backstay.runs (
        id         text    NOT NULL PRIMARY KEY COLLATE \"C\",
        stack      text    NOT NULL COLLATE \"C\",
        job        text    NOT NULL COLLATE \"C\",
        source     text    NOT NULL COLLATE \"C\",
        nominal    text    NOT NULL COLLATE \"C\",
        due        bigint  NOT NULL,
        not_before bigint  NOT NULL,
        state      text    NOT NULL CHECK (state IN ('waiting', 'running', 'succeeded', 'failed',
                                                     'skipped', 'missed', 'abandoned')),
        why        text,
        attempts   integer NOT NULL DEFAULT 0,
        owner      text,
        epoch      bigint  NOT NULL DEFAULT 0,
        heartbeat  bigint,
        started    bigint,
        ended      bigint,
        backup     text,
        cancelled  boolean NOT NULL DEFAULT false,
        UNIQUE (stack, job, source, nominal)
    );
    -- One source is never done twice at once, whatever daemons believe.
    CREATE UNIQUE INDEX runs_one_of_source ON backstay.runs (stack, source) WHERE state = 'running';
    CREATE INDEX runs_open ON backstay.runs (due) WHERE state IN ('waiting', 'running');
    CREATE INDEX runs_due ON backstay.runs (due);
    CREATE INDEX runs_of_source ON backstay.runs (stack, job, source, state, due);

    -- Up to when the slots of a job are rows of `runs`.
    CREATE TABLE backstay.cursors (
        stack text   NOT NULL,
        job   text   NOT NULL,
        until bigint NOT NULL,
        PRIMARY KEY (stack, job)
    );

    -- Who works with this queue.
    CREATE TABLE backstay.daemons (
        owner     text   NOT NULL PRIMARY KEY,
        host      text   NOT NULL,
        tool      text   NOT NULL,
        heartbeat bigint NOT NULL
    );

    -- What runs said.
    CREATE TABLE backstay.words (
        run  text NOT NULL PRIMARY KEY REFERENCES backstay.runs (id) ON DELETE CASCADE,
        said text NOT NULL
    );
"];
