//! Raw clients, the ceilings of a Kafka to Kafka stage: consume, produce, and both, which is what a stage costs at least.
//!
//! One process, one loop, the clients' settings of the services: idempotent, `acks=all`. Key, value and header of each record go to the
//! same partition of another topic. It ends when all that the topic held at its start is consumed, or acknowledged.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, DeliveryResult, Message, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use shared::failure::{Failure, FailureKind};

use crate::bench::child::Program;
use crate::places::Places;

/// What is done with the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Read, and no more. How many are read goes to the output, a line now and then.
    Consume,
    /// All are read into memory first, then sent.
    Produce,
    /// Each is sent as it is read.
    Forward,
}

/// Where a process has its memory from: a sixth of such a client's speed hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocator {
    /// That of the system, as a process has it that does nothing about it.
    System,
    /// jemalloc, as dwd-cleaner and dim-joiner have it.
    Jemalloc,
}

impl Allocator {
    /// The program that has it, in the folder of all of them.
    pub fn program(self, programs: &Path) -> PathBuf {
        programs.join(match self {
            Allocator::System => "tidemill-lab",
            Allocator::Jemalloc => "bench-raw-jemalloc",
        })
    }

    /// The words that make a raw client of it.
    fn leading(self) -> &'static [&'static str] {
        match self {
            Allocator::System => &["bench", "raw"],
            Allocator::Jemalloc => &[],
        }
    }
}

/// What a process does, and with what.
#[derive(Debug, Clone, Args)]
pub struct Order {
    #[arg(long, value_enum)]
    task: Task,
    #[arg(long)]
    from: String,
    #[arg(long)]
    to: String,
    /// The partitions that this process takes
    #[arg(long, value_delimiter = ',', required = true)]
    partitions: Vec<i32>,
}

impl Order {
    pub fn new(task: Task, from: &str, to: &str, partitions: Vec<i32>) -> Self {
        Order { task, from: from.to_owned(), to: to.to_owned(), partitions }
    }

    /// The process that does it, by the program of its allocator.
    pub fn program<'a>(&self, (allocator, path): (Allocator, &'a Path), places: &Places, log: &Path) -> Program<'a> {
        let partitions: Vec<String> = self.partitions.iter().map(ToString::to_string).collect();
        let (from, to, partitions) = (self.from.clone(), self.to.clone(), partitions.join(","));
        let task = self.task.to_possible_value().map(|task| task.get_name().to_owned()).unwrap_or_default();
        let words = ["--task", &task, "--from", &from, "--to", &to, "--partitions", &partitions];
        let brokers = ["--kafka-brokers", &places.kafka.brokers];
        Program {
            path,
            arguments: allocator.leading().iter().copied().chain(words).chain(brokers).map(str::to_owned).collect(),
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

/// Records between two lines that say how many were consumed.
const TELL_EVERY: usize = 1_000;

/// Longest wait for one answer of the broker.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Does it.
pub fn run(places: &Places, order: &Order) -> Result<bool, Failure> {
    let source = Source::open(places, order)?;
    match order.task {
        Task::Consume => source.consume(),
        Task::Produce => {
            let mut records = VecDeque::with_capacity(source.records);
            source.each(|message, _| {
                records.push_back(message.detach());
                Ok(())
            })?;
            let target = Target::open(places, order)?;
            // Each gives its memory back when it is sent.
            while let Some(record) = records.pop_front() {
                target.send_read(&record)?;
                target.look(records.len());
            }
            Ok(target.finish())
        }
        Task::Forward => {
            let target = Target::open(places, order)?;
            source.each(|message, left| {
                target.send(message)?;
                target.look(left);
                Ok(())
            })?;
            Ok(target.finish())
        }
    }
}

struct Source {
    consumer: BaseConsumer,
    /// What the partitions hold.
    records: usize,
}

impl Source {
    /// Begins at the beginning.
    fn open(places: &Places, order: &Order) -> Result<Self, Failure> {
        let consumer: BaseConsumer = places.kafka.follower("tidemill-lab").create().map_err(failed)?;
        let (mut assignment, mut records) = (TopicPartitionList::new(), 0);
        for &partition in &order.partitions {
            let (first, end) = consumer.fetch_watermarks(&order.from, partition, ANSWER_WITHIN).map_err(failed)?;
            assignment.add_partition_offset(&order.from, partition, Offset::Offset(first)).map_err(failed)?;
            records += usize::try_from(end - first).unwrap_or_default();
        }
        consumer.assign(&assignment).map_err(failed)?;
        Ok(Source { consumer, records })
    }

    /// Calls `take` with each record, and with how many are left.
    fn each(&self, mut take: impl FnMut(&BorrowedMessage<'_>, usize) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut left = self.records;
        while left > 0 {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    left -= 1;
                    take(&message, left)?;
                }
                None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn consume(&self) -> Result<bool, Failure> {
        let unsaid = |error| Failure::new(FailureKind::Broken, "nobody reads how many are consumed").caused_by(error);
        let mut out = std::io::stdout().lock();
        self.each(|_, left| {
            if left % TELL_EVERY > 0 {
                return Ok(());
            }
            writeln!(out, "{}", self.records - left).and_then(|()| out.flush()).map_err(unsaid)
        })?;
        Ok(true)
    }
}

struct Target<'o> {
    producer: BaseProducer<Deliveries>,
    topic: &'o str,
}

impl<'o> Target<'o> {
    fn open(places: &Places, order: &'o Order) -> Result<Self, Failure> {
        let producer = places.kafka.producer("tidemill-lab").create_with_context(Deliveries::default());
        Ok(Target { producer: producer.map_err(failed)?, topic: &order.to })
    }

    fn send(&self, message: &BorrowedMessage<'_>) -> Result<(), Failure> {
        let mut record = BaseRecord::<[u8], [u8]>::to(self.topic).partition(message.partition());
        (record.key, record.payload) = (message.key(), message.payload());
        record.headers = message.headers().map(BorrowedHeaders::detach);
        self.queue(record)
    }

    fn send_read(&self, message: &OwnedMessage) -> Result<(), Failure> {
        let mut record = BaseRecord::<[u8], [u8]>::to(self.topic).partition(message.partition());
        (record.key, record.payload) = (message.key(), message.payload());
        record.headers = message.headers().cloned();
        self.queue(record)
    }

    fn queue(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Failure> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(failed(error)),
            }
            self.producer.poll(Duration::from_millis(1));
        }
    }

    /// Takes in the broker's answers, now and then.
    fn look(&self, left: usize) {
        if left.is_multiple_of(LOOK_EVERY) {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Waits for the last answers. Whether all records went well.
    fn finish(self) -> bool {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(Duration::from_millis(1));
        }
        self.producer.context().failed.load(Ordering::Relaxed) == 0
    }
}

fn failed(error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, "the topic cannot be read or written").caused_by(error)
}
