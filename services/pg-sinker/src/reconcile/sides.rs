//! The two connections: short read-only transactions, so that neither server keeps old rows for long.

use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, refused};
use shared::position::Lsn;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

use super::digest::{Digest, RowHash};
use super::judge::Row;
use super::pair::Pair;
use super::parts::{Both, Key, Range, Side, Sides};
use super::settings::ReconcileConfig;
use super::statement::SideSql;

const SERVICE: &str = "pg-sinker reconcile";

/// A connection on which nothing can be written, and no statement takes more than one processor or longer than the bound.
pub async fn connect(server: &PostgresConfig, config: &ReconcileConfig) -> Result<PgConnection, Failure> {
    let timeout = config.statement_timeout_ms.to_string();
    let settings = [
        ("default_transaction_read_only", "on"),
        ("statement_timeout", timeout.as_str()),
        ("max_parallel_workers_per_gather", "0"),
        ("jit", "off"),
        // The bounds of a range decide whether its index is used.
        ("plan_cache_mode", "force_custom_plan"),
    ];
    server.connect_with(SERVICE, &settings).await
}

/// Both sides of a pair.
pub struct Connections<'c> {
    pub source: &'c mut PgConnection,
    pub sink: &'c mut PgConnection,
    pub pair: &'c Pair,
    /// How long the source worked.
    pub source_worked: Duration,
}

/// The same rows for all statements until the end: those of the moment of the second statement.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1";
/// The bounds of parts are not known when a statement is planned, and the index is used all the same.
const BY_INDEX: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off; SELECT 1";

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), Failure> {
    let done = connection.execute(sqlx::raw_sql(sql)).await;
    done.map(|_| ()).map_err(|error| refused(format!("{sql} was refused"), error))
}

fn unreadable(table: impl std::fmt::Display) -> impl FnOnce(sqlx::Error) -> Failure {
    move |error| refused(format!("the rows of {table} cannot be compared"), error)
}

impl<'c> Connections<'c> {
    pub fn new(source: &'c mut PgConnection, sink: &'c mut PgConnection, pair: &'c Pair) -> Self {
        Connections { source, sink, pair, source_worked: Duration::ZERO }
    }

    /// Sums of the two tell something. No document promises that a hash is the same on every server; that of text has been since there are
    /// tables partitioned by it (PostgreSQL 11), but for machines that store numbers the other way round.
    pub async fn hash_alike(&mut self) -> Result<(), Failure> {
        if hashes(self.source, "source").await? == hashes(self.sink, "sink").await? {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Settings, "the source and the sink have other hashes of the same text")
            .cure("compare with a sink on a machine of the source's kind"))
    }

    /// Both stand still from here on.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        let begin = if self.pair.is_indexed { BY_INDEX } else { BEGIN };
        let (source, sink) = tokio::join!(run(self.source, begin), run(self.sink, begin));
        source.and(sink)
    }

    pub async fn end(&mut self) -> Result<(), Failure> {
        run(self.source, "COMMIT").await?;
        run(self.sink, "COMMIT").await
    }

    /// The rows of the source with these keys, in their order, and a position behind everything that they show.
    pub async fn source_rows(&mut self, keys: &[Key]) -> Result<(Vec<Option<Row>>, Lsn), Failure> {
        let begin = Instant::now();
        let found = rows(self.source, &self.pair.source, &self.pair.source_table, keys).await;
        self.source_worked += begin.elapsed();
        let found = found?;
        let read = "SELECT pg_current_wal_insert_lsn()::text";
        let at: String = sqlx::query_scalar(read)
            .fetch_one(&mut *self.source)
            .await
            .map_err(|error| refused("the position of the source cannot be read", error))?;
        let at = at.parse().map_err(|error| {
            Failure::new(FailureKind::Data, "the position of the source cannot be read").caused_by(error)
        })?;
        Ok((found, at))
    }

    /// The rows of the sink with these keys, in their order.
    pub async fn sink_rows(&mut self, keys: &[Key]) -> Result<Vec<Option<Row>>, Failure> {
        rows(self.sink, &self.pair.sink, &self.pair.sink_table, keys).await
    }
}

fn bound<'q>(sql: String, range: &'q Range) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let values = range.after.iter().chain(&range.upto).flatten();
    values.fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value))
}

fn digest(row: &PgRow) -> Result<Digest, sqlx::Error> {
    let (one, other): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    Digest::read(row.try_get(0)?, &one, &other).map_err(|failure| sqlx::Error::Decode(Box::new(failure)))
}

/// Those with both bounds are asked for together; the first and the last one of a table have but one.
async fn sums(connection: &mut PgConnection, sql: &SideSql, ranges: &[Range]) -> Result<Vec<Digest>, sqlx::Error> {
    let width = sql.key.len();
    let mut columns = vec![Vec::with_capacity(ranges.len()); 2 * width];
    let mut found = Vec::with_capacity(ranges.len());
    let closed = |range: &Range| range.after.clone().zip(range.upto.clone());
    for (after, upto) in ranges.iter().filter_map(closed) {
        after.into_iter().chain(upto).zip(&mut columns).for_each(|(value, column)| column.push(value));
    }
    let query =
        columns.into_iter().fold(sqlx::query(AssertSqlSafe(sql.sums_of_parts())), |query, column| query.bind(column));
    let mut of_parts = query.fetch_all(&mut *connection).await?.into_iter();
    for range in ranges {
        let of_part = if closed(range).is_some() { of_parts.next() } else { None };
        found.push(match of_part {
            Some(row) => digest(&row)?,
            None => digest(&bound(sql.sums(range), range).fetch_one(&mut *connection).await?)?,
        });
    }
    Ok(found)
}

async fn list(connection: &mut PgConnection, sql: &SideSql, range: &Range) -> Result<Vec<(Key, RowHash)>, sqlx::Error> {
    let rows = bound(sql.list(range), range).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))).collect()
}

/// A sum of hashes of short and longer texts, with as many seeds.
const HASHES: &str = "SELECT sum(hashtextextended(left('Rows are compared by hashes of their text' COLLATE \"C\", n), n))::text \
                      FROM generate_series(0, 40) AS n";

async fn hashes(connection: &mut PgConnection, side: &str) -> Result<String, Failure> {
    let asked = sqlx::query_scalar(HASHES).fetch_one(connection).await;
    asked.map_err(|error| refused(format!("the {side} does not hash texts"), error))
}

async fn rows(
    connection: &mut PgConnection,
    sql: &SideSql,
    table: impl std::fmt::Display,
    keys: &[Key],
) -> Result<Vec<Option<Row>>, Failure> {
    let mut query = sqlx::query(AssertSqlSafe(sql.rows_by_key()));
    for at in 0..sql.key.len() {
        query = query.bind(keys.iter().map(|key| key.get(at).cloned()).collect::<Vec<Option<String>>>());
    }
    let read = query.fetch_all(connection).await.map_err(unreadable(&table))?;
    let mut found: Vec<Option<Row>> = vec![None; keys.len()];
    for row in &read {
        let (number, row) = numbered(row).map_err(unreadable(&table))?;
        if let Some(place) = usize::try_from(number - 1).ok().and_then(|at| found.get_mut(at)) {
            // A second row of the key: together they are like no row of the other side.
            *place = Some(match place.take() {
                None => row,
                Some(other) => Row {
                    identity: format!("{} {}", other.identity, row.identity),
                    texts: other.texts.into_iter().chain(row.texts).collect(),
                },
            });
        }
    }
    Ok(found)
}

fn numbered(row: &PgRow) -> Result<(i64, Row), sqlx::Error> {
    Ok((row.try_get(0)?, Row { identity: row.try_get(1)?, texts: row.try_get(2)? }))
}

impl Sides for Connections<'_> {
    async fn sums(&mut self, ranges: &[Range]) -> Result<Vec<Both<Digest>>, Failure> {
        let Connections { source, sink, pair, source_worked } = self;
        let of_source = async {
            let begin = Instant::now();
            let found = sums(source, &pair.source, ranges).await;
            *source_worked += begin.elapsed();
            found.map_err(unreadable(&pair.source_table))
        };
        let of_sink = async { sums(sink, &pair.sink, ranges).await.map_err(unreadable(&pair.sink_table)) };
        let (source, sink) = tokio::join!(of_source, of_sink);
        Ok(source?.into_iter().zip(sink?).map(|(source, sink)| Both { source, sink }).collect())
    }

    async fn list(&mut self, range: &Range) -> Result<Both<Vec<(Key, RowHash)>>, Failure> {
        let begin = Instant::now();
        let source = list(self.source, &self.pair.source, range).await;
        self.source_worked += begin.elapsed();
        let source = source.map_err(unreadable(&self.pair.source_table))?;
        let sink = list(self.sink, &self.pair.sink, range).await.map_err(unreadable(&self.pair.sink_table))?;
        Ok(Both { source, sink })
    }

    async fn marks(&mut self, side: Side, range: &Range, every: u64, count: u64) -> Result<Vec<Key>, Failure> {
        let begin = Instant::now();
        let (connection, sql, table) = match side {
            Side::Source => (&mut *self.source, &self.pair.source, &self.pair.source_table),
            Side::Sink => (&mut *self.sink, &self.pair.sink, &self.pair.sink_table),
        };
        let [every, rows] = [every, every.saturating_mul(count)].map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        let asked = bound(sql.marks(range), range).bind(every).bind(rows).fetch_all(connection).await;
        if side == Side::Source {
            self.source_worked += begin.elapsed();
        }
        let rows = asked.map_err(unreadable(table))?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(unreadable(table))
    }
}

/// A server that does not say good-bye changes nothing.
pub async fn close(connection: PgConnection) {
    let _ = connection.close().await;
}
