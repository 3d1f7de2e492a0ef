//! Tells the state of this instance in the topic of states, and reads what the others tell.
//!
//! ```text
//!  metrics, health ──every second──▶ Telling ──▶ Pipeline (own entry)
//!                                        └─slot of one─▶ thread: producer ──▶ topic ──▶ consumer ──▶ Pipeline (the others)
//! ```
//!
//! It is beside the data's path: clients of its own, small queues, and no failure of it ends anything. What cannot be told is forgotten:
//! the next state replaces it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::Offset;
use serde_json::Value;
use tokio::runtime::Handle;

use super::figures::{Sample, Window};
use super::settings::ConsoleConfig;
use super::told::{Pipeline, Telling};
use super::topology::Topology;
use crate::failure::Failure;
use crate::health::Health;
use crate::kafka::KafkaConfig;
use crate::kafka::topics::{Topics, unreachable_broker};
use crate::said::Said;

/// How long what the others tell may wait before the thread looks for it, where it is not woken to tell something itself.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest wait before the topic and the clients are tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the broker to take the good-bye.
const GOOD_BYE_MAX: Duration = Duration::from_secs(1);
/// The last records of the topic that are read at the start: more than were told by any number of instances that live.
const LAST_RECORDS: i64 = 10_000;

/// What of an instance never changes while it lives.
#[derive(Debug, Clone)]
pub struct About {
    pub service: &'static str,
    pub url: String,
    pub control_url: Option<String>,
    pub takes_commands: bool,
    pub topology: Topology,
    pub configuration: Value,
}

/// The voice of an instance. It falls silent when it is dropped, and says good-bye in [`Teller::stop`].
pub struct Teller {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The newest state that is not told yet.
    next: Mutex<Option<Vec<u8>>>,
    stopping: AtomicBool,
}

impl Teller {
    /// Begins to tell. It must be called in the system's runtime.
    pub fn start(
        config: &ConsoleConfig,
        kafka: &KafkaConfig,
        about: About,
        health: Health,
        pipeline: Pipeline,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let voice = Voice {
            config: config.clone(),
            kafka: kafka.clone(),
            service: about.service,
            pipeline: pipeline.clone(),
            shared: Arc::clone(&shared),
            runtime: Handle::current(),
        };
        let is_told = !config.topic.is_empty();
        // Without the thread the page shows this instance alone, which is no reason to stop.
        let thread = is_told.then(|| std::thread::Builder::new().name("console".into()).spawn(move || voice.run()));
        let thread = thread.and_then(Result::ok);
        let told_by = thread.as_ref().map(|thread| thread.thread().clone());
        actix::spawn(look(config.clone(), about, health, pipeline, Arc::clone(&shared), told_by));
        Teller { shared, thread }
    }

    /// Says good-bye, within a bound.
    pub async fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let deadline = Instant::now() + GOOD_BYE_MAX + LOOK_EVERY;
        while !thread.is_finished() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }
}

/// Looks at the instance again and again, and lays down what there is to tell.
async fn look(
    config: ConsoleConfig,
    about: About,
    health: Health,
    pipeline: Pipeline,
    shared: Arc<Shared>,
    told_by: Option<Thread>,
) {
    let born = Instant::now();
    #[expect(clippy::cast_precision_loss, reason = "seconds of a window")]
    let mut window = Window::new(config.window_s as f64);
    while !shared.stopping.load(Ordering::SeqCst) {
        window.push(Sample::of(&prometheus::gather(), born.elapsed().as_secs_f64()));
        let telling = Telling {
            told_at_ms: Timestamp::now().as_millisecond(),
            url: &about.url,
            control_url: about.control_url.as_deref(),
            takes_commands: about.takes_commands,
            topology: &about.topology,
            figures: &window.figures(),
            state: health.state(),
            configuration: &about.configuration,
        };
        let value = telling.encode(config.state_bytes_max);
        pipeline.take_own(&value);
        *shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        if let Some(thread) = &told_by {
            thread.unpark();
        }
        tokio::time::sleep(config.interval()).await;
    }
}

/// The thread.
struct Voice {
    config: ConsoleConfig,
    kafka: KafkaConfig,
    service: &'static str,
    pipeline: Pipeline,
    shared: Arc<Shared>,
    runtime: Handle,
}

/// The clients, once the topic is there.
struct Clients {
    producer: BaseProducer<Quiet>,
    consumer: BaseConsumer<Quiet>,
}

impl Voice {
    fn run(self) {
        let mut said = Said::default();
        while !self.is_stopping() {
            match self.connect() {
                Ok(clients) => {
                    self.pipeline.set_trouble(None);
                    self.tell(&clients);
                }
                Err(failure) => {
                    let why = failure.chain();
                    if said.is_news(&why) {
                        tracing::warn!("the console shows this instance alone: {why}");
                    }
                    self.pipeline.set_trouble(Some(why));
                    self.pause();
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    fn pause(&self) {
        let deadline = Instant::now() + AGAIN_AFTER;
        while !self.is_stopping() && Instant::now() < deadline {
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn connect(&self) -> Result<Clients, Failure> {
        let unreachable = |error| unreachable_broker(&self.kafka, error);
        let topics = Topics::connect(&self.kafka, self.service)?;
        if topics.partitions(&self.config.topic)?.is_none() {
            self.runtime.block_on(self.make_topic(&topics))?;
        }
        let producer = self.kafka.teller(self.service).create_with_context(Quiet).map_err(unreachable)?;
        let mut client = self.kafka.follower(self.service);
        client.set("auto.offset.reset", "earliest").set("queued.max.messages.kbytes", "1024");
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(unreachable)?;
        let mut assignment = TopicPartitionList::new();
        let added = assignment.add_partition_offset(&self.config.topic, 0, Offset::OffsetTail(LAST_RECORDS));
        added.and_then(|()| consumer.assign(&assignment)).map_err(unreachable)?;
        Ok(Clients { producer, consumer })
    }

    /// What was told a while ago is of no use: the topic keeps the last word of each, and all of them for a while.
    async fn make_topic(&self, topics: &Topics<'_>) -> Result<(), Failure> {
        let (retention, segment) = (self.config.forgotten_after_ms.to_string(), (1 << 20).to_string());
        let settings = [
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", retention.as_str()),
            ("delete.retention.ms", retention.as_str()),
            ("segment.bytes", segment.as_str()),
            ("segment.ms", "600000"),
        ];
        topics.create(&self.config.topic, 1, &settings).await
    }

    /// Tells and hears until the end, or until the topic is gone.
    fn tell(&self, clients: &Clients) {
        let key = serde_json::to_vec(self.pipeline.own()).unwrap_or_default();
        let mut is_away = false;
        while !self.is_stopping() {
            std::thread::park_timeout(LOOK_EVERY);
            while let Some(heard) = clients.consumer.poll(Duration::ZERO)
                && !self.is_stopping()
            {
                match heard {
                    Ok(message) => self.pipeline.take(message.key().unwrap_or_default(), message.payload()),
                    // Somebody removed the topic: it is made anew.
                    Err(error) if is_lost_topic(&error) => return self.pause(),
                    Err(error) => is_away |= is_unreachable(&error),
                }
            }
            clients.producer.poll(Duration::ZERO);
            let next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(value) = next else { continue };
            let record = BaseRecord::to(&self.config.topic).partition(0).key(&key).payload(&value);
            let queued = clients.producer.send(record).is_ok();
            // Few states wait in the queue: where none more fits, none was taken for a while.
            let trouble = (is_away || !queued).then(|| format!("Kafka at {} does not answer", self.kafka.brokers));
            self.pipeline.set_trouble(trouble);
            is_away = false;
        }
        let record = BaseRecord::<[u8], [u8]>::to(&self.config.topic).partition(0).key(&key);
        let _ = clients.producer.send(record);
        let _ = clients.producer.flush(GOOD_BYE_MAX);
    }
}

fn is_unreachable(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure};
    matches!(error.rdkafka_error_code(), Some(AllBrokersDown | BrokerTransportFailure))
}

fn is_lost_topic(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownTopic | UnknownTopicOrPartition))
}

/// Clients that leave it to others to say that the broker is away.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = "console", %error, reason, "kafka; the client tries again by itself");
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", facility, "{text}");
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}
