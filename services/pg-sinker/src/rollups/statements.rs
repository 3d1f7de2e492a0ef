//! The statements that keep a roll-up. Names in them are quoted, values are bound.
//!
//! All of them are sets: rows that came and went are summed up by group first, and each group is written once.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::pg::quoted;

use super::declared::{BUCKET, GROUP_KEY};
use super::examine::Rollup;
use crate::tables::Column;

/// The statements of one roll-up.
#[derive(Debug, Clone)]
pub struct Statements {
    /// All rows count. Binds the signs, then each column of the roll-up.
    pub all: Arc<str>,
    /// Only rows up to a position count. Binds further each column of the key, then the position.
    pub passed: Arc<str>,
    /// Adds the rows of a table up to a key. Binds its values.
    pub first_chunk: Arc<str>,
    /// The same behind another key, whose values are bound first.
    pub next_chunk: Arc<str>,
    /// The key at the end of the first chunk, and the rows up to it. Binds the most rows.
    pub first_end: Arc<str>,
    /// The same behind a key, whose values are bound first.
    pub next_end: Arc<str>,
    /// Groups of no rows. Binds their keys.
    pub drop_groups: Arc<str>,
    pub empty: Arc<str>,
}

impl Statements {
    pub fn of(rollup: &Rollup) -> Self {
        let keys = rollup.key.len();
        Statements {
            all: written(rollup, &given(rollup, false)).into(),
            passed: written(rollup, &given(rollup, true)).into(),
            first_chunk: written(rollup, &read(rollup, 0)).into(),
            next_chunk: written(rollup, &read(rollup, keys)).into(),
            first_end: chunk_end(rollup, 0).into(),
            next_end: chunk_end(rollup, keys).into(),
            drop_groups: format!(
                "DELETE FROM {} AS r WHERE r.{GROUP_KEY} = ANY ($1::bytea[]) AND r.{} = 0",
                rollup.name.sql(),
                quoted(&rollup.count)
            )
            .into(),
            empty: format!("DELETE FROM {}", rollup.name.sql()).into(),
        }
    }
}

/// Values of a roll-up that no row of a group has any more. Binds its name, the measures, the groups' keys, the values.
pub const DROP_VALUES: &str = "DELETE FROM tidemill.rollup_values AS v \
     USING unnest($2::text[], $3::bytea[], $4::text[]) AS g (measure, group_key, value) \
     WHERE v.rollup = $1 AND v.measure = g.measure AND v.group_key = g.group_key AND v.value = g.value AND v.rows = 0";

/// A value is kept by its text up to this length, a longer one by its hash: an index entry has a largest length.
const VALUE_BYTES_MAX: usize = 200;

/// Types that have a collation, of those that a group is made of.
const TEXTS: [&str; 3] = ["text", "character varying", "bpchar"];

fn joined<T>(items: impl IntoIterator<Item = T>, separator: &str, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

/// Further items of a list that has begun.
fn listed<T>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(|item| format!(", {}", text(item))).collect()
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `(t."a", t."b")`, or the one column alone.
fn row(columns: &[Column], text: impl Fn(usize, &Column) -> String) -> String {
    format!("({})", joined(columns.iter().enumerate(), ", ", |(at, column)| text(at, column)))
}

/// A key whose values are bound as text, beginning at this parameter.
fn bound_key(key: &[Column], first: usize) -> String {
    row(key, |at, column| format!("${}::text::{}", first + at, column.type_sql))
}

fn table_key(key: &[Column]) -> String {
    row(key, |_, column| format!("t.{}", quoted(&column.name)))
}

/// Rows that came and went, as they are bound.
fn given(rollup: &Rollup, only_passed: bool) -> String {
    let (columns, keys) = (rollup.columns.len(), if only_passed { rollup.key.len() } else { 0 });
    let mut sql = "SELECT u.sign".to_owned();
    for (at, column) in rollup.columns.iter().enumerate() {
        let _ = write!(sql, ", u.c{at}::{} AS c{at}", column.type_sql);
    }
    sql += " FROM unnest($1::int4[]";
    for number in 2..2 + columns + keys {
        let _ = write!(sql, ", ${number}::text[]");
    }
    sql += ") AS u (sign";
    sql += &listed(0..columns, |at| format!("c{at}"));
    sql += &listed(0..keys, |at| format!("k{at}"));
    sql += ")";
    if only_passed {
        let key = row(&rollup.key, |at, column| format!("u.k{at}::{}", column.type_sql));
        let _ = write!(sql, " WHERE {key} <= {}", bound_key(&rollup.key, 2 + columns + keys));
    }
    sql
}

/// Rows of the table up to a key; `behind` is the number of values of the key that they are behind.
fn read(rollup: &Rollup, behind: usize) -> String {
    let mut sql = "SELECT 1 AS sign".to_owned();
    for (at, column) in rollup.columns.iter().enumerate() {
        let _ = write!(sql, ", t.{} AS c{at}", quoted(&column.name));
    }
    let key = table_key(&rollup.key);
    let _ = write!(sql, " FROM {} AS t WHERE {key} <= {}", rollup.source.sql(), bound_key(&rollup.key, behind + 1));
    if behind > 0 {
        let _ = write!(sql, " AND {key} > {}", bound_key(&rollup.key, 1));
    }
    sql
}

/// Where a chunk ends. Answers the key's values, and how many rows are in the chunk.
fn chunk_end(rollup: &Rollup, behind: usize) -> String {
    let names = |prefix: &str| joined(&rollup.key, ", ", |column| format!("{prefix}{}", quoted(&column.name)));
    let backwards = joined(&rollup.key, ", ", |column| format!("{} DESC", quoted(&column.name)));
    let mut chunk = format!("SELECT {} FROM {} AS t", names("t."), rollup.source.sql());
    if behind > 0 {
        let _ = write!(chunk, " WHERE {} > {}", table_key(&rollup.key), bound_key(&rollup.key, 1));
    }
    let _ = write!(chunk, " ORDER BY {} LIMIT ${}", names("t."), behind + 1);
    let texts = joined(&rollup.key, ", ", |column| format!("{}::text", quoted(&column.name)));
    format!(
        "WITH chunk AS MATERIALIZED ({chunk}) \
         SELECT ARRAY[{texts}], (SELECT count(*) FROM chunk) FROM chunk ORDER BY {backwards} LIMIT 1"
    )
}

/// Writes the groups of these rows (`sign`, `c0`, `c1`, …). Answers the keys of the groups that have no rows now, how many have less
/// than none, and for each counted column the group keys and values that no row has now.
fn written(rollup: &Rollup, rows: &str) -> String {
    let measures = rollup.distinct.len();
    let mut sql = format!("WITH given AS ({rows}), measured AS MATERIALIZED ({}), ", measured(rollup));
    let _ = write!(sql, "delta AS ({}), ", delta(rollup));
    for number in 0..measures {
        sql += &counted(rollup, number);
    }
    let _ = write!(sql, "written AS ({}) ", upsert(rollup));
    let _ = write!(sql, "SELECT array_agg({GROUP_KEY}) FILTER (WHERE n = 0), count(*) FILTER (WHERE n < 0)");
    for number in 0..measures {
        for column in [GROUP_KEY, "value"] {
            let order = format!("{GROUP_KEY}, value");
            let _ = write!(sql, ", (SELECT array_agg({column} ORDER BY {order}) FROM counted{number} WHERE rows = 0)");
        }
    }
    sql + " FROM written"
}

fn group_names(rollup: &Rollup) -> Vec<String> {
    let bucket = rollup.bucket.map(|_| BUCKET.to_owned());
    bucket.into_iter().chain((0..rollup.groups.len()).map(|at| format!("g{at}"))).collect()
}

/// Each row with its group and what is measured of it.
fn measured(rollup: &Rollup) -> String {
    let bucket = rollup.bucket.map(|(grain, at)| format!("date_trunc('{}', given.c{at}) AS {BUCKET}", grain.as_str()));
    let groups = rollup.groups.iter().enumerate();
    let groups = groups.map(|(number, &at)| format!("given.c{at}{} AS g{number}", collation(rollup, at)));
    let mut sql = "SELECT given.sign".to_owned();
    sql += &listed(bucket.into_iter().chain(groups), |column| column);
    for (number, sum) in rollup.sums.iter().enumerate() {
        let _ = write!(sql, ", given.c{}::numeric AS s{number}", sum.of);
    }
    for (number, distinct) in rollup.distinct.iter().enumerate() {
        let text = format!("given.c{}::text", distinct.of);
        let _ = write!(
            sql,
            ", (CASE WHEN octet_length({text}) > {VALUE_BYTES_MAX} THEN 'sha256:' || encode(sha256(convert_to({text}, 'UTF8')), 'hex') \
             ELSE {text} END) COLLATE \"C\" AS v{number}"
        );
    }
    sql + " FROM given"
}

/// Texts are compared byte by byte, whatever the collation of their column takes for equal.
fn collation(rollup: &Rollup, at: usize) -> &'static str {
    let is_text = rollup.columns.get(at).is_some_and(|column| TEXTS.contains(&column.type_sql.as_str()));
    if is_text { " COLLATE \"C\"" } else { "" }
}

/// The key of the group `k`. It is made of sums, not of rows: it costs more than all else that is done with a row.
fn group_key(rollup: &Rollup) -> String {
    let texts = joined(group_names(rollup), ", ", |name| format!("k.{name}::text"));
    format!("sha256(convert_to(json_build_array({texts})::text, 'UTF8')) AS {GROUP_KEY}")
}

/// `GROUP BY` a group and further columns; nothing where all rows are one group.
fn by_group<'t>(rollup: &Rollup, further: impl IntoIterator<Item = &'t str>) -> String {
    let names: Vec<String> = group_names(rollup).into_iter().chain(further.into_iter().map(str::to_owned)).collect();
    if names.is_empty() { " HAVING count(*) > 0".to_owned() } else { format!(" GROUP BY {}", names.join(", ")) }
}

/// What changes in each group.
fn delta(rollup: &Rollup) -> String {
    let mut sql = format!("SELECT {}, k.* FROM (SELECT sum(sign) AS n", group_key(rollup));
    sql += &listed(group_names(rollup), |name| name);
    for number in 0..rollup.sums.len() {
        // NaN is above all numbers. What is not finite could never be taken away again.
        let finite = format!("s{number} < 'Infinity' AND s{number} > '-Infinity'");
        let _ = write!(sql, ", coalesce(sum(sign * s{number}) FILTER (WHERE {finite}), 0) AS s{number}");
    }
    let _ = write!(sql, " FROM measured{}) AS k", by_group(rollup, None));
    sql
}

/// How many rows of each group have each value, and how many values came or went by that. No join of two sets: a plan that is kept takes
/// every batch for a small one.
fn counted(rollup: &Rollup, number: usize) -> String {
    let (name, measure) = (literal(&rollup.label), rollup.distinct.get(number).map_or("", |found| &found.name));
    let groups = listed(group_names(rollup), |name| name);
    let value = format!("v{number}");
    format!(
        "value{number} AS (SELECT {}, k.value, k.n FROM (SELECT {value} AS value, sum(sign) AS n{groups} FROM measured \
         WHERE {value} IS NOT NULL{} HAVING sum(sign) <> 0) AS k), \
         counted{number} AS (INSERT INTO tidemill.rollup_values AS v (rollup, measure, group_key, value, rows, last_change) \
         SELECT {name}, {}, {GROUP_KEY}, value, n, n FROM value{number} ORDER BY {GROUP_KEY}, value \
         ON CONFLICT (rollup, measure, group_key, value) \
         DO UPDATE SET rows = v.rows + excluded.rows, last_change = excluded.last_change \
         RETURNING v.group_key, v.value, v.rows, v.last_change), \
         changed{number} AS (SELECT {GROUP_KEY}, sum((rows > 0)::int - (rows - last_change > 0)::int) AS n \
         FROM counted{number} GROUP BY {GROUP_KEY}), ",
        group_key(rollup),
        by_group(rollup, [value.as_str()]),
        literal(measure)
    )
}

/// What changes in each group, with the values that came or went: `d`.
fn changes(rollup: &Rollup) -> String {
    let measures = rollup.distinct.len();
    if measures == 0 {
        return "delta AS d".to_owned();
    }
    let (groups, sums) = (group_names(rollup), rollup.sums.len());
    let mut parts = format!("SELECT {GROUP_KEY}, true AS is_delta");
    parts += &listed(&groups, |name| (*name).clone());
    parts += ", n";
    parts += &listed(0..sums, |number| format!("s{number}"));
    parts += &listed(0..measures, |number| format!("0 AS u{number}"));
    parts += " FROM delta";
    for changed in 0..measures {
        let _ = write!(parts, " UNION ALL SELECT {GROUP_KEY}, false");
        parts += &listed(&groups, |_| "NULL".to_owned());
        parts += &listed(0..=sums, |_| "0".to_owned());
        parts += &listed(0..measures, |number| if number == changed { "n".to_owned() } else { "0".to_owned() });
        let _ = write!(parts, " FROM changed{changed}");
    }
    let mut sql = format!("(SELECT {GROUP_KEY}");
    sql += &listed(&groups, |name| format!("(array_agg({name}) FILTER (WHERE is_delta))[1] AS {name}"));
    sql += ", sum(n) AS n";
    sql += &listed(0..sums, |number| format!("sum(s{number}) AS s{number}"));
    sql += &listed(0..measures, |number| format!("sum(u{number}) AS u{number}"));
    let _ = write!(sql, " FROM ({parts}) AS parts GROUP BY {GROUP_KEY}) AS d");
    sql
}

fn upsert(rollup: &Rollup) -> String {
    let counts = rollup.distinct.iter().enumerate().map(|(number, m)| (&m.name, format!("d.u{number}")));
    let sums = rollup.sums.iter().enumerate().map(|(number, m)| (&m.name, format!("d.s{number}")));
    let measures: Vec<(&String, String)> =
        std::iter::once((&rollup.count, "d.n".to_owned())).chain(sums).chain(counts).collect();
    let columns = rollup.groups.iter().filter_map(|&at| rollup.columns.get(at)).map(|column| quoted(&column.name));
    let columns = rollup.bucket.map(|_| BUCKET.to_owned()).into_iter().chain(columns);
    let mut sql = format!("INSERT INTO {} AS r ({GROUP_KEY}", rollup.name.sql());
    sql += &listed(columns, |column| column);
    sql += &listed(&measures, |(name, _)| quoted(name));
    let _ = write!(sql, ") SELECT d.{GROUP_KEY}");
    sql += &listed(group_names(rollup), |name| format!("d.{name}"));
    sql += &listed(&measures, |(_, value)| value.clone());
    let _ = write!(sql, " FROM {}", changes(rollup));
    let _ = write!(sql, " WHERE {}", joined(&measures, " OR ", |(_, value)| format!("{value} <> 0")));
    let _ = write!(sql, " ORDER BY d.{GROUP_KEY} ON CONFLICT ({GROUP_KEY}) DO UPDATE SET ");
    sql += &joined(&measures, ", ", |(name, _)| format!("{0} = r.{0} + excluded.{0}", quoted(name)));
    let _ = write!(sql, " RETURNING r.{GROUP_KEY}, r.{} AS n", quoted(&rollup.count));
    sql
}

#[cfg(test)]
mod tests {
    use super::super::examine::tests::example;
    use super::*;
    use crate::rollups::examine::Rollup;

    /// A count over a table with a key of two columns, by one group.
    fn small() -> Rollup {
        let mut rollup = example();
        rollup.key.push(Column { name: "part".into(), type_sql: "text".into() });
        rollup.columns = vec![Column { name: "城 \"x\"".into(), type_sql: "text".into() }];
        rollup.bucket = None;
        rollup.groups = vec![0];
        rollup.sums.clear();
        rollup.distinct.clear();
        rollup
    }

    #[test]
    fn groups_are_summed_up_before_they_are_written() {
        assert_eq!(
            &*Statements::of(&small()).all,
            "WITH given AS (SELECT u.sign, u.c0::text AS c0 FROM unnest($1::int4[], $2::text[]) AS u (sign, c0)), \
             measured AS MATERIALIZED (SELECT given.sign, given.c0 COLLATE \"C\" AS g0 FROM given), \
             delta AS (SELECT sha256(convert_to(json_build_array(k.g0::text)::text, 'UTF8')) AS group_key, k.* \
             FROM (SELECT sum(sign) AS n, g0 FROM measured GROUP BY g0) AS k), \
             written AS (INSERT INTO \"dws\".\"orders_by_day\" AS r (group_key, \"城 \"\"x\"\"\", \"orders\") \
             SELECT d.group_key, d.g0, d.n FROM delta AS d WHERE d.n <> 0 ORDER BY d.group_key \
             ON CONFLICT (group_key) DO UPDATE SET \"orders\" = r.\"orders\" + excluded.\"orders\" \
             RETURNING r.group_key, r.\"orders\" AS n) \
             SELECT array_agg(group_key) FILTER (WHERE n = 0), count(*) FILTER (WHERE n < 0) FROM written"
        );
    }

    #[test]
    fn a_position_is_compared_as_a_key() {
        let statements = Statements::of(&small());
        let passed = "FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[]) AS u (sign, c0, k0, k1) \
                      WHERE (u.k0::bigint, u.k1::text) <= ($5::text::bigint, $6::text::text)";
        assert!(statements.passed.contains(passed), "{}", statements.passed);
        let first = "FROM \"result\".\"orders_latest\" AS t WHERE (t.\"order_id\", t.\"part\") <= ($1::text::bigint, $2::text::text)), measured";
        assert!(statements.first_chunk.contains(first), "{}", statements.first_chunk);
        let next = "<= ($3::text::bigint, $4::text::text) AND (t.\"order_id\", t.\"part\") > ($1::text::bigint, $2::text::text)), measured";
        assert!(statements.next_chunk.contains(next), "{}", statements.next_chunk);
        assert_eq!(
            &*statements.next_end,
            "WITH chunk AS MATERIALIZED (SELECT t.\"order_id\", t.\"part\" FROM \"result\".\"orders_latest\" AS t \
             WHERE (t.\"order_id\", t.\"part\") > ($1::text::bigint, $2::text::text) ORDER BY t.\"order_id\", t.\"part\" LIMIT $3) \
             SELECT ARRAY[\"order_id\"::text, \"part\"::text], (SELECT count(*) FROM chunk) FROM chunk \
             ORDER BY \"order_id\" DESC, \"part\" DESC LIMIT 1"
        );
    }

    #[test]
    fn time_sums_and_values_are_in_the_statement() {
        let sql = Statements::of(&example()).all;
        for part in [
            "date_trunc('day', given.c0) AS bucket",
            "given.c6::numeric AS s0",
            "coalesce(sum(sign * s1) FILTER (WHERE s1 < 'Infinity' AND s1 > '-Infinity'), 0) AS s1",
            "SELECT 'dws.orders_by_day', 'users', group_key, value, n, n FROM value0",
            "(array_agg(bucket) FILTER (WHERE is_delta))[1] AS bucket",
            "s0, s1, 0 AS u0 FROM delta UNION ALL SELECT group_key, false, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, n FROM changed0",
            "GROUP BY group_key) AS d WHERE d.n <> 0 OR d.s0 <> 0 OR d.s1 <> 0 OR d.u0 <> 0 ORDER BY",
            "\"users\" = r.\"users\" + excluded.\"users\"",
            "(SELECT array_agg(value ORDER BY group_key, value) FROM counted0 WHERE rows = 0)",
        ] {
            assert!(sql.contains(part), "{part} is not in {sql}");
        }
    }

    #[test]
    fn a_name_in_a_literal_is_quoted() {
        let mut rollup = example();
        rollup.label = "it's".into();
        assert!(Statements::of(&rollup).all.contains("SELECT 'it''s', 'users'"));
    }
}
