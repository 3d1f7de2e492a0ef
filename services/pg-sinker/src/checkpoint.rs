//! Where the sink is in each partition. The offset stands in the sink's database and moves with the rows, from the value that this
//! writer believes in or not at all.

use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::kafka::reader::{Start, StartPoint};
use shared::pg::{PostgresConfig, TableName, refused};
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use tokio::runtime::Handle;

pub fn table() -> TableName {
    TableName { schema: "tidemill".into(), name: "sink_offsets".into() }
}

/// Whose offsets.
#[derive(Debug, Clone)]
pub struct Place {
    pub group: String,
    pub topic: String,
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
         WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = n.partition AND o.next_offset = n.expected",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(moves.iter().map(|step| step.partition).bind_iter())
    .bind(moves.iter().map(|step| step.expected).bind_iter())
    .bind(moves.iter().map(|step| step.next).bind_iter())
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

/// The next offset of a partition. One that was never written begins at 0, and has a row from now on that compare-and-set can hold;
/// where two instances do this at once, both read the one row.
async fn next_offset(connection: &mut PgConnection, place: &Place, partition: i32) -> sqlx::Result<i64> {
    sqlx::query(
        "INSERT INTO tidemill.sink_offsets (consumer_group, topic, partition, next_offset) VALUES ($1, $2, $3, 0) \
         ON CONFLICT DO NOTHING",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partition)
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar(
        "SELECT next_offset FROM tidemill.sink_offsets WHERE consumer_group = $1 AND topic = $2 AND partition = $3",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partition)
    .fetch_one(connection)
    .await
}

/// Says at each assignment where the sink is. It runs on the reading thread and waits on the runtime that built the chain.
pub struct SinkOffsets {
    sink: PostgresConfig,
    place: Place,
    runtime: Handle,
    /// For the further partitions of the same assignment; an older one may be dead without knowing it.
    connection: Option<(PgConnection, Instant)>,
}

const SAME_ASSIGNMENT: Duration = Duration::from_secs(1);

impl SinkOffsets {
    pub fn new(sink: PostgresConfig, place: Place, runtime: Handle) -> Self {
        SinkOffsets { sink, place, runtime, connection: None }
    }

    async fn ask(&mut self, partition: i32) -> Result<i64, Failure> {
        let mut connection = match self.connection.take() {
            Some((connection, used)) if used.elapsed() < SAME_ASSIGNMENT => connection,
            _ => self.sink.connect("pg-sinker-offsets").await?,
        };
        let next = next_offset(&mut connection, &self.place, partition)
            .await
            .map_err(|error| refused(format!("the sink's offset of partition {partition} cannot be read"), error))?;
        self.connection = Some((connection, Instant::now()));
        Ok(next)
    }
}

impl StartPoint for SinkOffsets {
    type State = i64;

    /// The group's offset does not matter: it is behind the sink's, or ahead of a sink that was restored from a backup.
    fn locate(&mut self, partition: i32, _committed: Option<i64>) -> Result<Start<i64>, Failure> {
        let runtime = self.runtime.clone();
        // Twice: once for the connection, once for the answer.
        let wait = Duration::from_millis(self.sink.connect_timeout_ms.saturating_mul(2));
        let address = self.sink.address();
        let answer = runtime.block_on(async { tokio::time::timeout(wait, self.ask(partition)).await });
        let next = answer.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::Unreachable, format!("PostgreSQL at {address} did not answer in time"))
                .cure("look at the server; the service tries again by itself"))
        })?;
        Ok(Start { offset: Some(next), state: next })
    }
}
