//! pg-sinker alone, with tables of a test's own, fed by hand as the stages before it would.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde_json::Value;
use shared::kafka::partitioner::partition;
use shared::record::header;

use crate::database::{run, value};
use crate::foreign_records::until_letters;
use crate::service_page::state;
use crate::stack::{PG_SINKER, Stack};
use crate::topics;
use crate::until::{PATIENCE, until};

/// Of every topic that a test makes.
pub const PARTITIONS: i32 = 4;

/// The commit time of every record: 2025-07-11 09:22:35.145 UTC.
pub const COMMITTED: &str = "2025-07-11 09:22:35.145";
const COMMITTED_US: &str = "1752225755145000";

/// The sink, and a topic by the name of the results, which holds what the test writes.
pub struct Sunk {
    pub stack: Stack,
    pub topic: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    written: i64,
}

impl Sunk {
    /// A sink in which `statements` were run; nothing runs yet.
    pub async fn new(statements: &str) -> Self {
        Sunk::of(Stack::new().await, statements).await
    }

    /// The same with the sink of this stack.
    pub async fn of(stack: Stack, statements: &str) -> Self {
        let topic = stack.places.names.result_topic.clone();
        topics::make(&stack.places.kafka, &topic, PARTITIONS, "compact").await;
        run(&mut stack.sink().await, statements).await;
        let mut client = stack.places.kafka.client("tidemill-e2e");
        let producer = client.set("linger.ms", "0").create().unwrap();
        Sunk { stack, topic, producer, written: 0 }
    }

    /// pg-sinker with these settings, ready. What was written before is there when it starts.
    pub async fn start(&mut self, settings: &str) {
        self.flush();
        self.stack.configure(PG_SINKER, settings);
        self.stack.start(PG_SINKER);
        self.stack.ready().await;
    }

    /// A row, in its version.
    pub fn put(&mut self, version: u64, key: &str, row: &str) {
        let topic = self.topic.clone();
        self.write(&topic, version, key, Some(row));
    }

    /// The end of a row.
    pub fn delete(&mut self, version: u64, key: &str) {
        let topic = self.topic.clone();
        self.write(&topic, version, key, None);
    }

    /// The same into any topic that was made with as many partitions.
    pub fn write(&mut self, topic: &str, version: u64, key: &str, row: Option<&str>) {
        let operation = if row.is_some() { "u" } else { "d" };
        let text = format!("op={operation} v=1.{version:X}.0.0 ts={COMMITTED_US}");
        let headers = OwnedHeaders::new().insert(Header { key: header::NAME, value: Some(&text) });
        let mut record = BaseRecord::to(topic).partition(partition(key.as_bytes(), PARTITIONS)).key(key);
        record = record.headers(headers);
        if let Some(row) = row {
            record = record.payload(row);
        }
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
        self.written += 1;
    }

    /// Waits until the sink has handled all that was written.
    pub async fn settled(&self) {
        self.flush();
        let mut sink = self.stack.sink().await;
        until("all records are handled", async || {
            let handled = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidemill.sink_offsets";
            match value::<i64>(&mut sink, handled).await {
                handled if handled == self.written => Ok(()),
                handled => Err(format!("{handled} of {}", self.written)),
            }
        })
        .await;
    }

    /// Returns when the broker has all that was written.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }

    pub async fn run(&self, statements: &str) {
        run(&mut self.stack.sink().await, statements).await;
    }

    /// The rows of a query, a line each, columns with | between, NULL as such.
    pub async fn rows(&self, query: &str) -> String {
        let lines = format!(
            "SELECT coalesce(string_agg((SELECT string_agg(coalesce(v, 'NULL'), '|' ORDER BY n) FROM json_each_text(j.o) WITH ORDINALITY AS e (k, v, n)), E'\\n'), '') \
             FROM (SELECT to_json(q) AS o FROM ({query}) AS q) AS j"
        );
        value(&mut self.stack.sink().await, &lines).await
    }

    /// Waits until pg-sinker is not ready for a reason with these words.
    pub async fn until_waits(&self, words: &str) {
        until(&format!("pg-sinker says {words:?}"), async || {
            let waiting = state(&self.stack, PG_SINKER).await["waiting_for"].to_string();
            if waiting.contains(words) { Ok(()) } else { Err(waiting) }
        })
        .await;
    }

    /// Reason and detail of what was set aside, which must be so many records.
    pub async fn letters(&self, count: usize) -> Vec<(String, String)> {
        let letters = until_letters(&self.stack, PG_SINKER, count).await;
        assert_eq!(letters.len(), count, "{letters:#?}");
        let text = |letter: &Value, field: &str| letter[field].as_str().unwrap().to_owned();
        letters.iter().map(|letter| (text(letter, "reason"), text(letter, "detail"))).collect()
    }
}
