//! Consume and forward unchanged: what a Kafka to Kafka stage costs at least.
//!
//! One process, one loop, the clients' settings of the services: idempotent, `acks=all`. Key, value and header of each record go to the
//! same partition of another topic. It ends when all that the topic held at its start is acknowledged.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use shared::failure::{Failure, FailureKind};

use crate::bench::child::Program;
use crate::places::Places;

/// What is copied.
#[derive(Debug, Clone, Args)]
pub struct Order {
    #[arg(long)]
    from: String,
    #[arg(long)]
    to: String,
    /// The partitions that this process copies
    #[arg(long, value_delimiter = ',', required = true)]
    partitions: Vec<i32>,
}

impl Order {
    pub fn new(from: &str, to: &str, partitions: Vec<i32>) -> Self {
        Order { from: from.to_owned(), to: to.to_owned(), partitions }
    }

    /// The process that does it.
    pub fn program<'a>(&self, lab: &'a Path, places: &Places, log: &Path) -> Program<'a> {
        let partitions: Vec<String> = self.partitions.iter().map(ToString::to_string).collect();
        let (from, to, partitions) = (self.from.clone(), self.to.clone(), partitions.join(","));
        let words = ["bench", "forward", "--from", &from, "--to", &to, "--partitions", &partitions];
        let brokers = ["--kafka-brokers", &places.kafka.brokers];
        Program {
            path: lab,
            arguments: words.into_iter().chain(brokers).map(str::to_owned).collect(),
            variables: Vec::new(),
            log: log.to_owned(),
        }
    }
}

/// What became of the records that were sent.
#[derive(Default)]
struct Deliveries {
    failed: AtomicUsize,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Records between two looks at what was acknowledged.
const LOOK_EVERY: usize = 100;

/// Longest wait for one answer of the broker.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Copies.
pub fn run(places: &Places, order: &Order) -> Result<bool, Failure> {
    let config = places.kafka.clone();
    let consumer: BaseConsumer = config.follower("tidemill-lab").create().map_err(failed)?;
    let producer: BaseProducer<Deliveries> =
        config.producer("tidemill-lab").create_with_context(Deliveries::default()).map_err(failed)?;
    let mut left = assign(&consumer, order)?;
    while left > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                send(&producer, &order.to, &message)?;
                left -= 1;
                if left % LOOK_EVERY == 0 {
                    producer.poll(Duration::ZERO);
                }
            }
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(failed(error)),
        }
    }
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    Ok(producer.context().failed.load(Ordering::Relaxed) == 0)
}

/// Begins at the beginning; how many records there are.
fn assign(consumer: &BaseConsumer, order: &Order) -> Result<usize, Failure> {
    let (mut assignment, mut records) = (TopicPartitionList::new(), 0);
    for &partition in &order.partitions {
        let (first, end) = consumer.fetch_watermarks(&order.from, partition, ANSWER_WITHIN).map_err(failed)?;
        assignment.add_partition_offset(&order.from, partition, Offset::Offset(first)).map_err(failed)?;
        records += usize::try_from(end - first).unwrap_or_default();
    }
    consumer.assign(&assignment).map_err(failed)?;
    Ok(records)
}

fn send(producer: &BaseProducer<Deliveries>, to: &str, message: &BorrowedMessage<'_>) -> Result<(), Failure> {
    let mut record = BaseRecord::<[u8], [u8]>::to(to).partition(message.partition());
    (record.key, record.payload) = (message.key(), message.payload());
    record.headers = message.headers().map(BorrowedHeaders::detach);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
            Err((error, _)) => return Err(failed(error)),
        }
        producer.poll(Duration::from_millis(1));
    }
}

fn failed(error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, "the topic cannot be copied").caused_by(error)
}
