//! Users with many orders: what the joiner must send again when one of them changes.

use std::ops::RangeInclusive;

use shared::failure::Failure;
use shared::pg::{PostgresConfig, refused};
use sqlx::AssertSqlSafe;

use crate::places::Names;

const CITIES: [&str; 6] = ["北京", "上海", "杭州", "成都", "丽江", "拉萨"];

/// Gives a user these orders, in one transaction; makes the user if there is none. Those that are there already stay as they are. Keys
/// are to be taken from [`super::ids::OWNERS`] and [`super::ids::OWNED_ORDERS`].
pub async fn make_owner(
    source: &PostgresConfig,
    names: &Names,
    user_id: i64,
    orders: RangeInclusive<i64>,
) -> Result<(), Failure> {
    let user = format!(
        "WITH owner AS (
             INSERT INTO {} (user_id, username, email, phone, city)
             VALUES ($1, '大客户 ' || $1, 'owner' || $1 || '@example.com', '138', '北京') ON CONFLICT DO NOTHING)
         INSERT INTO {} (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status)
         SELECT n, $1, '大单 ' || n, '电子产品', n % 9 + 1, 2.50, (n % 9 + 1) * 2.50, 'PENDING'
         FROM generate_series($2::bigint, $3::bigint) n ON CONFLICT DO NOTHING",
        names.users.sql(),
        names.orders.sql()
    );
    let mut connection = source.connect("tidemill-chaos").await?;
    let done = sqlx::query(AssertSqlSafe(user)).bind(user_id).bind(orders.start()).bind(orders.end());
    done.execute(&mut connection)
        .await
        .map_err(|error| refused(format!("user {user_id} cannot be given many orders"), error))?;
    Ok(())
}

/// Changes the user; each `change` makes it another one.
pub async fn change_owner(source: &PostgresConfig, names: &Names, user_id: i64, change: usize) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE {} SET city = $2, username = '大客户 ' || $1 || '/' || $3, updated_at = clock_timestamp() WHERE user_id = $1",
        names.users.sql()
    );
    let mut connection = source.connect("tidemill-chaos").await?;
    let done = sqlx::query(AssertSqlSafe(sql))
        .bind(user_id)
        .bind(CITIES.get(change % CITIES.len()))
        .bind(change as i64)
        .execute(&mut connection);
    done.await.map_err(|error| refused(format!("user {user_id} cannot be changed"), error))?;
    Ok(())
}
