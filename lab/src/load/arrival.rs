//! The rows of a load as they reach the sink.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::drive::Counted;
use crate::changes::{Order, STATUSES};
use crate::paper::Paper;
use crate::places::Names;

/// Time between two looks at the sink.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Waits until these orders stand in the sink with their users. Only then does the trail show users in every row: a row that
/// was joined before its user arrived is corrected while it is the order's present status, and stays as written afterwards.
pub async fn wait_for_users(
    sink: &mut PgConnection,
    names: &Names,
    orders: &[Order],
    timeout: Duration,
) -> Result<(), Failure> {
    let sql =
        format!("SELECT count(*) FROM {} WHERE order_id = ANY($1) AND username <> 'Unknown User'", names.trail.sql());
    let order_ids: Vec<i64> = orders.iter().map(|order| order.order_id).collect();
    let wanted = order_ids.len();
    let mut arrived = 0;
    let mut last_progress = Instant::now();
    while arrived < wanted {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(&order_ids).fetch_one(&mut *sink).await;
        let found = count(found, names)?;
        if found > arrived {
            arrived = found;
            last_progress = Instant::now();
        }
        if last_progress.elapsed() > timeout {
            let what = format!("{arrived} of {wanted} first orders stand in the sink with their users");
            return Err(Failure::new(FailureKind::Refused, what)
                .cure("look at /health/ready and /api/v1/state of the services: one of them does not go on"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Counts the trail's rows until all have arrived, or no more come. Says when the last one was seen.
pub async fn watch(
    sink: &mut PgConnection,
    names: &Names,
    ids: &RangeInclusive<i64>,
    orders: u64,
    timeout: Duration,
    committed: &Counted,
    progress: &mut Paper,
) -> Result<Instant, Failure> {
    let sql = format!("SELECT count(*) FROM {} WHERE order_id BETWEEN $1 AND $2", names.trail.sql());
    let wanted = usize::try_from(orders).unwrap_or(usize::MAX) * STATUSES.len();
    let mut before = (0, 0);
    let (mut last_progress, mut last_told) = (Instant::now(), Instant::now());
    loop {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(ids.start()).bind(ids.end());
        let now = (committed.get(), count(found.fetch_one(&mut *sink).await, names)?);
        if now != before {
            before = now;
            last_progress = Instant::now();
        }
        let ended = now.1 >= wanted || last_progress.elapsed() > timeout;
        if ended || last_told.elapsed() > TELL_EVERY {
            last_told = Instant::now();
            progress.progress(format!("{wanted} changes: {} committed, {} in the sink", now.0, now.1));
        }
        if ended {
            progress.progressed();
            return Ok(last_progress);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn count(answer: Result<i64, sqlx::Error>, names: &Names) -> Result<usize, Failure> {
    let rows = answer.map_err(|error| refused(format!("{} cannot be read in the sink", names.trail), error))?;
    Ok(usize::try_from(rows).unwrap_or_default())
}

/// From the commit at the source until the sink's writer made the row, in microseconds.
pub async fn latencies_us(
    sink: &mut PgConnection,
    names: &Names,
    ids: &RangeInclusive<i64>,
) -> Result<Vec<i64>, Failure> {
    let sql = format!(
        "SELECT (extract(epoch FROM processed_time AT TIME ZONE 'UTC' - source_commit_time) * 1000000)::bigint
         FROM {} WHERE order_id BETWEEN $1 AND $2 AND source_commit_time IS NOT NULL",
        names.trail.sql()
    );
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids.start())
        .bind(ids.end())
        .fetch_all(sink)
        .await
        .map_err(|error| refused(format!("the times of {} cannot be read", names.trail), error))
}
