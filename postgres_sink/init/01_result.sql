-- What pg-sinker writes: the trail (a row for each status of an order) and the latest state of each order.
-- Plain SQL; an empty line ends each statement, so that both psql and the server's single-user mode can run this file.

CREATE SCHEMA result;

-- record_version compares as the source's history does (order version, user version; 40 bytes): a row is only ever replaced by a
-- newer one. source_commit_time is the commit at the source of the change that wrote the row; NULL for rows of the first copy.
-- Times that Tidemill makes itself are UTC.
CREATE TABLE result.orders_with_user_info (
    order_id                    bigint NOT NULL,
    user_id                     bigint,
    username                    text,
    email                       text,
    phone                       text,
    city                        text,
    product_name                text,
    product_category            text,
    product_category_normalized text,
    quantity                    int,
    unit_price                  numeric,
    total_amount                numeric,
    total_amount_yuan           text,
    order_status                text NOT NULL,
    order_status_desc           text,
    order_time                  timestamp(3),
    order_date                  date,
    order_hour                  int,
    updated_at                  timestamp(3),
    user_register_time          timestamp(3),
    user_city_tier              text,
    etl_time                    timestamp(3),
    join_time                   timestamp(3),
    processed_time              timestamp(3) NOT NULL,
    source_commit_time          timestamptz,
    record_version              bytea NOT NULL,
    PRIMARY KEY (order_id, order_status)
);

-- price_band is made by the server, so that roll-ups and reports have one set of limits: those of the rule price_tier in
-- config/dwd-cleaner.toml.
CREATE TABLE result.orders_latest (
    LIKE result.orders_with_user_info INCLUDING DEFAULTS,
    price_band text GENERATED ALWAYS AS (CASE
        WHEN unit_price < 100 THEN '低价'
        WHEN unit_price < 1000 THEN '中价'
        WHEN unit_price < 5000 THEN '高价'
        WHEN unit_price >= 5000 THEN '奢侈'
    END) STORED,
    PRIMARY KEY (order_id)
);

CREATE INDEX orders_latest_user_id ON result.orders_latest (user_id);
