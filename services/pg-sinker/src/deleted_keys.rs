//! The keys that were deleted, with their version: without them a repeat of an older record would revive the row.

use shared::pg::TableName;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};

use crate::entry::Entry;
use crate::upsert::Guard;

pub fn table() -> TableName {
    TableName { schema: "tidemill".into(), name: "deleted_keys".into() }
}

/// Enters the deletions, each with the highest version known. Answers how many were not known yet; of those that are read again, how many
/// will be kept from now on.
pub async fn remember(
    connection: &mut PgConnection,
    table: &str,
    gone: &[&Entry<'_>],
    guard: Guard,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "INSERT INTO tidemill.deleted_keys AS d (sink_table, key, record_version) \
         SELECT $1, u.key, u.version FROM unnest($2::text[], $3::bytea[]) AS u (key, version) \
         ON CONFLICT (sink_table, key) DO UPDATE SET record_version = excluded.record_version, deleted_at = excluded.deleted_at \
         WHERE d.record_version < excluded.record_version OR ($4 AND d.record_version = excluded.record_version)",
    )
    .bind(table)
    .bind(gone.iter().map(|entry| entry.key).bind_iter())
    .bind(gone.iter().map(|entry| &entry.version[..]).bind_iter())
    .bind(guard == Guard::NotOlder)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Keys that are forgotten at once: the bound keeps the writer's rows from waiting.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// Forgets some of the keys that were deleted long ago.
pub async fn forget(connection: &mut PgConnection, tables: &[&str], keep_days: u32) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM tidemill.deleted_keys WHERE ctid = ANY (ARRAY( \
         SELECT ctid FROM tidemill.deleted_keys WHERE deleted_at < now() - $1 * interval '1 day' AND sink_table = ANY ($2) \
         ORDER BY deleted_at LIMIT $3))",
    )
    .bind(f64::from(keep_days))
    .bind(tables)
    .bind(FORGOTTEN_AT_ONCE)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets some of the keys of a table that is no more. Answers how many.
pub async fn forget_some_of(connection: &mut PgConnection, table: &str) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM tidemill.deleted_keys WHERE ctid = ANY (ARRAY( \
         SELECT ctid FROM tidemill.deleted_keys WHERE sink_table = $1 LIMIT $2))",
    )
    .bind(table)
    .bind(FORGOTTEN_AT_ONCE)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
