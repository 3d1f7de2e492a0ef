//! How far groups have come, asked from outside of them.

use std::collections::BTreeMap;

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::KafkaConfig;
use super::bounds;
use super::tail::Looker;
use super::topics::{Topics, unreachable_broker};
use crate::failure::Failure;

/// Asks the broker of groups. These calls block while it answers.
pub struct Groups {
    config: KafkaConfig,
    service: String,
}

impl Groups {
    pub fn new(config: &KafkaConfig, service: &str) -> Self {
        Groups { config: config.clone(), service: service.to_owned() }
    }

    fn consumer(&self, client: &mut ClientConfig) -> Result<BaseConsumer<Looker>, Failure> {
        client.create_with_context(Looker::default()).map_err(|error| unreachable_broker(&self.config, error))
    }

    /// The offsets behind the last records of a topic's partitions. A topic that nobody has made is empty.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, i64>, Failure> {
        let topics = Topics::connect(&self.config, &self.service)?;
        let partitions = topics.partitions(topic)?.unwrap_or_default();
        let consumer = self.consumer(&mut self.config.looker(&self.service))?;
        let found = bounds::of(&consumer, topic, 0..partitions, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))?;
        Ok(found.into_iter().map(|(partition, bounds)| (partition, bounds.end)).collect())
    }

    /// What the group has committed; partitions without a commit are left out. Whoever asks is no member.
    pub fn committed(&self, group: &str, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut client = self.config.looker(&self.service);
        let consumer = self.consumer(client.set("group.id", group))?;
        let mut asked = TopicPartitionList::new();
        for &partition in partitions {
            asked.add_partition(topic, partition);
        }
        let found = consumer
            .committed_offsets(asked, self.config.request_timeout())
            .map_err(|error| unreachable_broker(&self.config, error))?;
        let known = found.elements().into_iter().filter_map(|element| {
            Some((element.partition(), element.offset().to_raw().filter(|&offset| offset >= 0)?))
        });
        Ok(known.collect())
    }
}
