//! Topics as a stranger to the pipeline would handle them: made by hand, written to by hand, removed.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use shared::kafka::KafkaConfig;
use shared::record::header;

const CLIENT: &str = "tidemill-e2e";

const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a topic with a clean-up policy.
pub async fn make(kafka: &KafkaConfig, topic: &str, partitions: i32, cleanup_policy: &str) {
    let admin: AdminClient<DefaultClientContext> = kafka.client(CLIENT).create().unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("cleanup.policy", cleanup_policy);
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for made in admin.create_topics(&[topic], &options).await.unwrap() {
        made.unwrap_or_else(|(name, code)| panic!("topic {name} could not be made: {code}"));
    }
}

/// Removes the topics of a stack. What goes wrong is left to the broker's own end.
pub async fn remove_all(kafka: &KafkaConfig, prefix: &str) {
    let admin: AdminClient<DefaultClientContext> = kafka.client(CLIENT).create().unwrap();
    let Ok(metadata) = admin.inner().fetch_metadata(None, PATIENCE) else { return };
    let names: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
    let own: Vec<&str> = names.into_iter().filter(|name| name.starts_with(&format!("{prefix}_"))).collect();
    if !own.is_empty() {
        let _ = admin.delete_topics(&own, &AdminOptions::new()).await;
    }
}

/// A record that somebody writes into a topic by hand.
#[derive(Clone, Copy)]
pub struct Foreign<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a str,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The header `tidemill`, where the stranger imitates it.
    pub header: Option<&'a str>,
}

/// Writes it; returns when the broker has it.
pub fn write(kafka: &KafkaConfig, record: &Foreign<'_>) {
    let producer: BaseProducer = kafka.client(CLIENT).create().unwrap();
    let mut message = BaseRecord::<str, [u8]>::to(record.topic).partition(record.partition).key(record.key);
    if let Some(value) = record.value {
        message = message.payload(value);
    }
    if let Some(text) = record.header {
        message = message.headers(OwnedHeaders::new().insert(Header { key: header::NAME, value: Some(text) }));
    }
    producer.send(message).unwrap_or_else(|(error, _)| panic!("{error}"));
    producer.flush(PATIENCE).unwrap();
}

/// Writes records into a partition in one transaction, the mark at whose end is an offset without a record: what compaction leaves, too.
pub fn write_with_a_gap_behind(kafka: &KafkaConfig, topic: &str, partition: i32, records: usize) {
    let mut client = kafka.client(CLIENT);
    let producer: BaseProducer = client.set("transactional.id", topic).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..records {
        let record = BaseRecord::<str, str>::to(topic).partition(partition).key("x").payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.commit_transaction(PATIENCE).unwrap();
}
