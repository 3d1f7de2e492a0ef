//! The statements that write a table: one array for each column, cast to the column's type by the server, guarded by the version.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::pg::quoted;
use shared::record::row::Field;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Row as _};

use crate::entry::Entry;
use crate::exchange::{self, After, Exchange, Rows};
use crate::settings::OnTombstone;
use crate::tables::{PROCESSED_TIME, RECORD_VERSION, SOURCE_COMMIT_TIME, Table, Target};

/// The statements of one table. Names in them are quoted, values are bound.
#[derive(Debug, Clone)]
pub struct Statements {
    upsert: Arc<str>,
    delete: Arc<str>,
}

impl Statements {
    /// What `exchange` looks at is answered beside the versions.
    pub fn of(table: &Table, exchange: Option<&Exchange>) -> Self {
        Statements { upsert: upsert(table, exchange).into(), delete: delete(table).into() }
    }
}

fn joined<T>(items: impl IntoIterator<Item = T>, separator: &str, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

/// Rows that were written; those that the guard refused are not among them.
#[derive(Debug, Default)]
pub struct Written {
    pub versions: Vec<Vec<u8>>,
    /// As they are now, where an exchange looks at them.
    pub after: After,
}

/// Answers the versions of the rows that were written; those that the guard refused are not among them.
fn upsert(table: &Table, exchange: Option<&Exchange>) -> String {
    let columns = table.columns.len();
    let key = joined(table.key_columns(), ", ", |column| quoted(&column.name));
    let mut sql = format!("WITH written AS (INSERT INTO {} AS t (", table.name.sql());
    sql += &joined(&table.columns, ", ", |column| quoted(&column.name));
    let _ = write!(sql, ", {PROCESSED_TIME}, {SOURCE_COMMIT_TIME}, {RECORD_VERSION}) SELECT ");
    sql += &joined(table.columns.iter().enumerate(), ", ", |(at, column)| format!("u.c{at}::{}", column.type_sql));
    // An interval of microseconds is exact; to_timestamp would go through a float of seconds.
    sql += ", clock_timestamp() AT TIME ZONE 'UTC', timestamptz 'epoch' + u.committed * interval '1 microsecond', u.version FROM unnest(";
    sql += &joined(1..=columns, ", ", |number| format!("${number}::text[]"));
    let _ = write!(sql, ", ${}::int8[], ${}::bytea[]", columns + 1, columns + 2);
    let deleting = table.on_tombstone == OnTombstone::Delete;
    if deleting {
        let _ = write!(sql, ", ${}::text[]", columns + 3);
    }
    sql += ") AS u (";
    sql += &joined(0..columns, ", ", |at| format!("c{at}"));
    sql += ", committed, version";
    sql += if deleting { ", key)" } else { ")" };
    if deleting {
        let _ = write!(
            sql,
            " WHERE NOT EXISTS (SELECT FROM tidemill.deleted_keys d WHERE d.sink_table = ${} AND d.key = u.key AND d.record_version >= u.version)",
            columns + 4
        );
    }
    let _ = write!(sql, " ON CONFLICT ({key}) DO UPDATE SET ");
    let own = [PROCESSED_TIME, SOURCE_COMMIT_TIME, RECORD_VERSION].map(quoted);
    let set = table.columns.iter().filter(|column| !table.is_key(column)).map(|column| quoted(&column.name));
    sql += &joined(set.chain(own), ", ", |name| format!("{name} = excluded.{name}"));
    let (returned, gathered) = exchange.map(|found| exchange::returned(&found.columns)).unwrap_or_default();
    let _ = write!(
        sql,
        " WHERE t.{RECORD_VERSION} < excluded.{RECORD_VERSION} RETURNING t.{RECORD_VERSION}{returned}) \
         SELECT array_agg({RECORD_VERSION}){gathered} FROM written"
    );
    sql
}

fn delete(table: &Table) -> String {
    let keys = table.key.len();
    let mut sql = format!("DELETE FROM {} AS t USING (SELECT ", table.name.sql());
    sql += &joined(table.key_columns().enumerate(), ", ", |(at, key)| format!("u.k{at}::{} AS k{at}", key.type_sql));
    sql += ", u.version FROM unnest(";
    sql += &joined(1..=keys, ", ", |number| format!("${number}::text[]"));
    let _ = write!(sql, ", ${}::bytea[]) AS u (", keys + 1);
    sql += &joined(0..keys, ", ", |at| format!("k{at}"));
    sql += ", version)) AS d WHERE ";
    sql += &joined(table.key_columns().enumerate(), " AND ", |(at, key)| format!("t.{} = d.k{at}", quoted(&key.name)));
    let _ = write!(sql, " AND t.{RECORD_VERSION} < d.version");
    sql
}

/// Writes the rows, one for each key.
pub async fn write_rows(
    connection: &mut PgConnection,
    target: &Target,
    statements: &Statements,
    exchange: Option<&Exchange>,
    rows: &[&Entry<'_>],
) -> sqlx::Result<Written> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&statements.upsert)));
    for &field in &target.fields {
        query = query.bind(rows.iter().map(|row| row.fields.get(field).and_then(Field::text)).bind_iter());
    }
    query = query.bind(rows.iter().map(|row| row.header.commit_time_us).bind_iter());
    query = query.bind(rows.iter().map(|row| &row.version[..]).bind_iter());
    if target.table.on_tombstone == OnTombstone::Delete {
        query = query.bind(rows.iter().map(|row| row.key).bind_iter()).bind(&target.table.label);
    }
    let answer = query.fetch_one(connection).await?;
    let versions: Option<Vec<Vec<u8>>> = answer.try_get(0)?;
    let mut written = Written { versions: versions.unwrap_or_default(), after: After::default() };
    if let Some(exchange) = exchange {
        let inserted: Option<Vec<bool>> = answer.try_get(1)?;
        let rows = Rows::read(&answer, 2, exchange.columns.len())?;
        written.after = After { inserted: inserted.unwrap_or_default(), rows };
    }
    Ok(written)
}

/// Deletes the rows of these keys that are older than their deletion.
pub async fn delete_rows(
    connection: &mut PgConnection,
    target: &Target,
    statements: &Statements,
    gone: &[&Entry<'_>],
) -> sqlx::Result<()> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&statements.delete)));
    for field in target.key_fields() {
        query = query.bind(gone.iter().map(|entry| entry.fields.get(field).and_then(Field::text)).bind_iter());
    }
    query = query.bind(gone.iter().map(|entry| &entry.version[..]).bind_iter());
    query.execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::tests::example;

    #[test]
    fn a_trail_is_written_where_it_is_older() {
        assert_eq!(
            upsert(&example(OnTombstone::Keep), None),
            "WITH written AS (INSERT INTO \"r\".\"t\" AS t (\"order_id\", \"订单 \"\"x\"\"\", processed_time, source_commit_time, \
             record_version) SELECT u.c0::bigint, u.c1::character varying, clock_timestamp() AT TIME ZONE 'UTC', \
             timestamptz 'epoch' + u.committed * interval '1 microsecond', u.version \
             FROM unnest($1::text[], $2::text[], $3::int8[], $4::bytea[]) AS u (c0, c1, committed, version) \
             ON CONFLICT (\"order_id\") DO UPDATE SET \"订单 \"\"x\"\"\" = excluded.\"订单 \"\"x\"\"\", \
             \"processed_time\" = excluded.\"processed_time\", \"source_commit_time\" = excluded.\"source_commit_time\", \
             \"record_version\" = excluded.\"record_version\" WHERE t.record_version < excluded.record_version \
             RETURNING t.record_version) SELECT array_agg(record_version) FROM written"
        );
    }

    #[test]
    fn a_deleted_key_is_not_revived_by_an_older_row() {
        let sql = upsert(&example(OnTombstone::Delete), None);
        assert!(
            sql.contains("$4::bytea[], $5::text[]) AS u (c0, c1, committed, version, key) WHERE NOT EXISTS"),
            "{sql}"
        );
        assert!(sql.contains("d.sink_table = $6 AND d.key = u.key AND d.record_version >= u.version)"), "{sql}");
    }

    #[test]
    fn what_a_roll_up_looks_at_is_returned() {
        let table = example(OnTombstone::Delete);
        let exchange = Exchange::new(&table, std::iter::empty());
        let sql = upsert(&table, Some(&exchange));
        let end = "RETURNING t.record_version, t.xmax = 0 AS inserted, t.\"order_id\"::text AS s0) \
                   SELECT array_agg(record_version), array_agg(inserted), array_agg(s0) FROM written";
        assert!(sql.ends_with(end), "{sql}");
    }

    #[test]
    fn a_deletion_spares_a_newer_row() {
        assert_eq!(
            delete(&example(OnTombstone::Delete)),
            "DELETE FROM \"r\".\"t\" AS t USING (SELECT u.k0::bigint AS k0, u.version \
             FROM unnest($1::text[], $2::bytea[]) AS u (k0, version)) AS d \
             WHERE t.\"order_id\" = d.k0 AND t.record_version < d.version"
        );
    }
}
