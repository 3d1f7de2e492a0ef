//! The statements that write a table: one array for each column, cast to the column's type by the server, guarded by the version.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::pg::quoted;

use crate::exchange::{self, Exchange, Parts};
use crate::tables::{Mark, MarkKind, PROCESSED_TIME, RECORD_VERSION, SOURCE_COMMIT_TIME, Table};

const NOW_IN_UTC: &str = "clock_timestamp() AT TIME ZONE 'UTC'";

/// The commit at the source. An interval of microseconds is exact; to_timestamp would go through a float of seconds.
fn committed(of: &str) -> String {
    format!("timestamptz 'epoch' + {of}.committed * interval '1 microsecond'")
}

/// What a row must be to take the place of the one that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Of a newer version.
    Newer,
    /// Of no older one: a row that is read again puts right what came to harm, and fills a column that came later.
    NotOlder,
}

impl Guard {
    /// Between the version that stands there and the one that comes.
    pub fn sql(self) -> &'static str {
        match self {
            Guard::Newer => "<",
            Guard::NotOlder => "<=",
        }
    }
}

/// The statements of one table. Names in them are quoted, values are bound.
#[derive(Debug, Clone)]
pub struct Statements {
    pub upsert: Arc<str>,
    /// Deletes rows, or marks them as deleted.
    pub delete: Arc<str>,
}

impl Statements {
    /// What `exchange` looks at is answered beside the versions.
    pub fn of(table: &Table, exchange: Option<&Exchange>, guard: Guard) -> Self {
        let delete = match &table.mark {
            Some(mark) => marking(table, mark, guard),
            None => {
                exchange.map_or_else(|| delete(table, guard), |found| exchange::deleting(&delete(table, guard), found))
            }
        };
        Statements { upsert: upsert(table, exchange, guard).into(), delete: delete.into() }
    }
}

fn joined<T>(items: impl IntoIterator<Item = T>, separator: &str, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

/// Answers the versions of the rows that were written; those that the guard refused are not among them.
fn upsert(table: &Table, exchange: Option<&Exchange>, guard: Guard) -> String {
    let columns = table.columns.len();
    let key = joined(table.key_columns(), ", ", |column| quoted(&column.name));
    let looked = exchange
        .map_or_else(Parts::default, |found| exchange::parts(table, found, (&key_numbers(table), columns + 2), guard));
    let mut sql = format!("WITH {}written AS (INSERT INTO {} AS t (", looked.before, table.name.sql());
    sql += &joined(&table.columns, ", ", |column| quoted(&column.name));
    let _ = write!(sql, ", {PROCESSED_TIME}, {SOURCE_COMMIT_TIME}, {RECORD_VERSION}");
    sql += &table.mark.as_ref().map_or_else(String::new, |mark| format!(", {}", quoted(&mark.column)));
    sql += ") SELECT ";
    sql += &joined(table.columns.iter().enumerate(), ", ", |(at, column)| format!("u.c{at}::{}", column.type_sql));
    let _ = write!(sql, ", {NOW_IN_UTC}, {}, u.version", committed("u"));
    sql += &table.mark.as_ref().map_or_else(String::new, |mark| format!(", {}", mark.kind.unset()));
    sql += " FROM unnest(";
    sql += &joined(1..=columns, ", ", |number| format!("${number}::text[]"));
    let _ = write!(sql, ", ${}::int8[], ${}::bytea[]", columns + 1, columns + 2);
    let deleting = table.on_tombstone.is_heeded();
    if deleting {
        let _ = write!(sql, ", ${}::text[]", columns + 3);
    }
    sql += ") AS u (";
    sql += &joined(0..columns, ", ", |at| format!("c{at}"));
    sql += ", committed, version";
    sql += if deleting { ", key)" } else { ")" };
    // The version of the deletion, for each row by its key: joined as a set, all deleted keys would be passed over for each row.
    let known = format!(
        "((SELECT d.record_version FROM tidemill.deleted_keys d WHERE d.sink_table = ${} AND d.key = u.key) >= u.version) IS NOT TRUE",
        columns + 4
    );
    let conditions = [looked.behind, if deleting { known } else { String::new() }];
    let conditions = joined(conditions.iter().filter(|condition| !condition.is_empty()), " AND ", String::clone);
    if !conditions.is_empty() {
        let _ = write!(sql, " WHERE {conditions}");
    }
    let _ = write!(sql, " ON CONFLICT ({key}) DO UPDATE SET ");
    let own = [PROCESSED_TIME, SOURCE_COMMIT_TIME, RECORD_VERSION].map(quoted);
    let set = table.columns.iter().filter(|column| !table.is_key(column)).map(|column| quoted(&column.name));
    let mark = table.mark.iter().map(|mark| quoted(&mark.column));
    sql += &joined(set.chain(own).chain(mark), ", ", |name| format!("{name} = excluded.{name}"));
    let _ = write!(
        sql,
        " WHERE t.{RECORD_VERSION} {} excluded.{RECORD_VERSION} RETURNING t.{RECORD_VERSION}{}) \
         SELECT array_agg({RECORD_VERSION}){} FROM written",
        guard.sql(),
        looked.returned,
        looked.gathered
    );
    sql
}

/// The parameter that binds each column of the key.
fn key_numbers(table: &Table) -> Vec<usize> {
    let place = |key| table.columns.iter().position(|column| column == key).map(|at| at + 1);
    table.key_columns().filter_map(place).collect()
}

fn delete(table: &Table, guard: Guard) -> String {
    format!("DELETE FROM {} AS t USING {}", table.name.sql(), deletions(table, guard))
}

/// A row that is marked already keeps the time of its first deletion.
fn marking(table: &Table, mark: &Mark, guard: Guard) -> String {
    let (column, committed) = (quoted(&mark.column), committed("d"));
    let value = match mark.kind {
        MarkKind::Moment => format!("coalesce(t.{column}, {committed}, clock_timestamp())"),
        MarkKind::MomentInUtc => format!("coalesce(t.{column}, ({committed}) AT TIME ZONE 'UTC', {NOW_IN_UTC})"),
        MarkKind::Flag => "true".to_owned(),
    };
    format!(
        "UPDATE {} AS t SET {column} = {value}, {PROCESSED_TIME} = {NOW_IN_UTC}, {SOURCE_COMMIT_TIME} = {committed}, \
         {RECORD_VERSION} = d.version FROM {}",
        table.name.sql(),
        deletions(table, guard)
    )
}

/// The deletions `d`, and the rows `t` that they are for.
fn deletions(table: &Table, guard: Guard) -> String {
    let keys = table.key.len();
    let mut sql = "(SELECT ".to_owned();
    sql += &joined(table.key_columns().enumerate(), ", ", |(at, key)| format!("u.k{at}::{} AS k{at}", key.type_sql));
    sql += ", u.committed, u.version FROM unnest(";
    sql += &joined(1..=keys, ", ", |number| format!("${number}::text[]"));
    let _ = write!(sql, ", ${}::int8[], ${}::bytea[]) AS u (", keys + 1, keys + 2);
    sql += &joined(0..keys, ", ", |at| format!("k{at}"));
    sql += ", committed, version)) AS d WHERE ";
    sql += &joined(table.key_columns().enumerate(), " AND ", |(at, key)| format!("t.{} = d.k{at}", quoted(&key.name)));
    let _ = write!(sql, " AND t.{RECORD_VERSION} {} d.version", guard.sql());
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::tests::{example, example_marked_by};

    #[test]
    fn a_trail_is_written_where_it_is_older() {
        assert_eq!(
            upsert(&example(OnTombstone::Keep), None, Guard::Newer),
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
        let sql = upsert(&example(OnTombstone::Delete), None, Guard::Newer);
        assert!(
            sql.contains(
                "$4::bytea[], $5::text[]) AS u (c0, c1, committed, version, key) WHERE ((SELECT d.record_version"
            ),
            "{sql}"
        );
        assert!(sql.contains("d.sink_table = $6 AND d.key = u.key) >= u.version) IS NOT TRUE"), "{sql}");
    }

    #[test]
    fn what_a_roll_up_looks_at_is_returned() {
        let table = example(OnTombstone::Delete);
        let exchange = Exchange::new(&table, std::iter::empty());
        let sql = upsert(&table, Some(&exchange), Guard::Newer);
        assert!(sql.starts_with("WITH before AS (SELECT t.\"order_id\"::text AS s0 FROM"), "{sql}");
        assert!(sql.contains("FROM unnest($1::text[], $4::bytea[]) AS u (k0, version)"), "{sql}");
        assert!(
            sql.contains(
                " WHERE (SELECT count(*) FROM before) >= 0 AND ((SELECT d.record_version FROM tidemill.deleted_keys"
            ),
            "{sql}"
        );
        let end = "RETURNING t.record_version, t.xmax = 0 AS inserted, t.\"order_id\"::text AS s0) \
                   SELECT array_agg(record_version), array_agg(inserted), array_agg(s0), (SELECT array_agg(s0) FROM before) FROM written";
        assert!(sql.ends_with(end), "{sql}");
    }

    #[test]
    fn a_deletion_spares_a_newer_row() {
        assert_eq!(
            delete(&example(OnTombstone::Delete), Guard::Newer),
            "DELETE FROM \"r\".\"t\" AS t USING (SELECT u.k0::bigint AS k0, u.committed, u.version \
             FROM unnest($1::text[], $2::int8[], $3::bytea[]) AS u (k0, committed, version)) AS d \
             WHERE t.\"order_id\" = d.k0 AND t.record_version < d.version"
        );
    }

    #[test]
    fn what_is_read_again_may_be_as_new() {
        let table = example(OnTombstone::Delete);
        let exchange = Exchange::new(&table, std::iter::empty());
        let sql = upsert(&table, Some(&exchange), Guard::NotOlder);
        assert_eq!(sql.matches("t.record_version <= ").count(), 2, "{sql}");
        assert!(sql.contains(">= u.version) IS NOT TRUE"), "a deletion as new wins: {sql}");
        assert!(delete(&table, Guard::NotOlder).ends_with("t.record_version <= d.version"));
    }

    #[test]
    fn a_deletion_is_marked_and_a_newer_row_takes_the_mark_away() {
        let statements = |type_sql: &str| {
            let table = example_marked_by(type_sql);
            let marking = marking(&table, table.mark.as_ref().unwrap(), Guard::Newer);
            (upsert(&table, None, Guard::Newer), marking)
        };
        let (row, marking) = statements("timestamp with time zone");
        assert!(row.contains("record_version, \"deleted_at\") SELECT"), "{row}");
        assert!(row.contains("u.version, NULL::timestamptz FROM unnest"), "{row}");
        assert!(row.contains("\"deleted_at\" = excluded.\"deleted_at\" WHERE t.record_version <"), "{row}");
        let begin = "UPDATE \"r\".\"t\" AS t SET \"deleted_at\" = coalesce(t.\"deleted_at\", \
                     timestamptz 'epoch' + d.committed * interval '1 microsecond', clock_timestamp()), processed_time = ";
        assert!(marking.starts_with(begin), "{marking}");
        assert!(marking.ends_with("WHERE t.\"order_id\" = d.k0 AND t.record_version < d.version"), "{marking}");
        let (row, marking) = statements("boolean");
        assert!(row.contains("u.version, false FROM unnest") && marking.contains("\"deleted_at\" = true,"));
        assert!(statements("timestamp without time zone").1.contains("microsecond') AT TIME ZONE 'UTC', clock"));
    }
}
