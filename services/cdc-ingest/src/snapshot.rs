//! The chunk reader: an actor that reads the next rows of a table in key order, while the stream runs.
//!
//! No long transaction, no write to the source's tables, no lock but the one that every SELECT takes. A chunk's rows come by COPY in text
//! form.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use actix::prelude::*;
use futures_util::TryStreamExt as _;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::pg::{TableName, quoted, refused_for_now};
use shared::position::Lsn;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::catalog::{self, SourceColumn, SourceTable};
use crate::copies::Ask;
use crate::copy_text::CopyRow;
use crate::decode::Cell;
use crate::key_order::{Order, compare, is_key};
use crate::merge::{Chunk, ChunkRow};
use crate::row::{Shape, ShapeError};
use crate::settings::Settings;
use crate::source;
use crate::transaction::{record_bytes, too_large};
use crate::visibility::DatabaseSnapshot;

/// Read this chunk.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeChunk {
    pub ask: Ask,
    pub table: SourceTable,
    /// Wait first: a commit was not visible yet, or the server refused.
    pub wait: Duration,
}

/// The answer, on its way to the worker.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum ChunkTaken {
    Read(Chunk),
    /// The server refused to read this table.
    Refused {
        ask: Ask,
        failure: Failure,
    },
}

/// Reads chunks on a connection of its own.
pub struct ChunkReader {
    settings: Settings,
    next: Recipient<ChunkTaken>,
    fate: Fate,
    connection: Option<PgConnection>,
    /// Rows of a chunk, by the table's OID: fewer where rows are large.
    rows: HashMap<u32, u32>,
}

impl ChunkReader {
    pub fn new(settings: Settings, next: Recipient<ChunkTaken>, fate: Fate) -> Self {
        ChunkReader { settings, next, fate, connection: None, rows: HashMap::new() }
    }
}

impl Actor for ChunkReader {
    type Context = Context<Self>;
}

impl Handler<TakeChunk> for ChunkReader {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, asked: TakeChunk, _: &mut Self::Context) -> Self::Result {
        let known = self.rows.get(&asked.table.oid).copied();
        let reading = Reading {
            settings: self.settings.clone(),
            connection: self.connection.take(),
            rows: known.unwrap_or(self.settings.snapshot.chunk_rows),
            estimates: known.is_none() || asked.ask.after.is_none(),
            asked,
        };
        let fate = self.fate.clone();
        let read = async move {
            tokio::select! {
                read = reading.run() => Some(read),
                () = fate.ended() => None,
            }
        };
        AtomicResponse::new(Box::pin(read.into_actor(self).map(|read, actor, _| match read {
            Some(Ok((reading, answer))) => {
                actor.rows.insert(reading.asked.table.oid, reading.rows);
                actor.connection = reading.connection;
                actor.next.do_send(answer);
            }
            Some(Err(failure)) => actor.fate.end(failure),
            None => {}
        })))
    }
}

/// One chunk being read.
struct Reading {
    settings: Settings,
    connection: Option<PgConnection>,
    rows: u32,
    /// The planner is asked how many rows are left.
    estimates: bool,
    asked: TakeChunk,
}

/// What one try brought.
enum Try {
    Chunk(Chunk),
    /// More bytes than a chunk may have.
    TooLarge,
    /// The table was renamed, or made anew, in this moment.
    Moved,
}

impl Reading {
    /// Reads until a chunk is whole. An error is one of the connection; what the server refuses is an answer.
    async fn run(mut self) -> Result<(Self, ChunkTaken), Failure> {
        tokio::time::sleep(self.asked.wait).await;
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => source::connect(&self.settings.source, "tidemill snapshot").await?,
            };
            match self.take(&mut connection).await {
                Ok(Try::Chunk(chunk)) => {
                    let bytes: usize = chunk.rows.iter().map(|row| row.key.len() + row.bytes()).sum();
                    if bytes < self.settings.snapshot.chunk_bytes_max / 4 {
                        self.rows = self.rows.saturating_mul(2).min(self.settings.snapshot.chunk_rows);
                    }
                    // The last chunk of a table: the connection is not needed for now.
                    self.connection = chunk.last_key.is_some().then_some(connection);
                    return Ok((self, ChunkTaken::Read(chunk)));
                }
                // The rest of the COPY is of no use: the connection goes with it.
                Ok(Try::TooLarge) => self.rows = (self.rows / 2).max(1),
                Ok(Try::Moved) => self.connection = Some(connection),
                Err(failure) if failure.kind == FailureKind::Unreachable => return Err(failure),
                Err(failure) => {
                    let ask = self.asked.ask.clone();
                    return Ok((self, ChunkTaken::Refused { ask, failure }));
                }
            }
        }
    }

    /// One chunk: lock, snapshot, rows, position, in one read-only transaction. The lock is that of SELECT; it is taken before the snapshot,
    /// so that no change of the table's shape lies between the two.
    async fn take(&mut self, connection: &mut PgConnection) -> Result<Try, Failure> {
        let table = &mut self.asked.table;
        let failed = |table: &TableName| {
            let what = format!("a chunk of {table} could not be read");
            move |error| refused_for_now(what, error)
        };
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut transaction = connection.begin_with(begin).await.map_err(failed(&table.name))?;
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", table.from_sql());
        let locked = sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await;
        let is_gone = |error: &sqlx::Error| {
            error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| code == "42P01" || code == "3F000")
        };
        let locked = match locked {
            Err(error) if is_gone(&error) => false,
            locked => locked.map(|_| true).map_err(failed(&table.name))?,
        };
        if !locked || !is_called(&mut transaction, table).await? {
            transaction.rollback().await.map_err(failed(&table.name))?;
            table.name = name_of(connection, table).await?;
            return Ok(Try::Moved);
        }
        let snapshot: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text")
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed(&table.name))?;
        // Looked up anew for each chunk: a column may have come or gone since the last.
        let columns = catalog::columns(&mut transaction, &self.settings.slot.publication, &table.name).await?;
        let rows_left = match self.estimates && self.asked.ask.range.keys.is_none() {
            true => Some(estimate(&mut transaction, table, &self.asked.ask).await.map_err(failed(&table.name))?),
            false => None,
        };
        let query = chunk_query(table, &columns, &self.asked.ask, self.rows);
        let bytes_max = self.settings.snapshot.chunk_bytes_max;
        let bytes_max = if self.rows > 1 { bytes_max } else { usize::MAX };
        let Some(text) = copy(&mut transaction, &query, bytes_max).await.map_err(failed(&table.name))? else {
            return Ok(Try::TooLarge);
        };
        let (read_at, flushed): (String, bool) = sqlx::query_as(
            "SELECT lsn::text, lsn <= pg_current_wal_flush_lsn() FROM pg_current_wal_insert_lsn() AS lsn",
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed(&table.name))?;
        transaction.commit().await.map_err(failed(&table.name))?;
        if !flushed {
            // Nothing would carry the stream past this position on an idle server: a message of our own does.
            sqlx::query("SELECT pg_logical_emit_message(true, 'tidemill', '')")
                .execute(connection)
                .await
                .map_err(failed(&table.name))?;
        }
        let read = Read { snapshot, read_at: source::position(&read_at)?, text, columns, rows_left };
        let chunk = read.chunk(table, &self.asked.ask, self.rows)?;
        let bytes_max = self.settings.kafka.topics.record_bytes_max;
        let bytes = |row: &ChunkRow| record_bytes(&row.key, row.value.as_deref().unwrap_or_default());
        match chunk.rows.iter().find(|row| bytes(row) > bytes_max) {
            None => Ok(Try::Chunk(chunk)),
            Some(row) => Err(Failure::new(FailureKind::Data, too_large(&row.key, bytes(row), bytes_max))),
        }
    }
}

/// Whether the name still means this table.
async fn is_called(connection: &mut PgConnection, table: &SourceTable) -> Result<bool, Failure> {
    let oid: Option<i64> = sqlx::query_scalar("SELECT to_regclass($1)::oid::int8")
        .bind(table.name.sql())
        .fetch_one(connection)
        .await
        .map_err(|error| refused_for_now(format!("table {} cannot be looked up", table.name), error))?;
    Ok(oid == Some(i64::from(table.oid)))
}

/// What the table is called now.
async fn name_of(connection: &mut PgConnection, table: &SourceTable) -> Result<TableName, Failure> {
    let found: Option<(String, String)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid::int8 = $1",
    )
    .bind(i64::from(table.oid))
    .fetch_optional(connection)
    .await
    .map_err(|error| refused_for_now(format!("table {} cannot be looked up", table.name), error))?;
    let (schema, name) = found.ok_or_else(|| {
        Failure::new(FailureKind::Refused, format!("table {} is gone", table.name))
            .cure("take it out of [tables], or make it again")
    })?;
    Ok(TableName { schema, name })
}

/// The bytes of a COPY; `None` where there are more than `bytes_max`.
pub async fn copy(
    connection: &mut PgConnection,
    query: &str,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let mut text = Vec::new();
    let mut stream = connection.copy_out_raw(query).await?;
    while let Some(part) = stream.try_next().await? {
        text.extend_from_slice(&part);
        if text.len() > bytes_max {
            return Ok(None);
        }
    }
    Ok(Some(text))
}

/// What the planner thinks is left of the table, from this chunk on.
async fn estimate(connection: &mut PgConnection, table: &SourceTable, ask: &Ask) -> Result<i64, sqlx::Error> {
    let sql = format!("EXPLAIN SELECT FROM {}{}", table.from_sql(), condition(table, ask));
    let plan: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let rows = plan.split("rows=").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|rows| rows.parse().ok());
    Ok(rows.unwrap_or(table.rows_estimate))
}

fn names<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// The rows behind the last chunk, in the order of the key.
fn chunk_query(table: &SourceTable, columns: &[SourceColumn], ask: &Ask, rows: u32) -> String {
    let columns = names(columns.iter().map(|column| &column.name));
    if let Some((keys, _)) = ask.range.listed(ask.after.as_ref(), number_of(rows)) {
        return listed_query(table, &columns, keys);
    }
    let (from, condition) = (table.from_sql(), condition(table, ask));
    let key = names(table.key.iter().map(|column| &column.name));
    format!("COPY (SELECT {columns} FROM {from}{condition} ORDER BY {key} LIMIT {rows}) TO STDOUT")
}

fn number_of(rows: u32) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// The rows with these keys.
fn listed_query(table: &SourceTable, columns: &str, keys: &[Vec<String>]) -> String {
    let any: Vec<String> = keys.iter().map(|key| format!("({})", is_key(&table.key, key))).collect();
    let any = if any.is_empty() { "false".to_owned() } else { any.join(" OR ") };
    let filter = table.filter.as_ref().map(|filter| format!(" AND ({filter})")).unwrap_or_default();
    format!("COPY (SELECT {columns} FROM {} WHERE ({any}){filter}) TO STDOUT", table.from_sql())
}

fn condition(table: &SourceTable, ask: &Ask) -> String {
    let fields: Vec<String> = table.key.iter().map(|column| quoted(&column.name)).collect();
    let side = |order, values: &Vec<String>| compare(&table.key, &fields, order, values);
    let conditions = [
        match (&ask.after, &ask.range.from) {
            (Some(after), _) => Some(side(Order::Above, after)),
            (None, Some(from)) => Some(side(Order::AtLeast, from)),
            (None, None) => None,
        },
        ask.range.to.as_ref().map(|to| side(Order::AtMost, to)),
        table.filter.as_ref().map(|filter| format!("({filter})")),
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

/// What was read of a chunk.
struct Read {
    snapshot: String,
    read_at: Lsn,
    text: Vec<u8>,
    columns: Vec<SourceColumn>,
    rows_left: Option<i64>,
}

impl Read {
    fn chunk(self, table: &SourceTable, ask: &Ask, rows: u32) -> Result<Chunk, Failure> {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(FailureKind::Data, format!("a chunk of {} could not be read", table.name)).caused_by(error)
        };
        let snapshot: DatabaseSnapshot = self.snapshot.parse().map_err(|error| unreadable(Box::new(error)))?;
        let text = String::from_utf8(self.text).map_err(|error| unreadable(Box::new(error)))?;
        let (read, last_key) = match ask.range.listed(ask.after.as_ref(), number_of(rows)) {
            None => {
                let read = read_rows(table, &self.columns, &text);
                let (read, last_key) = read.map_err(|error| unreadable(Box::new(error)))?;
                let is_full = read.len() >= number_of(rows);
                (read, last_key.filter(|_| is_full))
            }
            Some((keys, is_last)) => {
                let read = read_listed(table, &self.columns, &text, keys);
                let last_key = if is_last { None } else { keys.last().cloned() };
                (read.map_err(|error| unreadable(Box::new(error)))?, last_key)
            }
        };
        Ok(Chunk {
            table: ask.table,
            ask: ask.ask,
            snapshot,
            read_at: self.read_at,
            rows: read,
            rows_left: self.rows_left,
            last_key,
        })
    }
}

type RowsAndLastKey = (Vec<ChunkRow>, Option<Vec<String>>);

fn read_rows(table: &SourceTable, columns: &[SourceColumn], text: &str) -> Result<RowsAndLastKey, ShapeError> {
    let columns = columns.iter().map(|column| (column.name.as_str(), column.type_oid));
    let shape = Shape::new(&table.name, columns, &table.key_names())?;
    let mut rows = Vec::new();
    let mut last_key = None;
    let mut cells = CopyRow::default();
    // Only \n ends a line: a carriage return in a value is escaped.
    let mut lines = text.split_terminator('\n').peekable();
    while let Some(line) = lines.next() {
        cells.read(line);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        shape.write_key(cells.cells(), &mut key)?;
        shape.write_row(cells.cells(), &mut value);
        rows.push(ChunkRow { key, value: Some(value) });
        if lines.peek().is_none() {
            last_key = Some(shape.key_values(cells.cells()));
        }
    }
    Ok((rows, last_key))
}

/// The rows that were asked for by their keys, and those of the keys that are not there.
fn read_listed(
    table: &SourceTable,
    columns: &[SourceColumn],
    text: &str,
    keys: &[Vec<String>],
) -> Result<Vec<ChunkRow>, ShapeError> {
    let (mut rows, _) = read_rows(table, columns, text)?;
    let found: HashSet<Vec<u8>> = rows.iter().map(|row| row.key.clone()).collect();
    let names = columns.iter().map(|column| (column.name.as_str(), column.type_oid));
    let shape = Shape::new(&table.name, names, &table.key_names())?;
    for values in keys {
        let value_of = |column: &SourceColumn| {
            let at = table.key.iter().position(|key| key.name == column.name)?;
            values.get(at).map(String::as_str)
        };
        let cells = columns.iter().map(|column| value_of(column).map_or(Cell::Null, Cell::Text));
        let mut key = Vec::new();
        shape.write_key(cells, &mut key)?;
        if !found.contains(&key) {
            rows.push(ChunkRow { key, value: None });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::KeyColumn;
    use crate::catalog::tests::source_table;
    use crate::state::KeyRange;

    fn orders() -> SourceTable {
        let key = vec![KeyColumn::new("note", "text"), KeyColumn::new("order_id", "bigint")];
        SourceTable { name: TableName::parse("business.orders"), key, ..source_table() }
    }

    fn columns() -> [SourceColumn; 2] {
        [("order_id", 20), ("note", 25)].map(|(name, type_oid)| SourceColumn { name: name.into(), type_oid })
    }

    fn ask(after: Option<[&str; 2]>, range: KeyRange) -> Ask {
        let after = after.map(|key| key.map(str::to_owned).to_vec());
        Ask { table: 0, ask: 1, seat: 0, after, range, tries: 0 }
    }

    #[test]
    fn a_chunk_goes_on_behind_the_last_key() {
        assert_eq!(
            chunk_query(&orders(), &columns(), &ask(Some(["it's", "7"]), KeyRange::default()), 10),
            "COPY (SELECT \"order_id\", \"note\" FROM ONLY \"business\".\"orders\" \
             WHERE (\"note\", \"order_id\") > ('it''s'::text, '7'::bigint) ORDER BY \"note\", \"order_id\" LIMIT 10) TO STDOUT"
        );
        assert!(!chunk_query(&orders(), &columns(), &ask(None, KeyRange::default()), 10).contains("WHERE"));
    }

    #[test]
    fn a_range_and_a_filter_bound_what_is_read() {
        let key = |note: &str| Some(vec![note.to_owned(), "1".to_owned()]);
        let range = KeyRange { from: key("a"), to: key("z"), keys: None };
        let filtered = SourceTable { filter: Some("order_id > 5".into()), ..orders() };
        let condition = |ask: &Ask| {
            let query = chunk_query(&filtered, &columns(), ask, 10);
            query
                .split(" WHERE ")
                .nth(1)
                .unwrap()
                .split(" ORDER BY ")
                .next()
                .unwrap()
                .replace("(\"note\", \"order_id\")", "key")
        };
        let to = "key <= ('z'::text, '1'::bigint) AND (order_id > 5)";
        assert_eq!(condition(&ask(None, range.clone())), format!("key >= ('a'::text, '1'::bigint) AND {to}"));
        assert_eq!(condition(&ask(Some(["b", "2"]), range)), format!("key > ('b'::text, '2'::bigint) AND {to}"));
    }

    #[test]
    fn rows_of_a_chunk_are_those_of_the_stream() {
        let (rows, last_key) = read_rows(&orders(), &columns(), "1\ta\\nb\n2\t北京\n").unwrap();
        assert_eq!(rows[0].key, br#"{"note":"a\nb","order_id":1}"#);
        assert_eq!(rows[1].value.as_deref(), Some(r#"{"order_id":2,"note":"北京"}"#.as_bytes()));
        assert_eq!(last_key.unwrap(), ["北京", "2"]);
    }

    #[test]
    fn keys_of_a_list_are_read_or_known_to_be_gone() {
        let keys: Vec<Vec<String>> =
            [["a", "1"], ["it's", "2"], ["c", "3"]].map(|key| key.map(str::to_owned).into()).into();
        let range = KeyRange { keys: Some(keys.clone()), ..KeyRange::default() };
        assert_eq!(
            chunk_query(&orders(), &columns(), &ask(Some(["a", "1"]), range), 1),
            "COPY (SELECT \"order_id\", \"note\" FROM ONLY \"business\".\"orders\" \
             WHERE ((\"note\" = 'it''s'::text AND \"order_id\" = '2'::bigint))) TO STDOUT"
        );
        let rows = read_listed(&orders(), &columns(), "1\ta\n", &keys).unwrap();
        let found: Vec<(&[u8], bool)> = rows.iter().map(|row| (row.key.as_slice(), row.value.is_some())).collect();
        assert_eq!(
            found,
            [
                (&br#"{"note":"a","order_id":1}"#[..], true),
                (&br#"{"note":"it's","order_id":2}"#[..], false),
                (&br#"{"note":"c","order_id":3}"#[..], false)
            ]
        );
    }
}
