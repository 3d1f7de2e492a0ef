//! Values of topics brought to the text that the compared columns have: by the sink, which would cast them so if it wrote them.

use std::collections::HashMap;

use shared::failure::Failure;
use shared::pg::{quoted, refused};
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Row as _};

use super::judge::Texts;
use super::pair::Pair;
use super::search::Newest;

/// A row of a topic: a column is `None` where the record lacks it.
type Values = Vec<Option<Option<String>>>;

/// The records with their values as the sink would have them. Those of a row that the sink would refuse stay as they are.
pub async fn as_in_the_sink(
    sink: &mut PgConnection,
    pair: &Pair,
    mut records: HashMap<usize, Newest>,
) -> Result<HashMap<usize, Newest>, Failure> {
    let failed = |error| refused("values of topics cannot be brought to the types of the sink", error);
    let sql = statement(pair);
    let mut rows: Vec<&mut Values> = records.values_mut().filter_map(|newest| newest.row.as_mut()).collect();
    match bring(sink, &sql, &mut rows).await {
        Err(error) if is_about_values(&error) => {
            for row in rows {
                match bring(sink, &sql, &mut [row]).await {
                    Err(error) if !is_about_values(&error) => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        brought => brought.map_err(failed)?,
    }
    Ok(records)
}

/// Whether an error is about the values: SQLSTATE class 22, data exception.
fn is_about_values(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|found| found.code());
    code.is_some_and(|code| code.starts_with("22"))
}

fn joined<T>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Takes an array for each column, and answers an array of the columns for each row.
fn statement(pair: &Pair) -> String {
    let columns = || pair.columns.iter().enumerate();
    format!(
        "SELECT ARRAY[{}] FROM (SELECT u.n AS tidemill_n, {} FROM unnest({}) WITH ORDINALITY AS u ({}, n)) AS s ORDER BY s.tidemill_n",
        joined(&pair.sink.columns, |column| format!("({column})::text")),
        joined(columns(), |(at, column)| format!("u.c{at}::{} AS {}", column.of.sql, quoted(&column.name))),
        joined(columns(), |(at, _)| format!("${}::text[]", at + 1)),
        joined(columns(), |(at, _)| format!("c{at}")),
    )
}

async fn bring(sink: &mut PgConnection, sql: &str, rows: &mut [&mut Values]) -> Result<(), sqlx::Error> {
    let columns = rows.first().map_or(0, |row| row.len());
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for at in 0..columns {
        query = query.bind(rows.iter().map(|row| row.get(at).cloned().flatten().flatten()).bind_iter());
    }
    if rows.is_empty() {
        return Ok(());
    }
    let brought = query.fetch_all(sink).await?;
    for (row, brought) in rows.iter_mut().zip(&brought) {
        let texts: Texts = brought.try_get(0)?;
        row.iter_mut().zip(texts).filter(|(value, _)| value.is_some()).for_each(|(value, text)| *value = Some(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::pair::tests::example;

    #[test]
    fn values_are_cast_to_the_columns_of_the_sink() {
        assert_eq!(
            statement(&example()),
            "SELECT ARRAY[(s.\"id\")::text, (s.\"status\")::text, (s.\"at\")::text] FROM (SELECT u.n AS tidemill_n, \
             u.c0::bigint AS \"id\", u.c1::text AS \"status\", u.c2::timestamp(3) AS \"at\" \
             FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u (c0, c1, c2, n)) AS s ORDER BY s.tidemill_n"
        );
    }
}
