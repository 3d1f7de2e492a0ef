//! The sink held against the source, value by value. Both sides are read in chunks by key and compared as text.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::{quoted, refused};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::changes::STATUSES;
use crate::expected::{COLUMNS, OrderRow, UserRow, Value, Wanted, expected};
use crate::paper::Paper;
use crate::places::{Names, Places};

/// What of the sink is held against the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `orders_latest`: one row for each order of the source, and no other.
    Latest,
    /// The trail's row for the status that each order has now. Rows of earlier statuses, and of deleted orders, may be there too.
    TrailNow,
    /// The trail of orders that went through [`STATUSES`] by the rule there: a row for each status, and no other.
    TrailOfLife,
}

impl Part {
    fn table(self, names: &Names) -> String {
        match self {
            Part::Latest => names.latest.sql(),
            Part::TrailNow | Part::TrailOfLife => names.trail.sql(),
        }
    }

    /// The rows wanted for each order: their status, and when it came. In SQL, with `o` for the order.
    fn wanted_rows(self) -> String {
        match self {
            Part::Latest | Part::TrailNow => "(VALUES (o.order_status, o.updated_at))".to_owned(),
            Part::TrailOfLife => {
                let row = |(step, status): (usize, &&str)| {
                    format!("('{status}', (o.order_time + {step} * interval '1 second')::timestamp(3))")
                };
                format!("(VALUES {})", STATUSES.iter().enumerate().map(row).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// An order in a status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub order_id: i64,
    pub status: String,
}

/// A value that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub order_id: i64,
    pub order_status: String,
    pub column: &'static str,
    pub expected: String,
    pub found: String,
}

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub expected: u64,
    pub found: u64,
    pub missing: u64,
    pub surplus: u64,
    pub wrong: u64,
    pub first_missing: Option<String>,
    pub first_surplus: Option<String>,
    pub first_wrong: Option<Difference>,
    /// The first order of which anything was missing, surplus or wrong.
    #[serde(skip)]
    pub first_order_id: Option<i64>,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.missing + self.surplus + self.wrong == 0
    }

    /// Adds the rows of one chunk.
    fn add(&mut self, part: Part, wanted: BTreeMap<Key, Vec<Wanted>>, mut found: BTreeMap<Key, Vec<Value>>) {
        for (key, values) in wanted {
            self.expected += 1;
            match found.remove(&key) {
                None => {
                    self.missing += 1;
                    self.first_missing.get_or_insert_with(|| named(&key));
                    self.first_order_id.get_or_insert(key.order_id);
                }
                Some(row) => {
                    self.found += 1;
                    if let Some(difference) = first_difference(&key, &values, &row) {
                        self.wrong += 1;
                        self.first_order_id.get_or_insert(key.order_id);
                        self.first_wrong.get_or_insert(difference);
                    }
                }
            }
        }
        if part == Part::TrailNow {
            return;
        }
        if let Some(key) = found.keys().next() {
            self.first_surplus.get_or_insert_with(|| named(key));
            self.first_order_id.get_or_insert(key.order_id);
        }
        self.surplus += found.len() as u64;
    }

    /// The lines for a report.
    pub fn write(&self, name: &str, paper: &mut Paper) {
        let Comparison { expected, found, missing, surplus, wrong, .. } = self;
        paper.check(
            self.is_equal(),
            format!(
                "{name}: {expected} rows expected, {found} found, {missing} missing, {surplus} too many, {wrong} wrong"
            ),
        );
        if let Some(key) = &self.first_missing {
            paper.line(format!("      first missing: {key}"));
        }
        if let Some(key) = &self.first_surplus {
            paper.line(format!("      first that should not be there: {key}"));
        }
        if let Some(first) = &self.first_wrong {
            paper.line(format!(
                "      first wrong: order {} {}, column {}: expected {}, found {}",
                first.order_id, first.order_status, first.column, first.expected, first.found
            ));
        }
    }
}

fn named(key: &Key) -> String {
    format!("order {} {}", key.order_id, key.status)
}

pub(crate) fn first_difference(key: &Key, wanted: &[Wanted], found: &[Value]) -> Option<Difference> {
    let mut columns = COLUMNS.iter().zip(wanted.iter().zip(found));
    let (column, (wanted, found)) = columns.find(|(_, (wanted, found))| !wanted.accepts(found))?;
    Some(Difference {
        order_id: key.order_id,
        order_status: key.status.clone(),
        column,
        expected: wanted.to_string(),
        found: found.clone().unwrap_or_else(|| "NULL".into()),
    })
}

/// All orders.
pub const EVERYTHING: RangeInclusive<i64> = i64::MIN + 1..=i64::MAX;

/// Orders of one chunk.
const CHUNK: i64 = 2_000;

/// Compares a part of the sink for the orders of a range of ids.
pub async fn compare(
    source: &mut PgConnection,
    sink: &mut PgConnection,
    names: &Names,
    part: Part,
    orders: RangeInclusive<i64>,
) -> Result<Comparison, Failure> {
    let mut comparison = Comparison::default();
    let (mut after, end) = (orders.start() - 1, *orders.end());
    while after < end {
        let wanted = wanted_chunk(source, names, part, after, end).await?;
        let last = last_of_chunk(&wanted).unwrap_or(end);
        let found = found_chunk(sink, names, part, after, last).await?;
        comparison.add(part, wanted, found);
        after = last;
    }
    Ok(comparison)
}

/// Compares again and again until all is equal or the time is over: the source goes on while it is compared.
pub async fn until_equal(
    source: &mut PgConnection,
    sink: &mut PgConnection,
    names: &Names,
    part: Part,
    orders: RangeInclusive<i64>,
    timeout: Duration,
) -> Result<Comparison, Failure> {
    let begin = Instant::now();
    loop {
        let comparison = compare(source, sink, names, part, orders.clone()).await?;
        if comparison.is_equal() || begin.elapsed() >= timeout {
            return Ok(comparison);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The highest order of a full chunk; a chunk that is not full reaches to the end of the range.
fn last_of_chunk(wanted: &BTreeMap<Key, Vec<Wanted>>) -> Option<i64> {
    let mut order_ids: Vec<i64> = wanted.keys().map(|key| key.order_id).collect();
    order_ids.dedup();
    let last = order_ids.last().copied()?;
    (order_ids.len() as i64 >= CHUNK).then_some(last)
}

async fn wanted_chunk(
    source: &mut PgConnection,
    names: &Names,
    part: Part,
    after: i64,
    end: i64,
) -> Result<BTreeMap<Key, Vec<Wanted>>, Failure> {
    let sql = format!(
        "SELECT o.order_id, o.order_id::text, o.user_id::text, o.product_name::text, o.product_category::text,
                o.quantity::text, o.unit_price::text, o.total_amount::text, w.status::text, o.order_time::text, w.since::text,
                u.user_id IS NOT NULL, u.username::text, u.email::text, u.phone::text, u.city::text, u.register_time::text
         FROM (SELECT * FROM {} WHERE order_id > $1 AND order_id <= $2 ORDER BY order_id LIMIT {CHUNK}) o
              LEFT JOIN {} u ON u.user_id = o.user_id
              CROSS JOIN LATERAL {} AS w (status, since)",
        names.orders.sql(),
        names.users.sql(),
        part.wanted_rows()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(end).fetch_all(source).await;
    let rows = rows.map_err(|error| refused("the orders of the source cannot be read", error))?;
    rows.iter().map(|row| wanted_row(row).map_err(unreadable)).collect()
}

fn wanted_row(row: &PgRow) -> Result<(Key, Vec<Wanted>), sqlx::Error> {
    let order = OrderRow {
        order_id: row.try_get(1)?,
        user_id: row.try_get(2)?,
        product_name: row.try_get(3)?,
        product_category: row.try_get(4)?,
        quantity: row.try_get(5)?,
        unit_price: row.try_get(6)?,
        total_amount: row.try_get(7)?,
        order_status: row.try_get(8)?,
        order_time: row.try_get(9)?,
        updated_at: row.try_get(10)?,
    };
    let user = UserRow {
        username: row.try_get(12)?,
        email: row.try_get(13)?,
        phone: row.try_get(14)?,
        city: row.try_get(15)?,
        register_time: row.try_get(16)?,
    };
    let is_known: bool = row.try_get(11)?;
    let key = Key { order_id: row.try_get(0)?, status: order.order_status.clone().unwrap_or_default() };
    Ok((key, expected(order, is_known.then_some(user))))
}

async fn found_chunk(
    sink: &mut PgConnection,
    names: &Names,
    part: Part,
    after: i64,
    last: i64,
) -> Result<BTreeMap<Key, Vec<Value>>, Failure> {
    let columns: Vec<String> = COLUMNS.iter().map(|column| format!("{}::text", quoted(column))).collect();
    let sql = format!(
        "SELECT order_id, order_status, {} FROM {} WHERE order_id > $1 AND order_id <= $2",
        columns.join(", "),
        part.table(names)
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(last).fetch_all(sink).await;
    let rows = rows.map_err(|error| refused("the orders of the sink cannot be read", error))?;
    rows.iter().map(|row| found_row(row).map_err(unreadable)).collect()
}

fn found_row(row: &PgRow) -> Result<(Key, Vec<Value>), sqlx::Error> {
    let key = Key { order_id: row.try_get(0)?, status: row.try_get(1)? };
    let values: Result<Vec<Value>, sqlx::Error> = (2..row.len()).map(|column| row.try_get(column)).collect();
    Ok((key, values?))
}

fn unreadable(error: sqlx::Error) -> Failure {
    Failure::new(
        FailureKind::Data,
        "a row has other types than the SQL files of postgres_source and postgres_sink make",
    )
    .caused_by(error)
}

/// The command: all of `orders_latest`, and the trail's rows of today's statuses.
pub async fn run(places: &Places, timeout: Duration, paper: &mut Paper) -> Result<bool, Failure> {
    let mut source = places.connect_source().await?;
    let mut sink = places.connect_sink().await?;
    let mut equal = true;
    for (part, table) in [(Part::Latest, &places.names.latest), (Part::TrailNow, &places.names.trail)] {
        let comparison = until_equal(&mut source, &mut sink, &places.names, part, EVERYTHING, timeout).await?;
        comparison.write(&table.to_string(), paper);
        equal &= comparison.is_equal();
    }
    Ok(equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(order_id: i64) -> Key {
        Key { order_id, status: "PENDING".into() }
    }

    fn wanted(value: &str) -> Vec<Wanted> {
        vec![Wanted::Exactly(Some(value.into())), Wanted::Exactly(None)]
    }

    fn compared(part: Part, found: &[(i64, &str)]) -> Comparison {
        let wanted_rows = [(key(1), wanted("1")), (key(2), wanted("2"))].into();
        let found = found.iter().map(|(id, value)| (key(*id), vec![Some((*value).to_owned()), None])).collect();
        let mut comparison = Comparison::default();
        comparison.add(part, wanted_rows, found);
        comparison
    }

    #[test]
    fn equal_is_equal() {
        let comparison = compared(Part::Latest, &[(1, "1"), (2, "2")]);
        assert!(comparison.is_equal());
        assert_eq!((comparison.expected, comparison.found), (2, 2));
    }

    #[test]
    fn what_is_missing_wrong_or_too_much_is_counted_and_named() {
        let comparison = compared(Part::Latest, &[(2, "x"), (3, "3"), (4, "4")]);
        assert_eq!((comparison.missing, comparison.wrong, comparison.surplus), (1, 1, 2));
        assert_eq!(comparison.first_missing.unwrap(), "order 1 PENDING");
        assert_eq!(comparison.first_surplus.unwrap(), "order 3 PENDING");
        let wrong = comparison.first_wrong.unwrap();
        assert_eq!((wrong.column, wrong.expected.as_str(), wrong.found.as_str()), ("order_id", "2", "x"));
    }

    #[test]
    fn the_trail_may_hold_more_than_todays_status() {
        assert!(compared(Part::TrailNow, &[(1, "1"), (2, "2"), (3, "3")]).is_equal());
        assert!(!compared(Part::TrailOfLife, &[(1, "1"), (2, "2"), (3, "3")]).is_equal());
    }

    #[test]
    fn a_null_is_not_an_empty_text() {
        let found = [Some("1".to_owned()), Some(String::new())];
        let difference = first_difference(&key(1), &wanted("1"), &found).unwrap();
        assert_eq!(
            (difference.column, difference.expected.as_str(), difference.found.as_str()),
            ("user_id", "NULL", "")
        );
    }

    #[test]
    fn only_a_full_chunk_has_a_last_order() {
        let chunk = |orders: i64| (1..=orders).map(|id| (key(id), wanted("x"))).collect::<BTreeMap<_, _>>();
        assert_eq!(last_of_chunk(&chunk(CHUNK)), Some(CHUNK));
        assert_eq!(last_of_chunk(&chunk(CHUNK - 1)), None);
        assert_eq!(last_of_chunk(&chunk(0)), None);
    }
}
