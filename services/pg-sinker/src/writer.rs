//! The last actor of the chain: writes one batch after the other, each over one or more connections.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::try_join_all;
use shared::batch::Batch;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::reader::FromReader;
use shared::metrics;
use shared::pg::PostgresConfig;
use shared::record::header::Operation;
use shared::traces::Tracer;

use crate::entry::Item;
use crate::evolve::Grower;
use crate::growth::Wanted;
use crate::lane::Lane;
use crate::letters::Letters;
use crate::outage::Outage;
use crate::settings::WriterConfig;
use crate::shares::shares;
use crate::transaction::Plan;
use crate::ways;

/// How often old deletions are looked for, at most.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// What a writer needs.
pub struct WriterSetup {
    pub plan: Plan,
    pub grower: Grower,
    pub sink: PostgresConfig,
    pub config: WriterConfig,
    /// A writer that is silent in a transaction for this long has lost its partitions: its locks must not stop the next owner.
    pub ownership: Duration,
    pub letters: Letters,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
    pub outage: Outage,
    pub tracer: Option<Tracer>,
}

/// The actor. Its work is with the message that is being handled, and comes back with it.
pub struct Writer {
    work: Option<Work>,
    fate: Fate,
}

impl WriterSetup {
    pub fn tell(&self) {
        self.health.detail("tables", ways::about(&self.plan.tables, &self.plan.place.topic));
    }
}

impl Writer {
    pub fn new(setup: WriterSetup) -> Self {
        let fate = setup.fate.clone();
        setup.tell();
        let lanes = (0..setup.config.connections.max(1)).map(Lane::new).collect();
        let work = Work { setup, lanes, expected: BTreeMap::new(), forgot_at: Instant::now() };
        Writer { work: Some(work), fate }
    }
}

impl Actor for Writer {
    type Context = Context<Self>;
}

impl Handler<FromReader<i64>> for Writer {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromReader<i64>, _: &mut Self::Context) -> Self::Result {
        let work = self.work.take();
        let fate = self.fate.clone();
        let handle = async move {
            let mut work = work?;
            // Every wait on the sink and on the broker ends with the generation; what was begun is rolled back.
            tokio::select! {
                biased;
                () = fate.ended() => return None,
                done = work.handle(message) => if let Err(failure) = done {
                    fate.end(failure);
                    return None;
                },
            }
            Some(work)
        };
        AtomicResponse::new(Box::pin(handle.into_actor(self).map(|work, writer, _| writer.work = work)))
    }
}

struct Work {
    setup: WriterSetup,
    /// At least one.
    lanes: Vec<Lane>,
    /// The offset that each owned partition stands at in the sink.
    expected: BTreeMap<i32, i64>,
    forgot_at: Instant,
}

impl Work {
    async fn handle(&mut self, message: FromReader<i64>) -> Result<(), Failure> {
        match message {
            FromReader::Assigned(partitions) => {
                // Whoever had them may have made tables and columns: a null or a deletion must find these.
                if !self.setup.grower.growth.is_empty() {
                    self.make(&Wanted::default()).await?;
                }
                self.expected.extend(partitions);
                Ok(())
            }
            FromReader::Revoked(partitions) => {
                self.expected.retain(|partition, _| !partitions.contains(partition));
                self.setup.progress.complete(&[]);
                Ok(())
            }
            FromReader::Batch(batch) => self.write_batch(&batch).await,
        }
    }

    async fn write_batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        let has_impossible = self.grow(batch).await?;
        let mut items = self.read(batch)?;
        if has_impossible {
            self.setup.grower.refuse_what_has_no_column(&mut items);
        }
        let bounds = (self.lanes.len(), self.setup.config.connection_records_min);
        let shares = shares(items, &self.expected, bounds);
        let setup = &self.setup;
        let written = self.lanes.iter_mut().zip(shares).map(|(lane, share)| lane.write(setup, share, batch.since));
        for reached in try_join_all(written).await? {
            self.expected.extend(reached);
        }
        self.setup.progress.complete(&batch.next_offsets());
        self.forget_deleted_keys().await;
        Ok(())
    }

    /// The records that the sink does not have yet.
    fn read<'a>(&self, batch: &'a Batch) -> Result<Vec<Item<'a>>, Failure> {
        let mut items = Vec::with_capacity(batch.len());
        let mut taken: BTreeMap<Operation, u64> = BTreeMap::new();
        for record in batch.records() {
            let expected = self.expected.get(&record.partition).ok_or_else(|| {
                Failure::new(FailureKind::Broken, format!("a record of partition {} came unasked", record.partition))
            })?;
            if record.offset < *expected {
                metrics::REPEATS_DROPPED.inc();
                continue;
            }
            let item = Item::read(record, &self.setup.plan.tables);
            if let Ok(entry) = &item.content {
                *taken.entry(entry.header.operation).or_default() += 1;
            }
            items.push(item);
        }
        for (operation, count) in taken {
            let labels = [self.setup.plan.place.topic.as_str(), operation.as_str()];
            metrics::RECORDS_IN.with_label_values(&labels).inc_by(count);
        }
        Ok(items)
    }

    /// Makes what the tables lack for the rows of the batch. Answers whether some value of it gets no column.
    async fn grow(&mut self, batch: &Batch) -> Result<bool, Failure> {
        let wanted = self.setup.grower.wanted(batch, &self.expected);
        if !wanted.columns.is_empty() {
            self.make(&wanted).await?;
        }
        Ok(wanted.has_impossible)
    }

    async fn make(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        match self.lanes.first_mut() {
            Some(lane) => lane.make(&mut self.setup, wanted).await,
            None => Ok(()),
        }
    }

    /// Now and then.
    async fn forget_deleted_keys(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        self.forgot_at = Instant::now();
        if let Some(lane) = self.lanes.first_mut() {
            lane.forget_deleted_keys(&self.setup).await;
        }
    }
}
