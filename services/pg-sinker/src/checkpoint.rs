//! Where the sink is in each partition. The offset stands in the sink's database and moves with the rows, from the value that this
//! writer believes in or not at all.
//!
//! Beside it stand the tables that records go into from there on. Who takes a partition over writes its own in their place, and where it has
//! one more, a job is made that reads the records again which that one did not get. A writer with other tables moves no offset any more.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::failure::{Failure, FailureKind};
use shared::kafka::reader::{Start, StartPoint, Taken};
use shared::pg::{PostgresConfig, TableName, refused};
use sqlx::Connection as _;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use tokio::runtime::Handle;

use crate::backfill::job::{self, Gap};

pub fn table() -> TableName {
    TableName { schema: "tidemill".into(), name: "sink_offsets".into() }
}

/// Whose offsets.
#[derive(Debug, Clone)]
pub struct Place {
    pub group: String,
    pub topic: String,
    /// The tables that the topic's records go into, by label, in order.
    pub tables: Vec<String>,
}

/// A partition's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub partition: i32,
    pub expected: i64,
    pub next: i64,
}

/// Moves all partitions, each from its expected offset. Answers whether all of them stood there.
pub async fn advance(connection: &mut PgConnection, place: &Place, moves: &[Move]) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE tidemill.sink_offsets AS o SET next_offset = n.next, updated_at = now() \
         FROM unnest($3::int4[], $4::int8[], $5::int8[]) AS n (partition, expected, next) \
         WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = n.partition AND o.next_offset = n.expected AND o.tables = $6",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(moves.iter().map(|step| step.partition).bind_iter())
    .bind(moves.iter().map(|step| step.expected).bind_iter())
    .bind(moves.iter().map(|step| step.next).bind_iter())
    .bind(&place.tables)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == moves.len() as u64)
}

/// Whether all partitions stand where these moves lead.
pub async fn has_arrived(connection: &mut PgConnection, place: &Place, moves: &[Move]) -> sqlx::Result<bool> {
    let arrived: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM tidemill.sink_offsets o \
         JOIN unnest($3::int4[], $4::int8[]) AS n (partition, next) ON o.partition = n.partition AND o.next_offset = n.next \
         WHERE o.consumer_group = $1 AND o.topic = $2",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(moves.iter().map(|step| step.partition).bind_iter())
    .bind(moves.iter().map(|step| step.next).bind_iter())
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(arrived) == Ok(moves.len()))
}

/// Takes the partitions over, and answers the next offset of each. One that was never written begins at 0, and has a row from now on that
/// compare-and-set can hold; where two instances do this at once, one waits for the other.
async fn take_over(
    connection: &mut PgConnection,
    place: &Place,
    partitions: &[i32],
) -> sqlx::Result<BTreeMap<i32, i64>> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "INSERT INTO tidemill.sink_offsets (consumer_group, topic, partition, next_offset, tables) \
         SELECT $1, $2, partition, 0, $4 FROM unnest($3::int4[]) AS taken (partition) ON CONFLICT DO NOTHING",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partitions)
    .bind(&place.tables)
    .execute(&mut *transaction)
    .await?;
    let found: Vec<(i32, i64, Option<Vec<String>>)> = sqlx::query_as(
        "SELECT partition, next_offset, tables FROM tidemill.sink_offsets \
         WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) ORDER BY partition FOR UPDATE",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partitions)
    .fetch_all(&mut *transaction)
    .await?;
    for (table, gaps) in gaps(&place.tables, &found) {
        tracing::info!(
            table,
            topic = place.topic,
            "a table is new to its topic: what stands before its offsets is read again"
        );
        job::enter_gaps(&mut transaction, place, table, &gaps).await?;
    }
    sqlx::query(
        "UPDATE tidemill.sink_offsets SET tables = $4 \
         WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3) AND tables IS DISTINCT FROM $4",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partitions)
    .bind(&place.tables)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(found.into_iter().map(|(partition, next, _)| (partition, next)).collect())
}

/// The records that did not go into tables of these: for each table the partitions, and up to where. What is known of no table counts as all.
fn gaps<'t>(tables: &'t [String], found: &[(i32, i64, Option<Vec<String>>)]) -> BTreeMap<&'t str, Vec<Gap>> {
    let mut gaps: BTreeMap<&str, Vec<Gap>> = BTreeMap::new();
    for (partition, next, written) in found.iter().filter(|(_, next, _)| *next > 0) {
        let Some(written) = written else { continue };
        for table in tables.iter().filter(|table| !written.contains(table)) {
            gaps.entry(table).or_default().push(Gap { partition: *partition, until: *next });
        }
    }
    gaps
}

/// Says at each assignment where the sink is. It runs on the reading thread and waits on the runtime that built the chain.
pub struct SinkOffsets {
    pub sink: PostgresConfig,
    pub place: Place,
    pub runtime: Handle,
}

impl SinkOffsets {
    async fn ask(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut connection = self.sink.connect("pg-sinker-offsets").await?;
        let found = take_over(&mut connection, &self.place, partitions)
            .await
            .map_err(|error| refused("the sink's offsets cannot be read", error))?;
        // All is known; a server that does not say good-bye changes nothing.
        let _ = connection.close().await;
        Ok(found)
    }
}

impl StartPoint for SinkOffsets {
    type State = i64;

    /// The group's offset does not matter: it is behind the sink's, or ahead of a sink that was restored from a backup.
    fn locate(&mut self, taken: &[Taken]) -> Result<Vec<Start<i64>>, Failure> {
        let partitions: Vec<i32> = taken.iter().map(|taken| taken.partition).collect();
        // Twice: once for the connection, once for the answer.
        let wait = Duration::from_millis(self.sink.connect_timeout_ms.saturating_mul(2));
        let answer = self.runtime.block_on(async { tokio::time::timeout(wait, self.ask(&partitions)).await });
        let offsets = answer.unwrap_or_else(|_| {
            let late = format!("PostgreSQL at {} did not answer in time", self.sink.address());
            Err(Failure::new(FailureKind::Unreachable, late)
                .cure("look at the server; the service tries again by itself"))
        })?;
        let start = |(partition, next)| Start { partition, offset: Some(next), state: next };
        Ok(offsets.into_iter().map(start).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lacks_what_was_written_without_it() {
        let mine = ["r.a".to_owned(), "r.b".to_owned()];
        let found = [
            (0, 7, Some(vec!["r.a".to_owned()])),
            (1, 0, Some(vec!["r.a".to_owned()])),
            (2, 5, None),
            (3, 9, Some(vec!["r.b".to_owned(), "r.gone".to_owned()])),
            (4, 9, Some(mine.to_vec())),
        ];
        let gap = |partition, until| vec![Gap { partition, until }];
        assert_eq!(gaps(&mine, &found), BTreeMap::from([("r.a", gap(3, 9)), ("r.b", gap(0, 7))]));
    }
}
