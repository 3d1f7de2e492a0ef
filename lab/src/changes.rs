//! What is done at the source: users made, orders placed and moved through their statuses.
//!
//! Each call is one statement, and so one transaction.

use shared::failure::Failure;
use shared::pg::refused;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::places::Names;

/// The life of an order. It enters the n-th status (from 0) n seconds after its `order_time`, so that `updated_at` can be
/// foretold for each.
pub const STATUSES: [&str; 3] = ["PENDING", "SHIPPED", "COMPLETED"];

/// From the order to its last status, by that rule.
pub const LIFE_MS: i64 = 2_000;

/// An order to be placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub order_id: i64,
    pub user_id: i64,
    pub product_name: String,
    pub product_category: &'static str,
    pub quantity: i32,
    pub unit_price_cents: i64,
    /// Milliseconds since 1970, UTC.
    pub order_time_ms: i64,
}

/// A user to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub user_id: i64,
    pub username: String,
    pub email: String,
    pub phone: String,
    pub city: &'static str,
}

/// An id that neither the source nor the sink has seen: deleted orders live on in the trail.
pub async fn fresh_order_id(source: &mut PgConnection, sink: &mut PgConnection, names: &Names) -> Result<i64, Failure> {
    let mut highest = 0;
    for (connection, table) in [(source, &names.orders), (sink, &names.trail)] {
        let sql = format!("SELECT coalesce(max(order_id), 0) FROM {}", table.sql());
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(connection)
            .await
            .map_err(|error| refused(format!("the highest order id of {table} cannot be read"), error))?;
        highest = highest.max(found);
    }
    Ok(highest + 1)
}

/// The user with the lowest id; `None` where there is none.
pub async fn first_user_id(source: &mut PgConnection, names: &Names) -> Result<Option<i64>, Failure> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT min(user_id) FROM {}", names.users.sql())))
        .fetch_one(source)
        .await
        .map_err(|error| refused(format!("the users of {} cannot be read", names.users), error))
}

/// Makes the users that are missing; says how many that were.
pub async fn make_users(source: &mut PgConnection, names: &Names, users: &[User]) -> Result<u64, Failure> {
    let sql = format!(
        "INSERT INTO {} (user_id, username, email, phone, city)
         SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])
         ON CONFLICT (user_id) DO NOTHING",
        names.users.sql()
    );
    let done = sqlx::query(AssertSqlSafe(sql))
        .bind(users.iter().map(|user| user.user_id).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.username.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.email.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.phone.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|user| user.city).collect::<Vec<_>>())
        .execute(source)
        .await
        .map_err(|error| refused("users cannot be made at the source", error))?;
    Ok(done.rows_affected())
}

/// Places the orders in their first status.
pub async fn place(source: &mut PgConnection, names: &Names, orders: &[Order]) -> Result<(), Failure> {
    let sql = format!(
        "INSERT INTO {} (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount,
                         order_status, order_time, updated_at)
         SELECT id, buyer, product, category, quantity, cents::numeric / 100, quantity * cents::numeric / 100,
                $8, placed, placed
         FROM (SELECT *, timestamp '1970-01-01' + ms * interval '1 millisecond' AS placed
               FROM UNNEST($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::bigint[])
                    AS new (id, buyer, product, category, quantity, cents, ms)) AS placed_orders",
        names.orders.sql()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(orders.iter().map(|order| order.order_id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.user_id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.product_name.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.product_category).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.quantity).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.unit_price_cents).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.order_time_ms).collect::<Vec<_>>())
        .bind(STATUSES.first())
        .execute(source)
        .await
        .map_err(|error| refused("orders cannot be placed at the source", error))?;
    Ok(())
}

/// Moves orders to the status at `step` of [`STATUSES`].
pub async fn move_to(source: &mut PgConnection, names: &Names, order_ids: &[i64], step: usize) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE {} SET order_status = $2, updated_at = order_time + $3 * interval '1 second' WHERE order_id = ANY($1)",
        names.orders.sql()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(order_ids)
        .bind(STATUSES.get(step))
        .bind(i32::try_from(step).unwrap_or(i32::MAX))
        .execute(source)
        .await
        .map_err(|error| refused("the status of orders cannot be changed at the source", error))?;
    Ok(())
}

/// Places the orders (step 0) or moves them to a later status.
pub async fn step(source: &mut PgConnection, names: &Names, orders: &[Order], step: usize) -> Result<(), Failure> {
    if step == 0 {
        return place(source, names, orders).await;
    }
    let order_ids: Vec<i64> = orders.iter().map(|order| order.order_id).collect();
    move_to(source, names, &order_ids, step).await
}

/// Sets `updated_at` (milliseconds since 1970, UTC) and nothing else.
pub async fn touch(source: &mut PgConnection, names: &Names, order_id: i64, updated_at_ms: i64) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE {} SET updated_at = timestamp '1970-01-01' + $2 * interval '1 millisecond' WHERE order_id = $1",
        names.orders.sql()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(order_id)
        .bind(updated_at_ms)
        .execute(source)
        .await
        .map_err(|error| refused(format!("order {order_id} cannot be changed at the source"), error))?;
    Ok(())
}
