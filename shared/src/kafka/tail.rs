//! Reading outside of any group: the last record of a partition, and whole partitions to the end that stood when reading began.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;

use super::KafkaConfig;
use super::bounds::{self, Bounds};
use super::client_log::ClientLog;
use super::security::Refusal;
use super::topics::unreachable_broker;
use crate::batch::{Batch, Record};
use crate::failure::{Failure, FailureKind};
use crate::generation::Fate;
use crate::position::Version;
use crate::record::header::{self, Header};

/// The header `tidemill` of a message.
pub(crate) fn tidemill_header<'a>(message: &'a BorrowedMessage<'_>) -> Option<&'a [u8]> {
    let headers = message.headers()?;
    headers.iter().find(|found| found.key == header::NAME).and_then(|found| found.value)
}

/// A message as a [`Record`].
pub(crate) fn record_of<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        header: tidemill_header(message),
    }
}

/// A client that says nothing for so long has said all.
const SILENCE: Duration = Duration::from_millis(50);

/// So many events of a client are listened to: one that cannot connect goes on telling of it.
const TOLD_MAX: usize = 100;

/// The voice of consumers outside of any group.
pub(crate) struct Looker(ClientLog);

impl Default for Looker {
    fn default() -> Self {
        Looker(ClientLog::new("looker"))
    }
}

impl Looker {
    /// Why a consumer has no connection, as far as it has said it by now.
    pub(super) fn refusal_of(consumer: &BaseConsumer<Looker>) -> Option<Refusal> {
        // What happened while a question waited is told when the consumer is polled; one without partitions has nothing else to say.
        let told = std::iter::repeat_with(|| consumer.poll(SILENCE)).take(TOLD_MAX);
        told.take_while(Option::is_some).for_each(drop);
        consumer.context().0.refusal()
    }

    /// The broker has answered: what was said before is over.
    pub(super) fn connected(&self) {
        self.0.connected();
    }
}

impl ClientContext for Looker {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.line(level, facility, text);
    }
}

impl ConsumerContext for Looker {}

/// What the last records of an output partition say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The last input offset that they name.
    pub input_offset: Option<i64>,
    /// The highest version that the partition had come to.
    pub version: Version,
}

/// So many of the last records make the tail: a record of a writer that hung may stand behind newer ones.
const TAIL_RECORDS: i64 = 1_000;

/// A consumer for tails and scans.
pub struct TailReader {
    config: KafkaConfig,
    consumer: BaseConsumer<Looker>,
    fate: Fate,
}

/// Reads topics in a task that may block.
pub async fn read_in_task<T: Send + 'static>(
    config: &KafkaConfig,
    service: &'static str,
    fate: &Fate,
    read: impl FnOnce(&TailReader) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (config, fate) = (config.clone(), fate.clone());
    tokio::task::spawn_blocking(move || read(&TailReader::new(&config, service, &fate)?))
        .await
        .map_err(|error| Failure::new(FailureKind::Broken, "the topics could not be read").caused_by(error))?
}

/// The last records of each partition of a topic, so many at most.
pub async fn last_records(
    config: &KafkaConfig,
    service: &'static str,
    (topic, partitions): (&str, i32),
    records_max: usize,
) -> Result<Batch, Failure> {
    let (topic, records_max) = (topic.to_owned(), i64::try_from(records_max).unwrap_or(i64::MAX));
    let read = move |tail: &TailReader| {
        let bounds = tail.bounds(&topic, 0..partitions)?;
        let from: Vec<(i32, i64)> =
            bounds.iter().map(|(at, bounds)| (*at, bounds.end.saturating_sub(records_max))).collect();
        let mut last = Batch::default();
        tail.scan(&topic, &from, &mut |record| {
            last.push(*record);
            Ok(())
        })?;
        Ok(last)
    };
    read_in_task(config, service, &Fate::default(), read).await
}

impl TailReader {
    pub fn new(config: &KafkaConfig, service: &str, fate: &Fate) -> Result<Self, Failure> {
        let consumer = config
            .looker(service)
            .create_with_context(Looker::default())
            .map_err(|error| unreachable_broker(config, error))?;
        Ok(TailReader { config: config.clone(), consumer, fate: fate.clone() })
    }

    /// Where these partitions of a topic begin and end.
    pub fn bounds(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, Bounds>, Failure> {
        bounds::of(&self.consumer, topic, partitions, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))
    }

    /// Where these partitions of a topic come to this time, in milliseconds since 1970: all records before are older.
    pub fn since(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
        at_ms: i64,
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        bounds::since(&self.consumer, topic, partitions, at_ms, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))
    }

    /// The header of the last record of ours in each of these partitions that has one.
    pub fn last_headers(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, Header>, Failure> {
        let mut found = BTreeMap::new();
        self.look_back(topic, partitions, 1, &mut |partition, header| {
            found.insert(partition, header);
        })?;
        Ok(found)
    }

    /// Where the stage that wrote these partitions stopped in each that has a record of it.
    pub fn stopped(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<BTreeMap<i32, Stopped>, Failure> {
        let mut found: BTreeMap<i32, Stopped> = BTreeMap::new();
        self.look_back(topic, partitions, TAIL_RECORDS, &mut |partition, header| {
            let stopped = found.entry(partition).or_default();
            stopped.input_offset = stopped.input_offset.max(header.input_offset);
            stopped.version = stopped.version.max(header.partition_version());
        })?;
        Ok(found)
    }

    /// Visits the headers of the last records of these partitions, so many in each. The end may lie beyond the last record of ours
    /// (compaction, control records, records of a foreign writer): where none is found the look goes further back, in growing steps.
    fn look_back(
        &self,
        topic: &str,
        partitions: impl IntoIterator<Item = i32>,
        records: i64,
        visit: &mut dyn FnMut(i32, Header),
    ) -> Result<(), Failure> {
        let mut open = self.bounds(topic, partitions)?;
        open.retain(|_, bounds| !bounds.is_empty());
        let (mut found, mut step) = (BTreeSet::new(), records);
        while !open.is_empty() {
            let from = |bounds: &Bounds| bounds.end.saturating_sub(step).max(bounds.first);
            let parts = open.iter().map(|(&partition, bounds)| (partition, Bounds { first: from(bounds), ..*bounds }));
            self.scan_within(topic, parts.collect(), &mut |record| {
                let (partition, offset) = (record.partition, record.offset);
                match Header::parse(record.header) {
                    Ok(header) => {
                        found.insert(partition);
                        visit(partition, header);
                    }
                    // Somebody else wrote it: it says nothing of where this stage stopped.
                    Err(error) => tracing::warn!(topic, partition, offset, %error, "a foreign record is passed over"),
                }
                Ok(())
            })?;
            open.retain(|partition, bounds| !found.contains(partition) && from(bounds) > bounds.first);
            step = step.saturating_mul(10);
        }
        Ok(())
    }

    /// Reads each partition from its start offset to the end that stands now, in order for each partition.
    pub fn scan(
        &self,
        topic: &str,
        from: &[(i32, i64)],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut parts = self.bounds(topic, from.iter().map(|(partition, _)| *partition))?;
        for &(partition, start) in from {
            if let Some(bounds) = parts.get_mut(&partition) {
                bounds.first = bounds.first.max(start);
            }
        }
        self.scan_within(topic, parts, visit)
    }

    fn scan_within(
        &self,
        topic: &str,
        parts: BTreeMap<i32, Bounds>,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.scan_messages(topic, parts, &mut |message| visit(&record_of(message)).map(ControlFlow::Continue))
    }

    /// Reads within these bounds, in order for each partition, until all is read or `visit` has enough.
    pub(crate) fn scan_messages(
        &self,
        topic: &str,
        mut parts: BTreeMap<i32, Bounds>,
        visit: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        parts.retain(|_, bounds| !bounds.is_empty());
        if parts.is_empty() {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        for (&partition, bounds) in &parts {
            let added = assignment.add_partition_offset(topic, partition, Offset::Offset(bounds.first));
            added.map_err(|error| unreachable_broker(&self.config, error))?;
        }
        let mut open = parts.into_iter().map(|(partition, bounds)| (partition, bounds.end)).collect();
        self.consumer.assign(&assignment).map_err(|error| unreachable_broker(&self.config, error))?;
        let read = self.read_to_ends(topic, &mut open, visit);
        self.consumer.unassign().map_err(|error| unreachable_broker(&self.config, error))?;
        read
    }

    fn read_to_ends(
        &self,
        topic: &str,
        open: &mut BTreeMap<i32, i64>,
        visit: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut last_heard = Instant::now();
        while !open.is_empty() {
            if self.fate.has_ended() {
                return Err(Failure::new(FailureKind::Broken, format!("reading topic `{topic}` was given up")));
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let Some(&end) = open.get(&message.partition()) else { continue };
                    last_heard = Instant::now();
                    if message.offset() < end && visit(&message)?.is_break() {
                        return Ok(());
                    }
                    if message.offset() + 1 >= end {
                        open.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    last_heard = Instant::now();
                    open.remove(&partition);
                }
                Some(Err(error)) => tracing::debug!(topic, %error, "while reading a topic"),
                None => {}
            }
            if last_heard.elapsed() > self.config.request_timeout() {
                return Err(Failure::new(
                    FailureKind::Unreachable,
                    format!(
                        "topic `{topic}` gave nothing for {} ms, with {} partitions not read to their end",
                        self.config.request_timeout_ms,
                        open.len()
                    ),
                )
                .cure("look at the broker's log; the service tries again by itself"));
            }
        }
        Ok(())
    }
}
