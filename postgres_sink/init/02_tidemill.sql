-- pg-sinker's own tables: where it is in each partition, and the keys that were deleted.

CREATE SCHEMA tidemill;

-- next_offset moves in the transaction of the rows, by compare-and-set: a second writer of the same partition fails.
CREATE TABLE tidemill.sink_offsets (
    consumer_group text NOT NULL,
    topic          text NOT NULL,
    partition      int NOT NULL,
    next_offset    bigint NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic, partition)
);

-- A deleted key keeps its version, or a repeat of an older record would revive the row.
CREATE TABLE tidemill.deleted_keys (
    sink_table     text NOT NULL,
    key            text NOT NULL,
    record_version bytea NOT NULL,
    deleted_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sink_table, key)
);

CREATE INDEX deleted_keys_deleted_at ON tidemill.deleted_keys (deleted_at);
