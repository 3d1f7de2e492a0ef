//! The sink of a Kafka stage: an actor around an idempotent producer, and the ledger of what is acknowledged.
//!
//! A batch's position is handed to `on_acked` once all its records, and those of all batches before it, are acknowledged by the
//! broker (`acks=all`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use actix::prelude::*;
use jiff::Timestamp;
use opentelemetry_proto::tonic::trace::v1::Span;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext};
use tokio::sync::mpsc;

use super::KafkaConfig;
use super::client_log::{self, ClientLog};
use super::reader::Feed;
use super::sender::Sender;
use crate::batch::{OutRecord, Outgoing};
use crate::failure::{Failure, FailureKind};
use crate::generation::{Fate, Lease};
use crate::ledger::Ledger;
use crate::metrics;
use crate::record::header;
use crate::record::header::Operation;
use crate::traces::Tracer;

impl<P: Send + 'static> actix::Message for Outgoing<P> {
    type Result = ();
}

/// Called with each position, in order, once it is durable. It runs where the broker's answers are taken in: no waiting.
pub type OnAcked<P> = Box<dyn Fn(P) + Send + Sync>;

/// The topics that a publisher writes to. [`OutRecord::topic`] is the index in this list, which grows at its end only.
#[derive(Debug, Clone, Default)]
pub struct TopicNames(Arc<RwLock<Vec<Arc<str>>>>);

impl TopicNames {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        TopicNames(Arc::new(RwLock::new(names.into_iter().map(Arc::from).collect())))
    }

    /// Adds a topic that exists; gives its index.
    pub fn add(&self, name: &str) -> usize {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        names.push(Arc::from(name));
        names.len() - 1
    }

    pub fn get(&self, index: usize) -> Option<Arc<str>> {
        self.read().get(index).cloned()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<str>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<str>> {
        self.read().clone()
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a publisher needs.
pub struct PublisherSetup<'a, P> {
    pub config: &'a KafkaConfig,
    pub service: &'static str,
    pub topics: TopicNames,
    /// The index of the dead-letter topic: its records are acknowledged before the others of their batch are sent.
    pub letters: Option<usize>,
    pub fate: Fate,
    pub lease: Lease,
    pub tracer: Option<Tracer>,
    pub on_acked: OnAcked<P>,
}

/// The last actor of a chain that writes to Kafka.
pub struct Publisher<P: Send + 'static> {
    outbox: Arc<Outbox<P>>,
}

struct Outbox<P: Send + 'static> {
    sender: Sender<Deliveries<P>>,
    deliveries: Arc<DeliveryState<P>>,
    topics: TopicNames,
    letters: Option<usize>,
    fate: Fate,
    lease: Lease,
    delivery_timeout: Duration,
}

/// How often the oldest batch is held against the bound of its acknowledgement, which is of many seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// So many records are sent between two looks at the answers. Fewer are left to the thread of the answers.
const RECORDS_BETWEEN_ANSWERS: usize = 128;

/// The number of a dead letter, which belongs to no batch of the ledger.
const LETTER: usize = usize::MAX;

/// What the broker's answers change, in whatever thread they are taken in.
struct DeliveryState<P> {
    ledger: Mutex<Accounts<P>>,
    /// Dead letters of the batch in hand that are not acknowledged.
    letters: AtomicUsize,
    on_acked: OnAcked<P>,
    tracer: Option<Tracer>,
    topics: TopicNames,
    fate: Fate,
}

struct Accounts<P> {
    ledger: Ledger<P>,
    /// Beside the ledger: what metrics and traces need of each batch.
    tallies: VecDeque<Tally>,
}

struct Tally {
    since: Instant,
    commit_times_us: Vec<i64>,
    records: Vec<(usize, Operation, usize)>,
    spans: Vec<Span>,
}

struct Deliveries<P> {
    state: Arc<DeliveryState<P>>,
    log: ClientLog,
}

impl<P: Send + 'static> Publisher<P> {
    pub fn new(setup: PublisherSetup<'_, P>) -> Result<Self, Failure> {
        let deliveries = Arc::new(DeliveryState {
            ledger: Mutex::new(Accounts { ledger: Ledger::default(), tallies: VecDeque::new() }),
            letters: AtomicUsize::new(0),
            on_acked: setup.on_acked,
            tracer: setup.tracer,
            topics: setup.topics.clone(),
            fate: setup.fate.clone(),
        });
        let context = Deliveries { state: Arc::clone(&deliveries), log: ClientLog::new("producer") };
        let outbox = Outbox {
            sender: Sender::new(setup.config, &setup.config.producer(setup.service), context)?,
            deliveries,
            topics: setup.topics,
            letters: setup.letters,
            fate: setup.fate,
            lease: setup.lease,
            delivery_timeout: Duration::from_millis(setup.config.delivery_timeout_ms),
        };
        Ok(Publisher { outbox: Arc::new(outbox) })
    }
}

impl<P: Send + Unpin + 'static> Publisher<P> {
    /// Starts it in a thread of its own. Who works waits only where as many batches as this are waiting to be sent.
    pub fn start_behind_queue(
        self,
        outlet: &ArbiterHandle,
        batches_max: usize,
        fate: &Fate,
    ) -> mpsc::Sender<Outgoing<P>> {
        let publisher = Publisher::start_in_arbiter(outlet, |_| self);
        let (sender, receiver) = mpsc::channel(batches_max.max(1));
        let feed = Feed::new(receiver, publisher.recipient(), fate.clone());
        Feed::start_in_arbiter(outlet, |_| feed);
        sender
    }
}

impl<P: Send + Unpin + 'static> Actor for Publisher<P> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let outbox = Arc::clone(&self.outbox);
        context.run_interval(WATCH_EVERY, move |_, _| outbox.watch_oldest());
        // What waits in the producer's queue when the generation ends must not go out behind the next generation's look at the tail.
        let outbox = Arc::clone(&self.outbox);
        let purge = async move {
            outbox.fate.ended().await;
            outbox.sender.purge();
        };
        context.spawn(purge.into_actor(self));
    }
}

impl<P: Send + Unpin + 'static> Handler<Outgoing<P>> for Publisher<P> {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, outgoing: Outgoing<P>, _: &mut Self::Context) -> Self::Result {
        let outbox = Arc::clone(&self.outbox);
        let publish = async move {
            if let Err(failure) = outbox.publish(outgoing).await {
                outbox.fate.end(failure);
            }
        };
        AtomicResponse::new(Box::pin(publish.into_actor(self)))
    }
}

impl<P: Send + 'static> Outbox<P> {
    /// Queues a batch whole, or ends the generation: a record may not go out when one before it did not.
    async fn publish(&self, outgoing: Outgoing<P>) -> Result<(), Failure> {
        // The purge at the end of a generation is a task of this thread: it runs only where this one waits, and there it is asked again.
        self.check()?;
        let (mut outgoing, position) = outgoing.into_parts();
        let mut tally = Tally::of(&mut outgoing);
        let topics = self.topics.all();
        if let Some(tracer) = &self.deliveries.tracer {
            tally.spans = tracer.begin(&outgoing, &topics);
        }
        let is_letter = |record: &OutRecord<'_>| Some(record.topic) == self.letters;
        let letters = self.letters.map_or(0, |topic| tally.records_for(topic));
        if letters > 0 {
            // The output's tail will name a position behind the rejected records: first their letters must be safe.
            self.deliveries.letters.store(letters, Ordering::SeqCst);
            for record in outgoing.records().filter(is_letter) {
                self.send(&topics, &record, LETTER, now_ms()).await?;
            }
            while self.deliveries.letters.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.sender.take_answers();
                self.check()?;
            }
        }
        // One time for all: the client would ask for it for each record.
        let now_ms = now_ms();
        let number = self.deliveries.enter(outgoing.len() - letters, position, tally);
        let number = usize::try_from(number).unwrap_or(LETTER);
        for (sent, record) in (1..).zip(outgoing.records().filter(|record| !is_letter(record))) {
            self.send(&topics, &record, number, now_ms).await?;
            if sent % RECORDS_BETWEEN_ANSWERS == 0 {
                self.sender.take_answers();
            }
        }
        Ok(())
    }

    /// Records wait in the producer for as long as it takes; here is the bound.
    fn watch_oldest(&self) {
        let waiting = self.deliveries.lock().tallies.front().map(|tally| tally.since.elapsed());
        if waiting.is_some_and(|waiting| waiting > self.delivery_timeout) && !self.fate.has_ended() {
            let bound = self.delivery_timeout.as_millis();
            self.fate.end(
                Failure::new(FailureKind::Unreachable, format!("Kafka did not acknowledge a record within {bound} ms"))
                    .cure("look at the broker; the records are sent again when the chain has started again"),
            );
        }
    }

    /// Nothing may be sent by a generation that has ended, or by a process that was frozen.
    fn check(&self) -> Result<(), Failure> {
        if self.fate.has_ended() {
            return Err(Failure::new(FailureKind::Broken, "the generation ended while records were sent"));
        }
        self.lease.check()
    }

    /// The caller has checked since it last waited.
    async fn send(
        &self,
        topics: &[Arc<str>],
        record: &OutRecord<'_>,
        number: usize,
        now_ms: i64,
    ) -> Result<(), Failure> {
        let topic = topics.get(record.topic).ok_or_else(|| {
            Failure::new(FailureKind::Broken, format!("a record names topic {} of {}", record.topic, topics.len()))
        })?;
        let headers =
            OwnedHeaders::new_with_capacity(1).insert(KafkaHeader { key: header::NAME, value: Some(record.header) });
        let mut message = BaseRecord::with_opaque_to(topic, number)
            .key(record.key)
            .partition(record.partition)
            .timestamp(now_ms)
            .headers(headers);
        if let Some(value) = record.value {
            message = message.payload(value);
        }
        loop {
            match self.sender.send(message) {
                Ok(()) => return Ok(()),
                // The watch over the oldest batch bounds this wait.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    message = back;
                    self.sender.take_answers();
                }
                Err((error, _)) => {
                    return Err(Failure::new(FailureKind::Refused, format!("a record for topic `{topic}` could not be queued"))
                        .caused_by(error)
                        .cure("if it is too large, raise kafka.topics.record_bytes_max of every service and max.message.bytes of the topics"));
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.check()?;
        }
    }
}

impl Tally {
    fn of(outgoing: &mut Outgoing<()>) -> Self {
        let commit_times_us = std::mem::take(&mut outgoing.commit_times_us);
        let mut tally = Tally { since: Instant::now(), commit_times_us, records: Vec::new(), spans: Vec::new() };
        for record in outgoing.records() {
            let found = tally.records.iter_mut().find(|(t, o, _)| *t == record.topic && *o == record.operation);
            match found {
                Some((_, _, count)) => *count += 1,
                None => tally.records.push((record.topic, record.operation, 1)),
            }
        }
        tally
    }

    fn records_for(&self, topic: usize) -> usize {
        let counts = self.records.iter().filter(|(of, ..)| *of == topic).map(|(_, _, count)| *count);
        counts.sum()
    }

    fn report(&self, topics: &TopicNames) {
        for (topic, operation, count) in &self.records {
            if let Some(topic) = topics.get(*topic) {
                metrics::RECORDS_OUT.with_label_values(&[&*topic, operation.as_str()]).inc_by(*count as u64);
            }
        }
        observe_end_to_end(&self.commit_times_us);
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Enters the time since each commit at the source into the histogram.
pub fn observe_end_to_end(commit_times_us: &[i64]) {
    let now = Timestamp::now().as_microsecond();
    let batch = metrics::END_TO_END.local();
    for committed in commit_times_us {
        #[expect(clippy::cast_precision_loss, reason = "a duration in seconds for a histogram")]
        batch.observe((now - committed).max(0) as f64 / 1e6);
    }
    batch.flush();
}

impl<P> DeliveryState<P> {
    fn lock(&self) -> MutexGuard<'_, Accounts<P>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, pending: usize, position: P, tally: Tally) -> u64 {
        let mut accounts = self.lock();
        accounts.tallies.push_back(tally);
        let number = accounts.ledger.enter(pending, position);
        self.release(accounts);
        number
    }

    fn acknowledge(&self, number: usize) {
        if number == LETTER {
            self.letters.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let mut accounts = self.lock();
        accounts.ledger.acknowledge(number as u64);
        self.release(accounts);
    }

    /// Hands on what is durable, in order: the lock is held, so that no later position overtakes.
    fn release(&self, mut accounts: MutexGuard<'_, Accounts<P>>) {
        while let Some(position) = accounts.ledger.release() {
            if let Some(tally) = accounts.tallies.pop_front() {
                tally.report(&self.topics);
                if let Some(tracer) = &self.tracer {
                    tracer.end(tally.spans);
                }
            }
            (self.on_acked)(position);
        }
    }
}

impl<P: Send + 'static> ClientContext for Deliveries<P> {
    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client_log::line(level, facility, text);
    }
}

impl<P: Send + 'static> ProducerContext for Deliveries<P> {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(_) => self.state.acknowledge(number),
            Err((error, message)) => {
                let topic = rdkafka::Message::topic(message);
                self.state.fate.end(
                    Failure::new(
                        FailureKind::Unreachable,
                        format!("a record for topic `{topic}` was not acknowledged"),
                    )
                    .caused_by(error.clone())
                    .cure("look at the broker; the record is sent again when the chain has started again"),
                );
            }
        }
    }
}
