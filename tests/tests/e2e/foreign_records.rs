//! Somebody writes into a topic by hand what no stage can read: it is set aside with its bytes, and the next record passes.

use serde_json::Value;
use shared::kafka::partitioner::partition;
use shared::position::Version;

use crate::busy::{new_change_comes_through, rows};
use crate::history::{History, header, order_key};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::topics::{Foreign, write};
use crate::until::{until, until_equal};

const PARTITIONS: i32 = 4;

/// A version just above all that the topic carries, so that the record is not taken for a repeat.
fn next_version(stack: &Stack, topic: &str) -> Version {
    let history = History::read(&stack.layers(), topic);
    let last = history.by_key.values().flatten().map(|record| header(record).version).max().unwrap();
    Version { part: last.part + 1, ..last }
}

/// What the stage has set aside, in order.
pub async fn until_letters(stack: &Stack, service: &str, count: usize) -> Vec<Value> {
    let (layers, topic) = (stack.layers(), stack.dead_letter_topic(service));
    until(&format!("{service} has set {count} records aside"), async || {
        let records = layers.read(&topic, &layers.begin(&topic).unwrap(), |_| true).unwrap();
        if records.len() < count {
            return Err(format!("{}", records.len()));
        }
        Ok(records.iter().map(|record| serde_json::from_str(record.value.as_deref().unwrap()).unwrap()).collect())
    })
    .await
}

/// Writes three bad records into the topic and looks for them among the dead letters of its reader.
async fn assert_set_aside(topic: &str, key: &str, reader: &str, stack: &Stack, earlier_letters: usize) {
    let version = format!("op=u v={} tx=0", next_version(stack, topic));
    let record = Foreign { topic, partition: partition(key.as_bytes(), PARTITIONS), key, value: None, header: None };
    let kafka = &stack.places.kafka;
    write(kafka, &Foreign { value: Some("这不是 JSON".as_bytes()), ..record });
    write(kafka, &Foreign { value: Some(b"{\"cut\": off"), header: Some(&version), ..record });
    write(kafka, &Foreign { value: Some(b"\xFF\x00\xFE"), ..record });

    let letters = until_letters(stack, reader, earlier_letters + 3).await;
    assert_eq!(letters.len(), earlier_letters + 3, "letters of {reader}");
    let wanted = [
        ("unreadable_header", "value", "这不是 JSON"),
        ("not_an_object", "value", "{\"cut\": off"),
        ("unreadable_header", "value_hex", "ff00fe"),
    ];
    for (letter, (reason, field, bytes)) in letters[earlier_letters..].iter().zip(wanted) {
        assert_eq!((&letter["reason"], &letter[field]), (&reason.into(), &bytes.into()), "{topic}: {letter}");
        assert_eq!((&letter["topic"], &letter["key"]), (&topic.into(), &key.into()), "{letter}");
        assert_eq!((&letter["stage"], &letter["partition"]), (&reader.into(), &record.partition.into()), "{letter}");
        assert!(letter["offset"].is_i64() && letter["detail"].is_string(), "{letter}");
    }
}

#[tokio::test]
async fn what_is_no_row_goes_to_the_dead_letters_and_the_next_record_passes() {
    let stack = Stack::started().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    let names = &stack.places.names;
    let order = order_key(2001);
    assert_set_aside(&names.ods_topic, &order, DWD_CLEANER, &stack, 0).await;
    new_change_comes_through(&stack).await;
    assert_set_aside(&names.dwd_topic, &order, DIM_JOINER, &stack, 0).await;
    new_change_comes_through(&stack).await;
    assert_set_aside(&stack.users_topic(), "{\"user_id\":1001}", DIM_JOINER, &stack, 3).await;
    new_change_comes_through(&stack).await;
    assert_set_aside(&names.result_topic, &order, PG_SINKER, &stack, 0).await;
    new_change_comes_through(&stack).await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
}

#[tokio::test]
async fn a_foreign_record_at_the_end_of_a_topic_does_not_hold_up_the_restart_of_its_writer() {
    let mut stack = Stack::started().await;
    new_change_comes_through(&stack).await;
    let (names, key) = (stack.places.names.clone(), order_key(2001));
    let value = Some("这不是 JSON".as_bytes());
    for (topic, writer) in
        [(&names.ods_topic, CDC_INGEST), (&names.dwd_topic, DWD_CLEANER), (&names.result_topic, DIM_JOINER)]
    {
        let partition = partition(key.as_bytes(), PARTITIONS);
        write(&stack.places.kafka, &Foreign { topic, partition, key: &key, value, header: None });
        stack.process(writer).kill();
        stack.process(writer).restart();
        new_change_comes_through(&stack).await;
    }
}
