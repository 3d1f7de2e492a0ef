-- Roll-ups that pg-sinker keeps over result.orders_latest: see docs/warehouse.md and [rollups] in config/pg-sinker.toml.

CREATE SCHEMA dws;

-- group_key is the SHA-256 of the group's values, so that NULL is a value like others on every version of PostgreSQL. bucket is the begin
-- of the minute, hour or day of order_time. A group without orders has no row.
CREATE TABLE dws.orders_by_minute (
    group_key                   bytea PRIMARY KEY,
    bucket                      timestamp,
    product_category_normalized text,
    order_status                text,
    orders                      bigint NOT NULL DEFAULT 0,
    amount                      numeric NOT NULL DEFAULT 0,
    quantity                    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

CREATE INDEX orders_by_minute_bucket ON dws.orders_by_minute (bucket);

CREATE TABLE dws.orders_by_hour (
    group_key                   bytea PRIMARY KEY,
    bucket                      timestamp,
    city                        text,
    user_city_tier              text,
    product_category_normalized text,
    price_band                  text,
    order_status                text,
    orders                      bigint NOT NULL DEFAULT 0,
    amount                      numeric NOT NULL DEFAULT 0,
    quantity                    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

CREATE INDEX orders_by_hour_bucket ON dws.orders_by_hour (bucket);

-- users counts those with an order in this group: it does not add up over groups.
CREATE TABLE dws.orders_by_day (
    LIKE dws.orders_by_hour INCLUDING DEFAULTS,
    users bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (group_key)
) WITH (fillfactor = 80);

CREATE INDEX orders_by_day_bucket ON dws.orders_by_day (bucket);

-- Which roll-ups there are, by what definition, and how far each is filled: rows up to the key filled_to count, all of them where it is
-- complete. To have one filled anew, delete its row.
CREATE TABLE tidemill.rollups (
    rollup        text PRIMARY KEY,
    of_table      text NOT NULL,
    definition    text NOT NULL,
    filled_to     text[],
    is_complete   boolean NOT NULL DEFAULT false,
    registered_at timestamptz NOT NULL DEFAULT now(),
    completed_at  timestamptz
);

-- How many rows of a group have a value, for roll-ups that count different values; last_change is what the last batch added to it.
CREATE TABLE tidemill.rollup_values (
    rollup      text COLLATE "C" NOT NULL,
    measure     text COLLATE "C" NOT NULL,
    group_key   bytea NOT NULL,
    value       text COLLATE "C" NOT NULL,
    rows        bigint NOT NULL,
    last_change bigint NOT NULL,
    PRIMARY KEY (rollup, measure, group_key, value)
) WITH (fillfactor = 80);

GRANT USAGE ON SCHEMA dws TO tidemill_writer;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dws TO tidemill_writer;

GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.rollups, tidemill.rollup_values TO tidemill_writer;
