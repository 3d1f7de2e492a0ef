//! A connection of the writer, and how it writes its share of a batch: portion by portion, each tried until the sink has answered for good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::kafka::publisher::observe_end_to_end;
use shared::metrics;
use shared::record::dead_letter::Rejection;
use shared::record::header::Header;
use sqlx::postgres::PgConnection;

use crate::checkpoint::Move;
use crate::entry::Item;
use crate::growth::Wanted;
use crate::shares::Share;
use crate::split::{Portions, Refused};
use crate::transaction::{self, Plan, Portion, Tally, Trouble};
use crate::writer::WriterSetup;
use crate::{deleted_keys, session};

/// A connection beside the first, which only large batches need, is given up when it was not used for so long: whether it still stands would
/// show in the midst of one.
const UNUSED_MAX: Duration = Duration::from_secs(5);

/// The connection. It is made when it is needed, and made anew when it is lost.
pub struct Lane {
    number: usize,
    connection: Option<PgConnection>,
    used_at: Instant,
    /// Tries since the sink took something.
    failed: u32,
}

/// What became of a portion.
enum Written {
    Committed(Tally),
    Refused(Rejection),
    /// Not in time.
    TooMuch,
}

impl Lane {
    pub fn new(number: usize) -> Self {
        Lane { number, connection: None, used_at: Instant::now(), failed: 0 }
    }

    /// Writes the share, and sets aside what cannot be written. Answers where its partitions stand then.
    /// `since` is when its batch was begun.
    pub async fn write(
        &mut self,
        setup: &WriterSetup,
        share: Share<'_>,
        since: Option<Instant>,
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let Share { mut items, mut expected } = share;
        set_aside(setup, &items).await?;
        let mut portions = Portions::whole(items.len());
        while let Some(range) = portions.take_next() {
            let portion = portion(items.get(range.clone()).unwrap_or_default(), &expected);
            match self.write_portion(setup, &portion).await? {
                Written::Committed(tally) => {
                    expected.extend(portion.moves.iter().map(|step| (step.partition, step.next)));
                    count(&setup.plan, &portion, &tally);
                    if let Some(tracer) = &setup.tracer {
                        tracer.sunk(since, traced(&portion));
                    }
                }
                Written::TooMuch => drop(portions.refuse(range)),
                Written::Refused(rejection) => {
                    if let Refused::Alone(at) = portions.refuse(range)
                        && let Some(item) = items.get_mut(at)
                    {
                        item.content = Err(rejection);
                        set_aside(setup, std::slice::from_ref(item)).await?;
                    }
                }
            }
        }
        Ok(expected)
    }

    async fn write_portion(&mut self, setup: &WriterSetup, portion: &Portion<'_, '_>) -> Result<Written, Failure> {
        let mut doubt = None;
        loop {
            setup.progress.lease().check()?;
            let timeout = setup.config.transaction_timeout();
            let tried = tokio::time::timeout(timeout, self.attempt(setup, portion, &mut doubt)).await;
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
                    self.wait(setup, &failure).await;
                    continue;
                }
                Err(_) => {
                    self.wait(setup, &not_in_time("take the rows", timeout)).await;
                    // A slow sink may manage half of it. Where COMMIT was not answered, only the same transaction can tell what became of it.
                    if doubt.is_none() && portion.items.len() > 1 {
                        return Ok(Written::TooMuch);
                    }
                    continue;
                }
            };
            self.recovered(setup);
            return Ok(written);
        }
    }

    async fn attempt(
        &mut self,
        setup: &WriterSetup,
        portion: &Portion<'_, '_>,
        doubt: &mut Option<Tally>,
    ) -> Result<Tally, Trouble> {
        let mut connection = self.connected(setup).await?;
        let tried = transaction::attempt(&mut connection, &setup.plan, portion, doubt).await;
        if matches!(tried, Ok(_) | Err(Trouble::Data(_))) {
            self.connection = Some(connection);
        }
        tried
    }

    /// Makes what the tables lack. Tries until the sink has made it, or the tables were looked at again where nothing is to be made.
    pub async fn make(&mut self, setup: &mut WriterSetup, wanted: &Wanted) -> Result<(), Failure> {
        loop {
            setup.progress.lease().check()?;
            let timeout = setup.config.transaction_timeout();
            match tokio::time::timeout(timeout, self.try_to_make(setup, wanted)).await {
                Ok(Ok(())) => {
                    self.recovered(setup);
                    return Ok(());
                }
                Ok(Err(Trouble::Passing(failure))) => self.wait(setup, &failure).await,
                Ok(Err(Trouble::Lasting(failure))) => return Err(failure),
                Ok(Err(Trouble::Data(rejection))) => {
                    let what = format!("the sink makes no column: {}", rejection.detail);
                    return Err(Failure::new(FailureKind::Refused, what));
                }
                Err(_) => self.wait(setup, &not_in_time("change its tables", timeout)).await,
            }
        }
    }

    async fn try_to_make(&mut self, setup: &mut WriterSetup, wanted: &Wanted) -> Result<(), Trouble> {
        let mut connection = self.connected(setup).await?;
        let tables = setup.grower.make(&mut connection, wanted).await?;
        self.connection = Some(connection);
        setup.plan = setup.plan.with_tables(tables);
        setup.tell();
        Ok(())
    }

    async fn wait(&mut self, setup: &WriterSetup, failure: &Failure) {
        self.failed += 1;
        let (wait, chain) = (setup.config.retry_wait(self.failed), failure.chain());
        if setup.outage.holds_up(self.number, &chain) {
            tracing::warn!(attempt = self.failed, "tried again in {} ms: {chain}", wait.as_millis());
        }
        tokio::time::sleep(wait).await;
    }

    fn recovered(&mut self, setup: &WriterSetup) {
        if self.failed > 0 && setup.outage.is_over_for(self.number) {
            tracing::info!(attempts = self.failed + 1, "the sink takes rows again");
        }
        self.failed = 0;
    }

    async fn connected(&mut self, setup: &WriterSetup) -> Result<PgConnection, Trouble> {
        let is_stale = self.number > 0 && self.used_at.elapsed() > UNUSED_MAX;
        self.used_at = Instant::now();
        match self.connection.take() {
            Some(connection) if !is_stale => Ok(connection),
            _ => {
                let WriterSetup { sink, config, ownership, .. } = setup;
                session::connect(sink, "pg-sinker", config, *ownership).await.map_err(Trouble::of)
            }
        }
    }

    /// A failure is no reason to stop: the next batch finds out what is wrong with the sink.
    pub async fn forget_deleted_keys(&mut self, setup: &WriterSetup) {
        let Some(mut connection) = self.connection.take() else { return };
        let tables: Vec<&str> = setup.plan.tables.tables.iter().map(|target| target.table.label.as_str()).collect();
        let forget = deleted_keys::forget(&mut connection, &tables, setup.config.deleted_keys_keep_days);
        match tokio::time::timeout(setup.config.transaction_timeout(), forget).await {
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

fn portion<'p, 'a>(items: &'p [Item<'a>], expected: &BTreeMap<i32, i64>) -> Portion<'p, 'a> {
    let mut moves: Vec<Move> = Vec::new();
    for Item { record, .. } in items {
        let next = record.offset + 1;
        match moves.iter_mut().find(|step| step.partition == record.partition) {
            Some(step) => step.next = next,
            None => {
                let expected = expected.get(&record.partition).copied().unwrap_or_default();
                moves.push(Move { partition: record.partition, expected, next });
            }
        }
    }
    Portion { items, moves }
}

async fn set_aside(setup: &WriterSetup, items: &[Item<'_>]) -> Result<(), Failure> {
    let rejected = items.iter().filter_map(|item| Some((item.record, item.content.as_ref().err()?)));
    setup.letters.post(&rejected.collect::<Vec<_>>()).await
}

fn count(plan: &Plan, portion: &Portion<'_, '_>, tally: &Tally) {
    for (&(table, operation), &count) in &tally.written {
        if let Some(target) = plan.tables.tables.get(table) {
            metrics::RECORDS_OUT.with_label_values(&[&target.table.label, operation.as_str()]).inc_by(count);
        }
    }
    metrics::REPEATS_DROPPED.inc_by(tally.repeats);
    let commit_times: Vec<i64> = portion.entries().filter_map(|entry| entry.header.commit_time_us).collect();
    observe_end_to_end(&commit_times);
}

/// Partition, offset and header of what is written.
fn traced<'p>(portion: &'p Portion<'_, '_>) -> impl Iterator<Item = (i32, i64, &'p Header)> {
    let readable =
        |item: &'p Item<'_>| Some((item.record.partition, item.record.offset, &item.content.as_ref().ok()?.header));
    portion.items.iter().filter_map(readable)
}

fn not_in_time(what: &str, timeout: Duration) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("the sink did not {what} within {} ms", timeout.as_millis()))
}
