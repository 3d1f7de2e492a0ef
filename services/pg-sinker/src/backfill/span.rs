//! Which records are read again: a range of time, a range of keys.
//!
//! Time is the timestamp of the record in the topic. Keys are values of the table's key, which the server compares in their own types.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use shared::failure::{Failure, FailureKind};
use shared::pg::quoted;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};

use crate::coalesce;
use crate::entry::Entry;
use crate::tables::{Column, Target};

/// The range that was asked; what is not named has no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Milliseconds since 1970, included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Not included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// The first key, included: values as text, of all columns of the key or of the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
    /// The last key, included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
}

/// A record that may be taken, and whether it lies in the range of time.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'e, 'a> {
    pub entry: &'e Entry<'a>,
    pub is_in_time: bool,
}

impl Span {
    /// A record without a timestamp lies in every range.
    pub fn is_in_time(&self, timestamp_ms: Option<i64>) -> bool {
        let Some(at) = timestamp_ms else { return true };
        self.since_ms.is_none_or(|since| at >= since) && self.until_ms.is_none_or(|until| at < until)
    }

    /// As it stands in the sink.
    pub fn text(&self) -> Result<String, Failure> {
        serde_json::to_string(self)
            .map_err(|error| Failure::new(FailureKind::Broken, "a range cannot be written as JSON").caused_by(error))
    }

    fn is_bounded(&self) -> bool {
        self.since_ms.is_some() || self.until_ms.is_some() || self.from.is_some() || self.to.is_some()
    }

    /// Those of a chunk that are taken. A record outside of the range of time is, where it is of a row that is there, or comes with
    /// this chunk: no row of the range may stay behind what the topic has come to.
    pub async fn taken<'e, 'a>(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        candidates: &[Candidate<'e, 'a>],
    ) -> sqlx::Result<Vec<&'e Entry<'a>>> {
        if !self.is_bounded() || candidates.is_empty() {
            return Ok(candidates.iter().map(|candidate| candidate.entry).collect());
        }
        let key = |candidate: &Candidate<'e, 'a>| coalesce::key(target, candidate.entry);
        let coming: HashSet<_> = candidates.iter().filter(|found| found.is_in_time).map(key).collect();
        let mut query = sqlx::query_scalar::<_, Vec<i64>>(AssertSqlSafe(self.statement(target)));
        for field in target.key_fields() {
            let texts =
                candidates.iter().map(move |found| found.entry.fields.get(field).and_then(|field| field.text()));
            query = query.bind(texts.bind_iter());
        }
        query = query.bind(candidates.iter().map(|found| found.is_in_time || coming.contains(&key(found))).bind_iter());
        for value in self.from.iter().chain(&self.to).flatten() {
            query = query.bind(value);
        }
        let numbers = query.fetch_one(connection).await?;
        let at = numbers.into_iter().filter_map(|number| usize::try_from(number - 1).ok());
        Ok(at.filter_map(|at| candidates.get(at)).map(|found| found.entry).collect())
    }

    /// Answers the numbers, from 1, of the keys that are taken.
    fn statement(&self, target: &Target) -> String {
        let table = &target.table;
        let key: Vec<&Column> = table.key_columns().collect();
        let each = |text: &dyn Fn(usize, &Column) -> String| {
            key.iter().enumerate().map(|(at, column)| text(at, column)).collect::<Vec<_>>()
        };
        let values = each(&|at, column| format!("u.k{at}::{}", column.type_sql));
        let mut number = key.len() + 1;
        let mut conditions = vec![format!(
            "(u.is_coming OR EXISTS (SELECT FROM {} AS t WHERE {}))",
            table.name.sql(),
            each(&|at, column| format!("t.{} = u.k{at}::{}", quoted(&column.name), column.type_sql)).join(" AND ")
        )];
        for (bound, sign) in [(&self.from, ">="), (&self.to, "<=")] {
            let Some(bound) = bound else { continue };
            // Of a key of several columns the first ones may be named alone.
            let of = |texts: Vec<String>| texts.into_iter().take(bound.len()).collect::<Vec<_>>().join(", ");
            let bounds = each(&|at, column| format!("${}::text::{}", number + 1 + at, column.type_sql));
            conditions.push(format!("({}) {sign} ({})", of(values.clone()), of(bounds)));
            number += bound.len();
        }
        format!(
            "SELECT ARRAY(SELECT u.number FROM unnest({}, ${}::bool[]) WITH ORDINALITY AS u ({}, is_coming, number) \
             WHERE {} ORDER BY u.number)",
            each(&|at, _| format!("${}::text[]", at + 1)).join(", "),
            key.len() + 1,
            each(&|at, _| format!("k{at}")).join(", "),
            conditions.join(" AND ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::Tables;
    use crate::tables::tests::example;

    #[test]
    fn time_is_from_and_up_to() {
        let span = Span { since_ms: Some(10), until_ms: Some(20), ..Span::default() };
        assert_eq!([9, 10, 19, 20].map(|at| span.is_in_time(Some(at))), [false, true, true, false]);
        assert!(span.is_in_time(None) && Span::default().is_in_time(Some(0)));
        assert!(!Span::default().is_bounded() && span.is_bounded());
    }

    #[test]
    fn keys_are_compared_in_their_own_types() {
        let tables = Tables::new(vec![example(OnTombstone::Delete)]);
        let span = Span { from: Some(vec!["1".into()]), to: Some(vec!["9".into()]), ..Span::default() };
        assert_eq!(
            span.statement(&tables.tables[0]),
            "SELECT ARRAY(SELECT u.number FROM unnest($1::text[], $2::bool[]) WITH ORDINALITY AS u (k0, is_coming, number) \
             WHERE (u.is_coming OR EXISTS (SELECT FROM \"r\".\"t\" AS t WHERE t.\"order_id\" = u.k0::bigint)) \
             AND (u.k0::bigint) >= ($3::text::bigint) AND (u.k0::bigint) <= ($4::text::bigint) ORDER BY u.number)"
        );
    }
}
