//! Parts of partitions, read piece by piece and outside of any group: from an offset up to another one, and nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;

use super::KafkaConfig;
use super::bounds;
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

/// Where the reading of a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    next: i64,
    until: i64,
    /// The partition was said to end here, and that was not believed.
    is_doubted: bool,
}

/// What it means that a partition is said to end before its part does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It does: records that it had are gone, or are not back yet.
    TooShort,
    /// It was said by a broker that had not caught up, or nothing is left of the part: it is read again from here.
    Doubted,
    /// Nothing is left of the part.
    Empty,
}

impl Place {
    fn is_read(self) -> bool {
        self.next >= self.until
    }

    /// `end` was asked behind the word of the end. Of a leader that has come to it once, the second word is of no earlier end.
    fn ending(self, end: i64) -> Ending {
        match (end >= self.until, self.is_doubted) {
            (false, _) => Ending::TooShort,
            (true, false) => Ending::Doubted,
            (true, true) => Ending::Empty,
        }
    }
}

/// A consumer of parts of one topic.
pub struct Parts {
    config: KafkaConfig,
    topic: String,
    consumer: BaseConsumer<Looker>,
    places: BTreeMap<i32, Place>,
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
            let place = Place { next, until, is_doubted: false };
            places.insert(partition, place);
            assignment.add_partition_offset(topic, partition, Offset::Offset(next)).map_err(unreachable)?;
            if place.is_read() {
                read.add_partition(topic, partition);
            }
        }
        consumer.assign(&assignment).map_err(unreachable)?;
        consumer.pause(&read).map_err(unreachable)?;
        let (config, topic) = (config.clone(), topic.to_owned());
        Ok(Parts { config, topic, consumer, places, silent: Duration::ZERO, first_gap: None })
    }

    pub fn is_done(&self) -> bool {
        self.places.values().all(|place| place.is_read())
    }

    /// What comes next in each partition.
    pub fn places(&self) -> impl Iterator<Item = (i32, i64)> {
        self.places.iter().map(|(&partition, place)| (partition, place.next))
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
                let Some(place) = self.places.get_mut(&partition) else { return Ok(true) };
                if offset < place.next || place.is_read() {
                    return Ok(true);
                }
                if offset > place.next && self.first_gap.is_none() {
                    self.first_gap = Some(Gap { partition, from: place.next, to: offset.min(place.until) });
                }
                let is_within = offset < place.until;
                (place.next, place.is_doubted) = ((offset + 1).min(place.until), false);
                if is_within {
                    visit(record_of(&message), message.timestamp().to_millis());
                }
                if place.is_read() {
                    self.pause(partition)?;
                }
                Ok(true)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.silent = Duration::ZERO;
                self.ends(partition)?;
                Ok(true)
            }
            Some(Err(error)) => {
                tracing::debug!(topic = self.topic, %error, "while reading a topic");
                self.silence(wait)
            }
            None => self.silence(wait),
        }
    }

    /// A partition is said to end. Behind its part that means nothing; before it, compaction may have taken what was left of it, or the
    /// broker that says so does not have all of it: which of both, no single answer can tell.
    fn ends(&mut self, partition: i32) -> Result<(), Failure> {
        let Some(place) = self.places.get(&partition).copied().filter(|place| !place.is_read()) else { return Ok(()) };
        let asked = bounds::of(&self.consumer, &self.topic, [partition], self.config.request_timeout());
        let asked = asked.map_err(|error| unreachable_broker(&self.config, error))?;
        let end = asked.get(&partition).map_or(0, |bounds| bounds.end);
        let next = match place.ending(end) {
            Ending::TooShort => return Err(ends_early(&self.topic, partition, end, place.until)),
            Ending::Doubted => {
                self.places.insert(partition, Place { is_doubted: true, ..place });
                return self.seek(partition, place.next);
            }
            Ending::Empty => place.until,
        };
        self.first_gap.get_or_insert(Gap { partition, from: place.next, to: next });
        self.places.insert(partition, Place { next, is_doubted: false, ..place });
        self.pause(partition)
    }

    /// Parts end later than they did. Of one that was read, records behind its end may have been passed over.
    pub fn extend(&mut self, until: impl IntoIterator<Item = (i32, i64)>) -> Result<(), Failure> {
        let mut further = BTreeMap::new();
        for (partition, until) in until {
            let Some(place) = self.places.get_mut(&partition).filter(|place| until > place.until) else { continue };
            if place.is_read() {
                further.insert(partition, place.next);
            }
            place.until = until;
        }
        let mut resumed = TopicPartitionList::new();
        for &partition in further.keys() {
            resumed.add_partition(&self.topic, partition);
        }
        self.consumer.resume(&resumed).map_err(|error| unreachable_broker(&self.config, error))?;
        further.into_iter().try_for_each(|(partition, next)| self.seek(partition, next))
    }

    /// What is behind a part is not fetched.
    fn pause(&self, partition: i32) -> Result<(), Failure> {
        let mut read = TopicPartitionList::new();
        read.add_partition(&self.topic, partition);
        self.consumer.pause(&read).map_err(|error| unreachable_broker(&self.config, error))
    }

    fn seek(&self, partition: i32, next: i64) -> Result<(), Failure> {
        self.consumer
            .seek(&self.topic, partition, Offset::Offset(next), self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))
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

/// A topic ends before an offset that it had come to.
pub fn ends_early(topic: &str, partition: i32, end: i64, until: i64) -> Failure {
    let what = format!("partition {partition} of topic {topic} ends at {end}, and had come to {until}");
    Failure::new(FailureKind::Refused, what).cure(
        "a broker that has just taken it over may lag behind: it is tried again. Where the topic was made anew, or has lost records, \
         end the job by --stop and ask again for what there is now",
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::*;

    const TOPIC: &str = "t";
    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn an_early_end_is_believed_when_it_is_said_again() {
        let place = Place { next: 5, until: 10, is_doubted: false };
        assert_eq!(place.ending(9), Ending::TooShort);
        assert_eq!(place.ending(10), Ending::Doubted);
        let doubted = Place { is_doubted: true, ..place };
        assert_eq!((doubted.ending(9), doubted.ending(12)), (Ending::TooShort, Ending::Empty));
    }

    /// A topic of one partition with so many records.
    fn topic(records: usize) -> (MockCluster<'static, DefaultProducerContext>, KafkaConfig) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let config = KafkaConfig { brokers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &config.brokers).create().unwrap();
        for _ in 0..records {
            let record = BaseRecord::<str, str>::to(TOPIC).partition(0).payload("x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(SOON).unwrap();
        (cluster, config)
    }

    fn open(config: &KafkaConfig, until: i64) -> Parts {
        Parts::new(config, "test", TOPIC, &[Part { partition: 0, next: 0, until }]).unwrap()
    }

    /// Reads until it is done. Answers the offsets of the records.
    fn read(parts: &mut Parts) -> Result<Vec<i64>, Failure> {
        let mut offsets = Vec::new();
        while !parts.is_done() {
            parts.read(Duration::from_millis(100), &mut |record, _| offsets.push(record.offset))?;
        }
        Ok(offsets)
    }

    #[test]
    fn a_topic_that_has_lost_its_end_is_not_read_to_its_end() {
        let (_cluster, config) = topic(5);
        let mut parts = open(&config, 8);
        let failure = read(&mut parts).unwrap_err();
        assert!(failure.chain().contains("partition 0 of topic t ends at 5, and had come to 8"), "{failure}");
        assert_eq!(parts.places().collect::<Vec<_>>(), [(0, 5)]);
    }

    #[test]
    fn a_part_that_was_read_goes_on_where_it_was() {
        let (_cluster, config) = topic(8);
        let mut parts = open(&config, 3);
        assert_eq!(read(&mut parts).unwrap(), [0, 1, 2]);
        parts.extend([(0, 8)]).unwrap();
        assert_eq!(read(&mut parts).unwrap(), [3, 4, 5, 6, 7]);
    }
}
