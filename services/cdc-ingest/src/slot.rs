//! The replication slot: looked up, waited for, made, given up, and watched.

use std::collections::VecDeque;
use std::time::Duration;

use shared::failure::{Failure, FailureKind};
use shared::health::Health;
use shared::pg::{refused, refused_for_now};
use shared::position::Lsn;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::settings::SlotConfig;
use crate::source::position;
use crate::wal_stream::APPLICATION;

/// The health latch of a slot that another instance holds.
const SLOT_LATCH: &str = "slot";

/// The slot as the server has it (PostgreSQL documentation, "pg_replication_slots").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Who uses it, if anybody.
    pub holder: Option<Holder>,
    /// From here on the server sends; unknown while the slot is being made.
    pub confirmed: Option<Lsn>,
    /// Why nothing can be read from it any more.
    pub lost: Option<String>,
}

/// The process of the server that uses the slot, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    pub application: String,
    pub address: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of the server ({} at {})", self.pid, self.application, self.address)
    }
}

async fn server_version(connection: &mut PgConnection) -> Result<i32, Failure> {
    sqlx::query_scalar("SELECT current_setting('server_version_num')::int4")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the server's version cannot be read", error))
}

/// The slot, if it exists; it must be ours to use.
pub async fn look(connection: &mut PgConnection, name: &str) -> Result<Option<Slot>, Failure> {
    // What 16 calls conflicting is any reason, and on a primary there is one only.
    let reason = match server_version(connection).await? {
        170_000.. => "s.invalidation_reason",
        _ => "NULL::text",
    };
    let sql = format!(
        "SELECT s.plugin::text, s.database::text = current_database(), s.active_pid, s.confirmed_flush_lsn::text, \
           s.wal_status = 'lost', {reason}, coalesce(a.application_name, '?'), coalesce(host(a.client_addr), 'an unknown address') \
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1"
    );
    let unreadable = |error| refused(format!("slot {name} cannot be looked up"), error);
    let found = sqlx::query(AssertSqlSafe(sql)).bind(name).fetch_optional(connection).await.map_err(unreadable)?;
    let Some(found) = found else { return Ok(None) };
    let plugin: Option<String> = found.try_get(0).map_err(unreadable)?;
    let ours: Option<bool> = found.try_get(1).map_err(unreadable)?;
    if plugin.as_deref() != Some("pgoutput") || ours != Some(true) {
        return Err(Failure::new(
            FailureKind::Settings,
            format!("slot {name} is not a pgoutput slot of this database"),
        )
        .cure("set slot.name to a name that nobody uses"));
    }
    let pid: Option<i32> = found.try_get(2).map_err(unreadable)?;
    let (application, address) = (found.try_get(6).map_err(unreadable)?, found.try_get(7).map_err(unreadable)?);
    let confirmed: Option<String> = found.try_get(3).map_err(unreadable)?;
    let lost: Option<bool> = found.try_get(4).map_err(unreadable)?;
    let reason: Option<String> = found.try_get(5).map_err(unreadable)?;
    Ok(Some(Slot {
        holder: pid.map(|pid| Holder { pid, application, address }),
        confirmed: confirmed.as_deref().map(position).transpose()?,
        lost: (lost == Some(true) || reason.is_some()).then(|| reason.unwrap_or_else(|| "wal_removed".into())),
    }))
}

/// How often a connection of ours that was just ended is looked at.
const ENDED_POLL: Duration = Duration::from_millis(20);

/// Waits until nobody uses the slot: this instance is the standby of the one that does.
pub async fn free(
    connection: &mut PgConnection,
    config: &SlotConfig,
    health: &Health,
) -> Result<Option<Slot>, Failure> {
    let name = &config.name;
    let (mut said, mut ended) = (None, None);
    loop {
        let slot = look(connection, name).await?;
        let Some(holder) = slot.as_ref().and_then(|slot| slot.holder.clone()) else {
            health.release(SLOT_LATCH);
            return Ok(slot);
        };
        if holder.application == *APPLICATION {
            if ended != Some(holder.pid) {
                end_holder(connection, &holder).await?;
                ended = Some(holder.pid);
            }
            tokio::time::sleep(ENDED_POLL).await;
            continue;
        }
        if said.as_ref() != Some(&holder) {
            let waits = format!("slot {name}, which is in use by {holder}");
            tracing::warn!("waiting for {waits}; this instance takes over when it is free");
            health.stand_by(SLOT_LATCH, waits);
            said = Some(holder);
        }
        tokio::time::sleep(Duration::from_millis(config.takeover_poll_ms)).await;
    }
}

const NO_ROOM: &str = "raise max_replication_slots, or drop slots that nobody uses (pg_replication_slots)";

/// A server that has all the slots it may have makes no other.
pub async fn has_room(connection: &mut PgConnection) -> Result<(), Failure> {
    let (has, may): (i64, i64) =
        sqlx::query_as("SELECT count(*), current_setting('max_replication_slots')::int8 FROM pg_replication_slots")
            .fetch_one(connection)
            .await
            .map_err(|error| refused("the slots of the server cannot be counted", error))?;
    if has < may {
        return Ok(());
    }
    let full = format!("the server has {has} slots and max_replication_slots={may}, so no slot can be made");
    Err(Failure::new(FailureKind::Refused, full).cure(NO_ROOM))
}

/// Makes the slot, and gives the position from which on nothing is lost.
pub async fn make(connection: &mut PgConnection, config: &SlotConfig) -> Result<Lsn, Failure> {
    let failover = config.failover && server_version(connection).await? >= 170_000;
    let option = if failover { ", failover => true" } else { "" };
    let sql = format!("SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput'{option})");
    let name = &config.name;
    let made: String = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(|error| not_made(name, error))?;
    tracing::info!(slot = name, failover, lsn = made, "slot made");
    position(&made)
}

/// duplicate_object, of PostgreSQL's appendix of error codes.
const DUPLICATE: &str = "42710";

fn not_made(name: &str, error: sqlx::Error) -> Failure {
    let code = error.as_database_error().and_then(|said| said.code());
    if code.is_some_and(|code| code == DUPLICATE) {
        return Failure::new(FailureKind::Fenced, format!("another instance has made slot {name} just now"))
            .caused_by(error)
            .cure("nothing: this instance starts its chain again, and waits until the slot is free");
    }
    refused(format!("slot {name} could not be made"), error).cure(NO_ROOM)
}

/// Drops a slot from which nothing can be read any more.
pub async fn drop(connection: &mut PgConnection, name: &str) -> Result<(), Failure> {
    sqlx::query("SELECT pg_drop_replication_slot($1)")
        .bind(name)
        .execute(connection)
        .await
        .map(|_| tracing::info!(slot = name, "invalidated slot dropped"))
        .map_err(|error| refused(format!("slot {name} was invalidated and could not be dropped"), error))
}

/// Ends the server's process of a connection of ours that broke without the server's knowledge.
pub async fn end_holder(connection: &mut PgConnection, holder: &Holder) -> Result<(), Failure> {
    tracing::warn!(%holder, "the slot is held by a broken connection of this process: it is ended");
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(holder.pid)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(|error| refused_for_now("a broken connection of ours could not be ended", error))
}

/// The slot at one moment, as the guardian sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLook {
    /// Where the server's WAL ends.
    pub current: Lsn,
    /// Whether the slot exists and a connection holds it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    pub restart: Lsn,
    pub confirmed: Lsn,
    /// WAL that may still be written before the slot is in danger; `None` where the server sets no bound.
    pub safe_wal_bytes: Option<i64>,
    /// The transactions that the server sees, as `pg_current_snapshot()` prints them.
    pub snapshot: String,
}

/// One look of the guardian.
pub async fn guard(connection: &mut PgConnection, name: &str) -> Result<Option<SlotLook>, Failure> {
    let unreadable = |error| refused_for_now(format!("slot {name} cannot be looked up"), error);
    let found = sqlx::query(
        "SELECT pg_current_wal_lsn()::text, active, coalesce(wal_status, 'reserved'), coalesce(restart_lsn, '0/0')::text, \
           coalesce(confirmed_flush_lsn, '0/0')::text, safe_wal_size, pg_current_snapshot()::text \
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(unreadable)?;
    let Some(row) = found else { return Ok(None) };
    let text = |index: usize| row.try_get::<String, _>(index).map_err(unreadable);
    Ok(Some(SlotLook {
        current: position(&text(0)?)?,
        active: row.try_get(1).map_err(unreadable)?,
        wal_status: text(2)?,
        restart: position(&text(3)?)?,
        confirmed: position(&text(4)?)?,
        safe_wal_bytes: row.try_get(5).map_err(unreadable)?,
        snapshot: text(6)?,
    }))
}

/// Where the server's WAL ended at the last looks.
#[derive(Debug, Default)]
pub struct WalPast {
    /// Time in milliseconds and position, oldest first.
    looks: VecDeque<(u64, Lsn)>,
}

/// So many looks are kept.
const LOOKS_MAX: usize = 3_600;

/// The rate is taken over so many looks.
const LOOKS_OF_RATE: usize = 60;

impl WalPast {
    pub fn push(&mut self, at_ms: u64, position: Lsn) {
        if self.looks.len() >= LOOKS_MAX {
            self.looks.pop_front();
        }
        self.looks.push_back((at_ms, position));
    }

    /// How fast WAL is written just now.
    pub fn bytes_a_minute(&self) -> u64 {
        let first = self.looks.get(self.looks.len().saturating_sub(LOOKS_OF_RATE));
        let (Some(&(first_ms, first)), Some(&(last_ms, last))) = (first, self.looks.back()) else { return 0 };
        last.0.saturating_sub(first.0).saturating_mul(60_000) / last_ms.saturating_sub(first_ms).max(1)
    }

    /// How long ago the server's WAL ended where we are now; 0 when we are at its end.
    pub fn lag_seconds(&self, confirmed: Lsn) -> u64 {
        let ahead = self.looks.iter().find(|(_, position)| *position > confirmed);
        let (Some(&(ahead_ms, _)), Some(&(last_ms, _))) = (ahead, self.looks.back()) else { return 0 };
        last_ms.saturating_sub(ahead_ms).div_ceil(1_000)
    }
}

/// Minutes until `safe_bytes` are written at this rate; `None` where there is no bound or nothing is written.
pub fn minutes_left(safe_bytes: Option<i64>, bytes_a_minute: u64) -> Option<i64> {
    let safe_bytes = safe_bytes?.max(0);
    let rate = i64::try_from(bytes_a_minute).unwrap_or(i64::MAX);
    (rate > 0).then(|| safe_bytes / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_left_by_the_rate_of_the_last_looks() {
        let mut past = WalPast::default();
        past.push(0, Lsn(1_000));
        assert_eq!(past.bytes_a_minute(), 0);
        past.push(30_000, Lsn(4_000));
        assert_eq!(past.bytes_a_minute(), 6_000);
        for second in 0..200 {
            past.push(60_000 + second * 1_000, Lsn(4_000));
        }
        assert_eq!(past.bytes_a_minute(), 0, "what was long ago does not count");
        assert_eq!(minutes_left(Some(18_000), 6_000), Some(3));
        assert_eq!(minutes_left(Some(-5), 6_000), Some(0));
        assert_eq!(minutes_left(None, 6_000), None);
        assert_eq!(minutes_left(Some(1), 0), None);
    }

    #[test]
    fn the_lag_is_the_time_since_the_server_was_where_we_are() {
        let mut past = WalPast::default();
        assert_eq!(past.lag_seconds(Lsn(0)), 0);
        for (second, position) in [(0, 100), (1, 200), (2, 200), (3, 300)] {
            past.push(second * 1_000, Lsn(position));
        }
        assert_eq!([300, 200, 150, 50].map(|at| past.lag_seconds(Lsn(at))), [0, 0, 2, 3]);
    }
}
