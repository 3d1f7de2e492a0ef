//! The statements that keep roll-ups. Names in them are quoted, values are bound.
//!
//! All of them are sets: rows that came and went are summed up by group first, and each group is written once. What a batch changes in all
//! roll-ups over a table is one statement: each further one would be a way to the server and back, while other instances wait for a group.

use std::fmt::Write as _;
use std::sync::Arc;

use shared::pg::quoted;

use super::examine::Rollup;
use super::groups::{answers, dropped, joined, listed, parts};
use super::register::Filled;
use crate::exchange::Exchange;
use crate::tables::Column;

/// The statements of a batch, for all roll-ups over a table.
#[derive(Debug, Clone)]
pub struct OfBatch {
    /// All rows count in all of them. Binds the signs, then each column of the exchange. Answers what [`answers`] asks of each roll-up.
    pub all: Arc<str>,
    /// Drops groups and values of no rows. Binds the groups' keys for each roll-up, then roll-ups, measures, groups' keys and values.
    pub drop: Arc<str>,
}

/// How much of a table counts in a roll-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Nothing,
    /// Rows up to a key, whose values are bound behind those of the roll-ups before.
    Passed,
    All,
}

impl Counts {
    pub fn of(filled: &Filled) -> Self {
        match filled {
            Filled::Nothing => Counts::Nothing,
            Filled::To(_) => Counts::Passed,
            Filled::All => Counts::All,
        }
    }
}

impl OfBatch {
    pub fn over(exchange: &Exchange, rollups: &[Rollup]) -> Self {
        let all = vec![Counts::All; rollups.len()];
        OfBatch { all: changed(exchange, rollups, &all).into(), drop: drop_all(rollups).into() }
    }
}

/// Changes those roll-ups in which something counts, as [`OfBatch::all`] does.
pub fn changed(exchange: &Exchange, rollups: &[Rollup], counts: &[Counts]) -> String {
    let mut sql = format!("WITH given AS MATERIALIZED ({})", given(exchange));
    let mut asked = Vec::with_capacity(rollups.len());
    let mut bound = 1 + exchange.columns.len();
    for (n, (rollup, counts)) in rollups.iter().zip(counts).enumerate() {
        if *counts == Counts::Nothing {
            continue;
        }
        let _ = write!(sql, ", given{n} AS (SELECT given.sign");
        sql += &listed(exchange.places(&rollup.columns).iter().enumerate(), |(at, place)| {
            format!("given.c{place} AS c{at}")
        });
        sql += " FROM given";
        if *counts == Counts::Passed {
            let key = row(&rollup.key, |at, _| format!("given.c{at}"));
            let _ = write!(sql, " WHERE {key} <= {}", bound_key(&rollup.key, bound + 1));
            bound += rollup.key.len();
        }
        let _ = write!(sql, "), {}", parts(rollup, n));
        asked.push(answers(rollup, n));
    }
    sql + " SELECT " + &asked.join(", ")
}

/// Rows that came and went, as they are bound. The key's columns are the first.
fn given(exchange: &Exchange) -> String {
    let columns = exchange.columns.len();
    let mut sql = "SELECT u.sign".to_owned();
    sql +=
        &listed(exchange.columns.iter().enumerate(), |(at, column)| format!("u.c{at}::{} AS c{at}", column.type_sql));
    sql += " FROM unnest($1::int4[]";
    sql += &listed(2..2 + columns, |number| format!("${number}::text[]"));
    sql += ") AS u (sign";
    sql += &listed(0..columns, |at| format!("c{at}"));
    sql + ")"
}

fn drop_all(rollups: &[Rollup]) -> String {
    let count = rollups.len();
    let [labels, measures, keys, values] = [1, 2, 3, 4].map(|further| count + further);
    let groups =
        joined(rollups.iter().enumerate(), "", |(n, rollup)| format!("dropped{n} AS ({}), ", dropped(rollup, n + 1)));
    format!(
        "WITH {groups}given AS (SELECT * FROM unnest(${labels}::text[], ${measures}::text[], ${keys}::bytea[], ${values}::text[]) \
         AS given (rollup, measure, group_key, value)) \
         DELETE FROM tidemill.rollup_values AS v USING given AS g \
         WHERE v.rollup = g.rollup AND v.measure = g.measure AND v.group_key = g.group_key AND v.value = g.value AND v.rows = 0"
    )
}

/// The statements that fill a roll-up.
#[derive(Debug, Clone)]
pub struct OfFill {
    /// Adds the rows of a table up to a key. Binds its values.
    pub first_chunk: Arc<str>,
    /// The same behind another key, whose values are bound first.
    pub next_chunk: Arc<str>,
    /// The key at the end of the first chunk, and the rows up to it. Binds the most rows.
    pub first_end: Arc<str>,
    /// The same behind a key, whose values are bound first.
    pub next_end: Arc<str>,
    pub empty: Arc<str>,
}

impl OfFill {
    pub fn of(rollup: &Rollup) -> Self {
        let keys = rollup.key.len();
        OfFill {
            first_chunk: chunk(rollup, 0).into(),
            next_chunk: chunk(rollup, keys).into(),
            first_end: chunk_end(rollup, 0).into(),
            next_end: chunk_end(rollup, keys).into(),
            empty: format!("DELETE FROM {}", rollup.name.sql()).into(),
        }
    }
}

fn chunk(rollup: &Rollup, behind: usize) -> String {
    format!("WITH given0 AS ({}), {} SELECT {}", read(rollup, behind), parts(rollup, 0), answers(rollup, 0))
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

#[cfg(test)]
mod tests {
    use super::super::examine::tests::example;
    use super::*;
    use crate::rollups::examine::Rollup;

    fn exchange(rollup: &Rollup) -> Exchange {
        Exchange { columns: rollup.key.iter().chain(&rollup.columns).cloned().collect(), keys: rollup.key.len() }
    }

    fn all(rollup: Rollup) -> String {
        changed(&exchange(&rollup), &[rollup], &[Counts::All])
    }

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
            all(small()),
            "WITH given AS MATERIALIZED (SELECT u.sign, u.c0::bigint AS c0, u.c1::text AS c1, u.c2::text AS c2 \
             FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[]) AS u (sign, c0, c1, c2)), \
             given0 AS (SELECT given.sign, given.c2 AS c0 FROM given), \
             measured0 AS MATERIALIZED (SELECT given.sign, given.c0 COLLATE \"C\" AS g0 FROM given0 AS given), \
             delta0 AS (SELECT sha256(convert_to(json_build_array(k.g0::text)::text, 'UTF8')) AS group_key, k.* \
             FROM (SELECT sum(sign) AS n, g0 FROM measured0 GROUP BY g0) AS k), \
             written0 AS (INSERT INTO \"dws\".\"orders_by_day\" AS r (group_key, \"城 \"\"x\"\"\", \"orders\") \
             SELECT d.group_key, d.g0, d.n FROM delta0 AS d WHERE d.n <> 0 ORDER BY d.group_key \
             ON CONFLICT (group_key) DO UPDATE SET \"orders\" = r.\"orders\" + excluded.\"orders\" \
             RETURNING r.group_key, r.\"orders\" AS n) \
             SELECT (SELECT array_agg(group_key) FROM written0 WHERE n = 0), (SELECT count(*) FROM written0 WHERE n < 0)"
        );
    }

    #[test]
    fn roll_ups_over_a_table_are_one_statement() {
        let rollups = [small(), small(), small()];
        let sql = changed(&exchange(&small()), &rollups, &[Counts::Passed, Counts::Nothing, Counts::Passed]);
        assert!(
            sql.contains(
                "AS c0 FROM given WHERE (given.c0, given.c1) <= ($5::text::bigint, $6::text::text)), measured0"
            ),
            "{sql}"
        );
        assert!(
            sql.contains(
                "AS c0 FROM given WHERE (given.c0, given.c1) <= ($7::text::bigint, $8::text::text)), measured2"
            ),
            "{sql}"
        );
        assert!(!sql.contains("given1"), "{sql}");
        assert!(sql.ends_with("FROM written0 WHERE n < 0), (SELECT array_agg(group_key) FROM written2 WHERE n = 0), (SELECT count(*) FROM written2 WHERE n < 0)"), "{sql}");
    }

    #[test]
    fn what_no_row_is_in_is_dropped_at_once() {
        let sql = drop_all(&[small(), small()]);
        for part in [
            "WITH dropped0 AS (DELETE FROM \"dws\".\"orders_by_day\" AS r WHERE r.group_key = ANY ($1::bytea[]) AND r.\"orders\" = 0), dropped1",
            "= ANY ($2::bytea[])",
            "unnest($3::text[], $4::text[], $5::bytea[], $6::text[])",
        ] {
            assert!(sql.contains(part), "{part} is not in {sql}");
        }
    }

    #[test]
    fn a_chunk_ends_at_a_key() {
        let statements = OfFill::of(&small());
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
        let sql = all(example());
        for part in [
            "date_trunc('day', given.c0) AS bucket",
            "given.c6::numeric AS s0",
            "coalesce(sum(sign * s1) FILTER (WHERE s1 < 'Infinity' AND s1 > '-Infinity'), 0) AS s1",
            "SELECT 'dws.orders_by_day', 'users', group_key, value, n, n FROM value0_0",
            "(array_agg(bucket) FILTER (WHERE is_delta))[1] AS bucket",
            "s0, s1, 0 AS u0 FROM delta0 UNION ALL SELECT group_key, false, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, n FROM changed0_0",
            "GROUP BY group_key) AS d WHERE d.n <> 0 OR d.s0 <> 0 OR d.s1 <> 0 OR d.u0 <> 0 ORDER BY",
            "\"users\" = r.\"users\" + excluded.\"users\"",
            "(SELECT array_agg(value ORDER BY group_key, value) FROM counted0_0 WHERE rows = 0)",
        ] {
            assert!(sql.contains(part), "{part} is not in {sql}");
        }
    }

    #[test]
    fn a_name_in_a_literal_is_quoted() {
        let mut rollup = example();
        rollup.label = "it's".into();
        assert!(all(rollup).contains("SELECT 'it''s', 'users'"));
    }
}
