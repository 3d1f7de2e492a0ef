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

/// Waits until a query counts as many.
pub async fn until_count(
    connection: &mut PgConnection,
    sql: &str,
    wanted: i64,
    every: Duration,
) -> Result<(), Failure> {
    until(wanted, every, async || single(connection, sql).await).await
}

/// Waits until as many are counted.
pub async fn until(
    wanted: i64,
    every: Duration,
    mut count: impl AsyncFnMut() -> Result<i64, Failure>,
) -> Result<(), Failure> {
    let since = Instant::now();
    loop {
        let found = count().await?;
        if found >= wanted {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            let what = format!("not within {} s: {wanted} are wanted, {found} are there", PATIENCE.as_secs());
            return Err(Failure::new(FailureKind::Broken, what));
        }
        tokio::time::sleep(every).await;
    }
}
