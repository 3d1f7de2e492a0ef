//! A whole topic as a table: read to the end that stood at the start, then followed.
//!
//! The thread belongs to no group: every instance holds the whole table.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::mpsc;

use super::KafkaConfig;
use super::tail::{Looker, TailReader, record_of};
use super::topics::unreachable_broker;
use crate::batch::Batch;
use crate::failure::{Failure, FailureKind};
use crate::generation::Fate;

/// What the thread of one table sends, in order for each partition.
#[derive(Debug)]
pub struct FromTable {
    /// The number that the table was given.
    pub table: usize,
    pub what: TableNews,
}

/// See [`FromTable`].
#[derive(Debug)]
pub enum TableNews {
    Batch(Batch),
    /// Everything that stood at the start has been sent.
    Loaded,
}

impl actix::Message for FromTable {
    type Result = ();
}

/// Starts reading all partitions of `topic`. `number` says in the messages which table it is.
pub fn spawn(
    config: &KafkaConfig,
    service: &'static str,
    (number, topic): (usize, &str),
    partitions: i32,
    fate: &Fate,
) -> Result<(mpsc::Receiver<FromTable>, JoinHandle<()>), Failure> {
    let (sender, receiver) = mpsc::channel(config.queue_batches_max.max(1));
    let tail = TailReader::new(config, service, fate)?;
    let consumer = config
        .follower(service)
        .create_with_context(Looker::default())
        .map_err(|error| unreachable_broker(config, error))?;
    let table = Table {
        config: config.clone(),
        consumer,
        number,
        topic: topic.to_owned(),
        open: BTreeMap::new(),
        sender,
        fate: fate.clone(),
    };
    let fate = fate.clone();
    let thread = std::thread::Builder::new()
        .name("kafka-table".into())
        .spawn(move || {
            if let Err(failure) = table.run(&tail, partitions) {
                fate.end(failure);
            }
        })
        .map_err(|error| Failure::new(FailureKind::Broken, "a reading thread cannot start").caused_by(error))?;
    Ok((receiver, thread))
}

struct Table {
    config: KafkaConfig,
    consumer: BaseConsumer<Looker>,
    number: usize,
    topic: String,
    /// End offsets that are not reached yet, by partition.
    open: BTreeMap<i32, i64>,
    sender: mpsc::Sender<FromTable>,
    fate: Fate,
}

impl Table {
    fn run(mut self, tail: &TailReader, partitions: i32) -> Result<(), Failure> {
        let unreachable = |error| unreachable_broker(&self.config, error);
        let mut assignment = TopicPartitionList::new();
        for (partition, bounds) in tail.bounds(&self.topic, 0..partitions)? {
            let first = Offset::Offset(bounds.first);
            assignment.add_partition_offset(&self.topic, partition, first).map_err(unreachable)?;
            if !bounds.is_empty() {
                self.open.insert(partition, bounds.end);
            }
        }
        self.consumer.assign(&assignment).map_err(unreachable)?;
        let mut loaded = false;
        let mut batch = Batch::default();
        while !self.fate.has_ended() {
            if !loaded && self.open.is_empty() {
                self.send(TableNews::Batch(std::mem::take(&mut batch)))?;
                self.send(TableNews::Loaded)?;
                loaded = true;
            }
            let idle = self.poll(&mut batch)?;
            let full =
                batch.len() >= self.config.batch_records_max || batch.size_bytes() >= self.config.batch_bytes_max;
            if (idle || full) && !batch.is_empty() {
                self.send(TableNews::Batch(std::mem::take(&mut batch)))?;
            }
        }
        Ok(())
    }

    /// Takes in one record; true when there was none.
    fn poll(&mut self, batch: &mut Batch) -> Result<bool, Failure> {
        let wait = if batch.is_empty() { Duration::from_millis(100) } else { Duration::ZERO };
        match self.consumer.poll(wait) {
            None => Ok(true),
            Some(Ok(message)) => {
                let record = record_of(&message);
                if self.open.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
                    self.open.remove(&record.partition);
                }
                batch.push(record);
                Ok(false)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.open.remove(&partition);
                Ok(true)
            }
            Some(Err(error)) if is_lost_topic(&error) => Err(Failure::new(
                FailureKind::Unreachable,
                format!("topic `{}` is gone, or lost records that come next", self.topic),
            )
            .caused_by(error)
            .cure("the chain reads it anew")),
            // The client tries again by itself, and its log says so.
            Some(Err(error)) => {
                tracing::debug!(topic = self.topic, %error, "while reading a topic");
                Ok(true)
            }
        }
    }

    fn send(&self, what: TableNews) -> Result<(), Failure> {
        let mut message = FromTable { table: self.number, what };
        loop {
            match self.sender.try_send(message) {
                Ok(()) => return Ok(()),
                Err(_) if self.fate.has_ended() => return Ok(()),
                Err(mpsc::error::TrySendError::Full(back)) => message = back,
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    return Err(Failure::new(FailureKind::Broken, "the first actor of the chain is gone"));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_lost_topic(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange, UnknownTopic, UnknownTopicOrPartition};
    matches!(
        error.rdkafka_error_code(),
        Some(AutoOffsetReset | OffsetOutOfRange | UnknownTopic | UnknownTopicOrPartition)
    )
}
