//! The worker: carries the stream's events and the snapshot's chunks to the assembler, and what it makes to the publisher.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use pgwire_replication::ReplicationEvent;
use shared::batch::Outgoing;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::Publisher;
use shared::kafka::tail::TailReader;
use shared::metrics;
use shared::pg::{quoted, refused_for_now};
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::settings::Settings;
use crate::snapshot::{ChunkReader, ChunkTaken, TakeChunk};
use crate::source::SourceTable;
use crate::state::{TableState, table_record};
use crate::transaction::{Assembler, Chunk, ChunkDone, Offered, Outcome, Position, Reread, StreamError};
use crate::wal_stream::{POSTGRES_EPOCH_US, WalBatch};

/// The health latches.
pub const SNAPSHOT_LATCH: &str = "snapshot";
pub const STREAM_LATCH: &str = "stream";

/// A chunk's rows are acknowledged.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChunkAcked(pub ChunkDone);

/// What the worker is born with.
pub struct Capture {
    core: Option<Box<Core>>,
    fate: Fate,
}

/// The worker's state; an event is handled with all of it, so it moves into the handler's future and back.
pub struct Core {
    pub settings: Settings,
    pub tables: Vec<SourceTable>,
    pub assembler: Assembler,
    pub publisher: Recipient<Outgoing<Position>>,
    pub chunks: Option<Addr<ChunkReader>>,
    pub copying: Copying,
    pub state_topic: usize,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
    pub connection: Option<PgConnection>,
    /// The stream must come to here before the service is ready.
    pub goal: Lsn,
    pub out: Outgoing<Position>,
}

/// The copies that are not done.
#[derive(Debug)]
pub struct Copying {
    pub epoch: u32,
    /// By index of the table.
    pub states: Vec<TableState>,
    /// The table whose chunk is on its way, or waits for the stream.
    pub current: Option<usize>,
    /// The key behind which that chunk begins.
    pub after: Option<Vec<String>>,
    /// Rows of an earlier epoch may be in the topics: what a re-read does not find is gone.
    pub sweep: bool,
    /// Chunks that are acknowledged and not recorded yet: a sweep must not come between the changes of one transaction.
    pub acked: VecDeque<ChunkDone>,
}

impl Capture {
    pub fn new(core: Core) -> Self {
        let fate = core.fate.clone();
        Capture { core: Some(Box::new(core)), fate }
    }

    /// Runs `work` on the core, alone; a failure ends the generation.
    fn run<F, W>(&mut self, work: W) -> AtomicResponse<Self, ()>
    where
        W: FnOnce(Box<Core>) -> F,
        F: Future<Output = (Box<Core>, Result<(), Failure>)> + 'static,
    {
        let Some(core) = self.core.take() else {
            self.fate.end_broken("state of the worker");
            return AtomicResponse::new(Box::pin(async {}.into_actor(self)));
        };
        AtomicResponse::new(Box::pin(work(core).into_actor(self).map(|(core, worked), actor, _| {
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
        self.run(|mut core| async move {
            let worked = core.stream(batch).await;
            (core, worked)
        })
    }
}

impl Handler<ChunkTaken> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, ChunkTaken(chunk): ChunkTaken, _: &mut Self::Context) -> Self::Result {
        self.run(|mut core| async move {
            let worked = core.chunk(chunk).await;
            (core, worked)
        })
    }
}

impl Handler<ChunkAcked> for Capture {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, ChunkAcked(done): ChunkAcked, _: &mut Self::Context) -> Self::Result {
        self.run(|mut core| async move {
            core.copying.acked.push_back(done);
            let worked = core.record_chunks().await;
            (core, worked)
        })
    }
}

fn stream_failure(error: StreamError) -> Failure {
    Failure::new(FailureKind::Data, "the WAL stream cannot be carried on").caused_by(error).cure(
        "the message names table and column: restore its primary key, or take the table out of [tables] and the publication",
    )
}

impl Core {
    async fn stream(&mut self, WalBatch(events): WalBatch) -> Result<(), Failure> {
        for event in events {
            match event {
                ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                    self.assembler.begin(
                        Lsn(final_lsn.as_u64()),
                        xid,
                        commit_time_micros + POSTGRES_EPOCH_US,
                        &mut self.out,
                    );
                }
                ReplicationEvent::XLogData { data, .. } => self.change(&data).await?,
                ReplicationEvent::Commit { end_lsn, .. } => {
                    self.assembler.commit(Lsn(end_lsn.as_u64()), &mut self.out);
                    if !self.copying.acked.is_empty() {
                        self.record_chunks().await?;
                    }
                }
                ReplicationEvent::KeepAlive { wal_end, .. } => {
                    self.assembler.keepalive(Lsn(wal_end.as_u64()), &mut self.out);
                }
                ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
            }
            if self.out.position.chunk.is_some() || self.is_full() {
                self.send().await?;
            }
        }
        self.send().await?;
        if self.assembler.take_void() {
            self.take_chunk(true);
        }
        if self.assembler.passed() >= self.goal {
            self.health.release(STREAM_LATCH);
        }
        self.report();
        Ok(())
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
        let merged = out.position.chunk.clone();
        self.progress.issue();
        let sent = self.publisher.send(out).await;
        sent.map_err(|_| Failure::new(FailureKind::Broken, "the publisher of the chain is gone"))?;
        if let Some(done) = merged {
            self.copying.after = done.last_key;
            if self.copying.after.is_none() {
                self.copying.current = self.copying.next_behind(done.table);
                self.copying.after = self.copying.current.and_then(|next| self.copying.resume_key(next));
            }
            self.take_chunk(false);
        }
        Ok(())
    }

    async fn change(&mut self, data: &[u8]) -> Result<(), Failure> {
        let mut outcome = self.assembler.change(data, None, &mut self.out).map_err(stream_failure)?;
        if let Outcome::NeedsRow { table, key } = outcome {
            let row = self.reread(table, &key).await?;
            outcome = self.assembler.change(data, Some(&row), &mut self.out).map_err(stream_failure)?;
        }
        if let Outcome::Truncated { tables, number } = outcome {
            for table in tables {
                self.tombstone_live_keys(table, Some(number), u32::MAX).await?;
            }
        }
        Ok(())
    }

    /// The row as it is now, for a TOASTed value that the stream left out.
    async fn reread(&mut self, table: usize, key: &[String]) -> Result<Reread, Failure> {
        metrics::TOAST_REREADS.inc();
        let columns = self.assembler.columns(table);
        let Some(source) = self.tables.get(table) else {
            return Err(Failure::new(FailureKind::Broken, "a row of a table that is not captured"));
        };
        let failed = |error| refused_for_now(format!("a row of {} could not be read again", source.table), error);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.settings.source.connect("tidemill cdc-ingest").await?,
        };
        let existing = crate::source::columns(&mut connection, &source.table).await?;
        if existing.is_empty() {
            // The table is gone, and with it the row.
            return Ok(None);
        }
        let list: Vec<String> = columns
            .iter()
            .map(|name| match existing.iter().any(|column| column.name == *name) {
                true => format!("{}::text", quoted(name)),
                // Dropped since: nobody can read its value any more, and the stream drops it with the next change.
                false => "NULL::text".to_owned(),
            })
            .collect();
        let condition = source.key.iter().enumerate();
        let condition: Vec<String> = condition
            .map(|(at, column)| format!("{} = ${}::text::{}", quoted(&column.name), at + 1, column.sql_type))
            .collect();
        let sql = format!("SELECT {} FROM {} WHERE {}", list.join(", "), source.table.sql(), condition.join(" AND "));
        let query = key.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let found = query.fetch_optional(&mut connection).await.map_err(failed)?;
        self.connection = Some(connection);
        let Some(row) = found else { return Ok(None) };
        let values = (0..columns.len()).map(|index| row.try_get::<Option<String>, _>(index));
        values.collect::<Result<Vec<_>, _>>().map(Some).map_err(failed)
    }

    /// Sends a tombstone for each key that is live in the table's topic and whose epoch is below `below`.
    async fn tombstone_live_keys(&mut self, table: usize, number: Option<u32>, below: u32) -> Result<(), Failure> {
        self.send().await?;
        self.drain().await?;
        let keys = self.live_keys(table, below).await?;
        tracing::info!(table = %self.table_name(table), keys = keys.len(), "tombstones for rows that are gone");
        for part in keys.chunks(self.settings.kafka.batch_records_max.max(1)) {
            self.assembler.tombstones(table, number, part.iter().map(Vec::as_slice), &mut self.out);
            self.send().await?;
        }
        Ok(())
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

    async fn live_keys(&self, table: usize, below: u32) -> Result<Vec<Vec<u8>>, Failure> {
        let Some((topic, partitions)) = self
            .tables
            .get(table)
            .zip(self.assembler.tables().get(table))
            .map(|(source, captured)| (source.topic.clone(), captured.partitions))
        else {
            return Ok(Vec::new());
        };
        let (kafka, fate) = (self.settings.kafka.clone(), self.fate.clone());
        let scan = move || -> Result<Vec<Vec<u8>>, Failure> {
            // The newest version counts, whatever the order: a record of a writer that hung may stand behind newer ones.
            let mut newest: HashMap<Vec<u8>, (Version, bool)> = HashMap::new();
            let from: Vec<_> = (0..partitions).map(|partition| (partition, 0)).collect();
            TailReader::new(&kafka, "cdc-ingest", &fate)?.scan(&topic, &from, &mut |record| {
                // A foreign record is not ours to delete.
                if let Ok(header) = Header::parse(record.header) {
                    let key = record.key.unwrap_or_default();
                    let known = newest.entry(key.to_vec()).or_default();
                    if header.version >= known.0 {
                        *known = (header.version, record.value.is_some());
                    }
                }
                Ok(())
            })?;
            let gone = newest.into_iter().filter(|(_, (version, live))| *live && version.epoch < below);
            Ok(gone.map(|(key, _)| key).collect())
        };
        tokio::task::spawn_blocking(scan)
            .await
            .map_err(|error| Failure::new(FailureKind::Broken, "a topic could not be scanned").caused_by(error))?
    }

    fn table_name(&self, table: usize) -> String {
        self.tables.get(table).map(|source| source.table.to_string()).unwrap_or_default()
    }

    /// Asks for the next chunk of the table that is being copied.
    pub fn take_chunk(&mut self, again: bool) {
        let (Some(table), Some(chunks)) = (self.copying.current, &self.chunks) else { return };
        self.assembler.watch();
        let wait = if again { Duration::from_millis(self.settings.snapshot.retake_wait_ms) } else { Duration::ZERO };
        chunks.do_send(TakeChunk { table, after: self.copying.after.clone(), wait });
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), Failure> {
        match self.assembler.offer(chunk, &mut self.out) {
            Offered::Taken => self.send().await,
            Offered::TakeAgain => {
                self.take_chunk(true);
                Ok(())
            }
        }
    }

    async fn record_chunks(&mut self) -> Result<(), Failure> {
        while !self.assembler.is_in_transaction()
            && let Some(done) = self.copying.acked.pop_front()
        {
            self.record_chunk(done).await?;
        }
        Ok(())
    }

    async fn record_chunk(&mut self, done: ChunkDone) -> Result<(), Failure> {
        let finished = done.last_key.is_none();
        if finished && self.copying.sweep {
            self.tombstone_live_keys(done.table, None, self.copying.epoch).await?;
            self.drain().await?;
        }
        let name = self.table_name(done.table);
        if let Some(state) = self.copying.states.get_mut(done.table) {
            state.rows += done.rows;
            state.done = finished;
            state.last_key = done.last_key;
            metrics::SNAPSHOT_ROWS.with_label_values(&[&name]).set(i64::try_from(state.rows).unwrap_or(i64::MAX));
            let (key, value) = table_record(&self.settings.slot.name, &name, state).map_err(|error| {
                Failure::new(FailureKind::Broken, "a state record cannot be written").caused_by(error)
            })?;
            self.out.push(self.state_topic, 0, &key, &Header::new(Operation::Update, Version::default()), Some(&value));
            if finished {
                tracing::info!(table = name, rows = state.rows, "table copied");
            }
        }
        self.report_snapshot();
        self.send().await
    }

    /// Shows how far the copies have come, and releases readiness when all are done.
    pub fn report_snapshot(&self) {
        let tables: BTreeMap<String, serde_json::Value> = self
            .tables
            .iter()
            .zip(&self.copying.states)
            .map(|(source, state)| {
                let progress = serde_json::json!({
                    "rows": state.rows, "rows_estimate": source.rows_estimate, "done": state.done,
                });
                (source.table.to_string(), progress)
            })
            .collect();
        self.health.detail(SNAPSHOT_LATCH, tables);
        if self.copying.states.iter().all(|state| state.done) {
            self.health.release(SNAPSHOT_LATCH);
        }
    }

    fn report(&mut self) {
        for ((table, operation), count) in std::mem::take(&mut self.assembler.taken) {
            metrics::RECORDS_IN.with_label_values(&[&self.table_name(table), operation.as_str()]).inc_by(count);
        }
        metrics::REPEATS_DROPPED.inc_by(std::mem::take(&mut self.assembler.repeats));
    }
}

impl Copying {
    /// The next table behind `table` whose copy is not done.
    pub fn next_behind(&self, table: usize) -> Option<usize> {
        (table + 1..self.states.len()).find(|&index| self.states.get(index).is_some_and(|state| !state.done))
    }

    /// The first table whose copy is not done.
    pub fn first(&self) -> Option<usize> {
        self.states.iter().position(|state| !state.done)
    }

    pub fn resume_key(&self, table: usize) -> Option<Vec<String>> {
        self.states.get(table).and_then(|state| state.last_key.clone())
    }
}

/// The publisher's answer: what is durable is confirmed, and the worker hears of its chunks.
pub fn on_acked(
    progress: Progress,
    confirmed: tokio::sync::watch::Sender<Lsn>,
    worker: Arc<std::sync::OnceLock<Recipient<ChunkAcked>>>,
) -> shared::kafka::publisher::OnAcked<Position> {
    Box::new(move |position: Position| {
        if let Some(lsn) = position.confirm {
            confirmed.send_if_modified(|known| {
                let further = lsn > *known;
                *known = lsn.max(*known);
                further
            });
        }
        if let (Some(done), Some(worker)) = (position.chunk, worker.get()) {
            worker.do_send(ChunkAcked(done));
        }
        progress.complete(&[]);
    })
}

/// The last actor of this chain.
pub type CapturePublisher = Publisher<Position>;
