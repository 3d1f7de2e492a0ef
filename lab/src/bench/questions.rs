//! What a benchmark asks a database.

use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

/// Longest wait for a count.
const PATIENCE: Duration = Duration::from_secs(900);

/// One value.
pub async fn single<T>(connection: &mut PgConnection, sql: &str) -> Result<T, Failure>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    query.fetch_one(connection).await.map_err(|error| refused("a figure cannot be read", error))
}

/// A statement.
pub async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), Failure> {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.map(drop).map_err(|error| refused("a statement of the benchmark failed", error))
}

/// Waits until a count is reached.
pub async fn until_count(
    connection: &mut PgConnection,
    sql: &str,
    wanted: i64,
    every: Duration,
) -> Result<(), Failure> {
    let since = Instant::now();
    loop {
        let found: i64 = single(connection, sql).await?;
        if found >= wanted {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            let what = format!("not within {} s: {wanted} rows, {found} are there", PATIENCE.as_secs());
            return Err(Failure::new(FailureKind::Broken, what));
        }
        tokio::time::sleep(every).await;
    }
}
