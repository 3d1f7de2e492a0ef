//! The source of a Kafka stage: a thread that polls, and the actor that hands on what it read.
//!
//! ```text
//!  librdkafka ──poll──▶ reading thread ──bounded channel──▶ Feed (actor) ──send──▶ worker
//!                            │  ▲
//!        group offsets ◀─────┘  └── Progress: what the last stage has acknowledged
//! ```
//!
//! On **every** assignment, behind everything in flight, the stage says where its partitions go on ([`StartPoint`]): read only once, a
//! frozen and thawed replica would write thousands of records twice. On a revoke the thread stops, drains, and only then gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::prelude::*;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::KafkaConfig;
use super::bounds::{self, Bounds};
use super::client_log::{self, ClientLog};
use super::commits::{Commits, Outcome};
use super::distance;
use super::progress::Progress;
use super::tail::record_of;
use super::topics::unreachable_broker;
use crate::batch::Batch;
use crate::failure::{Failure, FailureKind};
use crate::generation::Fate;
use crate::health::Health;
use crate::metrics;
use crate::pulse;

/// A partition that this instance takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub partition: i32,
    /// The group's offset: the lower bound where the output says nothing.
    pub committed: Option<i64>,
}

/// Where a partition goes on, and what the worker must know about it.
#[derive(Debug)]
pub struct Start<S> {
    pub partition: i32,
    /// The first offset to read; `None` is the beginning of the partition.
    pub offset: Option<i64>,
    pub state: S,
}

/// Decides at every assignment where its partitions go on. Called on the reading thread: it may block.
pub trait StartPoint: Send + 'static {
    type State: Send + std::fmt::Debug + 'static;
    /// Gives a start for each partition.
    fn locate(&mut self, taken: &[Taken]) -> Result<Vec<Start<Self::State>>, Failure>;
}

impl Taken {
    fn of(element: &TopicPartitionListElem<'_>) -> Self {
        let committed = element.offset().to_raw().filter(|&raw| raw >= 0);
        Taken { partition: element.partition(), committed }
    }
}

/// The offset behind what the output's tail names and what the group has committed, whichever is further.
pub fn behind_tail_and_commit(tail_input_offset: Option<i64>, committed: Option<i64>) -> Option<i64> {
    tail_input_offset.map(|offset| offset + 1).max(committed)
}

/// What the reading thread sends to the worker, in order.
#[derive(Debug)]
pub enum FromReader<S> {
    /// Partitions begin here.
    Assigned(Vec<(i32, S)>),
    /// Partitions are about to be another instance's: nothing more may be made for them. It is in flight until the worker has
    /// completed it.
    Revoked(Vec<i32>),
    Batch(Batch),
}

impl<S: Send + 'static> actix::Message for FromReader<S> {
    type Result = ();
}

/// What a reader needs.
pub struct ReaderSetup<'a, S> {
    pub config: &'a KafkaConfig,
    pub service: &'static str,
    pub topic: &'a str,
    pub group: &'a str,
    /// A batch that is not full waits so long for more.
    pub batch_wait: Duration,
    /// A batch of a long backlog is to hold records of many partitions: less of each is fetched at a time.
    pub mixes_partitions: bool,
    pub start: S,
    pub fate: Fate,
    pub progress: Progress,
    pub health: Health,
}

/// The health latch that the reader holds until it has caught up to where it started.
const LATCH: &str = "partitions";

/// So much of a partition is fetched at a time where batches are to hold records of many: little against a batch. A larger record is fetched all the same.
const MIXED_FETCH_BYTES: &str = "65536";

/// The channel that the thread fills, and the thread.
pub type Reader<S> = (mpsc::Receiver<FromReader<S>>, JoinHandle<()>);

/// Starts the reading thread.
pub fn spawn<S: StartPoint>(setup: ReaderSetup<'_, S>) -> Result<Reader<S::State>, Failure> {
    let (sender, receiver) = mpsc::channel(setup.config.queue_batches_max.max(1));
    setup.health.hold(LATCH, format!("partitions of topic {}", setup.topic));
    let context = Assignments {
        config: setup.config.clone(),
        topic: setup.topic.to_owned(),
        group: setup.group.to_owned(),
        instance: setup.config.instance(setup.service),
        batch_wait: setup.batch_wait,
        start: Mutex::new(setup.start),
        sender,
        fate: setup.fate.clone(),
        progress: setup.progress,
        health: setup.health.clone(),
        revoked: Mutex::default(),
        has_revoked: AtomicBool::new(false),
        goals: Mutex::default(),
        given: Mutex::default(),
        ends: Mutex::default(),
        commits: Mutex::new(Commits::new(setup.config.request_timeout())),
        log: ClientLog::new("group member"),
    };
    let mut client = setup.config.member(setup.service, setup.group);
    if setup.mixes_partitions {
        client.set("fetch.message.max.bytes", MIXED_FETCH_BYTES);
    }
    let consumer: BaseConsumer<_> =
        client.create_with_context(context).map_err(|error| unreachable_broker(setup.config, error))?;
    consumer.subscribe(&[setup.topic]).map_err(|error| unreachable_broker(setup.config, error))?;
    let (fate, health) = (setup.fate, setup.health);
    fate.add_source();
    let thread = std::thread::Builder::new()
        .name("kafka-reader".into())
        .spawn(move || {
            if let Err(failure) = Reading::new(&consumer).run() {
                fate.end(failure);
            }
            health.ended(pulse::READER);
        })
        .map_err(|error| Failure::new(FailureKind::Broken, "the reading thread cannot start").caused_by(error))?;
    Ok((receiver, thread))
}

/// Assignment of partitions; called by librdkafka on the reading thread, inside of poll.
struct Assignments<S: StartPoint> {
    config: KafkaConfig,
    topic: String,
    group: String,
    instance: String,
    batch_wait: Duration,
    start: Mutex<S>,
    sender: mpsc::Sender<FromReader<S::State>>,
    fate: Fate,
    progress: Progress,
    health: Health,
    /// Revoked since the thread last looked: their records in its hands are void.
    revoked: Mutex<Vec<i32>>,
    /// There are some: the thread asks after each record, and a lock would be dear for that.
    has_revoked: AtomicBool,
    /// End offsets at the time of assignment, by partition: reached, the instance has caught up. `None` before the first assignment.
    goals: Mutex<Option<BTreeMap<i32, i64>>>,
    given: Mutex<Option<Given>>,
    /// End offsets as librdkafka's statistics tell them.
    ends: Mutex<BTreeMap<i32, i64>>,
    commits: Mutex<Commits>,
    log: ClientLog,
}

/// What the group has given this member. Who comes to others is given nothing at first: they give partitions up, and the group meets again. To
/// be ready before would let a roll over stop the next member meanwhile.
#[derive(Debug, Clone, Copy)]
struct Given {
    has_partitions: bool,
    /// From here on nothing at all is believed: there are more members than partitions.
    nothing_from: Instant,
}

impl Given {
    /// The others hear of it with a heartbeat, and this one of what they gave up.
    fn now(heartbeat_interval_ms: u64) -> Self {
        const THEY_DRAIN: Duration = Duration::from_secs(2);
        let nothing_from = Instant::now() + 2 * Duration::from_millis(heartbeat_interval_ms) + THEY_DRAIN;
        Given { has_partitions: false, nothing_from }
    }

    fn is_final(self, now: Instant) -> bool {
        self.has_partitions || now >= self.nothing_from
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: StartPoint> Assignments<S> {
    fn unreachable(&self, error: KafkaError) -> Failure {
        unreachable_broker(&self.config, error)
    }

    /// Waits until nothing is in flight, within the bound.
    fn drain(&self) -> Result<(), Failure> {
        self.progress.set_draining(true);
        let drained = self.await_drained();
        self.progress.set_draining(false);
        drained
    }

    fn await_drained(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_millis(self.config.rebalance_drain_timeout_ms);
        while !self.progress.is_drained() {
            self.health.beat(pulse::READER);
            if self.fate.has_ended() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    FailureKind::Unreachable,
                    format!(
                        "records in flight were not acknowledged within {} ms",
                        self.config.rebalance_drain_timeout_ms
                    ),
                )
                .cure("look for the stage that stands still: kafka.rebalance_drain_timeout_ms is the bound"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn send(&self, message: FromReader<S::State>) -> Result<(), Failure> {
        let mut message = message;
        loop {
            match self.sender.try_send(message) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(back)) if !self.fate.has_ended() => message = back,
                Err(_) => return Err(Failure::new(FailureKind::Broken, "the first actor of the chain is gone")),
            }
            self.health.beat(pulse::READER);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<(), Failure> {
        self.drain()?;
        let timeout = self.config.request_timeout();
        let committed = consumer.committed_offsets(partitions.clone(), timeout).map_err(|e| self.unreachable(e))?;
        let taken: Vec<Taken> = committed.elements().iter().map(Taken::of).collect();
        let bounds = bounds::of(consumer, &self.topic, taken.iter().map(|taken| taken.partition), timeout);
        let bounds = bounds.map_err(|e| self.unreachable(e))?;
        let mut started = Vec::new();
        let mut goals = BTreeMap::new();
        self.health.beat(pulse::READER);
        for Start { partition, offset, state } in locked(&self.start).locate(&taken)? {
            let unknown = || self.unreachable(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
            let &Bounds { first, end } = bounds.get(&partition).ok_or_else(unknown)?;
            let next = offset.unwrap_or(first).max(first);
            if next > end {
                return Err(self.topic_made_anew(partition, next, end));
            }
            partitions
                .set_partition_offset(&self.topic, partition, Offset::Offset(next))
                .map_err(|e| self.unreachable(e))?;
            self.progress.assign(partition, next);
            if first < end {
                goals.insert(partition, end);
            }
            tracing::info!(topic = self.topic, partition, offset = next, end, "partition taken over");
            started.push((partition, state));
        }
        if started.len() != taken.len() {
            return Err(Failure::new(FailureKind::Broken, "a partition was taken over without a place to start from"));
        }
        locked(&self.goals).get_or_insert_default().extend(goals);
        locked(&self.given).get_or_insert_with(|| Given::now(self.config.heartbeat_interval_ms)).has_partitions |=
            !started.is_empty();
        if !started.is_empty() {
            self.send(FromReader::Assigned(started))?;
        }
        Ok(())
    }

    fn count_commit(&self, outcome: Outcome) {
        metrics::COMMITS.with_label_values(&[outcome.label()]).inc();
        if outcome == Outcome::Failed {
            let Assignments { group, topic, config, .. } = self;
            tracing::warn!(
                "the offsets of group {group} in topic {topic} were not taken within {} ms; they are sent again. To do: look at the broker's log",
                config.request_timeout_ms
            );
        }
    }

    fn lost(&self) -> Failure {
        Failure::new(
            FailureKind::Fenced,
            format!("the group of topic `{}` has given the partitions of this instance to others", self.topic),
        )
        .cure("it was not heard of for kafka.session_timeout_ms; it joins the group again by itself")
    }

    fn topic_made_anew(&self, partition: i32, next: i64, end: i64) -> Failure {
        Failure::new(
            FailureKind::Settings,
            format!(
                "topic `{}`, partition {partition}, ends at offset {end}, but this stage has handled it up to {next}: it was made anew",
                self.topic
            ),
        )
        .cure("make this stage's output topics anew as well, and reset its consumer group and sink offsets")
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), Failure> {
        let revoked: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        // They are another instance's already: what waits in the producer must not go out behind what that one writes. The end of the
        // generation purges it.
        if consumer.assignment_lost() && !revoked.is_empty() {
            return Err(self.lost());
        }
        locked(&self.revoked).extend(&revoked);
        self.has_revoked.store(true, Ordering::SeqCst);
        // First the worker hears of it, so that it sends nothing of its own for these partitions; then what is in flight is waited for,
        // and the message to the worker is in flight as well.
        if !revoked.is_empty() && !self.fate.has_ended() && !self.fate.is_draining() {
            self.progress.issue();
            self.send(FromReader::Revoked(revoked.clone()))?;
        }
        self.drain()?;
        if !self.fate.has_ended() {
            commit(consumer);
        }
        for &partition in &revoked {
            self.progress.revoke(partition);
            locked(&self.goals).get_or_insert_default().remove(&partition);
            locked(&self.ends).remove(&partition);
            let _ = metrics::LAG.remove_label_values(&[&self.topic, &partition.to_string()]);
            tracing::info!(topic = self.topic, partition, "partition given up");
        }
        Ok(())
    }
}

impl<S: StartPoint> ClientContext for Assignments<S> {
    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client_log::line(level, facility, text);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(told) = Told::read(statistics, &self.topic) else { return };
        *locked(&self.ends) = told.ends;
        let outcome = locked(&self.commits).told(&told.committed, Instant::now());
        if let Some(outcome) = outcome {
            self.count_commit(outcome);
        }
    }
}

/// What librdkafka's statistics tell of a topic: offsets by partition.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    ends: BTreeMap<i32, i64>,
    committed: BTreeMap<i32, i64>,
}

impl Told {
    fn read(statistics: &[u8], topic: &str) -> Option<Self> {
        // The few fields that are used, of librdkafka's STATISTICS.md.
        #[derive(Deserialize)]
        struct Statistics {
            topics: BTreeMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            partitions: BTreeMap<i32, Partition>,
        }
        #[derive(Deserialize)]
        struct Partition {
            hi_offset: i64,
            committed_offset: i64,
        }
        let statistics: Statistics = serde_json::from_slice(statistics).ok()?;
        let partitions = &statistics.topics.get(topic)?.partitions;
        let known = |pick: fn(&Partition) -> i64| {
            let offsets = partitions.iter().map(|(&partition, found)| (partition, pick(found)));
            offsets.filter(|(_, offset)| *offset >= 0).collect()
        };
        Some(Told { ends: known(|found| found.hi_offset), committed: known(|found| found.committed_offset) })
    }
}

impl<S: StartPoint> ConsumerContext for Assignments<S> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let (decided, applied) = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let decided = self.assign(consumer, partitions);
            // After a failure nothing may be fetched, but librdkafka needs its answer.
            let assignment = if decided.is_ok() { &*partitions } else { &TopicPartitionList::new() };
            let applied =
                if cooperative { consumer.incremental_assign(assignment) } else { consumer.assign(assignment) };
            (decided, applied)
        } else {
            let decided = self.revoke(consumer, partitions);
            (decided, if cooperative { consumer.incremental_unassign(partitions) } else { consumer.unassign() })
        };
        locked(&self.commits).rebalanced();
        if let Err(failure) = decided.and(applied.map_err(|error| self.unreachable(error))) {
            self.fate.end(failure);
        }
    }
}

/// Commits the acknowledged positions of the owned partitions, without waiting for the answer: they are a lower bound only, the output
/// says more, and a broker that is away must not hold up a stop. [`Commits`] learns what became of them.
fn commit<S: StartPoint>(consumer: &BaseConsumer<Assignments<S>>) {
    let context = consumer.context();
    let positions = context.progress.positions();
    let mut offsets = TopicPartitionList::new();
    for (&partition, &next) in &positions {
        let _ = offsets.add_partition_offset(&context.topic, partition, Offset::Offset(next));
    }
    if offsets.count() == 0 {
        return;
    }
    match consumer.commit(&offsets, CommitMode::Async) {
        Ok(()) => locked(&context.commits).sent(positions, Instant::now()),
        Err(error) => {
            metrics::COMMITS.with_label_values(&[Outcome::Failed.label()]).inc();
            tracing::warn!(%error, "group offsets were not committed; they are committed again with the next ones");
        }
    }
}

/// A partition in `/api/v1/state`.
#[derive(Serialize)]
struct PartitionState {
    partition: i32,
    next_offset: i64,
    end_offset: Option<i64>,
    lag: Option<i64>,
}

/// The thread looks around at least this often.
const LONGEST_POLL: Duration = Duration::from_millis(100);

/// The thread sleeps so long at most while it could answer the group.
const SHORT_REST: Duration = Duration::from_millis(20);

/// The loop of the reading thread.
struct Reading<'a, S: StartPoint> {
    consumer: &'a BaseConsumer<Assignments<S>>,
    context: &'a Assignments<S>,
    batch: Batch,
    /// A batch that is not full goes on from here; `None` where it need not wait.
    due: Option<Instant>,
    /// The next batch goes on no sooner; `None` where the last one was large.
    next_batch: Option<Instant>,
    /// Since when the batch could not be sent on.
    blocked_since: Option<Instant>,
    paused: bool,
    /// Partitions that were read to their end.
    at_end: BTreeSet<i32>,
    last_commit: Instant,
    last_beat: Instant,
}

impl<'a, S: StartPoint> Reading<'a, S> {
    fn new(consumer: &'a BaseConsumer<Assignments<S>>) -> Self {
        Reading {
            consumer,
            context: consumer.context(),
            batch: Batch::default(),
            due: None,
            next_batch: None,
            blocked_since: None,
            paused: false,
            at_end: BTreeSet::new(),
            last_commit: Instant::now(),
            last_beat: Instant::now(),
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let context = self.context;
        context.health.beat(pulse::READER);
        while !context.fate.has_ended() {
            if context.fate.is_draining() {
                context.drain()?;
                self.commit_last();
                if !context.config.keeps_place {
                    self.leave();
                }
                context.fate.source_drained();
                return Ok(());
            }
            let idle = self.poll()?;
            self.forget_revoked();
            let waits = !self.remaining_wait().is_zero();
            if (idle || self.is_full()) && !waits {
                self.send_on()?;
            }
            if idle || waits || self.is_full() {
                self.housekeeping();
            }
        }
        Ok(())
    }

    /// Before the end: commits, and asks for a short while until the group has it. A group that is about to give its partitions anew takes no
    /// commit, and waits for this member to leave; and the next start goes by the output, and by the group's offset only where that says
    /// nothing.
    fn commit_last(&self) {
        const LONGEST: Duration = Duration::from_secs(1);
        let positions = self.context.progress.positions();
        if positions.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.context.config.request_timeout().min(LONGEST);
        commit(self.consumer);
        while !self.has_committed(&positions) && !self.context.fate.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the group has these positions. A broker that does not answer soon is asked again by the caller, who may have to stop.
    fn has_committed(&self, positions: &BTreeMap<i32, i64>) -> bool {
        const SOON: Duration = Duration::from_millis(250);
        let mut asked = TopicPartitionList::new();
        for &partition in positions.keys() {
            asked.add_partition(&self.context.topic, partition);
        }
        self.consumer.committed_offsets(asked, SOON).is_ok_and(|committed| {
            let reached = |(&partition, &next): (&i32, &i64)| {
                let found = committed.find_partition(&self.context.topic, partition);
                found.is_some_and(|found| matches!(found.offset(), Offset::Offset(offset) if offset >= next))
            };
            positions.iter().all(reached)
        })
    }

    /// Gives the place in the group back, so that the others have the partitions at once and not when the session is over. A member with a
    /// name of its own does not do so when it is closed, only when it unsubscribes.
    fn leave(&self) {
        self.consumer.unsubscribe();
        let deadline = Instant::now() + self.context.config.request_timeout();
        loop {
            // The partitions are given up inside of poll.
            let _ = self.consumer.poll(Duration::from_millis(10));
            if self.has_left() || self.context.fate.has_ended() {
                return;
            }
            if Instant::now() > deadline {
                let (group, within) = (&self.context.group, self.context.config.request_timeout_ms);
                tracing::warn!(
                    group,
                    "the broker did not take back the place in the group within {within} ms; the others have the partitions when the session is over"
                );
                return;
            }
        }
    }

    /// Whether the group has no member of this name any more: the broker names a member after its instance, with a UUID behind it.
    fn has_left(&self) -> bool {
        const SOON: Duration = Duration::from_millis(250);
        const UUID_LETTERS: usize = 36;
        let is_this = |member: &str| {
            let rest = member.strip_prefix(&self.context.instance).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.len() == UUID_LETTERS)
        };
        self.consumer.fetch_group_list(Some(&self.context.group), SOON).is_ok_and(|found| {
            found.groups().iter().all(|group| !group.members().iter().any(|member| is_this(member.id())))
        })
    }

    fn forget_revoked(&mut self) {
        if !self.context.has_revoked.load(Ordering::SeqCst) {
            return;
        }
        self.context.has_revoked.store(false, Ordering::SeqCst);
        let revoked = std::mem::take(&mut *locked(&self.context.revoked));
        self.batch.remove_partitions(&revoked);
    }

    fn is_full(&self) -> bool {
        let config = &self.context.config;
        let has_bytes = !self.batch.is_empty() && self.batch.size_bytes() >= config.batch_bytes_max;
        self.batch.len() >= config.batch_records_max || has_bytes
    }

    /// When a batch that begins now goes on, if it does not get full.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.next_batch.map_or(now, |next| next.max(now)).max(now + self.context.batch_wait);
        (due > now).then_some(due)
    }

    /// How long the batch still waits for more.
    fn remaining_wait(&self) -> Duration {
        match self.due {
            // The clock is not asked for each record where nothing waits.
            Some(due) if !self.is_full() => due.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    /// Takes in one record. True when none is there: what is in hand should go.
    fn poll(&mut self) -> Result<bool, Failure> {
        // With something in hand there is no waiting beyond what is set, unless it has no place to go to: then it may as well grow.
        let wait = match (self.batch.is_empty(), self.blocked_since.is_some()) {
            (true, _) => LONGEST_POLL,
            (false, true) => Duration::from_millis(1),
            (false, false) => self.rest(),
        };
        if self.is_full() {
            self.wait_full()?;
            return Ok(true);
        }
        self.resume()?;
        match self.consumer.poll(wait) {
            None => Ok(true),
            Some(Ok(message)) => {
                let record = record_of(&message);
                self.at_end.remove(&record.partition);
                self.batch.push(record);
                if self.batch.len() == 1 {
                    let now = Instant::now();
                    self.batch.since = Some(now);
                    self.due = self.due(now);
                }
                Ok(false)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end.insert(partition);
                // Others may have records still, for the batch that has begun.
                Ok(self.batch.is_empty())
            }
            Some(Err(error)) => self.poll_error(error).map(|()| true),
        }
    }

    /// Lets a batch grow that is due soon, without a wake-up for each record. Answers how long a poll may wait then.
    fn rest(&self) -> Duration {
        let remaining = self.remaining_wait();
        if remaining > SHORT_REST {
            return remaining.min(LONGEST_POLL);
        }
        if !remaining.is_zero() {
            std::thread::sleep(remaining);
        }
        Duration::ZERO
    }

    /// The next stage has no place. For a short while the thread only waits; then the partitions are paused and the group is polled, so
    /// that a rebalance is served and the membership is kept.
    fn wait_full(&mut self) -> Result<(), Failure> {
        let quiet = Duration::from_millis(self.context.config.commit_interval_ms);
        if self.blocked_since.is_none_or(|since| since.elapsed() < quiet) {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(());
        }
        if !self.paused {
            let assignment = self.consumer.assignment().map_err(|error| self.context.unreachable(error))?;
            self.consumer.pause(&assignment).map_err(|error| self.context.unreachable(error))?;
            self.paused = true;
        }
        match self.consumer.poll(Duration::from_millis(10)) {
            None => Ok(()),
            // It was on its way when the partitions were paused, or belongs to one that was just assigned.
            Some(Ok(message)) => {
                self.batch.push(record_of(&message));
                Ok(())
            }
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(()),
            Some(Err(error)) => self.poll_error(error),
        }
    }

    fn resume(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.paused) {
            let assignment = self.consumer.assignment().map_err(|error| self.context.unreachable(error))?;
            self.consumer.resume(&assignment).map_err(|error| self.context.unreachable(error))?;
        }
        Ok(())
    }

    fn poll_error(&self, error: KafkaError) -> Result<(), Failure> {
        let topic = &self.context.topic;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(Failure::new(FailureKind::Unreachable, format!("topic `{topic}` is gone"))
                    .caused_by(error)
                    .cure("the stage that writes it makes it again when it starts"))
            }
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Err(Failure::new(
                FailureKind::Data,
                format!("topic `{topic}` no longer has the offset that comes next"),
            )
            .caused_by(error)
            .cure("records were deleted from it: the chain starts again from what is there")),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(Failure::new(
                FailureKind::Fenced,
                format!("another member took over this one's place in the group of `{topic}`"),
            )
            .caused_by(error)
            .cure("give each replica its own kafka.instance_id; after a freeze this is expected and heals itself")),
            _ => {
                self.context.log.error(&error, "while polling");
                Ok(())
            }
        }
    }

    fn send_on(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.context.progress.lease().check()?;
        // Counted first: the last stage may complete the batch before try_send returns.
        self.context.progress.issue();
        let next = self.batch.next();
        let distance = distance::after(self.batch.len(), &self.context.config);
        match self.context.sender.try_send(FromReader::Batch(std::mem::replace(&mut self.batch, next))) {
            Ok(()) => {
                self.due = None;
                self.next_batch = distance.map(|distance| Instant::now() + distance);
                if let Some(since) = self.blocked_since.take() {
                    let waited = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    metrics::WAITING_MICROSECONDS.inc_by(waited);
                }
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(FromReader::Batch(back))) => {
                self.context.progress.take_back();
                self.batch = back;
                self.blocked_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(_) if self.context.fate.has_ended() => Ok(()),
            Err(_) => Err(Failure::new(FailureKind::Broken, "the first actor of the chain is gone")),
        }
    }

    fn housekeeping(&mut self) {
        if self.last_beat.elapsed() >= pulse::BEAT_EVERY {
            self.last_beat = Instant::now();
            self.context.health.beat(pulse::READER);
        }
        let interval = Duration::from_millis(self.context.config.commit_interval_ms);
        let due = self.last_commit.elapsed() >= interval;
        if !due && self.context.health.is_ready() {
            return;
        }
        let positions = self.context.progress.positions();
        self.report_caught_up(&positions);
        if !due {
            return;
        }
        self.last_commit = Instant::now();
        self.report_positions(&positions);
        if locked(&self.context.commits).is_due(&positions) {
            commit(self.consumer);
        }
    }

    fn report_caught_up(&self, positions: &BTreeMap<i32, i64>) {
        if !locked(&self.context.given).is_some_and(|given| given.is_final(Instant::now())) {
            return;
        }
        let goals = locked(&self.context.goals);
        let Some(goals) = &*goals else { return };
        // The end offset may lie beyond the last record (compaction): at the end with nothing in hand is there as well.
        let idle = self.batch.is_empty() && self.context.progress.is_drained();
        let reached = |(partition, end): (&i32, &i64)| {
            positions.get(partition).is_some_and(|next| next >= end) || (idle && self.at_end.contains(partition))
        };
        if goals.iter().all(reached) {
            self.context.health.release(LATCH);
        }
    }

    fn report_positions(&self, positions: &BTreeMap<i32, i64>) {
        let ends = locked(&self.context.ends).clone();
        let states: Vec<PartitionState> = positions
            .iter()
            .map(|(&partition, &next_offset)| {
                let end_offset = ends.get(&partition).copied();
                let lag = end_offset.map(|end| (end - next_offset).max(0));
                if let Some(lag) = lag {
                    metrics::LAG.with_label_values(&[&self.context.topic, &partition.to_string()]).set(lag);
                }
                PartitionState { partition, next_offset, end_offset, lag }
            })
            .collect();
        self.context.health.detail("input", serde_json::json!({"topic": self.context.topic, "partitions": states}));
    }
}

/// Takes what a thread or client queued and sends it on, one message at a time. The next one is taken
/// only when the worker has handled the last, so the bounds add up down to the socket.
pub struct Feed<M: actix::Message<Result = ()> + Send + 'static> {
    receiver: Option<mpsc::Receiver<M>>,
    next: Option<Recipient<M>>,
    fate: Fate,
}

impl<M: actix::Message<Result = ()> + Send + 'static> Feed<M> {
    pub fn new(receiver: mpsc::Receiver<M>, next: Recipient<M>, fate: Fate) -> Self {
        Feed { receiver: Some(receiver), next: Some(next), fate }
    }
}

impl<M: actix::Message<Result = ()> + Send + Unpin + 'static> Actor for Feed<M> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let (Some(mut receiver), Some(next)) = (self.receiver.take(), self.next.take()) else { return };
        let fate = self.fate.clone();
        let feed = async move {
            while let Some(message) = receiver.recv().await {
                if next.send(message).await.is_err() {
                    return fate.end_broken("actor behind a queue");
                }
            }
        };
        context.spawn(feed.into_actor(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_given_nothing_is_not_ready_at_once() {
        let mut given = Given::now(500);
        assert!(!given.is_final(Instant::now()));
        assert!(given.is_final(Instant::now() + Duration::from_secs(4)), "there may be more members than partitions");
        given.has_partitions = true;
        assert!(given.is_final(Instant::now()));
    }

    #[test]
    fn statistics_tell_ends_and_committed_offsets_as_far_as_they_are_known() {
        let text = br#"{"name":"x","topics":{"other":{"partitions":{}},"t":{"age":1,"partitions":{
            "0":{"partition":0,"hi_offset":9,"committed_offset":7},
            "1":{"partition":1,"hi_offset":3,"committed_offset":-1001},
            "-1":{"partition":-1,"hi_offset":-1001,"committed_offset":-1001}}}}}"#;
        let told = Told { ends: BTreeMap::from([(0, 9), (1, 3)]), committed: BTreeMap::from([(0, 7)]) };
        assert_eq!(Told::read(text, "t"), Some(told));
        assert_eq!(Told::read(text, "absent"), None);
        assert_eq!(Told::read(b"", "t"), None);
    }

    #[test]
    fn a_stage_goes_on_behind_whatever_is_further() {
        assert_eq!(behind_tail_and_commit(None, None), None);
        assert_eq!(behind_tail_and_commit(Some(9), None), Some(10));
        assert_eq!(behind_tail_and_commit(None, Some(4)), Some(4));
        // Rejected records leave no trace in the output; the group's offset knows of them.
        assert_eq!(behind_tail_and_commit(Some(9), Some(12)), Some(12));
        // The last second of commits was lost in a crash; the output knows.
        assert_eq!(behind_tail_and_commit(Some(9), Some(4)), Some(10));
    }
}
