//! The layers between source and sink: the records of a topic, with their headers and times.
//!
//! These calls block while the broker answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::record::header::{self, Header, HeaderError};

/// One record of a topic, as a reader of the topic sees it.
#[derive(Debug)]
pub struct LayerRecord {
    pub partition: i32,
    pub offset: i64,
    /// When it was produced, milliseconds since 1970.
    pub produced_ms: Option<i64>,
    pub key: String,
    /// `None` is a tombstone.
    pub value: Option<String>,
    pub header: Result<Header, HeaderError>,
}

/// A place in each partition of a topic.
pub type Mark = Vec<(i32, i64)>;

/// Reads topics outside of any group.
pub struct Layers {
    kafka: KafkaConfig,
    consumer: BaseConsumer,
}

/// Longest wait for an answer of the broker, and longest silence while reading.
const PATIENCE: Duration = Duration::from_secs(10);

impl Layers {
    /// To look into topics one after the other. A question for new data that the broker still holds back delays the read of the next
    /// topic, so the broker may not hold it for long.
    pub fn connect(kafka: &KafkaConfig) -> Result<Self, Failure> {
        Layers::asking(kafka, "10")
    }

    /// To stay with one topic and see each record as soon as it is there.
    pub fn follower(kafka: &KafkaConfig) -> Result<Self, Failure> {
        Layers::asking(kafka, "500")
    }

    fn asking(kafka: &KafkaConfig, longest_hold_ms: &str) -> Result<Self, Failure> {
        let consumer = kafka
            .client("tidemill-lab")
            .set("group.id", "tidemill-lab")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", longest_hold_ms)
            .create()
            .map_err(|error| unreachable(kafka, error))?;
        Ok(Layers { kafka: kafka.clone(), consumer })
    }

    /// The partitions of a topic, in order.
    pub fn partitions(&self, topic: &str) -> Result<Vec<i32>, Failure> {
        let metadata = self.consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| self.unreachable(error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let mut partitions: Vec<i32> =
            found.map(|topic| topic.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
        if partitions.is_empty() {
            return Err(Failure::new(FailureKind::Unreachable, format!("topic `{topic}` does not exist"))
                .cure("start the services: the one that writes a topic makes it"));
        }
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// Where the topic begins.
    pub fn begin(&self, topic: &str) -> Result<Mark, Failure> {
        self.mark(topic, |(low, _)| low)
    }

    /// Where the topic ends now.
    pub fn end(&self, topic: &str) -> Result<Mark, Failure> {
        self.mark(topic, |(_, high)| high)
    }

    fn mark(&self, topic: &str, pick: impl Fn((i64, i64)) -> i64) -> Result<Mark, Failure> {
        let mut mark = Mark::new();
        for partition in self.partitions(topic)? {
            let watermarks = self.consumer.fetch_watermarks(topic, partition, PATIENCE);
            mark.push((partition, pick(watermarks.map_err(|error| self.unreachable(error))?)));
        }
        Ok(mark)
    }

    /// The records from a mark to the end that stands now, in order for each partition, as far as `wanted` wants their keys.
    pub fn read(&self, topic: &str, from: &Mark, wanted: impl Fn(&str) -> bool) -> Result<Vec<LayerRecord>, Failure> {
        let mut records = Vec::new();
        self.visit(topic, from, &self.end(topic)?, |record| {
            if wanted(&record.key) {
                records.push(record);
            }
        })?;
        Ok(records)
    }

    /// Calls `visit` with the records between two marks, in order for each partition. A partition that either mark lacks is left out.
    pub fn visit(&self, topic: &str, from: &Mark, to: &Mark, visit: impl FnMut(LayerRecord)) -> Result<(), Failure> {
        let mut open: BTreeMap<i32, i64> = to.iter().copied().collect();
        let starts: BTreeMap<i32, i64> = from.iter().copied().collect();
        open.retain(|partition, end| starts.get(partition).is_some_and(|start| start < end));
        if open.is_empty() {
            return Ok(());
        }
        self.assign(topic, from.iter().filter(|(partition, _)| open.contains_key(partition)))?;
        let visited = self.visit_open(topic, open, visit);
        self.consumer.unassign().map_err(|error| self.unreachable(error))?;
        visited
    }

    /// Hands on the value of each record from a mark on, as it comes, for as long as `go_on` says so.
    pub fn follow(
        &self,
        topic: &str,
        from: &Mark,
        mut visit: impl FnMut(&[u8]),
        go_on: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        self.assign(topic, from.iter())?;
        while go_on() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => visit(message.payload().unwrap_or_default()),
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => return Err(self.unreachable(error)),
            }
        }
        self.consumer.unassign().map_err(|error| self.unreachable(error))
    }

    fn assign<'m>(&self, topic: &str, from: impl Iterator<Item = &'m (i32, i64)>) -> Result<(), Failure> {
        let mut assignment = TopicPartitionList::new();
        for &(partition, start) in from {
            let added = assignment.add_partition_offset(topic, partition, Offset::Offset(start));
            added.map_err(|error| self.unreachable(error))?;
        }
        self.consumer.assign(&assignment).map_err(|error| self.unreachable(error))
    }

    /// Reads until no partition has an end to be reached.
    fn visit_open(
        &self,
        topic: &str,
        mut open: BTreeMap<i32, i64>,
        mut visit: impl FnMut(LayerRecord),
    ) -> Result<(), Failure> {
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(&end) = open.get(&message.partition()) else { continue };
                    if message.offset() < end {
                        visit(record(&message));
                    }
                    if message.offset() + 1 >= end {
                        open.remove(&message.partition());
                    }
                }
                // The last offsets may hold no records (compaction, control records).
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    open.remove(&partition);
                }
                // librdkafka tries again by itself; what lasts is silence.
                Some(Err(_)) | None if heard.elapsed() < PATIENCE => {}
                Some(Err(error)) => return Err(self.unreachable(error)),
                None => return Err(silent(topic)),
            }
        }
        Ok(())
    }

    fn unreachable(&self, error: KafkaError) -> Failure {
        unreachable(&self.kafka, error)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn record(message: &BorrowedMessage<'_>) -> LayerRecord {
    let headers = message.headers();
    let found = headers.and_then(|headers| headers.iter().find(|found| found.key == header::NAME));
    LayerRecord {
        partition: message.partition(),
        offset: message.offset(),
        produced_ms: message.timestamp().to_millis(),
        key: text(message.key().unwrap_or_default()),
        value: message.payload().map(text),
        header: Header::parse(found.and_then(|found| found.value)),
    }
}

fn unreachable(kafka: &KafkaConfig, error: KafkaError) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("Kafka at {} does not answer", kafka.brokers))
        .caused_by(error)
        .cure("start the broker, or give the right address with --kafka-brokers or TIDEMILL_KAFKA_BROKERS")
}

fn silent(topic: &str) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("topic `{topic}` gave nothing for {} s", PATIENCE.as_secs()))
        .cure("look at the broker's log")
}
