//! What stands at both ends, as tables.

use shared::failure::Failure;
use shared::pg::refused;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::paper::Paper;
use crate::places::Places;
use crate::table::Table;

/// Orders that are shown.
const ORDERS: i64 = 5;

const SOURCE_COLUMNS: [&str; 7] =
    ["order_id", "user_id", "product_name", "product_category", "total_amount", "order_status", "order_time"];

const SINK_COLUMNS: [&str; 11] = [
    "order_id",
    "username",
    "city",
    "user_city_tier",
    "product_name",
    "product_category_normalized",
    "total_amount_yuan",
    "order_status",
    "order_status_desc",
    "order_time",
    "processed_time",
];

/// The first orders of the source, and their rows in the sink's trail.
pub async fn run(places: &Places, paper: &mut Paper) -> Result<(), Failure> {
    let mut source = places.connect_source().await?;
    let mut sink = places.connect_sink().await?;
    let (orders, trail) = (&places.names.orders, &places.names.trail);
    let first = format!("SELECT order_id FROM {} ORDER BY order_id LIMIT {ORDERS}", orders.sql());
    let order_ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(first))
        .fetch_all(&mut source)
        .await
        .map_err(|error| refused(format!("the orders of {orders} cannot be read"), error))?;
    for (connection, table, columns) in
        [(&mut source, orders, &SOURCE_COLUMNS[..]), (&mut sink, trail, &SINK_COLUMNS[..])]
    {
        paper.headline(format!("{table}, the first {ORDERS} orders"));
        paper.table(&rows(connection, &table.sql(), columns, &order_ids).await?);
    }
    Ok(())
}

async fn rows(
    connection: &mut PgConnection,
    table: &str,
    columns: &[&str],
    order_ids: &[i64],
) -> Result<Table, Failure> {
    let list: Vec<String> = columns.iter().map(|column| format!("coalesce({column}::text, '')")).collect();
    let sql = format!("SELECT {} FROM {table} WHERE order_id = ANY($1) ORDER BY order_id, updated_at", list.join(", "));
    let unreadable = |error| refused(format!("{table} cannot be read"), error);
    let found = sqlx::query(AssertSqlSafe(sql)).bind(order_ids).fetch_all(connection).await.map_err(unreadable)?;
    let mut shown = Table::new(columns);
    for row in &found {
        let cells: Result<Vec<String>, sqlx::Error> = (0..columns.len()).map(|column| row.try_get(column)).collect();
        shown.row(&cells.map_err(unreadable)?);
    }
    Ok(shown)
}
