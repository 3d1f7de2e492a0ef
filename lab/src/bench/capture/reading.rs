//! One reader reads the WAL of the load from its first row to its last: how long it takes and what it costs.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use sqlx::postgres::PgConnection;

use super::ingest::Ingest;
use crate::bench::calm::CALM_PROCESSORS;
use crate::bench::child::Child;
use crate::bench::meter::{Cost, Meter, Parts};
use crate::places::Places;
use crate::processes::{self, Memory};

/// What a reading came to.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    pub rows: u32,
    /// From the start of the process to the last row.
    pub seconds_from_start: f64,
    /// From the first row to the last.
    pub seconds_from_first_row: f64,
    /// Of the time from the first row to the last.
    pub cpu_seconds: Cost,
    /// Of the reader.
    pub peak_megabytes: Option<f64>,
}

impl Reading {
    pub fn rows_a_second_from_start(&self) -> f64 {
        f64::from(self.rows) / self.seconds_from_start
    }

    pub fn rows_a_second_from_first_row(&self) -> f64 {
        f64::from(self.rows) / self.seconds_from_first_row
    }

    /// Others on the machine took more than a little meanwhile.
    pub fn is_disturbed(&self) -> bool {
        self.cpu_seconds.others.is_some_and(|others| others / self.seconds_from_first_row > CALM_PROCESSORS)
    }

    /// The same seconds for a million rows.
    pub fn for_a_million(&self, seconds: f64) -> f64 {
        seconds * 1e6 / f64::from(self.rows)
    }
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    /// The first row has come.
    Reading,
    /// The last row may come at any moment.
    Ending,
    Done,
}

/// A reader that runs.
pub trait Reader {
    fn child(&self) -> &Child;
    async fn phase(&self) -> Phase;
}

/// pg_recvlogical has read something when it has written something, and all when it has ended.
pub struct RecvLogicalRun(pub Child);

impl Reader for RecvLogicalRun {
    fn child(&self) -> &Child {
        &self.0
    }

    async fn phase(&self) -> Phase {
        match processes::written_bytes(self.0.id()) {
            _ if self.0.has_ended() => Phase::Done,
            Some(0) | None => Phase::Starting,
            Some(_) => Phase::Ending,
        }
    }
}

/// cdc-ingest has read all when Kafka has acknowledged all.
pub struct IngestRun<'a> {
    pub ingest: &'a Ingest,
    pub places: &'a Places,
    pub rows: u32,
}

impl Reader for IngestRun<'_> {
    fn child(&self) -> &Child {
        &self.ingest.child
    }

    async fn phase(&self) -> Phase {
        let (found, rows) = (self.ingest.rows(self.places).await, u64::from(self.rows));
        match found.acknowledged {
            _ if found.taken_in == 0 => Phase::Starting,
            acknowledged if acknowledged >= rows => Phase::Done,
            acknowledged if acknowledged >= rows / 10 * 9 => Phase::Ending,
            _ => Phase::Reading,
        }
    }
}

/// A reader that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(900);

/// Time between two looks: short where the moment counts, long between, where the looks would cost something.
fn pause(phase: Phase) -> Duration {
    Duration::from_millis(match phase {
        Phase::Starting => 2,
        Phase::Reading => 50,
        Phase::Ending | Phase::Done => 5,
    })
}

/// Watches the reader from its start to its last row.
pub async fn watch(
    reader: &impl Reader,
    source: &mut PgConnection,
    slot: &str,
    broker: Option<u32>,
    rows: u32,
) -> Result<Reading, Failure> {
    let (child, mut walsender) = (reader.child(), None);
    while reader.phase().await == Phase::Starting {
        if walsender.is_none() {
            walsender = process_of_slot(source, slot).await?;
        }
        check(child, false)?;
        tokio::time::sleep(pause(Phase::Starting)).await;
    }
    let first_row = Instant::now();
    if walsender.is_none() {
        walsender = process_of_slot(source, slot).await?;
    }
    let mut meter = Meter::start(Parts { measured: &[child.id()], postgres: walsender, broker });
    loop {
        let phase = reader.phase().await;
        if phase == Phase::Done {
            break;
        }
        check(child, phase == Phase::Ending)?;
        meter.look();
        tokio::time::sleep(pause(phase)).await;
    }
    let last_row = Instant::now();
    Ok(Reading {
        rows,
        seconds_from_start: (last_row - child.started).as_secs_f64(),
        seconds_from_first_row: (last_row - first_row).as_secs_f64(),
        cpu_seconds: meter.cost(),
        peak_megabytes: processes::memory_megabytes(child.id(), Memory::Peak),
    })
}

/// `may_end`: its end is no surprise.
fn check(child: &Child, may_end: bool) -> Result<(), Failure> {
    if child.has_ended() && !may_end {
        return Err(child.failure("has ended before it had read all"));
    }
    if child.started.elapsed() > PATIENCE {
        return Err(child.failure(&format!("has not read all within {} s", PATIENCE.as_secs())));
    }
    Ok(())
}

/// The server's process that serves the slot; none while nobody reads it.
async fn process_of_slot(source: &mut PgConnection, slot: &str) -> Result<Option<u32>, Failure> {
    let found: Option<i32> = sqlx::query_scalar("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1")
        .bind(slot)
        .fetch_optional(source)
        .await
        .map_err(|error| refused("the replication slots cannot be read", error))?
        .ok_or_else(|| Failure::new(FailureKind::Refused, format!("slot {slot} is gone")))?;
    Ok(found.and_then(|process| u32::try_from(process).ok()))
}
