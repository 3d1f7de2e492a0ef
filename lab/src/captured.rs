//! A topic of cdc-ingest held against its source table, for any table: row by row, column by column. PostgreSQL is the judge.
//!
//! ```text
//!  topic ──▶ topic_rows (last record of each key) ──COPY──▶ temporary table ┐
//!                                                                          ├──▶ statement ──▶ comparison
//!  table ──▶ table_shape (columns of the catalog) ─────────────────────────┘
//! ```
//!
//! The rows of the topic are loaded in a temporary table beside the source table, and one statement casts each value back to its column's
//! type and looks for what differs. How cdc-ingest makes JSON is not known here.
//!
//! One thing is told wrongly: a value of type json may hold the escape `\u0000`, and PostgreSQL stores it and cannot take apart the row in
//! which it stands. Such a row is called different.

mod comparison;
mod copy_text;
mod progress;
mod statement;
mod table_shape;
mod topic_rows;
mod verdict;

use std::time::{Duration, Instant};

use shared::failure::Failure;
use shared::kafka::KafkaConfig;
use shared::pg::{PostgresConfig, TableName};

pub use self::comparison::{Comparison, Difference, Findings, ValueDifference};
use self::progress::Progress;
use self::topic_rows::TopicRows;
use crate::layers::Layers;
use crate::paper::Paper;
use crate::places::Places;

/// Time between two comparisons.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Compares once. The role needs `SELECT` on the table, and `TEMPORARY` on the database.
pub async fn compare(
    source: &PostgresConfig,
    kafka: &KafkaConfig,
    table: &TableName,
    topic: &str,
) -> Result<Comparison, Failure> {
    let mut nobody = Paper::plain(std::io::sink());
    until_equal(source, kafka, table, topic, Duration::ZERO, &mut nobody).await
}

/// Compares again and again until the rows are the same or the time is over: changes may be on their way.
pub async fn until_equal(
    source: &PostgresConfig,
    kafka: &KafkaConfig,
    table: &TableName,
    topic: &str,
    timeout: Duration,
    watched: &mut Paper,
) -> Result<Comparison, Failure> {
    let begin = Instant::now();
    let layers = Layers::connect(kafka)?;
    let mut progress = Progress::on(watched);
    let mut rows = TopicRows::of(topic);
    loop {
        // The last look begins when the time is over: with many rows it takes its time itself.
        let is_last = begin.elapsed() >= timeout;
        rows.catch_up(&layers, &mut progress)?;
        let comparison = verdict::of(source, table, &rows, &mut progress).await?;
        // A version that did not grow stays in the topic, however long one waits.
        if comparison.has_same_rows() || is_last {
            progress.end();
            return Ok(comparison);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The command.
pub async fn run(
    places: &Places,
    table: &TableName,
    topic: &str,
    timeout: Duration,
    paper: &mut Paper,
    watched: &mut Paper,
) -> Result<bool, Failure> {
    let comparison = until_equal(&places.source, &places.kafka, table, topic, timeout, watched).await?;
    comparison.write(paper);
    Ok(comparison.is_equal())
}
