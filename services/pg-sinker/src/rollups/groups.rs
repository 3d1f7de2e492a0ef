//! From rows to groups: the parts of a statement that sum up the rows of a roll-up and write each group once.
//!
//! A part's name ends in the number of its roll-up: several stand in one statement.
//!
//! ```text
//!  given0 ──▶ measured0 ─┬▶ delta0 ─────────────────────────────┬▶ written0 ──▶ dws.*
//!                        └▶ value0_0 ─▶ counted0_0 ─▶ changed0_0 ┘
//!                                       └──▶ tidemill.rollup_values
//! ```

use std::fmt::Write as _;

use shared::pg::quoted;

use super::declared::{BUCKET, GROUP_KEY};
use super::examine::Rollup;

/// A value is kept by its text up to this length, a longer one by its hash: an index entry has a largest length.
const VALUE_BYTES_MAX: usize = 200;
/// Types that have a collation, of those that a group is made of.
const TEXTS: [&str; 3] = ["text", "character varying", "bpchar"];

pub fn joined<T>(items: impl IntoIterator<Item = T>, separator: &str, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

/// Further items of a list that has begun.
pub fn listed<T>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(|item| format!(", {}", text(item))).collect()
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The parts that write the groups of the rows `given{n}` (`sign`, `c0`, `c1`, …).
pub fn parts(rollup: &Rollup, n: usize) -> String {
    let mut sql = format!("measured{n} AS MATERIALIZED ({}), delta{n} AS ({})", measured(rollup, n), delta(rollup, n));
    for measure in 0..rollup.distinct.len() {
        sql += &counted(rollup, n, measure);
    }
    let _ = write!(sql, ", written{n} AS ({})", upsert(rollup, n));
    sql
}

/// What is asked of them: the keys of the groups that have no rows now, how many have less than none, and for each counted column the
/// group keys and values that no row has now.
pub fn answers(rollup: &Rollup, n: usize) -> String {
    let mut sql = format!(
        "(SELECT array_agg({GROUP_KEY}) FROM written{n} WHERE n = 0), (SELECT count(*) FROM written{n} WHERE n < 0)"
    );
    for measure in 0..rollup.distinct.len() {
        for column in [GROUP_KEY, "value"] {
            let order = format!("{GROUP_KEY}, value");
            let _ =
                write!(sql, ", (SELECT array_agg({column} ORDER BY {order}) FROM counted{n}_{measure} WHERE rows = 0)");
        }
    }
    sql
}

/// Deletes groups of no rows. Binds their keys as this parameter.
pub fn dropped(rollup: &Rollup, parameter: usize) -> String {
    let (name, count) = (rollup.name.sql(), quoted(&rollup.count));
    format!("DELETE FROM {name} AS r WHERE r.{GROUP_KEY} = ANY (${parameter}::bytea[]) AND r.{count} = 0")
}

fn group_names(rollup: &Rollup) -> Vec<String> {
    let bucket = rollup.bucket.map(|_| BUCKET.to_owned());
    bucket.into_iter().chain((0..rollup.groups.len()).map(|at| format!("g{at}"))).collect()
}

/// Each row with its group and what is measured of it.
fn measured(rollup: &Rollup, n: usize) -> String {
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
    sql + &format!(" FROM given{n} AS given")
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
fn delta(rollup: &Rollup, n: usize) -> String {
    let mut sql = format!("SELECT {}, k.* FROM (SELECT sum(sign) AS n", group_key(rollup));
    sql += &listed(group_names(rollup), |name| name);
    for number in 0..rollup.sums.len() {
        // NaN is above all numbers. What is not finite could never be taken away again.
        let finite = format!("s{number} < 'Infinity' AND s{number} > '-Infinity'");
        let _ = write!(sql, ", coalesce(sum(sign * s{number}) FILTER (WHERE {finite}), 0) AS s{number}");
    }
    let _ = write!(sql, " FROM measured{n}{}) AS k", by_group(rollup, None));
    sql
}

/// How many rows of each group have each value, and how many values came or went by that. No join of two sets: a plan that is kept takes
/// every batch for a small one.
fn counted(rollup: &Rollup, n: usize, measure: usize) -> String {
    let (label, name) = (literal(&rollup.label), rollup.distinct.get(measure).map_or("", |found| &found.name));
    let groups = listed(group_names(rollup), |name| name);
    let value = format!("v{measure}");
    format!(
        ", value{n}_{measure} AS (SELECT {}, k.value, k.n FROM (SELECT {value} AS value, sum(sign) AS n{groups} FROM measured{n} \
         WHERE {value} IS NOT NULL{} HAVING sum(sign) <> 0) AS k), \
         counted{n}_{measure} AS (INSERT INTO tidemill.rollup_values AS v (rollup, measure, group_key, value, rows, last_change) \
         SELECT {label}, {}, {GROUP_KEY}, value, n, n FROM value{n}_{measure} ORDER BY {GROUP_KEY}, value \
         ON CONFLICT (rollup, measure, group_key, value) \
         DO UPDATE SET rows = v.rows + excluded.rows, last_change = excluded.last_change \
         RETURNING v.group_key, v.value, v.rows, v.last_change), \
         changed{n}_{measure} AS (SELECT {GROUP_KEY}, sum((rows > 0)::int - (rows - last_change > 0)::int) AS n \
         FROM counted{n}_{measure} GROUP BY {GROUP_KEY})",
        group_key(rollup),
        by_group(rollup, [value.as_str()]),
        literal(name)
    )
}

/// What changes in each group, with the values that came or went: `d`.
fn changes(rollup: &Rollup, n: usize) -> String {
    let measures = rollup.distinct.len();
    if measures == 0 {
        return format!("delta{n} AS d");
    }
    let (groups, sums) = (group_names(rollup), rollup.sums.len());
    let mut parts = format!("SELECT {GROUP_KEY}, true AS is_delta");
    parts += &listed(&groups, |name| (*name).clone());
    parts += ", n";
    parts += &listed(0..sums, |number| format!("s{number}"));
    parts += &listed(0..measures, |number| format!("0 AS u{number}"));
    let _ = write!(parts, " FROM delta{n}");
    for changed in 0..measures {
        let _ = write!(parts, " UNION ALL SELECT {GROUP_KEY}, false");
        parts += &listed(&groups, |_| "NULL".to_owned());
        parts += &listed(0..=sums, |_| "0".to_owned());
        parts += &listed(0..measures, |number| if number == changed { "n".to_owned() } else { "0".to_owned() });
        let _ = write!(parts, " FROM changed{n}_{changed}");
    }
    let mut sql = format!("(SELECT {GROUP_KEY}");
    sql += &listed(&groups, |name| format!("(array_agg({name}) FILTER (WHERE is_delta))[1] AS {name}"));
    sql += ", sum(n) AS n";
    sql += &listed(0..sums, |number| format!("sum(s{number}) AS s{number}"));
    sql += &listed(0..measures, |number| format!("sum(u{number}) AS u{number}"));
    let _ = write!(sql, " FROM ({parts}) AS parts GROUP BY {GROUP_KEY}) AS d");
    sql
}

fn upsert(rollup: &Rollup, n: usize) -> String {
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
    let _ = write!(sql, " FROM {}", changes(rollup, n));
    let _ = write!(sql, " WHERE {}", joined(&measures, " OR ", |(_, value)| format!("{value} <> 0")));
    let _ = write!(sql, " ORDER BY d.{GROUP_KEY} ON CONFLICT ({GROUP_KEY}) DO UPDATE SET ");
    sql += &joined(&measures, ", ", |(name, _)| format!("{0} = r.{0} + excluded.{0}", quoted(name)));
    let _ = write!(sql, " RETURNING r.{GROUP_KEY}, r.{} AS n", quoted(&rollup.count));
    sql
}
