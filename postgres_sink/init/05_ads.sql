-- What reports ask: see docs/warehouse.md. Sales are orders that are neither cancelled nor refunded. Amounts are exact; shares are percent.
-- A role that may read the views needs nothing else: GRANT USAGE ON SCHEMA ads TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA ads TO reader;

CREATE SCHEMA ads;

-- Of each day, hour by hour summed up once more: city, tier, category and price band of all sales.
CREATE VIEW ads.sales AS
SELECT bucket AS day, city, user_city_tier, product_category_normalized, price_band, orders, quantity, amount
FROM dws.orders_by_day WHERE order_status NOT IN ('CANCELLED', 'REFUNDED');

CREATE VIEW ads.sales_by_day AS
SELECT day, sum(orders)::bigint AS orders, sum(quantity)::bigint AS quantity, sum(amount) AS amount FROM ads.sales GROUP BY day ORDER BY day;

CREATE VIEW ads.sales_by_city AS
SELECT city, user_city_tier, sum(orders)::bigint AS orders, sum(quantity)::bigint AS quantity, sum(amount) AS amount,
    round(sum(amount) / nullif(sum(orders), 0), 2) AS average_amount,
    round(100 * sum(amount) / nullif(sum(sum(amount)) OVER (), 0), 2) AS amount_share
FROM ads.sales GROUP BY city, user_city_tier ORDER BY sum(amount) DESC, city;

CREATE VIEW ads.sales_by_city_tier AS
SELECT user_city_tier, sum(orders)::bigint AS orders, sum(quantity)::bigint AS quantity, sum(amount) AS amount,
    round(sum(amount) / nullif(sum(orders), 0), 2) AS average_amount,
    round(100 * sum(amount) / nullif(sum(sum(amount)) OVER (), 0), 2) AS amount_share
FROM ads.sales GROUP BY user_city_tier ORDER BY sum(amount) DESC, user_city_tier;

CREATE VIEW ads.sales_by_category AS
SELECT product_category_normalized, sum(orders)::bigint AS orders, sum(quantity)::bigint AS quantity, sum(amount) AS amount,
    round(sum(amount) / nullif(sum(orders), 0), 2) AS average_amount,
    round(100 * sum(amount) / nullif(sum(sum(amount)) OVER (), 0), 2) AS amount_share
FROM ads.sales GROUP BY product_category_normalized ORDER BY sum(amount) DESC, product_category_normalized;

CREATE VIEW ads.sales_by_price_band AS
SELECT price_band, sum(orders)::bigint AS orders, sum(quantity)::bigint AS quantity, sum(amount) AS amount,
    round(sum(amount) / nullif(sum(orders), 0), 2) AS average_amount,
    round(100 * sum(amount) / nullif(sum(sum(amount)) OVER (), 0), 2) AS amount_share
FROM ads.sales GROUP BY price_band ORDER BY array_position(ARRAY['低价', '中价', '高价', '奢侈'], price_band), price_band;

-- All 24 hours, also those without a sale.
CREATE VIEW ads.sales_by_hour_of_day AS
SELECT h.hour_of_day, coalesce(sum(s.orders), 0)::bigint AS orders, coalesce(sum(s.quantity), 0)::bigint AS quantity,
    coalesce(sum(s.amount), 0) AS amount
FROM generate_series(0, 23) AS h (hour_of_day)
LEFT JOIN dws.orders_by_hour AS s ON extract(hour FROM s.bucket) = h.hour_of_day AND s.order_status NOT IN ('CANCELLED', 'REFUNDED')
GROUP BY h.hour_of_day ORDER BY h.hour_of_day;

-- How many orders came to each status, by the trail, deleted ones too; and how many are in it now.
CREATE VIEW ads.status_funnel AS
WITH reached AS (SELECT order_status, count(*) AS orders FROM result.orders_with_user_info GROUP BY order_status),
    present AS (SELECT order_status, sum(orders)::bigint AS orders, sum(amount) AS amount FROM dws.orders_by_day GROUP BY order_status),
    every AS (SELECT count(DISTINCT order_id) AS orders FROM result.orders_with_user_info)
SELECT r.order_status, r.orders AS reached, round(100.0 * r.orders / nullif(every.orders, 0), 2) AS reached_share,
    coalesce(p.orders, 0) AS present, coalesce(p.amount, 0) AS present_amount
FROM reached r LEFT JOIN present p USING (order_status) CROSS JOIN every
ORDER BY array_position(ARRAY['PENDING', 'PAID', 'SHIPPED', 'DELIVERED', 'COMPLETED', 'CANCELLED', 'REFUNDED'], r.order_status), r.order_status;

-- Times between two statuses that followed each other, from the last change in the one to the last change in the other.
CREATE VIEW ads.status_times AS
WITH steps AS (
    SELECT order_status AS from_status, updated_at AS left_at,
        lead(order_status) OVER way AS to_status, lead(updated_at) OVER way AS came_at
    FROM result.orders_with_user_info WINDOW way AS (PARTITION BY order_id ORDER BY updated_at, record_version)
)
SELECT from_status, to_status, count(*) AS orders, avg(came_at - left_at) AS average,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY came_at - left_at) AS median,
    percentile_cont(0.9) WITHIN GROUP (ORDER BY came_at - left_at) AS nine_in_ten
FROM steps WHERE to_status IS NOT NULL AND came_at IS NOT NULL AND left_at IS NOT NULL
GROUP BY from_status, to_status ORDER BY count(*) DESC, from_status, to_status;

-- As in the roll-ups, an amount that is no finite number (NULL, NaN) adds nothing: it would stand above every other.
CREATE VIEW ads.top_products AS
WITH sold AS (
    SELECT product_name, product_category_normalized, quantity,
        CASE WHEN total_amount > '-Infinity' AND total_amount < 'Infinity' THEN total_amount END AS finite_amount
    FROM result.orders_latest WHERE order_status NOT IN ('CANCELLED', 'REFUNDED')
)
SELECT rank() OVER (ORDER BY coalesce(sum(finite_amount), 0) DESC) AS place, product_name, product_category_normalized,
    count(*) AS orders, sum(quantity)::bigint AS quantity, coalesce(sum(finite_amount), 0) AS amount
FROM sold
GROUP BY product_name, product_category_normalized ORDER BY place, product_name;

CREATE VIEW ads.top_users AS
WITH sold AS (
    SELECT user_id, username, city, quantity,
        CASE WHEN total_amount > '-Infinity' AND total_amount < 'Infinity' THEN total_amount END AS finite_amount
    FROM result.orders_latest WHERE order_status NOT IN ('CANCELLED', 'REFUNDED')
)
SELECT rank() OVER (ORDER BY coalesce(sum(finite_amount), 0) DESC) AS place, user_id, max(username) AS username, max(city) AS city,
    count(*) AS orders, sum(quantity)::bigint AS quantity, coalesce(sum(finite_amount), 0) AS amount
FROM sold
GROUP BY user_id ORDER BY place, user_id;

-- Orders whose user is not known to the joiner (its default stands in their place).
CREATE VIEW ads.unknown_users AS
SELECT count(*) AS orders, count(*) FILTER (WHERE username = 'Unknown User') AS unknown_orders,
    count(DISTINCT user_id) FILTER (WHERE username = 'Unknown User') AS unknown_users,
    coalesce(round(100.0 * count(*) FILTER (WHERE username = 'Unknown User') / nullif(count(*), 0), 2), 0) AS unknown_share
FROM result.orders_latest;

-- How old the warehouse is: the last batch, the newest commit of the source in it, and how long rows of the last hour took from their
-- commit. delayed_p50 and delayed_p99 are NULL where no row was written.
CREATE VIEW ads.freshness AS
SELECT (SELECT max(updated_at) FROM tidemill.sink_offsets) AS last_batch_at,
    (SELECT max(source_commit_time) FROM result.orders_latest) AS newest_commit_at,
    recent.rows AS rows_of_last_hour, recent.delayed_p50, recent.delayed_p99,
    (SELECT coalesce(bool_and(is_complete), true) FROM tidemill.rollups) AS rollups_are_complete
FROM (
    SELECT count(*) AS rows, percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS delayed_p50,
        percentile_cont(0.99) WITHIN GROUP (ORDER BY delay) AS delayed_p99
    FROM (
        SELECT (processed_time AT TIME ZONE 'UTC') - source_commit_time AS delay FROM result.orders_latest
        WHERE processed_time > (now() AT TIME ZONE 'UTC') - interval '1 hour' AND source_commit_time IS NOT NULL
    ) AS delays
) AS recent;
