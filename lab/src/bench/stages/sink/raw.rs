//! What one connection can write at least: one statement for a batch, prepared once, all rows in memory before the time counts.
//!
//! The statement has the columns, the casts and the guard of pg-sinker's, and answers nothing.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use shared::failure::Failure;
use shared::pg::{quoted, refused};
use shared::record::row::{Columns, Field};
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Row as _};

use super::RAW;
use crate::bench::hop::Figures;
use crate::bench::meter::{Meter, Parts};
use crate::layers::{LayerRecord, Layers, Mark};

/// Rows of a batch.
const BATCH: usize = 1_000;

/// The columns that pg-sinker fills itself.
const OWN: [&str; 3] = ["processed_time", "source_commit_time", "record_version"];

/// The rows, and the statement that writes a batch of them.
pub struct Raw {
    sql: Arc<str>,
    batches: Vec<Batch>,
}

/// A batch, column by column.
#[derive(Default)]
struct Batch {
    columns: Vec<Texts>,
    committed: Vec<Option<i64>>,
    versions: Vec<Vec<u8>>,
}

/// The values of a column, one behind the other.
#[derive(Default, Clone)]
struct Texts {
    text: String,
    places: Vec<Option<Range<usize>>>,
}

impl Texts {
    fn push(&mut self, value: Option<&str>) {
        let start = self.text.len();
        self.text.push_str(value.unwrap_or_default());
        self.places.push(value.map(|_| start..self.text.len()));
    }

    fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        self.places.iter().map(|place| self.text.get(place.clone()?))
    }
}

impl Raw {
    /// Reads the rows between two marks.
    pub async fn read(
        layers: &Layers,
        sink: &mut PgConnection,
        topic: &str,
        (from, to): (&Mark, &Mark),
    ) -> Result<Self, Failure> {
        let columns = columns(sink).await?;
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let reader = Columns::new(&names);
        let mut batches: Vec<Batch> = Vec::new();
        layers.visit(topic, from, to, |record| {
            if batches.last().is_none_or(|batch| batch.versions.len() == BATCH) {
                batches.push(Batch::of(names.len()));
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(&record, &reader);
            }
        })?;
        Ok(Raw { sql: statement(&columns).into(), batches })
    }

    /// Writes all of them.
    pub async fn write(&self, mut sink: PgConnection, broker: Option<u32>) -> Result<Figures, Failure> {
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut sink)
            .await
            .map_err(|error| refused("the backend is not known", error))?;
        let columns = self.batches.first().map_or(0, |batch| batch.columns.len());
        // It prepares the statement.
        self.write_batch(&mut sink, &Batch::of(columns)).await?;
        let measured = [std::process::id()];
        let meter = Meter::start(Parts { measured: &measured, postgres: Some(backend.unsigned_abs()), broker });
        let begin = Instant::now();
        for batch in &self.batches {
            self.write_batch(&mut sink, batch).await?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let rows = self.batches.iter().map(|batch| batch.versions.len() as u64).sum();
        Ok(Figures { rows, seconds, cpu_seconds: meter.cost(), peak_megabytes: None })
    }

    async fn write_batch(&self, sink: &mut PgConnection, batch: &Batch) -> Result<(), Failure> {
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&self.sql)));
        for column in &batch.columns {
            query = query.bind(column.iter().bind_iter());
        }
        query = query.bind(batch.committed.iter().copied().bind_iter());
        query = query.bind(batch.versions.iter().map(Vec::as_slice).bind_iter());
        let done = query.execute(sink).await;
        done.map(|_| ()).map_err(|error| refused(format!("rows cannot be written to {RAW}"), error))
    }
}

impl Batch {
    fn of(columns: usize) -> Self {
        Batch { columns: vec![Texts::default(); columns], ..Batch::default() }
    }

    /// A record that is no row becomes one of NULLs, which the table refuses: nothing is passed over in silence.
    fn push(&mut self, record: &LayerRecord, reader: &Columns) {
        let fields = record.value.as_ref().and_then(|value| reader.read(value.as_bytes()).ok());
        for (at, column) in self.columns.iter_mut().enumerate() {
            let text = fields.as_ref().and_then(|fields| fields.get(at)).and_then(Field::text);
            column.push(text.as_deref());
        }
        let header = record.header.as_ref().ok();
        self.committed.push(header.and_then(|header| header.commit_time_us));
        self.versions.push(header.map(|header| header.result_version().to_bytes().to_vec()).unwrap_or_default());
    }
}

/// The columns that take a field of the row, with their types.
async fn columns(sink: &mut PgConnection) -> Result<Vec<(String, String)>, Failure> {
    let unreadable = |error| refused(format!("the columns of {RAW} cannot be read"), error);
    let sql = format!(
        "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
         WHERE attrelid = '{RAW}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(sink).await.map_err(unreadable)?;
    let columns = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let mut columns: Vec<(String, String)> = columns.collect::<Result<_, sqlx::Error>>().map_err(unreadable)?;
    columns.retain(|(name, _)| !OWN.contains(&name.as_str()));
    Ok(columns)
}

fn joined<T>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

fn statement(columns: &[(String, String)]) -> String {
    let names = || columns.iter().map(|(name, _)| name.as_str()).chain(OWN);
    let count = columns.len();
    let mut sql = format!("INSERT INTO {RAW} AS t ({}) SELECT ", joined(names(), quoted));
    sql += &joined(columns.iter().enumerate(), |(at, (_, kind))| format!("u.c{at}::{kind}"));
    sql += ", clock_timestamp() AT TIME ZONE 'UTC', timestamptz 'epoch' + u.committed * interval '1 microsecond', u.version FROM unnest(";
    sql += &joined(1..=count, |number| format!("${number}::text[]"));
    let _ = write!(sql, ", ${}::int8[], ${}::bytea[]) AS u (", count + 1, count + 2);
    sql += &joined(0..count, |at| format!("c{at}"));
    sql += ", committed, version) ON CONFLICT (order_id, order_status) DO UPDATE SET ";
    let set = names().filter(|name| !["order_id", "order_status"].contains(name));
    sql += &joined(set, |name| format!("{} = excluded.{}", quoted(name), quoted(name)));
    sql + " WHERE t.record_version < excluded.record_version"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_has_the_columns_the_casts_and_the_guard() {
        let columns = [("order_id", "bigint"), ("order_status", "text"), ("city", "text")];
        let columns = columns.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        assert_eq!(
            statement(&columns),
            "INSERT INTO result.bench_raw AS t (\"order_id\", \"order_status\", \"city\", \"processed_time\", \
             \"source_commit_time\", \"record_version\") SELECT u.c0::bigint, u.c1::text, u.c2::text, clock_timestamp() AT TIME ZONE \
             'UTC', timestamptz 'epoch' + u.committed * interval '1 microsecond', u.version FROM unnest($1::text[], $2::text[], \
             $3::text[], $4::int8[], $5::bytea[]) AS u (c0, c1, c2, committed, version) ON CONFLICT (order_id, order_status) DO \
             UPDATE SET \"city\" = excluded.\"city\", \"processed_time\" = excluded.\"processed_time\", \"source_commit_time\" = \
             excluded.\"source_commit_time\", \"record_version\" = excluded.\"record_version\" WHERE t.record_version < \
             excluded.record_version"
        );
    }
}
