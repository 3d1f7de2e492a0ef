//! When a row is seen in the sink, by a select as any reader would send it.

use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, refused};
use shared::record::time;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

/// A row of the sink at the moment it was seen. Times in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub order_id: i64,
    pub updated_at_us: i64,
    /// Commit at the source; `None` for rows of the first copy.
    pub committed_us: Option<i64>,
    /// When the sink's writer made the row, by its own account.
    pub processed_us: i64,
    /// When the answer of the select had come.
    pub seen_us: i64,
}

/// Time between the end of a select and the next: with the select itself, below a millisecond.
const PAUSE: Duration = Duration::from_micros(300);

/// Sleeps more exactly than a timer of tokio, which knows whole milliseconds only.
pub async fn pause() -> Result<(), Failure> {
    let slept = tokio::task::spawn_blocking(|| std::thread::sleep(PAUSE)).await;
    slept.map_err(|error| Failure::new(FailureKind::Broken, "a pause was cut off").caused_by(error))
}

const TIMES: &str = "(extract(epoch FROM updated_at) * 1000000)::bigint,
                     (extract(epoch FROM source_commit_time) * 1000000)::bigint,
                     (extract(epoch FROM processed_time) * 1000000)::bigint";

/// The rows of these orders as they stand now in a table of the sink.
pub async fn now(
    sink: &mut PgConnection,
    table: &TableName,
    order_ids: &[i64],
    status: Option<&str>,
) -> Result<Vec<Sighting>, Failure> {
    let sql = format!(
        "SELECT order_id, {TIMES} FROM {} WHERE order_id = ANY($1) AND ($2::text IS NULL OR order_status = $2)",
        table.sql()
    );
    let rows: Vec<(i64, Option<i64>, Option<i64>, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(order_ids)
        .bind(status)
        .fetch_all(sink)
        .await
        .map_err(|error| refused(format!("{table} cannot be read in the sink"), error))?;
    let seen_us = time::now().as_microsecond();
    let sighting = |(order_id, updated_at_us, committed_us, processed_us): (i64, Option<i64>, Option<i64>, i64)| {
        Sighting { order_id, updated_at_us: updated_at_us.unwrap_or_default(), committed_us, processed_us, seen_us }
    };
    Ok(rows.into_iter().map(sighting).collect())
}

/// Looks until the trail has the order in that status; `None` when the time is over.
pub async fn wait_for_status(
    sink: &mut PgConnection,
    trail: &TableName,
    order_id: i64,
    status: &str,
    timeout: Duration,
) -> Result<Option<Sighting>, Failure> {
    let begin = Instant::now();
    loop {
        let found = now(sink, trail, &[order_id], Some(status)).await?.pop();
        if found.is_some() || begin.elapsed() >= timeout {
            return Ok(found);
        }
        pause().await?;
    }
}

/// Rows of a table.
pub async fn count(connection: &mut PgConnection, table: &TableName) -> Result<i64, Failure> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {}", table.sql())))
        .fetch_one(connection)
        .await
        .map_err(|error| refused(format!("the rows of {table} cannot be counted"), error))
}
