//! The rows that the benchmark is made with: orders in all their columns, made by the server itself.

use std::ops::RangeInclusive;

use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use shared::position::{Lsn, PositionError};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::paper::Paper;
use crate::places::Names;

/// Users who own the orders in turn.
#[derive(Debug, Clone, Copy)]
pub struct Owners {
    /// The lowest id.
    pub first: i64,
    pub count: u32,
}

/// Those of the example.
pub const OF_THE_EXAMPLE: Owners = Owners { first: 1001, count: 5 };

/// Places all orders of a range of ids in one transaction.
pub async fn place(
    source: &mut PgConnection,
    names: &Names,
    ids: RangeInclusive<i64>,
    owners: Owners,
) -> Result<(), Failure> {
    let sql = format!(
        "INSERT INTO {} (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount,
                         order_status, order_time, updated_at)
         SELECT id, $3 + id % $4, goods[1 + id % 6] || ' ' || id, kinds[1 + id % 6], 1 + id % 5,
                (1 + id * 37 % 999999) / 100.0, (1 + id % 5) * (1 + id * 37 % 999999) / 100.0, 'PENDING', placed, placed
         FROM (SELECT id, timestamp '2025-01-01' + id * interval '100 milliseconds' AS placed,
                      ARRAY['iPhone 15', '羽绒服', '蓝牙耳机 \"Pro\"', '咖啡机', '运动鞋', '三体\\全集'] AS goods,
                      ARRAY['电子产品', '服装鞋帽', '电子产品', '家用电器', '服装鞋帽', '图书音像'] AS kinds
               FROM generate_series($1::bigint, $2::bigint) AS id) AS new",
        names.orders.sql()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(ids.start())
        .bind(ids.end())
        .bind(owners.first)
        .bind(i64::from(owners.count))
        .execute(source)
        .await
        .map_err(|error| refused("orders cannot be placed at the source", error))?;
    Ok(())
}

/// Places `rows` orders, `each` in a transaction.
pub async fn place_in_transactions(
    source: &mut PgConnection,
    names: &Names,
    (rows, each): (u32, u32),
    owners: Owners,
    progress: &mut Paper,
) -> Result<(), Failure> {
    let first = next_id(source, names).await?;
    let mut placed = 0;
    while placed < rows {
        let count = each.min(rows - placed);
        let start = first + i64::from(placed);
        place(source, names, start..=start + i64::from(count) - 1, owners).await?;
        placed += count;
        if placed.is_multiple_of(each.saturating_mul(50)) || placed == rows {
            progress.progress(format!("  {placed} of {rows} orders placed"));
        }
    }
    progress.progressed();
    Ok(())
}

/// An id above all that are there.
pub async fn next_id(source: &mut PgConnection, names: &Names) -> Result<i64, Failure> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT coalesce(max(order_id), 0) + 1 FROM {}", names.orders.sql())))
        .fetch_one(source)
        .await
        .map_err(|error| refused(format!("the highest order id of {} cannot be read", names.orders), error))
}

/// Where the WAL ends now.
pub async fn wal_end(source: &mut PgConnection) -> Result<Lsn, Failure> {
    let text: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text")
        .fetch_one(source)
        .await
        .map_err(|error| refused("the end of the WAL cannot be read", error))?;
    text.parse().map_err(|error: PositionError| {
        Failure::new(FailureKind::Data, "the end of the WAL cannot be read").caused_by(error)
    })
}

/// Has the server do now what it would do in the background while others are measured: vacuum, and the writing of pages.
pub async fn settle(source: &mut PgConnection, names: &Names) -> Result<(), Failure> {
    for statement in [format!("VACUUM (ANALYZE) {}", names.orders.sql()), "CHECKPOINT".to_owned()] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *source)
            .await
            .map_err(|error| refused("the source cannot be settled", error))?;
    }
    Ok(())
}
