//! How far a group has come, asked from outside of it.

use std::collections::BTreeMap;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::KafkaConfig;
use super::bounds;
use super::tail::Looker;
use super::topics::unreachable_broker;
use crate::failure::Failure;

/// Asks the broker about a group, and is no member of it. Its calls block while the broker answers.
pub struct Group {
    config: KafkaConfig,
    consumer: BaseConsumer<Looker>,
}

impl Group {
    pub fn new(config: &KafkaConfig, service: &str, group: &str) -> Result<Self, Failure> {
        let consumer = config
            .looker(service)
            .set("group.id", group)
            .create_with_context(Looker::default())
            .map_err(|error| unreachable_broker(config, error))?;
        Ok(Group { config: config.clone(), consumer })
    }

    /// The offsets behind the last records of a topic's partitions. A topic that nobody has made has none.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, i64>, Failure> {
        let timeout = self.config.request_timeout();
        let unreachable = |error| unreachable_broker(&self.config, error);
        let metadata = self.consumer.fetch_metadata(Some(topic), timeout).map_err(unreachable)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions: Vec<i32> =
            found.into_iter().flat_map(|found| found.partitions()).map(|found| found.id()).collect();
        let bounds = bounds::of(&self.consumer, topic, partitions, timeout).map_err(unreachable)?;
        Ok(bounds.into_iter().map(|(partition, bounds)| (partition, bounds.end)).collect())
    }

    /// What the group has committed; partitions without a commit are left out.
    pub fn committed(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut asked = TopicPartitionList::new();
        for &partition in partitions {
            asked.add_partition(topic, partition);
        }
        let found = self
            .consumer
            .committed_offsets(asked, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))?;
        let known = found.elements().into_iter().filter_map(|element| {
            Some((element.partition(), element.offset().to_raw().filter(|&offset| offset >= 0)?))
        });
        Ok(known.collect())
    }
}
