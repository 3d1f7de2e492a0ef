//! How long a row takes from the topic of the results until a select sees it, while little else comes.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use shared::failure::{Failure, FailureKind};
use shared::kafka::{KafkaConfig, partitioner};
use shared::pg::refused;
use shared::record::header::{self, Header};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::PLAIN;
use crate::layers::{LayerRecord, Mark};
use crate::percentiles::Summary;
use crate::sightings;

/// Rows that are sent, and how many of them before they count.
const ROWS: i64 = 200;
const BEFORE: i64 = 20;
/// Time from one to the next.
const EVERY: Duration = Duration::from_millis(200);
/// A row that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Above those of all orders.
const FIRST_ID: i64 = 8_000_000_000;

/// Sends results one by one.
pub struct Sender<'a> {
    topic: &'a str,
    producer: BaseProducer<DefaultProducerContext>,
    partitions: i32,
    header: Header,
    /// The row behind its id.
    rest: String,
}

impl<'a> Sender<'a> {
    /// Its rows are like this one, which is a result of the topic that ends there.
    pub fn new(kafka: &KafkaConfig, topic: &'a str, end: &Mark, like: &LayerRecord) -> Result<Self, Failure> {
        let producer = kafka.producer("tidemill-lab").create().map_err(failed)?;
        let unusable = || Failure::new(FailureKind::Data, "the last result is no row with a header");
        let (value, header) = like.value.as_ref().zip(like.header.as_ref().ok()).ok_or_else(unusable)?;
        let (_, rest) = value.split_once(',').ok_or_else(unusable)?;
        let partitions = i32::try_from(end.len()).unwrap_or(i32::MAX);
        Ok(Sender { topic, producer, partitions, header: header.clone(), rest: rest.to_owned() })
    }

    /// Until the broker has it.
    fn send(&self, id: i64) -> Result<(), Failure> {
        let (key, value) = (format!("{{\"order_id\":{id}}}"), format!("{{\"order_id\":{id},{}", self.rest));
        let text = self.header.text();
        let headers = OwnedHeaders::new_with_capacity(1).insert(KafkaHeader { key: header::NAME, value: Some(&text) });
        let partition = partitioner::partition(key.as_bytes(), self.partitions);
        let record = BaseRecord::to(self.topic).key(&key).payload(&value).partition(partition).headers(headers);
        self.producer.send(record).map_err(|(error, _)| failed(error))?;
        let begun = Instant::now();
        while self.producer.in_flight_count() > 0 {
            if begun.elapsed() > PATIENCE {
                return Err(Failure::new(FailureKind::Unreachable, "Kafka does not acknowledge a row"));
            }
            self.producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }
}

/// From the broker's acknowledgement until the row was seen.
pub async fn measure(sender: &Sender<'_>, sink: &mut PgConnection) -> Result<Option<Summary>, Failure> {
    let mut samples = Vec::new();
    for id in FIRST_ID..FIRST_ID + ROWS {
        let due = Instant::now() + EVERY;
        sender.send(id)?;
        let sent = Instant::now();
        until_seen(sink, id, sent).await?;
        if id >= FIRST_ID + BEFORE {
            samples.push(i64::try_from(sent.elapsed().as_micros()).unwrap_or(i64::MAX));
        }
        tokio::time::sleep_until(due.into()).await;
    }
    Ok(Summary::of(&samples))
}

async fn until_seen(sink: &mut PgConnection, id: i64, sent: Instant) -> Result<(), Failure> {
    let sql = format!("SELECT EXISTS (SELECT FROM {PLAIN} WHERE order_id = $1)");
    loop {
        let seen: bool = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .bind(id)
            .fetch_one(&mut *sink)
            .await
            .map_err(|error| refused(format!("{PLAIN} cannot be read"), error))?;
        if seen {
            return Ok(());
        }
        if sent.elapsed() > PATIENCE {
            return Err(Failure::new(FailureKind::Data, format!("row {id} is not in {PLAIN}")));
        }
        sightings::pause().await?;
    }
}

fn failed(error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, "a row cannot be written to the topic").caused_by(error)
}
