//! The statements of `upsert` with the values of a batch, and what the server answers.

use std::sync::Arc;

use shared::record::row::Field;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Row as _};

use crate::entry::Entry;
use crate::exchange::{self, Exchange, Rows};
use crate::tables::Target;
use crate::upsert::Statements;

/// Rows that were written; those that the guard refused are not among them.
#[derive(Debug, Default)]
pub struct Written {
    pub versions: Vec<Vec<u8>>,
    /// What came of it, where an exchange looks at the rows.
    pub exchanged: exchange::Written,
}

/// Writes the rows, one for each key.
pub async fn write_rows(
    connection: &mut PgConnection,
    target: &Target,
    statements: &Statements,
    exchange: Option<&Exchange>,
    rows: &[&Entry<'_>],
) -> sqlx::Result<Written> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&statements.upsert)));
    for (column, field) in target.columns() {
        query = match column.is_json() {
            false => query.bind(rows.iter().map(|row| row.fields.get(field).and_then(Field::text)).bind_iter()),
            true => query.bind(rows.iter().map(|row| target.text(&row.fields, column, field)).bind_iter()),
        };
    }
    query = query.bind(rows.iter().map(|row| row.header.commit_time_us).bind_iter());
    query = query.bind(rows.iter().map(|row| &row.version[..]).bind_iter());
    if target.table.on_tombstone.is_heeded() {
        query = query.bind(rows.iter().map(|row| row.key).bind_iter()).bind(&target.table.label);
    }
    let answer = query.fetch_one(connection).await?;
    let versions: Option<Vec<Vec<u8>>> = answer.try_get(0)?;
    let exchanged = exchange.map(|exchange| exchange.written(&answer, 1)).transpose()?;
    Ok(Written { versions: versions.unwrap_or_default(), exchanged: exchanged.unwrap_or_default() })
}

/// Deletes the rows of these keys that are older than their deletion, or marks them. Answers those that it deleted, where an exchange looks
/// at them.
pub async fn delete_rows(
    connection: &mut PgConnection,
    target: &Target,
    statements: &Statements,
    exchange: Option<&Exchange>,
    gone: &[&Entry<'_>],
) -> sqlx::Result<Rows> {
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&statements.delete)));
    for field in target.key_fields() {
        query = query.bind(gone.iter().map(|entry| entry.fields.get(field).and_then(Field::text)).bind_iter());
    }
    query = query.bind(gone.iter().map(|entry| entry.header.commit_time_us).bind_iter());
    query = query.bind(gone.iter().map(|entry| &entry.version[..]).bind_iter());
    let Some(exchange) = exchange else {
        query.execute(connection).await?;
        return Ok(Rows::default());
    };
    Rows::read(&query.fetch_one(connection).await?, 0, exchange.columns.len())
}
