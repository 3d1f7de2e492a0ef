//! The SQL of one side. Its table is called `s`; values are bound as text and cast by the server.

use super::kind::KeySide;
use super::parts::Range;

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
    /// The same for sums: in a form that takes the server less to write.
    pub summed: Vec<String>,
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

/// Counts and sums the hashes of the rows `m`. Sums of `bigint` are `numeric`, without a bound.
const SUMS: &str =
    "count(*), coalesce(sum(hashtextextended(m, 0)), 0)::text, coalesce(sum(hashtextextended(m, 1)), 0)::text";

impl SideSql {
    fn keys(&self) -> String {
        joined(&self.key, ", ", |key| key.order.clone())
    }

    /// A bound of the key, from the values that `value` names.
    fn bound(&self, operator: &str, mut value: impl FnMut(usize) -> String) -> String {
        let values =
            joined(self.key.iter().enumerate(), ", ", |(at, key)| format!("{}::text::{}", value(at), key.cast));
        format!("({}) {operator} ({values})", self.keys())
    }

    fn rows_where(&self, bounds: impl IntoIterator<Item = String>) -> String {
        let own = (!self.condition.is_empty()).then(|| format!("({})", self.condition));
        let conditions = bounds.into_iter().chain(own).collect::<Vec<_>>().join(" AND ");
        let conditions = if conditions.is_empty() { conditions } else { format!(" WHERE {conditions}") };
        format!("{} AS s{conditions}", self.from)
    }

    /// The table, and the rows of the range. Its bounds are bound in this order: all columns of the lower, then of the upper one.
    fn rows_of(&self, range: &Range) -> String {
        let mut number = 0;
        let mut next = |_| {
            number += 1;
            format!("${number}")
        };
        let after = range.after.is_some().then(|| self.bound(">", &mut next));
        let upto = range.upto.is_some().then(|| self.bound("<=", &mut next));
        self.rows_where(after.into_iter().chain(upto))
    }

    /// What is hashed of a row. The fence `OFFSET 0` behind it keeps the server from writing the row's text once for each hash.
    fn row_text(&self) -> String {
        format!("ROW({})::text COLLATE \"C\"", self.summed.join(", "))
    }

    /// Answers the sum of the range's rows.
    pub fn sums(&self, range: &Range) -> String {
        format!("SELECT {SUMS} FROM (SELECT {} AS m FROM {} OFFSET 0) AS r", self.row_text(), self.rows_of(range))
    }

    /// Answers the sums of ranges that have both bounds, in their order: an array for each column of the key, of the lower bounds, then of the
    /// upper ones.
    pub fn sums_of_parts(&self) -> String {
        let width = self.key.len();
        let arrays = joined(1..=2 * width, ", ", |number| format!("${number}::text[]"));
        let names = joined(0..2 * width, ", ", |at| format!("tidemill_b{at}"));
        let name = |at: usize| format!("part.tidemill_b{at}");
        let rows = self.rows_where([self.bound(">", name), self.bound("<=", |at| name(width + at))]);
        format!(
            "SELECT sums.* FROM unnest({arrays}) WITH ORDINALITY AS part ({names}, tidemill_n) CROSS JOIN LATERAL \
             (SELECT {SUMS} FROM (SELECT {} AS m FROM {rows} OFFSET 0) AS r) AS sums ORDER BY part.tidemill_n",
            self.row_text()
        )
    }

    fn key_texts(&self) -> String {
        format!("ARRAY[{}]", joined(&self.key, ", ", |key| key.text.clone()))
    }

    /// Answers key and hashes of each row of the range.
    pub fn list(&self, range: &Range) -> String {
        format!(
            "SELECT k, hashtextextended(m, 0), hashtextextended(m, 1) FROM (SELECT {} AS k, {} AS m FROM {} OFFSET 0) AS r",
            self.key_texts(),
            self.row_text(),
            self.rows_of(range)
        )
    }

    /// Answers the key of each row of the range whose number is a multiple of the first parameter behind those of the range, of so many rows
    /// as the second one says.
    pub fn marks(&self, range: &Range) -> String {
        let bounds = usize::from(range.after.is_some()) + usize::from(range.upto.is_some());
        let (every, rows) = (bounds * self.key.len() + 1, bounds * self.key.len() + 2);
        format!(
            "SELECT k FROM (SELECT row_number() OVER (ORDER BY {keys}) AS n, \
             CASE WHEN row_number() OVER (ORDER BY {keys}) % ${every}::int8 = 0 THEN {texts} END AS k \
             FROM {of_range} ORDER BY {keys} LIMIT ${rows}::int8) AS numbered WHERE k IS NOT NULL ORDER BY n",
            keys = self.keys(),
            texts = self.key_texts(),
            of_range = self.rows_of(range)
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
            columns: vec!["s.\"id\"".into(), "s.\"at\"".into()],
            summed: vec!["s.\"id\"".into(), "timestamp_send(s.\"at\")".into()],
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
    }

    #[test]
    fn keys_are_counted_in_their_order() {
        assert_eq!(
            side().marks(&range(true, false)),
            "SELECT k FROM (SELECT row_number() OVER (ORDER BY s.\"shop\", s.\"id\") AS n, CASE WHEN row_number() OVER (ORDER BY \
             s.\"shop\", s.\"id\") % $3::int8 = 0 THEN ARRAY[s.\"shop\"::text, s.\"id\"::text] END AS k FROM ONLY \"b\".\"o\" AS s \
             WHERE (s.\"shop\", s.\"id\") > ($1::text::text, $2::text::bigint) ORDER BY s.\"shop\", s.\"id\" LIMIT $4::int8) \
             AS numbered WHERE k IS NOT NULL ORDER BY n"
        );
    }

    #[test]
    fn rows_are_written_once_for_both_hashes_and_looked_up_by_key() {
        const ROW: &str =
            "SELECT ROW(s.\"id\", timestamp_send(s.\"at\"))::text COLLATE \"C\" AS m FROM ONLY \"b\".\"o\" AS s";
        assert_eq!(side().sums(&range(false, false)), format!("SELECT {SUMS} FROM ({ROW} OFFSET 0) AS r"));
        assert_eq!(
            side().sums_of_parts(),
            format!(
                "SELECT sums.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS part (tidemill_b0, \
                 tidemill_b1, tidemill_b2, tidemill_b3, tidemill_n) CROSS JOIN LATERAL (SELECT {SUMS} FROM ({ROW} WHERE \
                 (s.\"shop\", s.\"id\") > (part.tidemill_b0::text::text, part.tidemill_b1::text::bigint) AND (s.\"shop\", s.\"id\") <= \
                 (part.tidemill_b2::text::text, part.tidemill_b3::text::bigint) OFFSET 0) AS r) AS sums ORDER BY part.tidemill_n"
            )
        );
        assert_eq!(
            side().rows_by_key(),
            "SELECT asked.tidemill_n, encode(s.record_version, 'hex'), ARRAY[(s.\"id\")::text, (s.\"at\")::text] \
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (tidemill_k0, tidemill_k1, tidemill_n) \
             JOIN ONLY \"b\".\"o\" AS s ON s.\"shop\" = asked.tidemill_k0::text AND s.\"id\" = asked.tidemill_k1::bigint"
        );
    }
}
