//! The sink's trail: a row for each status that an order had since it was captured, value by value, and no other.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::failure::Failure;
use shared::pg::{quoted, refused};
use shared::position::ResultVersion;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::findings::Problems;
use super::order_way::{InStatus, OrderWay, Statuses};
use super::users::{KnownUsers, UserColumns};
use crate::chaos::witness::subject::{Row, Subject};
use crate::chaos::witness::unreadable;
use crate::compare::{Key, first_difference};
use crate::expected::{COLUMNS, OrderRow, Value, expected};
use crate::paper::Paper;
use crate::places::Names;

/// What the trail has.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrailCounts {
    pub expected: u64,
    pub found: u64,
    pub missing: u64,
    pub surplus: u64,
    pub wrong: u64,
}

impl TrailCounts {
    pub fn write(&self, paper: &mut Paper) {
        let TrailCounts { expected, found, missing, surplus, wrong } = self;
        paper.check(
            missing + surplus + wrong == 0,
            format!("trail, all statuses: {expected} rows expected, {found} found, {missing} missing, {surplus} too many, {wrong} wrong"),
        );
    }
}

/// A row of the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    version: Vec<u8>,
    values: Vec<Value>,
}

/// What the trail is held against.
struct Check<'a> {
    statuses: &'a Statuses,
    users: &'a KnownUsers,
    counts: TrailCounts,
    problems: &'a mut Problems,
}

/// Orders compared at a time.
const CHUNK: usize = 2_000;

pub async fn check(
    source: &mut PgConnection,
    sink: &mut PgConnection,
    names: &Names,
    ways: &BTreeMap<i64, OrderWay>,
    statuses: &Statuses,
    users: &KnownUsers,
    problems: &mut Problems,
) -> Result<TrailCounts, Failure> {
    // Only now: while the log is written, an index would cost each change.
    source.execute("CREATE INDEX IF NOT EXISTS log_of_key ON chaos.log (subject, key)").await.map_err(unreadable)?;
    let mut check = Check { statuses, users, counts: TrailCounts::default(), problems };
    let mut after = i64::MIN;
    let mut orders = ways.iter();
    loop {
        let chunk: Vec<(i64, &OrderWay)> = orders.by_ref().take(CHUNK).map(|(key, way)| (*key, way)).collect();
        let to = if chunk.len() < CHUNK { i64::MAX } else { chunk.last().map_or(i64::MAX, |(key, _)| *key) };
        let rows = last_rows(source, after, to).await?;
        let found = found_rows(sink, names, after, to).await?;
        check.chunk(&chunk, &rows, found);
        if to == i64::MAX {
            return Ok(check.counts);
        }
        after = to;
    }
}

/// The last row that each order had in each status, by the witness.
async fn last_rows(source: &mut PgConnection, after: i64, to: i64) -> Result<BTreeMap<Key, Row>, Failure> {
    let status = Subject::Orders.names().position(|name| name == "order_status").unwrap_or_default() + 1;
    let sql = format!(
        "SELECT DISTINCT ON (key, row_values[{status}]) key, row_values[{status}], row_values FROM chaos.log
         WHERE subject = '{}' AND key > $1 AND key <= $2 AND row_values IS NOT NULL
         ORDER BY key, row_values[{status}], number DESC",
        Subject::Orders.label()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(to).fetch_all(source).await.map_err(unreadable)?;
    let row = |row: &PgRow| -> Result<(Key, Row), sqlx::Error> {
        Ok((Key { order_id: row.try_get(0)?, status: row.try_get(1)? }, row.try_get(2)?))
    };
    rows.iter().map(|found| row(found).map_err(unreadable)).collect()
}

async fn found_rows(
    sink: &mut PgConnection,
    names: &Names,
    after: i64,
    to: i64,
) -> Result<BTreeMap<Key, Found>, Failure> {
    let columns: Vec<String> = COLUMNS.iter().map(|column| format!("{}::text", quoted(column))).collect();
    let sql = format!(
        "SELECT order_id, order_status, record_version, {} FROM {} WHERE order_id > $1 AND order_id <= $2",
        columns.join(", "),
        names.trail.sql()
    );
    let failed = |error| refused("the trail cannot be read", error);
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(to).fetch_all(sink).await.map_err(failed)?;
    let row = |row: &PgRow| -> Result<(Key, Found), sqlx::Error> {
        let values: Result<Vec<Value>, sqlx::Error> = (3..row.len()).map(|column| row.try_get(column)).collect();
        let key = Key { order_id: row.try_get(0)?, status: row.try_get(1)? };
        Ok((key, Found { version: row.try_get(2)?, values: values? }))
    };
    rows.iter().map(|found| row(found).map_err(failed)).collect()
}

/// An order from the witness's texts.
fn order_row(row: &Row) -> OrderRow {
    let mut texts = row.iter().cloned();
    let mut next = || texts.next().flatten();
    OrderRow {
        order_id: next(),
        user_id: next(),
        product_name: next(),
        product_category: next(),
        quantity: next(),
        unit_price: next(),
        total_amount: next(),
        order_status: next(),
        order_time: next(),
        updated_at: next(),
    }
}

impl Check<'_> {
    fn chunk(&mut self, orders: &[(i64, &OrderWay)], rows: &BTreeMap<Key, Row>, mut found: BTreeMap<Key, Found>) {
        self.counts.found += found.len() as u64;
        for (order_id, way) in orders {
            for status in captured_statuses(way) {
                let key = Key { order_id: *order_id, status: self.statuses.name(status).to_owned() };
                self.counts.expected += 1;
                let Some(row) = found.remove(&key) else {
                    self.counts.missing += 1;
                    self.tell(&key, "the trail has no row for it");
                    continue;
                };
                let newest = way.in_statuses.iter().find(|newest| newest.status == status);
                if let Some(what) = self.problem(&key, newest, rows.get(&key), &row) {
                    self.counts.wrong += 1;
                    self.tell(&key, &what);
                }
            }
        }
        for key in found.keys() {
            self.counts.surplus += 1;
            self.tell(key, "the trail has a row for it, and the order was never captured in that status");
        }
    }

    fn tell(&mut self, key: &Key, what: &str) {
        self.problems.add(Some((Subject::Orders, key.order_id)), format!("status {}: {what}", key.status));
    }

    fn problem(&self, key: &Key, newest: Option<&InStatus>, row: Option<&Row>, found: &Found) -> Option<String> {
        let Some(newest) = newest else { return Some("the result has no record in this status".to_owned()) };
        let Some(row) = row else { return Some("the witness has no row in this status".to_owned()) };
        let user = self.users.at(newest.user_id, newest.version.joined.of(0)).flatten().map(UserColumns::row);
        let wanted = expected(order_row(row), user);
        if let Some(difference) = first_difference(key, &wanted, &found.values) {
            let (column, wanted, value) = (difference.column, difference.expected, difference.found);
            return Some(format!("column {column} of the trail: expected {wanted}, found {value}"));
        }
        version_problem(&newest.version, &found.version)
    }
}

fn version_problem(newest: &ResultVersion, found: &[u8]) -> Option<String> {
    let is_newest = newest.to_bytes()[..] == *found;
    (!is_newest).then(|| format!("the trail's row is not of the newest record, {} / {}", newest.fact, newest.joined))
}

/// The statuses in which ODS has the order.
fn captured_statuses(way: &OrderWay) -> Vec<u8> {
    let rows = way.passed.iter().filter(|passed| passed.open.is_some());
    let mut statuses: Vec<u8> = rows.map(|passed| passed.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::verdict::order_way::{Open, Passed};
    use crate::chaos::verdict::suffix::Seen;
    use shared::position::{Lsn, Version};
    use shared::record::header::Operation;

    fn version(lsn: u64) -> ResultVersion {
        ResultVersion { fact: Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }, ..ResultVersion::default() }
    }

    /// An order that was placed (1), paid (2), and deleted (3).
    fn way(statuses: &mut Statuses) -> OrderWay {
        let (pending, paid) = (statuses.number("PENDING"), statuses.number("PAID"));
        let passed = |lsn: u64, status, is_row: bool| Passed {
            seen: Seen { version: version(lsn).fact, operation: Operation::Update, digest: None },
            open: is_row.then(|| Open::of("{}")),
            status,
        };
        let mut way = OrderWay::new(vec![passed(1, pending, true), passed(2, paid, true), passed(3, 0, false)]);
        way.note(InStatus { status: pending, version: version(1), user_id: 9 });
        way.note(InStatus { status: paid, version: version(2), user_id: 9 });
        way
    }

    fn key(status: &str) -> Key {
        Key { order_id: 7, status: status.into() }
    }

    fn row(status: &str) -> Row {
        let texts =
            ["7", "9", "x", "电子产品", "1", "2.50", "2.50", status, "2025-07-11 17:25:55.1", "2025-07-11 17:25:56"];
        texts.map(|text| Some(text.to_owned())).into()
    }

    fn found(status: &str, lsn: u64) -> Found {
        let wanted = expected(order_row(&row(status)), None);
        let value = |wanted: &crate::expected::Wanted| match wanted {
            crate::expected::Wanted::Exactly(value) => value.clone(),
            crate::expected::Wanted::Something => Some("something".to_owned()),
        };
        Found { version: version(lsn).to_bytes().to_vec(), values: wanted.iter().map(value).collect() }
    }

    fn checked(change: impl FnOnce(&mut BTreeMap<Key, Found>)) -> (TrailCounts, Problems) {
        let (mut statuses, users, mut problems) = (Statuses::default(), KnownUsers::default(), Problems::default());
        let way = way(&mut statuses);
        let mut rows = BTreeMap::from([(key("PENDING"), found("PENDING", 1)), (key("PAID"), found("PAID", 2))]);
        change(&mut rows);
        let last = BTreeMap::from([(key("PENDING"), row("PENDING")), (key("PAID"), row("PAID"))]);
        let mut check =
            Check { statuses: &statuses, users: &users, counts: TrailCounts::default(), problems: &mut problems };
        check.chunk(&[(7, &way)], &last, rows);
        (check.counts, problems)
    }

    #[test]
    fn a_row_for_each_status_stays_though_the_order_is_deleted() {
        let (counts, problems) = checked(|_| {});
        assert_eq!(
            (counts, problems),
            (TrailCounts { expected: 2, found: 2, ..TrailCounts::default() }, Problems::default())
        );
    }

    #[test]
    fn a_missing_row_a_wrong_one_and_one_too_many_are_found() {
        let (counts, _) = checked(|rows| drop(rows.remove(&key("PAID"))));
        assert_eq!((counts.missing, counts.surplus, counts.wrong), (1, 0, 0));
        let (counts, problems) = checked(|rows| rows.get_mut(&key("PENDING")).unwrap().values[5] = Some("2.51".into()));
        assert_eq!((counts.missing, counts.surplus, counts.wrong), (0, 0, 1));
        assert_eq!(
            problems.first[0].what,
            "order 7: status PENDING: column unit_price of the trail: expected 2.50, found 2.51"
        );
        let (counts, _) = checked(|rows| drop(rows.insert(key("SHIPPED"), found("SHIPPED", 3))));
        assert_eq!((counts.missing, counts.surplus, counts.wrong), (0, 1, 0));
        let (counts, problems) =
            checked(|rows| rows.get_mut(&key("PAID")).unwrap().version = version(1).to_bytes().to_vec());
        assert_eq!((counts.wrong, problems.count), (1, 1));
    }
}
