//! The replication slot, as the source sees it.

use shared::failure::Failure;
use shared::pg::refused;
use sqlx::postgres::PgConnection;

/// State of the slot that cdc-ingest reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Bytes of WAL between what is confirmed and the end.
    pub lag_bytes: i64,
}

/// The slot of that name; `None` where there is none.
pub async fn look(source: &mut PgConnection, name: &str) -> Result<Option<Slot>, Failure> {
    let found: Option<(bool, String, i64)> = sqlx::query_as(
        "SELECT active, coalesce(wal_status, ''),
                coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(name)
    .fetch_optional(source)
    .await
    .map_err(|error| refused("the replication slots cannot be read", error))?;
    Ok(found.map(|(active, wal_status, lag_bytes)| Slot { active, wal_status, lag_bytes }))
}
