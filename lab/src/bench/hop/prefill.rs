//! The first topics of the way, filled as cdc-ingest would fill them.

use shared::failure::Failure;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::bench::rows;
use crate::bench::topic_writer::{New, PARTITIONS, TopicWriter};
use crate::paper::Paper;
use crate::places::Places;

/// Rows of a transaction.
const TRANSACTION: u32 = 1_000;

/// Bytes of WAL between two commits.
const COMMIT_EVERY: u64 = 0x3_0000;

/// What the first topics are filled with.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Orders.
    pub rows: u32,
    /// Who own them in turn.
    pub users: u32,
    /// Of each topic.
    pub partitions: i32,
    /// Of a further column of each order, which no rule names.
    pub note_bytes: usize,
}

impl Load {
    pub fn new(rows: u32, users: u32) -> Self {
        Load { rows, users, partitions: PARTITIONS, note_bytes: 0 }
    }
}

/// A topic to be filled, and what with.
struct Table<'a> {
    topic: &'a str,
    partitions: i32,
    key: &'a str,
    rows: u32,
    row: &'a dyn Fn(u32) -> String,
}

/// Users with the ids from 0 on, inserted.
pub async fn users(places: &Places, topic: &str, load: Load, progress: &mut Paper) -> Result<(), Failure> {
    let Load { users, partitions, .. } = load;
    fill(places, &Table { topic, partitions, key: "user_id", rows: users, row: &rows::user }, progress).await
}

/// Orders with the ids from 0 on, each of one of so many users, inserted.
pub async fn orders(places: &Places, topic: &str, load: Load, progress: &mut Paper) -> Result<(), Failure> {
    let Load { rows, users, partitions, note_bytes } = load;
    let row = |id| rows::with_note(rows::order(id, users), note_bytes);
    fill(places, &Table { topic, partitions, key: "order_id", rows, row: &row }, progress).await
}

async fn fill(places: &Places, table: &Table<'_>, progress: &mut Paper) -> Result<(), Failure> {
    let Table { topic, partitions, key, rows, row } = *table;
    let mut writer = TopicWriter::connect(places, partitions)?;
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
