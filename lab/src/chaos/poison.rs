//! Records that are no rows, written into a topic by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;

use super::verdict::{POISON, Planted};

const PATIENCE: Duration = Duration::from_secs(10);

/// Hears where a record came to stand.
#[derive(Clone, Default)]
struct Place(Arc<Mutex<Option<(i32, i64)>>>);

impl ClientContext for Place {}

impl ProducerContext for Place {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Ok(message) = result {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((message.partition(), message.offset()));
        }
    }
}

/// Writes one; blocks until the broker has it. `None` where it did not take it in time, which may mean that it did after all.
pub fn plant(kafka: &KafkaConfig, topic: &str, number: u64) -> Result<Option<Planted>, Failure> {
    let refused = |error: rdkafka::error::KafkaError| {
        Failure::new(FailureKind::Refused, format!("a record could not be written into {topic}")).caused_by(error)
    };
    let place = Place::default();
    let producer: BaseProducer<Place> = kafka
        .client("tidemill-lab")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .create_with_context(place.clone())
        .map_err(refused)?;
    let key = format!("{POISON}-{number}");
    let record = BaseRecord::to(topic).key(&key).payload("this is no row");
    producer.send(record).map_err(|(error, _)| refused(error))?;
    let begin = Instant::now();
    loop {
        producer.poll(Duration::from_millis(50));
        let found = *place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((partition, offset)) = found {
            return Ok(Some(Planted { topic: topic.to_owned(), partition, offset }));
        }
        if begin.elapsed() > PATIENCE {
            return Ok(None);
        }
    }
}
