//! The SQL of one side. Its table is called `s`; values are bound as text and cast by the server.

use super::halving::Range;
use super::kind::KeySide;

/// One side of a pair, in SQL.
#[derive(Debug, Clone)]
pub struct SideSql {
    /// `ONLY "business"."orders"`.
    pub from: String,
    /// A further condition; empty: none.
    pub condition: String,
    pub key: Vec<KeySide>,
    /// The compared columns, brought to one text.
    pub columns: Vec<String>,
    /// What changes with every version of a row.
    pub identity: &'static str,
}

/// Of the source's rows: where the version stands, and who wrote it.
pub const OF_A_HEAP: &str = "s.tableoid::text || s.ctid::text || s.xmin::text";
/// Of the sink's rows.
pub const OF_THE_SINK: &str = "encode(s.record_version, 'hex')";

fn joined<T>(items: impl IntoIterator<Item = T>, separator: &str, text: impl FnMut(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(separator)
}

impl SideSql {
    /// The table, and the rows of the range. Its bounds are bound in this order: all columns of the lower, then of the upper one.
    fn rows_of(&self, range: &Range) -> String {
        let keys = joined(&self.key, ", ", |key| key.order.clone());
        let mut number = 0;
        let mut bound = |is_given: bool, operator: &str| {
            is_given.then(|| {
                let values = joined(&self.key, ", ", |key| {
                    number += 1;
                    format!("${number}::text::{}", key.cast)
                });
                format!("({keys}) {operator} ({values})")
            })
        };
        let after = bound(range.after.is_some(), ">");
        let upto = bound(range.upto.is_some(), "<=");
        let own = (!self.condition.is_empty()).then(|| format!("({})", self.condition));
        let conditions: Vec<String> = [after, upto, own].into_iter().flatten().collect();
        let conditions =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("{} AS s{conditions}", self.from)
    }

    fn row_md5(&self) -> String {
        format!("md5(ROW({})::text)", self.columns.join(", "))
    }

    /// Answers the sum of the range's rows. Without the fence `OFFSET 0` each row would be written and hashed twice.
    pub fn sums(&self, range: &Range) -> String {
        format!(
            "SELECT count(*), coalesce(sum(('x' || left(m, 16))::bit(64)::int8), 0)::text, \
             coalesce(sum(('x' || right(m, 16))::bit(64)::int8), 0)::text \
             FROM (SELECT {} AS m FROM {} OFFSET 0) AS rows",
            self.row_md5(),
            self.rows_of(range)
        )
    }

    fn key_texts(&self) -> String {
        format!("ARRAY[{}]", joined(&self.key, ", ", |key| key.text.clone()))
    }

    /// Answers key and MD5 of each row of the range.
    pub fn list(&self, range: &Range) -> String {
        format!("SELECT {}, {} FROM {}", self.key_texts(), self.row_md5(), self.rows_of(range))
    }

    /// Answers the key of the row behind so many others of the range, the parameter behind those of the range.
    pub fn key_at(&self, range: &Range) -> String {
        let bounds = usize::from(range.after.is_some()) + usize::from(range.upto.is_some());
        format!(
            "SELECT {} FROM {} ORDER BY {} OFFSET ${}::int8 LIMIT 1",
            self.key_texts(),
            self.rows_of(range),
            joined(&self.key, ", ", |key| key.order.clone()),
            bounds * self.key.len() + 1
        )
    }

    /// Answers number, identity and columns of the rows with these keys: an array for each column of the key.
    pub fn rows_by_key(&self) -> String {
        let arrays = joined(1..=self.key.len(), ", ", |number| format!("${number}::text[]"));
        let names = joined(0..self.key.len(), ", ", |at| format!("tidemill_k{at}"));
        let same = joined(self.key.iter().enumerate(), " AND ", |(at, key)| {
            format!("{} = asked.tidemill_k{at}::{}", key.equal, key.equal_cast)
        });
        let own = if self.condition.is_empty() { String::new() } else { format!(" AND ({})", self.condition) };
        format!(
            "SELECT asked.tidemill_n, {}, ARRAY[{}] FROM unnest({arrays}) WITH ORDINALITY AS asked ({names}, tidemill_n) \
             JOIN {} AS s ON {same}{own}",
            self.identity,
            joined(&self.columns, ", ", |column| format!("({column})::text")),
            self.from
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, cast: &'static str) -> KeySide {
        let sql = format!("s.\"{name}\"");
        KeySide { order: sql.clone(), cast, equal: sql.clone(), equal_cast: cast, text: format!("{sql}::text") }
    }

    fn side() -> SideSql {
        SideSql {
            from: "ONLY \"b\".\"o\"".into(),
            condition: String::new(),
            key: vec![key("shop", "text"), key("id", "bigint")],
            columns: vec!["s.\"id\"".into(), "trim_scale(s.\"price\")".into()],
            identity: OF_THE_SINK,
        }
    }

    fn range(after: bool, upto: bool) -> Range {
        let bound = |given: bool| given.then(|| vec!["a".to_owned(), "1".to_owned()]);
        Range { after: bound(after), upto: bound(upto) }
    }

    #[test]
    fn a_range_is_bound_by_both_columns_of_the_key() {
        let keys = "(s.\"shop\", s.\"id\")";
        assert_eq!(side().rows_of(&range(false, false)), "ONLY \"b\".\"o\" AS s");
        assert_eq!(
            side().rows_of(&range(true, true)),
            format!(
                "ONLY \"b\".\"o\" AS s WHERE {keys} > ($1::text::text, $2::text::bigint) AND {keys} <= ($3::text::text, $4::text::bigint)"
            )
        );
        let filtered = SideSql { condition: "NOT gone".into(), ..side() };
        assert!(
            filtered.rows_of(&range(false, true)).ends_with("<= ($1::text::text, $2::text::bigint) AND (NOT gone)")
        );
        assert!(side().key_at(&range(true, false)).ends_with("ORDER BY s.\"shop\", s.\"id\" OFFSET $3::int8 LIMIT 1"));
    }

    #[test]
    fn rows_are_summed_once_and_looked_up_by_key() {
        assert_eq!(
            side().sums(&range(false, false)),
            "SELECT count(*), coalesce(sum(('x' || left(m, 16))::bit(64)::int8), 0)::text, \
             coalesce(sum(('x' || right(m, 16))::bit(64)::int8), 0)::text FROM (SELECT \
             md5(ROW(s.\"id\", trim_scale(s.\"price\"))::text) AS m FROM ONLY \"b\".\"o\" AS s OFFSET 0) AS rows"
        );
        assert_eq!(
            side().rows_by_key(),
            "SELECT asked.tidemill_n, encode(s.record_version, 'hex'), ARRAY[(s.\"id\")::text, (trim_scale(s.\"price\"))::text] \
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (tidemill_k0, tidemill_k1, tidemill_n) \
             JOIN ONLY \"b\".\"o\" AS s ON s.\"shop\" = asked.tidemill_k0::text AND s.\"id\" = asked.tidemill_k1::bigint"
        );
    }
}
