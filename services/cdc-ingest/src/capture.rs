//! The worker: carries the stream's events, the chunks of copies and the guardian's looks to the assembler, and what it makes to the
//! publisher.

pub mod commands;
pub mod copying;
pub mod reread;
pub mod settling;
pub mod sweep;

use std::collections::VecDeque;
use std::time::Duration;

use actix::prelude::*;
use pgwire_replication::ReplicationEvent;
use shared::batch::Outgoing;
use shared::control::Command;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::metrics;
use shared::position::Lsn;
use shared::position::Version;
use shared::record::header::{Header, Operation};
use sqlx::postgres::PgConnection;

use crate::catalog::SourceTable;
use crate::copies::Copies;
use crate::settings::Settings;
use crate::snapshot::{ChunkReader, ChunkTaken};
use crate::state::{SlotState, slot_record};
use crate::transaction::{Assembler, ChunkDone, Outcome, Position, StreamError};
use crate::wal_stream::{POSTGRES_EPOCH_US, Remember, WalBatch};
use crate::watch::{Looked, Wanted};
use copying::Paces;

/// The health latches.
pub const SNAPSHOT_LATCH: &str = "snapshot";
pub const STREAM_LATCH: &str = "stream";

/// A chunk's rows are acknowledged.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChunkAcked(pub ChunkDone);

/// A command from HTTP.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Commanded(pub Command);

/// What the worker is born with.
pub struct Capture {
    core: Option<Box<Core>>,
    fate: Fate,
}

/// A captured table, beside what the assembler and the copies keep of it under the same index.
#[derive(Debug, Clone)]
pub struct Table {
    /// In the state topic: the configured name, or the one it was found under.
    pub state_name: String,
    pub topic: String,
    /// What it was when it was looked at last.
    pub source: Option<SourceTable>,
    pub standing: Standing,
}

/// Whether a table is carried, and what it waits for where not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Carried,
    /// Its key changed in the stream: for the guardian's look.
    Unsettled,
    /// What the catalog says of it: for the catalog to say something else.
    Refused,
    /// A row could not be carried: for a person, who mends it and commands a snapshot, or starts the service again.
    Spoilt,
}

/// The worker's state; an event is handled with all of it, so it moves into the handler's future and back.
pub struct Core {
    pub settings: Settings,
    pub tables: Vec<Table>,
    pub assembler: Assembler,
    pub copies: Copies,
    pub paces: Paces,
    /// Chunks that are acknowledged and not recorded yet: a sweep must not come between the changes of one transaction.
    pub acked: VecDeque<ChunkDone>,
    pub publisher: Recipient<Outgoing<Position>>,
    pub readers: Vec<Addr<ChunkReader>>,
    pub wanted: Wanted,
    pub slot: SlotState,
    /// Index of the state topic in the publisher's list.
    pub state_topic: usize,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
    pub connection: Option<PgConnection>,
    /// The stream must come to here before the service is ready.
    pub goal: Lsn,
    pub out: Outgoing<Position>,
}

impl Capture {
    pub fn new(core: Core) -> Self {
        let fate = core.fate.clone();
        Capture { core: Some(Box::new(core)), fate }
    }

    /// Runs `work` on the core, alone; a failure ends the generation.
    fn run<W>(&mut self, work: W) -> AtomicResponse<Self, ()>
    where
        W: AsyncFnOnce(&mut Core) -> Result<(), Failure> + 'static,
    {
        let Some(mut core) = self.core.take() else {
            self.fate.end_broken("state of the worker");
            return AtomicResponse::new(Box::pin(async {}.into_actor(self)));
        };
        let worked = async move {
            let worked = work(&mut core).await;
            (core, worked)
        };
        AtomicResponse::new(Box::pin(worked.into_actor(self).map(|(core, worked), actor, _| {
            actor.core = Some(core);
            if let Err(failure) = worked {
                actor.fate.end(failure);
            }
        })))
    }
}

impl Actor for Capture {
    type Context = Context<Self>;
}

impl Handler<WalBatch> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, batch: WalBatch, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| core.stream(batch).await)
    }
}

impl Handler<ChunkTaken> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, taken: ChunkTaken, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| core.chunk_taken(taken).await)
    }
}

impl Handler<ChunkAcked> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, ChunkAcked(done): ChunkAcked, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| {
            core.acked.push_back(done);
            core.record_chunks().await
        })
    }
}

impl Handler<Remember> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Remember(confirmed): Remember, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| core.remember(confirmed).await)
    }
}

impl Handler<Looked> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, looked: Looked, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| core.looked(looked).await)
    }
}

impl Handler<Commanded> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Commanded(command): Commanded, _: &mut Self::Context) -> Self::Result {
        self.run(async move |core| core.command(command).await)
    }
}

fn stream_failure(error: StreamError) -> Failure {
    Failure::new(FailureKind::Data, "the WAL stream cannot be carried on").caused_by(error)
}

impl Core {
    async fn stream(&mut self, WalBatch { events, since }: WalBatch) -> Result<(), Failure> {
        self.out.since = Some(since);
        for event in events {
            self.event(event).await?;
            if !self.out.position.chunks.is_empty() || self.is_full() {
                self.send().await?;
            }
        }
        self.send().await?;
        for table in self.assembler.take_void() {
            self.retake_chunk(table);
        }
        if self.assembler.passed() >= self.goal {
            self.health.release(STREAM_LATCH);
        }
        self.report();
        Ok(())
    }

    async fn event(&mut self, event: ReplicationEvent) -> Result<(), Failure> {
        let told = match event {
            ReplicationEvent::XLogData { data, .. } => return self.change(&data).await,
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                let (lsn, time_us) = (Lsn(final_lsn.as_u64()), commit_time_micros + POSTGRES_EPOCH_US);
                self.assembler.begin(lsn, xid, time_us, &mut self.out)
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.assembler.commit(Lsn(end_lsn.as_u64()), &mut self.out);
                if !self.acked.is_empty() {
                    self.record_chunks().await?;
                }
                Ok(())
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                self.assembler.keepalive(Lsn(wal_end.as_u64()), &mut self.out)
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => Ok(()),
        };
        match told {
            Ok(()) => Ok(()),
            Err(StreamError::Diverged(diverged)) => {
                // The next generation finds this note and begins a new epoch.
                self.slot.interrupted = Some(diverged.to_string());
                self.record_slot(None).await?;
                self.drain().await?;
                Err(Failure::new(
                    FailureKind::Fenced,
                    "the server tells another history than the one that was captured",
                )
                .caused_by(diverged)
                .cure("every table is read again by itself"))
            }
            Err(error) => Err(stream_failure(error)),
        }
    }

    fn is_full(&self) -> bool {
        let kafka = &self.settings.kafka;
        self.out.len() >= kafka.batch_records_max || self.out.size_bytes() >= kafka.batch_bytes_max
    }

    /// Sends what is in hand to the publisher; a chunk that went in is followed by the next.
    pub async fn send(&mut self) -> Result<(), Failure> {
        if self.out.is_empty() && self.out.position == Position::default() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        // What comes next may be of the same batch.
        self.out.since = out.since;
        let merged = out.position.chunks.clone();
        self.progress.issue();
        let sent = self.publisher.send(out).await;
        sent.map_err(|_| Failure::new(FailureKind::Broken, "the publisher of the chain is gone"))?;
        if !merged.is_empty() {
            merged.iter().for_each(|done| self.copies.merged(done));
            self.take_chunks(Duration::ZERO);
        }
        Ok(())
    }

    async fn change(&mut self, data: &[u8]) -> Result<(), Failure> {
        let mut outcome = self.assembler.change(data, None, &mut self.out).map_err(stream_failure)?;
        if let Outcome::NeedsTypes(types) = &outcome {
            self.learn_types(types).await?;
            outcome = self.assembler.change(data, None, &mut self.out).map_err(stream_failure)?;
        }
        if let Outcome::NeedsRow { table, key } = outcome {
            let row = self.reread(table, &key).await?;
            outcome = self.assembler.change(data, Some(&row), &mut self.out).map_err(stream_failure)?;
        }
        match outcome {
            Outcome::Done | Outcome::NeedsRow { .. } | Outcome::NeedsTypes(_) => Ok(()),
            Outcome::Truncated { tables, number } => {
                for table in tables {
                    self.tombstone_live_keys(table, Some(number), &sweep::Gone::all()).await?;
                }
                Ok(())
            }
            Outcome::Unsettled { table } => self.unsettle(table),
            Outcome::Stopped { table, why } => self.stop_table(table, Standing::Spoilt, why),
        }
    }

    /// Waits until everything that was sent is acknowledged.
    pub async fn drain(&self) -> Result<(), Failure> {
        while !self.progress.is_drained() {
            if self.fate.has_ended() {
                return Err(Failure::new(FailureKind::Broken, "the generation ended while draining"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Writes down that the server may be told this position, and which transactions others may not see yet.
    async fn remember(&mut self, confirmed: Lsn) -> Result<(), Failure> {
        self.slot.confirmed = Some(confirmed);
        self.slot.unseen = self.assembler.unseen();
        self.slot.streamed = self.assembler.streamed().or(self.slot.streamed);
        self.record_slot(Some(confirmed)).await
    }

    /// Sends the slot's record.
    pub async fn record_slot(&mut self, tell: Option<Lsn>) -> Result<(), Failure> {
        let (key, value) = slot_record(&self.settings.slot.name, &self.slot).map_err(unwritable)?;
        self.push_state(&key, &value);
        self.out.position.tell = tell;
        self.send().await
    }

    /// Adds a record of the state topic to what goes out next.
    fn push_state(&mut self, key: &[u8], value: &[u8]) {
        self.out.push(self.state_topic, 0, key, &Header::new(Operation::Update, Version::default()), Some(value));
    }

    pub fn table_name(&self, table: usize) -> &str {
        self.tables.get(table).map_or("?", |table| &table.state_name)
    }

    fn report(&mut self) {
        for ((table, operation), count) in std::mem::take(&mut self.assembler.taken) {
            metrics::RECORDS_IN.with_label_values(&[self.table_name(table), operation.as_str()]).inc_by(count);
        }
        for (table, count) in std::mem::take(&mut self.assembler.passed_over) {
            metrics::PASSED_OVER.with_label_values(&[self.table_name(table)]).inc_by(count);
        }
        for table in std::mem::take(&mut self.assembler.reshaped) {
            let name = self.table_name(table);
            tracing::info!(table = name, "the table's columns or name changed");
            metrics::SCHEMA_CHANGES.with_label_values(&[name]).inc();
        }
        metrics::REPEATS_DROPPED.inc_by(std::mem::take(&mut self.assembler.repeats));
        metrics::TOAST_ROWS_GONE.inc_by(std::mem::take(&mut self.assembler.vanished));
    }
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(FailureKind::Broken, "a state record cannot be written").caused_by(error)
}
