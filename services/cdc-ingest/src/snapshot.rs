//! The chunk reader: an actor that reads the next rows of a table in key order, while the stream runs.
//!
//! No long transaction, no lock, no write to the source's tables. A chunk's rows come by COPY in text form.

use actix::prelude::*;
use futures_util::TryStreamExt as _;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::pg::{PostgresConfig, quoted, refused_for_now};
use shared::position::Lsn;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::copy_text::CopyRow;
use crate::row::Shape;
use crate::source::{self, SourceColumn, SourceTable};
use crate::transaction::{Chunk, ChunkRow};
use crate::visibility::DatabaseSnapshot;

/// Ask for the rows behind `after`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeChunk {
    pub table: usize,
    pub after: Option<Vec<String>>,
    /// Wait first: a commit was not visible yet.
    pub wait: std::time::Duration,
}

/// The answer, on its way to the worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChunkTaken(pub Chunk);

/// Reads chunks on a connection of its own.
pub struct ChunkReader {
    source: PostgresConfig,
    tables: Vec<SourceTable>,
    chunk_rows: u32,
    next: Recipient<ChunkTaken>,
    fate: Fate,
    connection: Option<PgConnection>,
}

impl ChunkReader {
    pub fn new(
        source: PostgresConfig,
        tables: Vec<SourceTable>,
        chunk_rows: u32,
        next: Recipient<ChunkTaken>,
        fate: Fate,
    ) -> Self {
        ChunkReader { source, tables, chunk_rows, next, fate, connection: None }
    }
}

impl Actor for ChunkReader {
    type Context = Context<Self>;
}

impl Handler<TakeChunk> for ChunkReader {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, ask: TakeChunk, _: &mut Self::Context) -> Self::Result {
        let (source, table, rows) = (self.source.clone(), self.tables.get(ask.table).cloned(), self.chunk_rows);
        let connection = self.connection.take();
        let fate = self.fate.clone();
        let read = async move {
            let table =
                table.ok_or_else(|| Failure::new(FailureKind::Broken, "a chunk of a table that is not captured"))?;
            tokio::time::sleep(ask.wait).await;
            let mut connection = match connection {
                Some(connection) => connection,
                None => source.connect("tidemill snapshot").await?,
            };
            tokio::select! {
                chunk = take(&mut connection, &table, &ask, rows) => chunk.map(|chunk| (connection, chunk)),
                () = fate.ended() => Err(Failure::new(FailureKind::Broken, "the snapshot was given up")),
            }
        };
        AtomicResponse::new(Box::pin(read.into_actor(self).map(|read: Result<_, Failure>, actor, _| match read {
            Ok((connection, chunk)) => {
                actor.connection = Some(connection);
                actor.next.do_send(ChunkTaken(chunk));
            }
            Err(failure) => actor.fate.end(failure),
        })))
    }
}

/// One chunk: snapshot, rows, position, in one read-only transaction.
async fn take(
    connection: &mut PgConnection,
    table: &SourceTable,
    ask: &TakeChunk,
    rows: u32,
) -> Result<Chunk, Failure> {
    let failed = |error| refused_for_now(format!("a chunk of {} could not be read", table.table), error);
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut transaction = connection.begin_with(begin).await.map_err(failed)?;
    let snapshot: String =
        sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut *transaction).await.map_err(failed)?;
    // Looked up anew for each chunk: a column may have come or gone since the last.
    let columns = source::columns(&mut transaction, &table.table).await?;
    let text =
        copy(&mut transaction, &chunk_query(table, &columns, ask.after.as_deref(), rows)).await.map_err(failed)?;
    let (read_at, flushed): (String, bool) =
        sqlx::query_as("SELECT lsn::text, lsn <= pg_current_wal_flush_lsn() FROM pg_current_wal_insert_lsn() AS lsn")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    if !flushed {
        // Nothing would carry the stream past this position on an idle server: a message of our own does.
        sqlx::query("SELECT pg_logical_emit_message(true, 'tidemill', '')")
            .execute(connection)
            .await
            .map_err(failed)?;
    }
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Data, format!("a chunk of {} could not be read", table.table)).caused_by(error)
    };
    let snapshot: DatabaseSnapshot = snapshot.parse().map_err(|error| unreadable(Box::new(error)))?;
    let read_at: Lsn = read_at.parse().map_err(|error| unreadable(Box::new(error)))?;
    let text = String::from_utf8(text).map_err(|error| unreadable(Box::new(error)))?;
    let (rows_read, last_key) = read_rows(table, &columns, &text).map_err(|error| unreadable(Box::new(error)))?;
    let last_key = last_key.filter(|_| rows_read.len() >= usize::try_from(rows).unwrap_or(usize::MAX));
    Ok(Chunk { table: ask.table, snapshot, read_at, rows: rows_read, last_key })
}

async fn copy(connection: &mut PgConnection, query: &str) -> Result<Vec<u8>, sqlx::Error> {
    let mut text = Vec::new();
    let mut stream = connection.copy_out_raw(query).await?;
    while let Some(part) = stream.try_next().await? {
        text.extend_from_slice(&part);
    }
    Ok(text)
}

/// The rows behind `after`, in the order of the primary key.
fn chunk_query(table: &SourceTable, columns: &[SourceColumn], after: Option<&[String]>, rows: u32) -> String {
    let list = |names: &mut dyn Iterator<Item = &String>| names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let columns = list(&mut columns.iter().map(|column| &column.name));
    let key = list(&mut table.key.iter().map(|column| &column.name));
    let mut condition = String::new();
    if let Some(after) = after {
        let literal = |(value, column): (&String, &crate::source::KeyColumn)| {
            format!("'{}'::{}", value.replace('\'', "''"), column.sql_type)
        };
        let values = after.iter().zip(&table.key).map(literal).collect::<Vec<_>>().join(", ");
        condition = format!(" WHERE ({key}) > ({values})");
    }
    format!("COPY (SELECT {columns} FROM {}{condition} ORDER BY {key} LIMIT {rows}) TO STDOUT", table.table.sql())
}

type RowsAndLastKey = (Vec<ChunkRow>, Option<Vec<String>>);

fn read_rows(
    table: &SourceTable,
    columns: &[SourceColumn],
    text: &str,
) -> Result<RowsAndLastKey, crate::row::ShapeError> {
    let key: Vec<String> = table.key.iter().map(|column| column.name.clone()).collect();
    let columns = columns.iter().map(|column| (column.name.as_str(), column.type_oid));
    let shape = Shape::new(&table.table, columns, &key)?;
    let mut rows = Vec::new();
    let mut last_key = None;
    let mut cells = CopyRow::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        cells.read(line);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        shape.write_key(&table.table, cells.cells(), &mut key)?;
        shape.write_row(cells.cells(), &mut value);
        rows.push(ChunkRow { key, value });
        if lines.peek().is_none() {
            last_key = Some(shape.key_values(cells.cells()));
        }
    }
    Ok((rows, last_key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::KeyColumn;
    use shared::pg::TableName;

    fn orders() -> SourceTable {
        let key = |name: &str, sql_type: &str| KeyColumn { name: name.into(), sql_type: sql_type.into() };
        SourceTable {
            table: TableName::parse("business.orders"),
            topic: "ods_orders".into(),
            key: vec![key("note", "text"), key("order_id", "bigint")],
            rows_estimate: 0,
        }
    }

    fn columns() -> [SourceColumn; 2] {
        [("order_id", 20), ("note", 25)].map(|(name, type_oid)| SourceColumn { name: name.into(), type_oid })
    }

    #[test]
    fn a_chunk_goes_on_behind_the_last_key() {
        assert_eq!(
            chunk_query(&orders(), &columns(), Some(&["it's".into(), "7".into()]), 10),
            "COPY (SELECT \"order_id\", \"note\" FROM \"business\".\"orders\" \
             WHERE (\"note\", \"order_id\") > ('it''s'::text, '7'::bigint) ORDER BY \"note\", \"order_id\" LIMIT 10) TO STDOUT"
        );
        assert!(!chunk_query(&orders(), &columns(), None, 10).contains("WHERE"));
    }

    #[test]
    fn rows_of_a_chunk_are_those_of_the_stream() {
        let (rows, last_key) = read_rows(&orders(), &columns(), "1\ta\\nb\n2\t北京\n").unwrap();
        assert_eq!(rows[0].key, br#"{"note":"a\nb","order_id":1}"#);
        assert_eq!(String::from_utf8_lossy(&rows[1].value), r#"{"order_id":2,"note":"北京"}"#);
        assert_eq!(last_key.unwrap(), ["北京", "2"]);
    }
}
