//! What a batch takes out of a table and what it puts in, for the roll-ups over it.
//!
//! The statement that writes rows locks and reads those that it will replace before, and returns what stands there afterwards; one that
//! deletes returns what it deleted. Only rows that the version guard let through are in it.

use std::collections::HashMap;

use shared::pg::quoted;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::tables::{Column, RECORD_VERSION, Table};
use crate::upsert::Guard;

/// What is looked at in a table's rows.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The key, then whatever a roll-up is made from.
    pub columns: Vec<Column>,
    pub keys: usize,
}

/// Values as text, column by column. Text is what the server gives and takes without loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<Vec<Option<String>>>,
}

/// Rows that a statement has written.
#[derive(Debug, Default)]
pub struct Written {
    /// Those that it replaced, as they were; and those that it would have replaced, had the guard let it.
    pub before: Rows,
    /// Whether each row is new in the table.
    pub inserted: Vec<bool>,
    pub after: Rows,
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
        Exchange { columns, keys }
    }

    /// Where each of these columns stands.
    pub fn places(&self, columns: &[Column]) -> Vec<usize> {
        columns.iter().filter_map(|column| self.columns.iter().position(|found| found == column)).collect()
    }

    /// Reads what was written, from column `first` of an answer on.
    pub fn written(&self, answer: &PgRow, first: usize) -> sqlx::Result<Written> {
        let (columns, inserted) = (self.columns.len(), answer.try_get::<Option<Vec<bool>>, _>(first)?);
        Ok(Written {
            inserted: inserted.unwrap_or_default(),
            after: Rows::read(answer, first + 1, columns)?,
            before: Rows::read(answer, first + 1 + columns, columns)?,
        })
    }

    /// What changed: each row that was replaced or deleted, each row that was written.
    pub fn delta(&self, written: &Written, deleted: &Rows) -> Result<Delta, Overtaken> {
        let Written { before, inserted, after } = written;
        let mut open: HashMap<Vec<Option<&str>>, usize> =
            (0..before.len()).map(|at| (before.key(at, self.keys), at)).collect();
        let mut delta = Delta { signs: Vec::new(), rows: Rows::empty(self.columns.len()) };
        for (at, &inserted) in inserted.iter().enumerate() {
            match open.remove(&after.key(at, self.keys)) {
                // The same in all that is looked at: nothing changed.
                Some(old) if before.equal(old, after, at) => continue,
                Some(old) => delta.push(-1, before, old),
                None if inserted => {}
                None => return Err(Overtaken),
            }
            delta.push(1, after, at);
        }
        for at in 0..deleted.len() {
            delta.push(-1, deleted, at);
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

    fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
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

/// The parts of a statement that looks at rows.
#[derive(Debug, Default)]
pub struct Parts {
    /// `before AS (…), `: the rows that will be replaced, locked in the order of their keys.
    pub before: String,
    /// The condition of the rows that are written: all of `before` has been read.
    pub behind: String,
    /// What is returned of each row `t` beside its version.
    pub returned: String,
    /// How all of it is gathered from `written` and `before`.
    pub gathered: String,
}

/// `keys` names the parameter that binds each column of the key, `version` that of the versions.
pub fn parts(table: &Table, exchange: &Exchange, (keys, version): (&[usize], usize), guard: Guard) -> Parts {
    let key: Vec<&Column> = table.key_columns().collect();
    let each = |separator: &str, text: &dyn Fn(usize, &str, &str) -> String| {
        let texts = key.iter().enumerate().map(|(at, key)| text(at, &quoted(&key.name), &key.type_sql));
        texts.collect::<Vec<_>>().join(separator)
    };
    let casts = each(", ", &|at, _, type_sql| format!("u.k{at}::{type_sql} AS k{at}"));
    let arrays = keys.iter().map(|number| format!("${number}::text[]")).collect::<Vec<_>>().join(", ");
    let names = each(", ", &|at, _, _| format!("k{at}"));
    let equal = each(" AND ", &|at, name, _| format!("t.{name} = u.k{at}"));
    let order = each(", ", &|_, name, _| format!("t.{name}"));
    let seen = seen(exchange);
    Parts {
        before: format!(
            "before AS (SELECT {} FROM {} AS t \
             JOIN (SELECT {casts}, u.version FROM unnest({arrays}, ${version}::bytea[]) AS u ({names}, version)) AS u \
             ON {equal} WHERE t.{RECORD_VERSION} {} u.version ORDER BY {order} FOR UPDATE OF t), ",
            seen.trim_start_matches(", "),
            table.name.sql(),
            guard.sql(),
        ),
        behind: "(SELECT count(*) FROM before) >= 0".to_owned(),
        // A row that was there carries the lock of the statement that replaced it.
        returned: format!(", t.xmax = 0 AS inserted{seen}"),
        gathered: format!(
            ", array_agg(inserted){}{}",
            list(exchange, |at| format!("array_agg(s{at})")),
            list(exchange, |at| format!("(SELECT array_agg(s{at}) FROM before)"))
        ),
    }
}

fn list(exchange: &Exchange, text: impl Fn(usize) -> String) -> String {
    (0..exchange.columns.len()).map(|at| format!(", {}", text(at))).collect()
}

/// The columns that are looked at, of the row `t`.
fn seen(exchange: &Exchange) -> String {
    let names: Vec<String> = exchange.columns.iter().map(|column| quoted(&column.name)).collect();
    list(exchange, |at| format!("t.{}::text AS s{at}", names.get(at).map_or("", String::as_str)))
}

/// A deletion that answers the rows that it deleted, as [`Rows::read`] reads them.
pub fn deleting(delete: &str, exchange: &Exchange) -> String {
    let gathered = list(exchange, |at| format!("array_agg(s{at})"));
    format!(
        "WITH gone AS ({delete} RETURNING {}) SELECT {} FROM gone",
        seen(exchange).trim_start_matches(", "),
        gathered.trim_start_matches(", ")
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

    #[test]
    fn what_went_and_what_came() {
        // 1 was replaced, 2 is new, 3 changed nothing that is looked at, 4 was refused, 5 was deleted.
        let written = Written {
            before: rows(&[("1", "a"), ("3", "a"), ("4", "a")]),
            inserted: vec![false, true, false],
            after: rows(&[("1", "b"), ("2", "b"), ("3", "a")]),
        };
        let delta = exchange().delta(&written, &rows(&[("5", "z")])).unwrap();
        assert_eq!(delta.signs, [-1, 1, 1, -1]);
        assert_eq!(delta.rows, rows(&[("1", "a"), ("1", "b"), ("2", "b"), ("5", "z")]));
    }

    #[test]
    fn a_row_that_somebody_else_wrote_meanwhile_is_noticed() {
        let written = Written { before: Rows::empty(2), inserted: vec![false], after: rows(&[("1", "b")]) };
        assert_eq!(exchange().delta(&written, &Rows::default()), Err(Overtaken));
    }

    #[test]
    fn rows_are_locked_in_the_order_of_their_keys() {
        let parts = parts(&example(OnTombstone::Delete), &exchange(), (&[2], 7), Guard::Newer);
        assert_eq!(
            parts.before,
            "before AS (SELECT t.\"order_id\"::text AS s0, t.\"city\"::text AS s1 FROM \"r\".\"t\" AS t \
             JOIN (SELECT u.k0::bigint AS k0, u.version FROM unnest($2::text[], $7::bytea[]) AS u (k0, version)) AS u \
             ON t.\"order_id\" = u.k0 WHERE t.record_version < u.version ORDER BY t.\"order_id\" FOR UPDATE OF t), "
        );
        assert_eq!(parts.returned, ", t.xmax = 0 AS inserted, t.\"order_id\"::text AS s0, t.\"city\"::text AS s1");
        assert_eq!(exchange().places(&[Column { name: "city".into(), type_sql: "text".into() }]), [1]);
    }

    #[test]
    fn what_is_deleted_is_answered() {
        assert_eq!(
            deleting("DELETE FROM t", &exchange()),
            "WITH gone AS (DELETE FROM t RETURNING t.\"order_id\"::text AS s0, t.\"city\"::text AS s1) \
             SELECT array_agg(s0), array_agg(s1) FROM gone"
        );
    }
}
