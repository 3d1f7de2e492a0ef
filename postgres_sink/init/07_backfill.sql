-- Records that pg-sinker reads again: see docs/warehouse.md.

-- The tables that a partition's records go into from next_offset on; NULL, from before this column: all of them.
ALTER TABLE tidemill.sink_offsets ADD COLUMN tables text[];

-- What is read again. kind: new (a table that was added to its topic), replay, rebuild. span: the range that was asked. step: deletions, rows, swapped.
-- state: open, done, stopped, failed. Of one that is open: why its last try failed, how many failed since something was written, and until
-- when it is not tried again.
CREATE TABLE tidemill.backfills (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group text NOT NULL,
    topic          text NOT NULL,
    sink_table     text NOT NULL,
    kind           text NOT NULL,
    span           jsonb NOT NULL,
    step           text NOT NULL,
    state          text NOT NULL DEFAULT 'open',
    failure        text,
    tries          int NOT NULL DEFAULT 0,
    rests_until    timestamptz,
    records        bigint NOT NULL DEFAULT 0,
    rows           bigint NOT NULL DEFAULT 0,
    begun_at       timestamptz NOT NULL DEFAULT now(),
    moved_at       timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz
);

-- Of what is asked for, one of a table at a time. What a table lacks by itself is entered beside that, and read when its turn comes.
CREATE UNIQUE INDEX backfills_open ON tidemill.backfills (consumer_group, topic, sink_table, (kind = 'new')) WHERE state = 'open';

-- Where a job is in each partition: it moves in the transaction of the rows, by compare-and-set.
CREATE TABLE tidemill.backfill_parts (
    backfill     bigint NOT NULL REFERENCES tidemill.backfills ON DELETE CASCADE,
    partition    int NOT NULL,
    first_offset bigint NOT NULL,
    next_offset  bigint NOT NULL,
    until_offset bigint NOT NULL,
    PRIMARY KEY (backfill, partition)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.backfills, tidemill.backfill_parts TO tidemill_writer;
