//! The actor around the join: facts, dimensions, and the lane between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use shared::batch::Outgoing;
use shared::failure::Failure;
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::reader::FromReader;
use shared::kafka::table::{FromTable, TableNews};
use shared::metrics;
use shared::record::time;
use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::join::{Done, Joiner, Now, TakenOver};
use crate::read_back::{ReadBack, Wanted};

/// The health latch that is held until the facts of all partitions are read back.
pub const FACTS_LATCH: &str = "facts";

/// How often waits are looked at, where a dimension has mode `wait`.
const WAIT_TICK: Duration = Duration::from_millis(20);

/// So many facts of each partition are looked at in a second, to see whether their time has come.
const OLD_LOOKS: usize = 20_000;

/// Missing rows that no fact names any more are looked for at every so many reports.
const REPORTS_BETWEEN: u32 = 10;

/// The worker.
pub struct JoinerActor {
    pub joiner: Joiner,
    pub publisher: mpsc::Sender<Outgoing<Done>>,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
    /// Told when all dimensions are read to the end that stood at the start.
    pub loaded: Option<oneshot::Sender<()>>,
    /// Dimensions that are not read so far.
    pub loading: BTreeSet<usize>,
    /// Partitions whose facts are to be read back. The actor asks for it itself: the answer must not come before it knows the partition.
    pub wanted: mpsc::UnboundedSender<Wanted>,
    /// Messages with facts that are sent again and not acknowledged.
    pub reemissions_in_flight: Arc<AtomicUsize>,
    /// The lane is being worked on: one message to itself is on its way.
    pub walking: bool,
    /// A dimension has mode `wait`.
    pub has_waits: bool,
    pub started_at: Instant,
    pub reports: u32,
}

/// Where a message to the publisher comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A batch of the reader, which has counted it as in flight.
    Batch,
    /// The actor's own doing.
    Own,
}

/// Work on the lane. Fresh facts come between two of these.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Walk;

/// Waits are looked at.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct EndWaits;

impl Actor for JoinerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_secs(1), |actor, _| actor.report());
        if self.has_waits {
            context.run_interval(WAIT_TICK, |_, context| context.notify(EndWaits));
        }
    }
}

impl JoinerActor {
    fn now(&self) -> Now {
        let steady = self.started_at.elapsed().as_millis();
        Now { wall_us: time::now().as_microsecond(), steady_ms: u64::try_from(steady).unwrap_or(u64::MAX) }
    }

    /// Sends what a step made, then goes on with the lane.
    fn send(
        &mut self,
        made: Result<Outgoing<Done>, Failure>,
        origin: Origin,
        context: &mut Context<Self>,
    ) -> AtomicResponse<Self, ()> {
        let made = match made {
            Ok(out) if origin == Origin::Own && out.is_empty() => None,
            Ok(out) => Some(out),
            Err(failure) => {
                self.fate.end(failure);
                None
            }
        };
        if let Some(out) = &made
            && origin == Origin::Own
        {
            self.progress.issue();
            if out.position.is_reemission {
                self.reemissions_in_flight.fetch_add(1, Ordering::SeqCst);
            }
        }
        if self.joiner.has_reemissions() && !self.walking && !self.fate.is_draining() {
            self.walking = true;
            context.notify(Walk);
        }
        let (publisher, fate) = (self.publisher.clone(), self.fate.clone());
        let send = async move {
            if let Some(out) = made
                && publisher.send(out).await.is_err()
            {
                fate.end_broken("publisher");
            }
        };
        AtomicResponse::new(Box::pin(send.into_actor(self)))
    }

    fn nothing(&self) -> AtomicResponse<Self, ()> {
        AtomicResponse::new(Box::pin(async {}.into_actor(self)))
    }

    /// Not ready while a change of a row could not be sent again with all its facts.
    fn await_facts(&self) {
        match self.joiner.incomplete_len() {
            0 => self.health.release(FACTS_LATCH),
            partitions => self.health.hold(FACTS_LATCH, format!("facts of {partitions} partitions to be read back")),
        }
    }

    fn report(&mut self) {
        let now = self.now();
        self.reports = self.reports.wrapping_add(1);
        let looked = match self.reports % REPORTS_BETWEEN {
            0 => self.joiner.look_through_missing(),
            _ => Ok(()),
        };
        if let Err(failure) = looked.and_then(|()| self.joiner.forget_old(now, OLD_LOOKS)) {
            return self.fate.end(failure);
        }
        let (mut dimensions, mut pages) = (serde_json::Map::new(), serde_json::Map::new());
        let missing = self.joiner.missing();
        for (at, rows) in self.joiner.dimensions().iter().enumerate() {
            metrics::MISSING_ROWS.with_label_values(&[rows.name()]).set(gauge(missing.len(at)));
            metrics::MISSING_ROWS_OLDEST.with_label_values(&[rows.name()]).set(missing.oldest_s(at, now.wall_us));
            let told = serde_json::json!({
                "rows": rows.len(), "bytes": rows.bytes(),
                "missing": missing.len(at), "oldest_missing_s": missing.oldest_s(at, now.wall_us),
            });
            dimensions.insert(rows.name().to_owned(), told);
            pages.insert(rows.name().to_owned(), missing.page(at, now.wall_us));
        }
        self.health.page("missing", serde_json::Value::Object(pages));
        let joiner = &self.joiner;
        let (facts, on_disk, bytes) = (joiner.facts_held(), joiner.facts_on_disk(), joiner.facts_bytes());
        metrics::REEMISSIONS_WAITING.set(gauge(joiner.lane_len()));
        metrics::FACTS_HELD.with_label_values(&["memory"]).set(gauge(facts.saturating_sub(on_disk)));
        metrics::FACTS_HELD.with_label_values(&["disk"]).set(gauge(on_disk));
        metrics::FACTS_WAITING.set(gauge(joiner.facts_waiting()));
        if let Some(disk) = &joiner.room().disk {
            report_disk(disk);
        }
        self.health.detail(
            "join",
            serde_json::json!({
                "dimensions": dimensions,
                "facts": facts, "facts_on_disk": on_disk, "facts_bytes": bytes,
                "facts_waiting": joiner.facts_waiting(),
                "rows_to_reemit": joiner.lane_len(),
                "partitions_to_read_back": joiner.incomplete_len(),
            }),
        );
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn report_disk(disk: &Disk) {
    let Some(room) = disk.file_system() else { return };
    let folder = disk.folder();
    for (metric, bytes) in [(&metrics::FACTS_DISK_SIZE, room.size), (&metrics::FACTS_DISK_FREE, room.free)] {
        metric.with_label_values(&[&folder]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Handler<FromReader<TakenOver>> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromReader<TakenOver>, context: &mut Self::Context) -> Self::Result {
        match message {
            FromReader::Assigned(partitions) => {
                let wanted: Vec<Wanted> =
                    partitions.iter().filter_map(|(partition, taken)| taken.wanted(*partition)).collect();
                let made = self.joiner.assigned(partitions, self.now());
                self.await_facts();
                if wanted.into_iter().any(|wanted| self.wanted.send(wanted).is_err()) {
                    self.fate.end_broken("reader of facts");
                }
                self.send(made.map(|()| Outgoing::default()), Origin::Own, context)
            }
            FromReader::Revoked(partitions) => {
                self.joiner.revoked(&partitions);
                self.progress.complete(&[]);
                self.await_facts();
                self.send(Ok(Outgoing::default()), Origin::Own, context)
            }
            FromReader::Batch(batch) => {
                let made = self.joiner.take_facts(&batch, self.now());
                self.send(made, Origin::Batch, context)
            }
        }
    }
}

impl Handler<ReadBack> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: ReadBack, context: &mut Self::Context) -> Self::Result {
        let made = self.joiner.read_back(message, self.now());
        self.await_facts();
        self.send(made.map(|()| Outgoing::default()), Origin::Own, context)
    }
}

impl Handler<FromTable> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, FromTable { table, what }: FromTable, context: &mut Self::Context) -> Self::Result {
        let made = match what {
            TableNews::Batch(batch) => self.joiner.take_rows(table, &batch, self.now()),
            TableNews::Loaded => {
                if let Some(rows) = self.joiner.dimensions().get(table) {
                    tracing::info!(dimension = rows.name(), rows = rows.len(), "dimension is read");
                }
                self.loading.remove(&table);
                if self.loading.is_empty()
                    && let Some(loaded) = self.loaded.take()
                {
                    // Nobody waits any more only where the start was given up.
                    let _ = loaded.send(());
                }
                Ok(Outgoing::default())
            }
        };
        self.send(made, Origin::Own, context)
    }
}

impl Handler<EndWaits> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: EndWaits, context: &mut Self::Context) -> Self::Result {
        // A rebalance waits for all that is in flight; what still waits goes on elsewhere.
        if self.progress.is_draining() || self.fate.is_draining() {
            return self.nothing();
        }
        let made = self.joiner.end_waits(self.now());
        self.send(made, Origin::Own, context)
    }
}

/// How long the lane waits for room in what is in flight, and for its pace.
const WALK_AGAIN: Duration = Duration::from_millis(1);
const WALK_LATER: Duration = Duration::from_millis(5);

impl Handler<Walk> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Walk, context: &mut Self::Context) -> Self::Result {
        // One step at a time, so that the producer's queue stays short for fresh facts; and none while a rebalance waits for all that is
        // in flight.
        if self.reemissions_in_flight.load(Ordering::SeqCst) > 0 || self.progress.is_draining() {
            context.notify_later(Walk, WALK_AGAIN);
            return self.nothing();
        }
        let made = self.joiner.reemit(self.now());
        let is_paced = made.as_ref().is_ok_and(Outgoing::is_empty) && self.joiner.has_reemissions();
        self.walking = is_paced;
        if is_paced {
            context.notify_later(Walk, WALK_LATER);
            return self.nothing();
        }
        self.send(made, Origin::Own, context)
    }
}
