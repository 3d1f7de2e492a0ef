//! The broker as a measurement needs it: how far a topic is, and topics and groups as if they had never been.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;

/// A connection to the broker.
pub struct Broker {
    kafka: KafkaConfig,
    consumer: BaseConsumer,
    admin: AdminClient<DefaultClientContext>,
    /// Its process, for its processor time.
    pub process: Option<u32>,
}

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often something that is awaited is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest wait until a group is empty: a member that is gone belongs to it until its session is over.
const EMPTY_WITHIN: Duration = Duration::from_secs(30);

impl Broker {
    pub fn connect(kafka: &KafkaConfig, process: Option<u32>) -> Result<Self, Failure> {
        let mut config = kafka.client("tidemill-lab");
        config.set("group.id", "tidemill-lab");
        let unreachable = |error| failed(kafka, "cannot be reached", error);
        Ok(Broker {
            kafka: kafka.clone(),
            consumer: config.create().map_err(unreachable)?,
            admin: config.create().map_err(unreachable)?,
            process,
        })
    }

    /// Records that a topic with so many partitions has got.
    pub fn rows(&self, topic: &str, partitions: i32) -> Result<u64, Failure> {
        Ok(self.ends(topic, partitions)?.iter().map(|end| u64::try_from(*end).unwrap_or_default()).sum())
    }

    /// Where each of its partitions ends.
    fn ends(&self, topic: &str, partitions: i32) -> Result<Vec<i64>, Failure> {
        let end = |partition| {
            let watermarks = self.consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN);
            watermarks
                .map(|(_, end)| end)
                .map_err(|error| self.failed(&format!("topic `{topic}` cannot be read"), error))
        };
        (0..partitions).map(end).collect()
    }

    /// How many partitions a topic has; it must exist.
    pub fn partitions(&self, topic: &str) -> Result<i32, Failure> {
        let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER_WITHIN);
        let metadata = metadata.map_err(|error| self.failed(&format!("topic `{topic}` cannot be read"), error))?;
        match metadata.topics().first().map_or(0, |found| found.partitions().len()) {
            0 => Err(Failure::new(FailureKind::Data, format!("topic `{topic}` is not there"))),
            count => Ok(i32::try_from(count).unwrap_or(i32::MAX)),
        }
    }

    /// Waits until a topic that was made just now is shown with its partitions. This client may remember one of that name with fewer until it asks.
    pub async fn until_shown(&self, topic: &str, partitions: i32) -> Result<(), Failure> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.partitions(topic) {
                Ok(shown) if shown == partitions => return Ok(()),
                Ok(shown) if Instant::now() >= deadline => {
                    let what = format!("topic `{topic}` has {shown} partitions and should have {partitions}");
                    return Err(Failure::new(FailureKind::Data, what));
                }
                Err(failure) if Instant::now() >= deadline => return Err(failure),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Deletes a topic.
    pub async fn forget_topic(&self, topic: &str) -> Result<(), Failure> {
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN));
        let answers = self.admin.delete_topics(&[topic], &options).await;
        let answer = answers.map(|mut answers| answers.pop());
        match answer.map_err(|error| self.failed("topics cannot be deleted", error))? {
            Some(Err((_, code))) if code != RDKafkaErrorCode::UnknownTopicOrPartition => {
                Err(self.failed(&format!("topic `{topic}` cannot be deleted"), KafkaError::AdminOp(code)))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a consumer group, as soon as it is empty.
    pub async fn forget_group(&self, group: &str) -> Result<(), Failure> {
        let since = Instant::now();
        loop {
            let answers = self.admin.delete_groups(&[group], &AdminOptions::new()).await;
            let answer = answers.map(|mut answers| answers.pop());
            let code = match answer.map_err(|error| self.failed("groups cannot be deleted", error))? {
                Some(Err((_, code))) if code != RDKafkaErrorCode::GroupIdNotFound => code,
                _ => return Ok(()),
            };
            if code != RDKafkaErrorCode::NonEmptyGroup || since.elapsed() > EMPTY_WITHIN {
                return Err(self.failed(&format!("group `{group}` cannot be deleted"), KafkaError::AdminOp(code)));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn failed(&self, what: &str, error: KafkaError) -> Failure {
        failed(&self.kafka, what, error)
    }
}

fn failed(kafka: &KafkaConfig, what: &str, error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, format!("Kafka at {}: {what}", kafka.brokers)).caused_by(error)
}
