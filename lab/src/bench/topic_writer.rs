//! Fills topics as the services would, only quicker: the records are made here.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use shared::failure::{Failure, FailureKind};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::kafka::{KafkaConfig, partitioner};
use shared::record::header::{self, Header};

use crate::places::Places;

/// Partitions of a topic that is filled, where the measurement does not say another number.
pub const PARTITIONS: i32 = 4;

/// Longest wait until all records are acknowledged.
const FLUSH_WITHIN: Duration = Duration::from_secs(60);

/// Writes records.
pub struct TopicWriter {
    config: KafkaConfig,
    partitions: i32,
    producer: ThreadedProducer<DefaultProducerContext>,
    header: Vec<u8>,
}

/// A record to be written.
pub struct New<'a> {
    pub topic: &'a str,
    pub key: &'a str,
    pub value: &'a str,
    pub header: Header,
}

impl TopicWriter {
    /// Into topics with so many partitions.
    pub fn connect(places: &Places, partitions: i32) -> Result<Self, Failure> {
        let producer = places
            .kafka
            .client("tidemill-lab")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "200000")
            .create()
            .map_err(failed)?;
        let config = places.kafka.clone();
        Ok(TopicWriter { config, partitions, producer, header: Vec::new() })
    }

    /// Makes a topic as the services would. It must not exist.
    pub async fn make(&self, topic: &str) -> Result<(), Failure> {
        let maker = Topics::connect(&self.config, "tidemill-lab")?;
        if maker.partitions(topic)?.is_some() {
            return Err(Failure::new(FailureKind::Settings, format!("topic `{topic}` exists already"))
                .cure("delete it: it would be filled twice"));
        }
        maker.ensure(&TopicSpec { name: topic.to_owned(), partitions: self.partitions, compacted: true }).await
    }

    /// The partition that a key belongs to.
    pub fn partition(&self, key: &str) -> i32 {
        partitioner::partition(key.as_bytes(), self.partitions)
    }

    pub fn send(&mut self, new: &New<'_>) -> Result<(), Failure> {
        self.header.clear();
        new.header.write(&mut self.header);
        let headers =
            OwnedHeaders::new_with_capacity(1).insert(KafkaHeader { key: header::NAME, value: Some(&self.header) });
        let partition = self.partition(new.key);
        let mut record =
            BaseRecord::to(new.topic).key(new.key).payload(new.value).partition(partition).headers(headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(failed(error)),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until all is acknowledged.
    pub fn flush(&self) -> Result<(), Failure> {
        let since = Instant::now();
        while self.producer.in_flight_count() > 0 {
            if since.elapsed() > FLUSH_WITHIN {
                return Err(Failure::new(FailureKind::Unreachable, "Kafka does not acknowledge the records"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn failed(error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, "the topics cannot be filled").caused_by(error)
}
