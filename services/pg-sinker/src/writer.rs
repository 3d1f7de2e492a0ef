//! The last actor of the chain: writes one batch after the other, and again until the sink has taken it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::prelude::*;
use shared::batch::Batch;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::observe_end_to_end;
use shared::kafka::reader::FromReader;
use shared::metrics;
use shared::pg::{PostgresConfig, refused};
use shared::record::dead_letter::Rejection;
use shared::said::Said;
use sqlx::postgres::PgConnection;

use crate::checkpoint::Move;
use crate::deleted_keys;
use crate::entry::Item;
use crate::evolve::Grower;
use crate::growth::Wanted;
use crate::letters::Letters;
use crate::settings::WriterConfig;
use crate::split::{Portions, Refused};
use crate::transaction::{self, Plan, Portion, Tally, Trouble};
use crate::ways;

/// The health latch that is held while the sink takes nothing.
const LATCH: &str = "sink";
/// How often old deletions are looked for, at most.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// How a session writes. Binds the longest silence in a transaction, statement and wait for a lock, in milliseconds, and what a commit waits
/// for.
///
/// The server keeps the plan of a prepared statement, and made on an empty table it reads the whole table for each batch, until the
/// table's statistics are renewed. Rows are looked for by their key, always.
const SESSION: &str = "SELECT set_config('idle_in_transaction_session_timeout', $1, false), set_config('statement_timeout', $2, false), \
     set_config('lock_timeout', $3, false), set_config('synchronous_commit', $4, false), \
     set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)";

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
}

/// The actor. Its work is with the message that is being handled, and comes back with it.
pub struct Writer {
    work: Option<Work>,
    fate: Fate,
}

impl WriterSetup {
    fn tell(&self) {
        self.health.detail("tables", ways::about(&self.plan.tables, &self.plan.place.topic));
    }
}

impl Writer {
    pub fn new(setup: WriterSetup) -> Self {
        let fate = setup.fate.clone();
        setup.tell();
        let work = Work {
            setup,
            connection: None,
            expected: BTreeMap::new(),
            forgot_at: Instant::now(),
            failed: 0,
            said: Said::default(),
        };
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
    connection: Option<PgConnection>,
    /// The offset that each owned partition stands at in the sink.
    expected: BTreeMap<i32, i64>,
    forgot_at: Instant,
    /// Tries since the sink took something.
    failed: u32,
    said: Said,
}

/// What became of a portion.
enum Written {
    Committed(Tally),
    Refused(Rejection),
    /// Not in time.
    TooMuch,
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
        self.set_aside(&items).await?;
        let mut portions = Portions::whole(items.len());
        while let Some(range) = portions.take_next() {
            let portion = self.portion(items.get(range.clone()).unwrap_or_default());
            match self.write(&portion).await? {
                Written::Committed(tally) => self.committed(&portion, &tally),
                Written::TooMuch => drop(portions.refuse(range)),
                Written::Refused(rejection) => {
                    if let Refused::Alone(at) = portions.refuse(range)
                        && let Some(item) = items.get_mut(at)
                    {
                        item.content = Err(rejection);
                        self.set_aside(std::slice::from_ref(item)).await?;
                    }
                }
            }
        }
        self.setup.progress.complete(&batch.next_offsets());
        self.forget_deleted_keys().await;
        Ok(())
    }

    /// The records that the sink does not have yet.
    fn read<'a>(&self, batch: &'a Batch) -> Result<Vec<Item<'a>>, Failure> {
        let mut items = Vec::with_capacity(batch.len());
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
                let labels = [self.setup.plan.place.topic.as_str(), entry.header.operation.as_str()];
                metrics::RECORDS_IN.with_label_values(&labels).inc();
            }
            items.push(item);
        }
        Ok(items)
    }

    async fn set_aside(&self, items: &[Item<'_>]) -> Result<(), Failure> {
        let rejected = items.iter().filter_map(|item| Some((item.record, item.content.as_ref().err()?)));
        self.setup.letters.post(&rejected.collect::<Vec<_>>()).await
    }

    fn portion<'p, 'a>(&self, items: &'p [Item<'a>]) -> Portion<'p, 'a> {
        let mut moves: Vec<Move> = Vec::new();
        for Item { record, .. } in items {
            let next = record.offset + 1;
            match moves.iter_mut().find(|step| step.partition == record.partition) {
                Some(step) => step.next = next,
                None => {
                    let expected = self.expected.get(&record.partition).copied().unwrap_or_default();
                    moves.push(Move { partition: record.partition, expected, next });
                }
            }
        }
        Portion { items, moves }
    }

    /// Tries until the sink has answered for good.
    async fn write(&mut self, portion: &Portion<'_, '_>) -> Result<Written, Failure> {
        let mut doubt = None;
        loop {
            self.setup.progress.lease().check()?;
            let timeout = self.setup.config.transaction_timeout();
            let tried = tokio::time::timeout(timeout, self.attempt(portion, &mut doubt)).await;
            let outcome = match tried {
                Ok(Ok(_)) => "ok",
                Ok(Err(Trouble::Data(_))) => "refused",
                _ => "failed",
            };
            metrics::COMMITS.with_label_values(&[outcome]).inc();
            let written = match tried {
                Ok(Ok(tally)) => Written::Committed(tally),
                Ok(Err(Trouble::Data(rejection))) => Written::Refused(rejection),
                Ok(Err(Trouble::Lasting(failure))) => return Err(failure),
                Ok(Err(Trouble::Passing(failure))) => {
                    self.wait(&failure).await;
                    continue;
                }
                Err(_) => {
                    self.wait(&not_in_time("take the rows", timeout)).await;
                    // A slow sink may manage half of it. Where COMMIT was not answered, only the same transaction can tell what became of it.
                    if doubt.is_none() && portion.items.len() > 1 {
                        return Ok(Written::TooMuch);
                    }
                    continue;
                }
            };
            self.recovered();
            return Ok(written);
        }
    }

    async fn wait(&mut self, failure: &Failure) {
        self.failed += 1;
        let (wait, chain) = (self.setup.config.retry_wait(self.failed), failure.chain());
        if self.said.is_news(&chain) {
            tracing::warn!(attempt = self.failed, "tried again in {} ms: {chain}", wait.as_millis());
        }
        self.setup.health.hold(LATCH, chain);
        tokio::time::sleep(wait).await;
    }

    fn recovered(&mut self) {
        if self.failed > 0 {
            self.setup.health.release(LATCH);
            tracing::info!(attempts = self.failed + 1, "the sink takes rows again");
            self.failed = 0;
        }
    }

    async fn attempt(&mut self, portion: &Portion<'_, '_>, doubt: &mut Option<Tally>) -> Result<Tally, Trouble> {
        let mut connection = self.connected().await?;
        let tried = transaction::attempt(&mut connection, &self.setup.plan, portion, doubt).await;
        if matches!(tried, Ok(_) | Err(Trouble::Data(_))) {
            self.connection = Some(connection);
        }
        tried
    }

    /// Makes what the tables lack for the rows of the batch. Answers whether some value of it gets no column.
    async fn grow(&mut self, batch: &Batch) -> Result<bool, Failure> {
        let wanted = self.setup.grower.wanted(batch, &self.expected);
        if !wanted.columns.is_empty() {
            self.make(&wanted).await?;
        }
        Ok(wanted.has_impossible)
    }

    /// Tries until the sink has made it, or the tables were looked at again where nothing is to be made.
    async fn make(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        loop {
            self.setup.progress.lease().check()?;
            let timeout = self.setup.config.transaction_timeout();
            match tokio::time::timeout(timeout, self.try_to_make(wanted)).await {
                Ok(Ok(())) => {
                    self.recovered();
                    return Ok(());
                }
                Ok(Err(Trouble::Passing(failure))) => self.wait(&failure).await,
                Ok(Err(Trouble::Lasting(failure))) => return Err(failure),
                Ok(Err(Trouble::Data(rejection))) => {
                    let what = format!("the sink makes no column: {}", rejection.detail);
                    return Err(Failure::new(FailureKind::Refused, what));
                }
                Err(_) => self.wait(&not_in_time("change its tables", timeout)).await,
            }
        }
    }

    async fn try_to_make(&mut self, wanted: &Wanted) -> Result<(), Trouble> {
        let mut connection = self.connected().await?;
        let tables = self.setup.grower.make(&mut connection, wanted).await?;
        self.connection = Some(connection);
        self.setup.plan = self.setup.plan.with_tables(tables);
        self.setup.tell();
        Ok(())
    }

    async fn connected(&mut self) -> Result<PgConnection, Trouble> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.connect().await.map_err(Trouble::of),
        }
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let config = &self.setup.config;
        let mut connection = self.setup.sink.connect("pg-sinker").await?;
        sqlx::query(SESSION)
            .bind(self.setup.ownership.as_millis().to_string())
            .bind(config.transaction_timeout_ms.to_string())
            .bind(config.lock_timeout_ms.to_string())
            .bind(config.synchronous_commit.as_str())
            .execute(&mut connection)
            .await
            .map_err(|error| refused("the session's settings cannot be made", error))?;
        Ok(connection)
    }

    fn committed(&mut self, portion: &Portion<'_, '_>, tally: &Tally) {
        self.expected.extend(portion.moves.iter().map(|step| (step.partition, step.next)));
        for (&(table, operation), &count) in &tally.written {
            if let Some(target) = self.setup.plan.tables.tables.get(table) {
                metrics::RECORDS_OUT.with_label_values(&[&target.table.label, operation.as_str()]).inc_by(count);
            }
        }
        metrics::REPEATS_DROPPED.inc_by(tally.repeats);
        let commit_times: Vec<i64> = portion.entries().filter_map(|entry| entry.header.commit_time_us).collect();
        observe_end_to_end(&commit_times);
    }

    /// Now and then. A failure is no reason to stop: the next batch finds out what is wrong with the sink.
    async fn forget_deleted_keys(&mut self) {
        if self.forgot_at.elapsed() < FORGET_EVERY {
            return;
        }
        self.forgot_at = Instant::now();
        let Some(mut connection) = self.connection.take() else { return };
        let tables: Vec<&str> =
            self.setup.plan.tables.tables.iter().map(|target| target.table.label.as_str()).collect();
        let forget = deleted_keys::forget(&mut connection, &tables, self.setup.config.deleted_keys_keep_days);
        match tokio::time::timeout(self.setup.config.transaction_timeout(), forget).await {
            Ok(Ok(forgotten)) => {
                self.connection = Some(connection);
                if forgotten > 0 {
                    tracing::debug!(forgotten, "keys that were deleted long ago are forgotten");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "keys that were deleted long ago are not forgotten yet"),
            Err(_) => tracing::warn!("keys that were deleted long ago are not forgotten yet: the sink does not answer"),
        }
    }
}

fn not_in_time(what: &str, timeout: Duration) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("the sink did not {what} within {} ms", timeout.as_millis()))
}
