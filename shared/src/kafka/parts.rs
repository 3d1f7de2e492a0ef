//! Parts of partitions, read piece by piece and outside of any group: from an offset up to another one, and nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;

use super::KafkaConfig;
use super::tail::{Looker, record_of};
use super::topics::unreachable_broker;
use crate::batch::Record;
use crate::failure::{Failure, FailureKind};

/// A part of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub partition: i32,
    pub next: i64,
    /// The first offset that is not read.
    pub until: i64,
}

/// Offsets of a partition that hold no record: compaction has taken them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// A consumer of parts of one topic.
pub struct Parts {
    config: KafkaConfig,
    topic: String,
    consumer: BaseConsumer<Looker>,
    /// By partition: what comes next, and the first that is not read.
    places: BTreeMap<i32, (i64, i64)>,
    /// For how long the broker has given nothing, while something was to come.
    silent: Duration,
    first_gap: Option<Gap>,
}

impl Parts {
    /// Each part must begin within its partition.
    pub fn new(config: &KafkaConfig, service: &str, topic: &str, parts: &[Part]) -> Result<Self, Failure> {
        let unreachable = |error| unreachable_broker(config, error);
        let consumer: BaseConsumer<_> =
            config.follower(service).create_with_context(Looker::default()).map_err(unreachable)?;
        let (mut assignment, mut read) = (TopicPartitionList::new(), TopicPartitionList::new());
        let mut places = BTreeMap::new();
        for &Part { partition, next, until } in parts {
            places.insert(partition, (next, until));
            assignment.add_partition_offset(topic, partition, Offset::Offset(next)).map_err(unreachable)?;
            if next >= until {
                read.add_partition(topic, partition);
            }
        }
        consumer.assign(&assignment).map_err(unreachable)?;
        consumer.pause(&read).map_err(unreachable)?;
        let (config, topic) = (config.clone(), topic.to_owned());
        Ok(Parts { config, topic, consumer, places, silent: Duration::ZERO, first_gap: None })
    }

    pub fn is_done(&self) -> bool {
        self.places.values().all(|(next, until)| next >= until)
    }

    /// What comes next in each partition.
    pub fn places(&self) -> impl Iterator<Item = (i32, i64)> {
        self.places.iter().map(|(&partition, &(next, _))| (partition, next))
    }

    /// The first offsets without a record that were met.
    pub fn first_gap(&self) -> Option<Gap> {
        self.first_gap
    }

    /// Waits so long for a record, and hands it out with its timestamp, in milliseconds since 1970. False where none came.
    pub fn read(&mut self, wait: Duration, visit: &mut dyn FnMut(Record<'_>, Option<i64>)) -> Result<bool, Failure> {
        if self.is_done() {
            return Ok(false);
        }
        match self.consumer.poll(wait) {
            Some(Ok(message)) => {
                self.silent = Duration::ZERO;
                let (partition, offset) = (message.partition(), message.offset());
                let Some((next, until)) = self.places.get_mut(&partition) else { return Ok(true) };
                if offset < *next || *next >= *until {
                    return Ok(true);
                }
                if offset > *next && self.first_gap.is_none() {
                    self.first_gap = Some(Gap { partition, from: *next, to: offset.min(*until) });
                }
                let is_within = offset < *until;
                *next = (offset + 1).min(*until);
                if is_within {
                    visit(record_of(&message), message.timestamp().to_millis());
                }
                if next >= until {
                    self.pause(partition)?;
                }
                Ok(true)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.silent = Duration::ZERO;
                if let Some((next, until)) = self.places.get_mut(&partition)
                    && *next < *until
                {
                    self.first_gap.get_or_insert(Gap { partition, from: *next, to: *until });
                    *next = *until;
                }
                Ok(true)
            }
            Some(Err(error)) => {
                tracing::debug!(topic = self.topic, %error, "while reading a topic");
                self.silence(wait)
            }
            None => self.silence(wait),
        }
    }

    /// Parts end later than they did.
    pub fn extend(&mut self, until: impl IntoIterator<Item = (i32, i64)>) -> Result<(), Failure> {
        let mut further = TopicPartitionList::new();
        for (partition, until) in until {
            let Some((next, end)) = self.places.get_mut(&partition) else { continue };
            if *next >= *end && until > *end {
                further.add_partition(&self.topic, partition);
            }
            *end = until.max(*end);
        }
        self.consumer.resume(&further).map_err(|error| unreachable_broker(&self.config, error))
    }

    /// What is behind a part is not fetched.
    fn pause(&self, partition: i32) -> Result<(), Failure> {
        let mut read = TopicPartitionList::new();
        read.add_partition(&self.topic, partition);
        self.consumer.pause(&read).map_err(|error| unreachable_broker(&self.config, error))
    }

    fn silence(&mut self, wait: Duration) -> Result<bool, Failure> {
        self.silent += wait;
        if self.silent <= self.config.request_timeout() {
            return Ok(false);
        }
        let what = format!("topic `{}` gave nothing for {} ms", self.topic, self.config.request_timeout_ms);
        Err(Failure::new(FailureKind::Unreachable, what).cure("look at the broker; it is tried again by itself"))
    }
}
