//! Where partitions begin and end, in two questions, however many they are.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;

/// The first offset of a partition, and the one behind its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub first: i64,
    pub end: i64,
}

impl Bounds {
    pub fn is_empty(self) -> bool {
        self.first >= self.end
    }
}

/// The bounds of these partitions of a topic.
pub(crate) fn of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, Bounds>> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, partition);
    }
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let firsts = ask(consumer, &asked, Offset::Beginning, timeout)?;
    let ends = ask(consumer, &asked, Offset::End, timeout)?;
    let bounds = |(partition, first): (i32, i64)| Some((partition, Bounds { first, end: *ends.get(&partition)? }));
    Ok(firsts.into_iter().filter_map(bounds).collect())
}

/// The first offset of each of these partitions whose record is not older than this; the end where there is none.
pub(crate) fn since<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    at_ms: i64,
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, i64>> {
    let bounds = of(consumer, topic, partitions, timeout)?;
    let mut asked = TopicPartitionList::new();
    for &partition in bounds.keys() {
        asked.add_partition(topic, partition);
    }
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    // Such a question has the time in the place of the offset.
    asked.set_all_offsets(Offset::Offset(at_ms.max(0)))?;
    let answered = consumer.offsets_for_times(asked, timeout)?;
    let mut found: BTreeMap<i32, i64> = bounds.iter().map(|(&partition, bounds)| (partition, bounds.end)).collect();
    for element in answered.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            found.insert(element.partition(), offset);
        }
    }
    Ok(found)
}

/// Kafka takes the beginning and the end for times as well (KIP-79), so that one question is enough for all partitions.
fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
    place: Offset,
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, i64>> {
    let mut asked = partitions.clone();
    asked.set_all_offsets(place)?;
    let answered = consumer.offsets_for_times(asked, timeout)?;
    let mut found = BTreeMap::new();
    for element in answered.elements() {
        element.error()?;
        match element.offset() {
            Offset::Offset(offset) => found.insert(element.partition(), offset),
            _ => return Err(KafkaError::OffsetFetch(rdkafka::error::RDKafkaErrorCode::NoOffset)),
        };
    }
    Ok(found)
}
