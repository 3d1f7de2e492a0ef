//! Reading outside of any group: the last record of a partition, and whole partitions to the end that stood when reading began.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;

use super::KafkaConfig;
use super::client_log::{self, ClientLog};
use super::topics::unreachable_broker;
use crate::batch::Record;
use crate::failure::{Failure, FailureKind};
use crate::generation::Fate;
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

/// The voice of consumers outside of any group.
pub(crate) struct Looker(ClientLog);

impl Default for Looker {
    fn default() -> Self {
        Looker(ClientLog::new("looker"))
    }
}

impl ClientContext for Looker {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client_log::line(level, facility, text);
    }
}

impl ConsumerContext for Looker {}

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

/// How many records before the end are looked at first; the step grows tenfold while nothing is found.
const FIRST_STEP_BACK: i64 = 1;

impl TailReader {
    pub fn new(config: &KafkaConfig, service: &str, fate: &Fate) -> Result<Self, Failure> {
        let consumer = config
            .looker(service)
            .create_with_context(Looker::default())
            .map_err(|error| unreachable_broker(config, error))?;
        Ok(TailReader { config: config.clone(), consumer, fate: fate.clone() })
    }

    /// First offset and end offset of a partition.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Failure> {
        self.consumer
            .fetch_watermarks(topic, partition, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))
    }

    /// The header of the last record of ours in the partition. The end offset may lie beyond it (compaction, control records, records of
    /// a foreign writer), so the look goes back in growing steps.
    pub fn last_header(&self, topic: &str, partition: i32) -> Result<Option<Header>, Failure> {
        let (low, high) = self.watermarks(topic, partition)?;
        let mut step = FIRST_STEP_BACK;
        let mut start = high;
        while start > low {
            start = high.saturating_sub(step).max(low);
            let mut last = None;
            self.scan(topic, &[(partition, start)], &mut |record| {
                match Header::parse(record.header) {
                    Ok(header) => last = Some(header),
                    // Somebody else wrote it: it says nothing of where this stage stopped.
                    Err(error) => tracing::warn!(topic, partition, offset = record.offset, %error, "a foreign record is passed over"),
                }
                Ok(())
            })?;
            if last.is_some() {
                return Ok(last);
            }
            step = step.saturating_mul(10);
        }
        Ok(None)
    }

    /// The last header of each partition of a topic that has one, in as few questions as it takes.
    pub fn last_headers(&self, topic: &str, partitions: i32) -> Result<BTreeMap<i32, Header>, Failure> {
        let mut ends = Vec::new();
        for partition in 0..partitions {
            let (low, high) = self.watermarks(topic, partition)?;
            if high > low {
                ends.push((partition, high - 1));
            }
        }
        let mut found = BTreeMap::new();
        self.scan(topic, &ends, &mut |record| {
            found.extend(Header::parse(record.header).ok().map(|header| (record.partition, header)));
            Ok(())
        })?;
        // Where no record of ours stands at the very end, the look goes further back.
        for (partition, _) in ends {
            if !found.contains_key(&partition) {
                found.extend(self.last_header(topic, partition)?.map(|header| (partition, header)));
            }
        }
        Ok(found)
    }

    /// Reads each partition from its start offset to the end that stands now, in order for each partition.
    pub fn scan(
        &self,
        topic: &str,
        from: &[(i32, i64)],
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut open = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for &(partition, start) in from {
            let (low, high) = self.watermarks(topic, partition)?;
            let start = start.max(low);
            if start < high {
                open.insert(partition, high);
                let at = assignment.add_partition_offset(topic, partition, Offset::Offset(start));
                at.map_err(|error| unreachable_broker(&self.config, error))?;
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        self.consumer.assign(&assignment).map_err(|error| unreachable_broker(&self.config, error))?;
        let read = self.read_to_ends(topic, &mut open, visit);
        self.consumer.unassign().map_err(|error| unreachable_broker(&self.config, error))?;
        read
    }

    fn read_to_ends(
        &self,
        topic: &str,
        open: &mut BTreeMap<i32, i64>,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut last_heard = Instant::now();
        while !open.is_empty() {
            if self.fate.has_ended() {
                return Err(Failure::new(FailureKind::Broken, format!("reading topic `{topic}` was given up")));
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    last_heard = Instant::now();
                    let Some(&end) = open.get(&message.partition()) else { continue };
                    if message.offset() < end {
                        visit(&record_of(&message))?;
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
