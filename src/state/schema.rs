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
    "
    -- What fires, and what did until everybody who had heard of it was told that it is over.
    CREATE TABLE alerts (
        fingerprint TEXT    NOT NULL PRIMARY KEY,
        alert       TEXT    NOT NULL,
        started     INTEGER NOT NULL,
        resolved    INTEGER
    ) STRICT, WITHOUT ROWID;

    -- Who was told of what, and when last. `resolved`: that it is over.
    CREATE TABLE told (
        stack       TEXT    NOT NULL,
        receiver    TEXT    NOT NULL,
        fingerprint TEXT    NOT NULL,
        at          INTEGER NOT NULL,
        resolved    INTEGER NOT NULL,
        PRIMARY KEY (stack, receiver, fingerprint)
    ) STRICT, WITHOUT ROWID;

    -- How often each receiver was told something, and what it said last.
    CREATE TABLE notifications (
        stack    TEXT    NOT NULL,
        receiver TEXT    NOT NULL,
        result   TEXT    NOT NULL CHECK (result IN ('delivered', 'failed', 'dropped')),
        total    INTEGER NOT NULL,
        last     INTEGER NOT NULL,
        said     TEXT    NOT NULL,
        PRIMARY KEY (stack, receiver, result)
    ) STRICT, WITHOUT ROWID;

    -- What `status` found of each source last, as it printed it.
    CREATE TABLE looks (
        stack  TEXT    NOT NULL,
        source TEXT    NOT NULL,
        at     INTEGER NOT NULL,
        found  TEXT    NOT NULL,
        PRIMARY KEY (stack, source)
    ) STRICT, WITHOUT ROWID;

    -- How many runs ended how: rows of `runs` are forgotten one day, and counters never go back.
    CREATE TABLE run_totals (
        stack  TEXT    NOT NULL,
        job    TEXT    NOT NULL,
        source TEXT    NOT NULL,
        state  TEXT    NOT NULL,
        total  INTEGER NOT NULL,
        PRIMARY KEY (stack, job, source, state)
    ) STRICT, WITHOUT ROWID;

    -- How many runs of a job took at most `le` seconds, and in the row of 0 the sum of all, in
    -- microseconds.
    CREATE TABLE run_durations (
        stack TEXT    NOT NULL,
        job   TEXT    NOT NULL,
        le    INTEGER NOT NULL,
        total INTEGER NOT NULL,
        PRIMARY KEY (stack, job, le)
    ) STRICT, WITHOUT ROWID;

    INSERT INTO run_totals SELECT stack, job, source, state, count(*) FROM runs
        WHERE state NOT IN ('waiting', 'running') GROUP BY stack, job, source, state;

    CREATE TRIGGER runs_end AFTER UPDATE OF state ON runs
    WHEN old.state IN ('waiting', 'running') AND new.state NOT IN ('waiting', 'running')
    BEGIN
        INSERT INTO run_totals VALUES (new.stack, new.job, new.source, new.state, 1)
            ON CONFLICT DO UPDATE SET total = total + 1;
        INSERT INTO run_durations
            SELECT new.stack, new.job, bucket.column1, 1
            FROM (VALUES (10), (60), (300), (900), (1800), (3600), (7200), (14400), (28800),
                         (86400), (9223372036854)) AS bucket
            WHERE new.started IS NOT NULL AND new.ended - new.started <= bucket.column1 * 1000000
            ON CONFLICT DO UPDATE SET total = total + 1;
        INSERT INTO run_durations
            SELECT new.stack, new.job, 0, max(new.ended - new.started, 0)
            WHERE new.started IS NOT NULL
            ON CONFLICT DO UPDATE SET total = total + excluded.total;
    END;

    CREATE TRIGGER runs_never_begin AFTER INSERT ON runs
    WHEN new.state NOT IN ('waiting', 'running')
    BEGIN
        INSERT INTO run_totals VALUES (new.stack, new.job, new.source, new.state, 1)
            ON CONFLICT DO UPDATE SET total = total + 1;
    END;
",
    "
    -- How long it took to bring a backup of a source back, each time that was tried for a proof.
    CREATE TABLE recoveries (
        repository       TEXT    NOT NULL,
        source           TEXT    NOT NULL,
        at               INTEGER NOT NULL,
        backup           TEXT    NOT NULL,
        bytes            INTEGER NOT NULL CHECK (bytes >= 0),
        restore_seconds  REAL    NOT NULL,
        recovery_seconds REAL    NOT NULL,
        check_seconds    REAL    NOT NULL,
        verdict          TEXT    NOT NULL CHECK (verdict IN ('proven', 'inconclusive', 'damaged')),
        PRIMARY KEY (repository, source, at)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Whether a playbook could have been carried out when somebody looked last, as it was then.
    CREATE TABLE readiness (
        stack    TEXT    NOT NULL,
        playbook TEXT    NOT NULL,
        mode     TEXT    NOT NULL,
        at       INTEGER NOT NULL,
        hash     TEXT    NOT NULL,
        problems INTEGER NOT NULL CHECK (problems >= 0),
        why      TEXT    NOT NULL,
        takes    INTEGER,
        loss     INTEGER,
        PRIMARY KEY (stack, playbook, mode)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- The newest drill of each name that somebody knows of here, and when one last passed.
    CREATE TABLE drills (
        stack   TEXT    NOT NULL,
        name    TEXT    NOT NULL,
        drill   TEXT    NOT NULL,
        at      INTEGER NOT NULL,
        verdict TEXT    NOT NULL,
        why     TEXT    NOT NULL,
        rto     REAL,
        rpo     REAL,
        passed  INTEGER,
        PRIMARY KEY (stack, name)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- By which schedule the slots of a job were made last.
    ALTER TABLE cursors ADD COLUMN schedule TEXT;
",
];
