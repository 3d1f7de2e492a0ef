//! The first topics of the way, filled as cdc-ingest would fill them.

use shared::failure::Failure;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::bench::rows;
use crate::bench::topic_writer::{New, TopicWriter};
use crate::paper::Paper;
use crate::places::Places;

/// Rows of a transaction.
const TRANSACTION: u32 = 1_000;

/// Bytes of WAL between two commits.
const COMMIT_EVERY: u64 = 0x3_0000;

/// A topic to be filled, and what with.
struct Table<'a> {
    topic: &'a str,
    key: &'a str,
    rows: u32,
    row: &'a dyn Fn(u32) -> String,
}

/// Users with the ids from 0 on, inserted.
pub async fn users(places: &Places, topic: &str, count: u32, progress: &mut Paper) -> Result<(), Failure> {
    fill(places, &Table { topic, key: "user_id", rows: count, row: &rows::user }, progress).await
}

/// Orders with the ids from 0 on, each of one of so many users, inserted.
pub async fn orders(
    places: &Places,
    topic: &str,
    (count, users): (u32, u32),
    progress: &mut Paper,
) -> Result<(), Failure> {
    fill(places, &Table { topic, key: "order_id", rows: count, row: &|id| rows::order(id, users) }, progress).await
}

async fn fill(places: &Places, table: &Table<'_>, progress: &mut Paper) -> Result<(), Failure> {
    let Table { topic, key, rows, row } = *table;
    let mut writer = TopicWriter::connect(places)?;
    writer.make(topic).await?;
    for id in 0..rows {
        let key = format!("{{\"{key}\":{id}}}");
        writer.send(&New { topic, key: &key, value: &row(id), header: header(id) })?;
    }
    writer.flush()?;
    progress.line(format!("  {rows} rows written to {topic}"));
    Ok(())
}

fn header(row: u32) -> Header {
    let (transaction, index) = (row / TRANSACTION, row % TRANSACTION);
    let lsn = Lsn(0x16_B374_D848 + u64::from(transaction) * COMMIT_EVERY);
    let version = Version { epoch: 1, lsn, index, part: 0 };
    Header {
        transaction: 742 + transaction,
        commit_time_us: Some(1_752_226_555_145_000 + i64::from(transaction) * 10_000),
        ..Header::new(Operation::Insert, version)
    }
}
