-- What the comparisons of the sink with the source found last: instances share it, and a restart forgets nothing. No value of a row is in it.

CREATE TABLE tidemill.reconciliations (
    pair        text PRIMARY KEY,
    finished_at timestamptz,
    took_ms     bigint,
    counts      jsonb,
    report      jsonb,
    failed_at   timestamptz,
    failure     text,
    failures    bigint NOT NULL DEFAULT 0
);

GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.reconciliations TO tidemill_writer;
