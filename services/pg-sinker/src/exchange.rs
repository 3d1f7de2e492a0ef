//! What a batch takes out of a table and what it puts in, for the roll-ups over it.
//!
//! The rows that will be replaced or deleted are locked and read before the batch is written; what stands there afterwards is what the
//! statement returns. Only rows that the version guard let through are in it.

use std::collections::HashMap;
use std::sync::Arc;

use shared::pg::quoted;
use shared::record::row::Field;
use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::entry::Entry;
use crate::tables::{Column, RECORD_VERSION, Table, Target};

/// What is looked at in a table's rows.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The key, then whatever a roll-up is made from.
    pub columns: Vec<Column>,
    keys: usize,
    lock: Arc<str>,
}

/// Values as text, column by column. Text is what the server gives and takes without loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<Vec<Option<String>>>,
}

/// Rows as they were before the batch, locked until its end.
#[derive(Debug, Default)]
pub struct Before {
    /// For each row the number of the entry that it was locked for.
    entries: Vec<i64>,
    rows: Rows,
}

/// Rows as a statement has written them.
#[derive(Debug, Default)]
pub struct After {
    /// Whether the row is new in the table.
    pub inserted: Vec<bool>,
    pub rows: Rows,
}

/// Rows that went and rows that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// -1 and 1.
    pub signs: Vec<i32>,
    pub rows: Rows,
}

/// Somebody else wrote a row between the look and the writing.
#[derive(Debug, PartialEq, Eq)]
pub struct Overtaken;

impl Exchange {
    pub fn new<'c>(table: &Table, further: impl Iterator<Item = &'c Column>) -> Self {
        let mut columns: Vec<Column> = table.key_columns().cloned().collect();
        let keys = columns.len();
        for column in further {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        let lock = lock(table, &columns).into();
        Exchange { columns, keys, lock }
    }

    /// Where each of these columns stands.
    pub fn places(&self, columns: &[Column]) -> Vec<usize> {
        columns.iter().filter_map(|column| self.columns.iter().position(|found| found == column)).collect()
    }

    /// Where the key stands.
    pub fn key_places(&self) -> Vec<usize> {
        (0..self.keys).collect()
    }

    /// Locks and reads the rows that are older than these entries, in the order of their keys.
    pub async fn lock(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        rows: &[&Entry<'_>],
        gone: &[&Entry<'_>],
    ) -> sqlx::Result<Before> {
        let entries = || rows.iter().chain(gone);
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&self.lock)));
        for field in target.key_fields() {
            let texts = entries().map(|entry| entry.fields.get(field).and_then(Field::text));
            query = query.bind(texts.collect::<Vec<_>>().into_iter().bind_iter());
        }
        query = query.bind(entries().map(|entry| &entry.version[..]).collect::<Vec<_>>().into_iter().bind_iter());
        let found = query.fetch_one(connection).await?;
        let entries: Option<Vec<i64>> = found.try_get(0)?;
        Ok(Before { entries: entries.unwrap_or_default(), rows: Rows::read(&found, 1, self.columns.len())? })
    }

    /// What changed: each row of `before` that was replaced or deleted, each row of `after`. `written` is the number of entries that were
    /// rows; those behind them were deletions.
    pub fn delta(&self, before: &Before, after: &After, written: usize) -> Result<Delta, Overtaken> {
        let mut open: HashMap<Vec<Option<&str>>, usize> =
            (0..before.entries.len()).map(|at| (before.rows.key(at, self.keys), at)).collect();
        let mut delta = Delta { signs: Vec::new(), rows: Rows::empty(self.columns.len()) };
        for (at, &inserted) in after.inserted.iter().enumerate() {
            let replaced = open.remove(&after.rows.key(at, self.keys));
            match replaced {
                // The same in all that is looked at: nothing changed.
                Some(old) if before.rows.equal(old, &after.rows, at) => continue,
                Some(old) => delta.push(-1, &before.rows, old),
                None if inserted => {}
                None => return Err(Overtaken),
            }
            delta.push(1, &after.rows, at);
        }
        for (at, &entry) in before.entries.iter().enumerate() {
            if usize::try_from(entry).is_ok_and(|entry| entry > written) {
                delta.push(-1, &before.rows, at);
            }
        }
        Ok(delta)
    }
}

impl Delta {
    fn push(&mut self, sign: i32, from: &Rows, at: usize) {
        self.signs.push(sign);
        for (to, from) in self.rows.columns.iter_mut().zip(&from.columns) {
            to.push(from.get(at).cloned().flatten());
        }
    }
}

impl Rows {
    fn empty(columns: usize) -> Self {
        Rows { columns: vec![Vec::new(); columns] }
    }

    /// Reads `count` arrays of an answer, from column `first` on.
    pub fn read(answer: &PgRow, first: usize, count: usize) -> sqlx::Result<Self> {
        let column = |at| answer.try_get::<Option<Vec<Option<String>>>, _>(at).map(Option::unwrap_or_default);
        Ok(Rows { columns: (first..first + count).map(column).collect::<sqlx::Result<_>>()? })
    }

    fn value(&self, column: usize, at: usize) -> Option<&str> {
        self.columns.get(column).and_then(|values| values.get(at)).and_then(Option::as_deref)
    }

    fn key(&self, at: usize, keys: usize) -> Vec<Option<&str>> {
        (0..keys).map(|column| self.value(column, at)).collect()
    }

    fn equal(&self, at: usize, other: &Rows, other_at: usize) -> bool {
        (0..self.columns.len()).all(|column| self.value(column, at) == other.value(column, other_at))
    }
}

/// Binds the keys and the versions. Answers the numbers of the entries, from 1, and each column.
fn lock(table: &Table, columns: &[Column]) -> String {
    let keys: Vec<&Column> = table.key_columns().collect();
    let each = |text: &dyn Fn(usize, &str, &str) -> String| {
        keys.iter().enumerate().map(|(at, key)| text(at, &quoted(&key.name), &key.type_sql)).collect::<Vec<_>>()
    };
    let casts = each(&|at, _, type_sql| format!("u.k{at}::{type_sql} AS k{at}")).join(", ");
    let arrays = each(&|at, _, _| format!("${}::text[]", at + 1)).join(", ");
    let names = each(&|at, _, _| format!("k{at}")).join(", ");
    let equal = each(&|at, name, _| format!("t.{name} = u.k{at}")).join(" AND ");
    let order = each(&|_, name, _| format!("t.{name}")).join(", ");
    let texts = |text: &dyn Fn(usize, &str) -> String| {
        columns.iter().enumerate().map(|(at, column)| text(at, &quoted(&column.name))).collect::<Vec<_>>().join(", ")
    };
    format!(
        "SELECT array_agg(number), {} FROM (SELECT u.number, {} FROM {} AS t \
         JOIN (SELECT {casts}, u.version, u.number FROM unnest({arrays}, ${}::bytea[]) WITH ORDINALITY AS u ({names}, version, number)) AS u \
         ON {equal} WHERE t.{RECORD_VERSION} < u.version ORDER BY {order} FOR UPDATE OF t) AS locked",
        texts(&|at, _| format!("array_agg(c{at})")),
        texts(&|at, name| format!("t.{name}::text AS c{at}")),
        table.name.sql(),
        keys.len() + 1,
    )
}

/// What a statement that writes rows of `t` returns beside their versions, and how an outer query gathers it.
pub fn returned(columns: &[Column]) -> (String, String) {
    let list = |text: &dyn Fn(usize, &str) -> String| {
        columns.iter().enumerate().map(|(at, column)| text(at, &quoted(&column.name))).collect::<String>()
    };
    (
        // A row that was there carries the lock of the statement that replaced it.
        format!(", t.xmax = 0 AS inserted{}", list(&|at, name| format!(", t.{name}::text AS s{at}"))),
        format!(", array_agg(inserted){}", list(&|at, _| format!(", array_agg(s{at})"))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::tests::example;

    fn exchange() -> Exchange {
        let city = Column { name: "city".into(), type_sql: "text".into() };
        Exchange::new(&example(OnTombstone::Delete), [&city, &city].into_iter())
    }

    fn rows(rows: &[(&str, &str)]) -> Rows {
        let (keys, cities) = rows.iter().map(|&(key, city)| (Some(key.to_owned()), Some(city.to_owned()))).unzip();
        Rows { columns: vec![keys, cities] }
    }

    fn before(entries: &[i64], found: &[(&str, &str)]) -> Before {
        Before { entries: entries.to_vec(), rows: rows(found) }
    }

    fn after(inserted: &[bool], written: &[(&str, &str)]) -> After {
        After { inserted: inserted.to_vec(), rows: rows(written) }
    }

    #[test]
    fn what_went_and_what_came() {
        // Entries 1 to 4 are rows: 1 replaces, 2 is new, 3 changes nothing that is looked at, 4 was refused. Entry 5 deletes.
        let before = before(&[1, 3, 4, 5], &[("1", "a"), ("3", "a"), ("4", "a"), ("5", "z")]);
        let after = after(&[false, true, false], &[("1", "b"), ("2", "b"), ("3", "a")]);
        let delta = exchange().delta(&before, &after, 4).unwrap();
        assert_eq!(delta.signs, [-1, 1, 1, -1]);
        assert_eq!(delta.rows, rows(&[("1", "a"), ("1", "b"), ("2", "b"), ("5", "z")]));
    }

    #[test]
    fn a_row_that_somebody_else_wrote_meanwhile_is_noticed() {
        assert_eq!(exchange().delta(&before(&[], &[]), &after(&[false], &[("1", "b")]), 1), Err(Overtaken));
    }

    #[test]
    fn rows_are_locked_in_the_order_of_their_keys() {
        assert_eq!(
            &*exchange().lock,
            "SELECT array_agg(number), array_agg(c0), array_agg(c1) FROM (SELECT u.number, t.\"order_id\"::text AS c0, t.\"city\"::text AS c1 \
             FROM \"r\".\"t\" AS t JOIN (SELECT u.k0::bigint AS k0, u.version, u.number FROM unnest($1::text[], $2::bytea[]) \
             WITH ORDINALITY AS u (k0, version, number)) AS u ON t.\"order_id\" = u.k0 WHERE t.record_version < u.version \
             ORDER BY t.\"order_id\" FOR UPDATE OF t) AS locked"
        );
        assert_eq!(exchange().places(&[Column { name: "city".into(), type_sql: "text".into() }]), [1]);
    }
}
