//! Every schema there was. The number of steps taken stands in `backstay.schema_version`.

/// Steps from an empty database to the newest schema. Steps are only ever added.
///
/// Times are microseconds since 1970, as in SQLite: those of slots by the daemons' clocks, those of
/// leases (`heartbeat`) by the server's.
pub(super) const STEPS: &[&str] = &[
    "
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
",
    "
    -- How many runs ended how: rows of `runs` are forgotten one day, and counters never go back.
    CREATE TABLE backstay.run_totals (
        stack  text   NOT NULL COLLATE \"C\",
        job    text   NOT NULL COLLATE \"C\",
        source text   NOT NULL COLLATE \"C\",
        state  text   NOT NULL COLLATE \"C\",
        total  bigint NOT NULL,
        PRIMARY KEY (stack, job, source, state)
    );

    -- How many runs of a job took at most `le` seconds, and in the row of 0 the sum of all, in
    -- microseconds.
    CREATE TABLE backstay.run_durations (
        stack text   NOT NULL COLLATE \"C\",
        job   text   NOT NULL COLLATE \"C\",
        le    bigint NOT NULL,
        total bigint NOT NULL,
        PRIMARY KEY (stack, job, le)
    );

    INSERT INTO backstay.run_totals SELECT stack, job, source, state, count(*) FROM backstay.runs
        WHERE state NOT IN ('waiting', 'running') GROUP BY stack, job, source, state;

    -- Once for each statement and in one order: two that count never wait for each other.
    CREATE FUNCTION backstay.count_ended() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        INSERT INTO backstay.run_totals AS kept
            SELECT later.stack, later.job, later.source, later.state, count(*)
            FROM later JOIN earlier ON earlier.id = later.id
            WHERE earlier.state IN ('waiting', 'running')
              AND later.state NOT IN ('waiting', 'running')
            GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
            ON CONFLICT (stack, job, source, state)
            DO UPDATE SET total = kept.total + excluded.total;
        INSERT INTO backstay.run_durations AS kept
            SELECT done.stack, done.job, bucket.le, sum(bucket.counts)::bigint
            FROM (SELECT later.stack, later.job, later.ended - later.started AS took
                  FROM later JOIN earlier ON earlier.id = later.id
                  WHERE earlier.state IN ('waiting', 'running')
                    AND later.state NOT IN ('waiting', 'running')
                    AND later.started IS NOT NULL AND later.ended IS NOT NULL) AS done
            CROSS JOIN LATERAL (
                SELECT 0::bigint AS le, greatest(done.took, 0) AS counts
                UNION ALL
                SELECT le, 1 FROM unnest(ARRAY[10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800,
                                               86400, 9223372036854]::bigint[]) AS le
                WHERE done.took <= le * 1000000) AS bucket
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            ON CONFLICT (stack, job, le) DO UPDATE SET total = kept.total + excluded.total;
        RETURN NULL;
    END $body$;

    CREATE FUNCTION backstay.count_never_begun() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        INSERT INTO backstay.run_totals AS kept
            SELECT stack, job, source, state, count(*) FROM added
            WHERE state NOT IN ('waiting', 'running')
            GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
            ON CONFLICT (stack, job, source, state)
            DO UPDATE SET total = kept.total + excluded.total;
        RETURN NULL;
    END $body$;

    CREATE TRIGGER runs_end AFTER UPDATE ON backstay.runs
        REFERENCING OLD TABLE AS earlier NEW TABLE AS later
        FOR EACH STATEMENT EXECUTE PROCEDURE backstay.count_ended();
    CREATE TRIGGER runs_never_begin AFTER INSERT ON backstay.runs
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE PROCEDURE backstay.count_never_begun();
",
    "
    -- By which schedule the slots of a job were made last.
    ALTER TABLE backstay.cursors ADD COLUMN schedule text;
",
];
