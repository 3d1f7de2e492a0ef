//! What the scheduled comparisons found, in the sink: instances share it, and a restart forgets nothing.

use serde_json::Value;
use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::postgres::PgConnection;

pub fn table() -> TableName {
    TableName { schema: "tidemill".into(), name: "reconciliations".into() }
}

/// The last comparison of a pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    pub pair: String,
    /// Milliseconds since 1970.
    pub finished_ms: Option<i64>,
    pub took_ms: Option<i64>,
    pub counts: Value,
    pub report: Value,
    /// The last that could not be done, where none was done since.
    pub failed_ms: Option<i64>,
    pub failure: Option<String>,
    pub failures: i64,
}

fn unreadable(error: sqlx::Error) -> Failure {
    refused(format!("{} cannot be read or written", table()), error)
}

type LastRow = (String, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<i64>, Option<String>, i64);

/// All pairs that were ever compared.
pub async fn read(sink: &mut PgConnection) -> Result<Vec<Last>, Failure> {
    let rows: Vec<LastRow> = sqlx::query_as(
        "SELECT pair, (extract(epoch FROM finished_at) * 1000)::int8, took_ms, counts::text, report::text, \
                (extract(epoch FROM failed_at) * 1000)::int8, failure, failures FROM tidemill.reconciliations ORDER BY pair",
    )
    .fetch_all(sink)
    .await
    .map_err(unreadable)?;
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    let last = |(pair, finished_ms, took_ms, counts, report, failed_ms, failure, failures): LastRow| Last {
        pair,
        finished_ms,
        took_ms,
        counts: json(counts),
        report: json(report),
        failed_ms,
        failure,
        failures,
    };
    Ok(rows.into_iter().map(last).collect())
}

/// A pair was compared.
pub async fn finished(
    sink: &mut PgConnection,
    pair: &str,
    took_ms: i64,
    (counts, report): (&Value, &Value),
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO tidemill.reconciliations AS r (pair, finished_at, took_ms, counts, report) \
         VALUES ($1, clock_timestamp(), $2, $3::text::jsonb, $4::text::jsonb) \
         ON CONFLICT (pair) DO UPDATE SET finished_at = excluded.finished_at, took_ms = excluded.took_ms, \
         counts = excluded.counts, report = excluded.report, failed_at = NULL, failure = NULL",
    )
    .bind(pair)
    .bind(took_ms)
    .bind(counts.to_string())
    .bind(report.to_string())
    .execute(sink)
    .await
    .map(|_| ())
    .map_err(unreadable)
}

/// A pair could not be compared.
pub async fn failed(sink: &mut PgConnection, pair: &str, failure: &str) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO tidemill.reconciliations AS r (pair, failed_at, failure, failures) VALUES ($1, clock_timestamp(), $2, 1) \
         ON CONFLICT (pair) DO UPDATE SET failed_at = excluded.failed_at, failure = excluded.failure, failures = r.failures + 1",
    )
    .bind(pair)
    .bind(failure)
    .execute(sink)
    .await
    .map(|_| ())
    .map_err(unreadable)
}

/// Takes the right to compare, for as long as the connection lives: one instance of a group at a time.
pub async fn take_turn(sink: &mut PgConnection, group: &str) -> Result<bool, Failure> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('tidemill reconcile'), hashtext($1))")
        .bind(group)
        .fetch_one(sink)
        .await
        .map_err(|error| refused("the lock of the comparison cannot be taken", error))
}
