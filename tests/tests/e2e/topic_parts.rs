//! Parts of a topic are read up to their end, and nothing of them is passed over.

use std::time::Duration;

use shared::kafka::KafkaConfig;
use shared::kafka::parts::{Gap, Part, Parts};

use crate::stack::Stack;
use crate::topics::{self, Foreign};

/// Three records, an offset without one, two records: it ends at 6.
async fn topic(stack: &Stack) -> String {
    let (kafka, topic) = (&stack.places.kafka, stack.places.names.result_topic.clone());
    topics::make(kafka, &topic, 1, "compact").await;
    topics::write_with_a_gap_behind(kafka, &topic, 0, 3);
    topic
}

fn two_more(kafka: &KafkaConfig, topic: &str) {
    for value in ["y", "z"] {
        let record = Foreign { topic, partition: 0, key: "y", value: Some(value.as_bytes()), header: None };
        topics::write(kafka, &record);
    }
}

fn open(kafka: &KafkaConfig, topic: &str, until: i64) -> Parts {
    Parts::new(kafka, "e2e", topic, &[Part { partition: 0, next: 0, until }]).unwrap()
}

/// The offsets of the records that are still to be read.
fn rest_of(parts: &mut Parts) -> Vec<i64> {
    let mut offsets = Vec::new();
    while !parts.is_done() {
        parts.read(Duration::from_millis(100), &mut |record, _| offsets.push(record.offset)).unwrap();
    }
    offsets
}

#[tokio::test]
async fn a_part_ends_where_no_record_is() {
    let stack = Stack::new().await;
    let (kafka, topic) = (&stack.places.kafka, topic(&stack).await);
    let mut at_the_end = open(kafka, &topic, 4);
    assert_eq!(rest_of(&mut at_the_end), [0, 1, 2]);
    assert_eq!(at_the_end.first_gap(), Some(Gap { partition: 0, from: 3, to: 4 }));
    two_more(kafka, &topic);
    at_the_end.extend([(0, 5)]).unwrap();
    assert_eq!(rest_of(&mut at_the_end), [4]);

    // The record behind the gap comes before it is known that the part has ended.
    let mut before_more = open(kafka, &topic, 4);
    assert_eq!(rest_of(&mut before_more), [0, 1, 2]);
    before_more.extend([(0, 6)]).unwrap();
    assert_eq!(rest_of(&mut before_more), [4, 5]);
}
