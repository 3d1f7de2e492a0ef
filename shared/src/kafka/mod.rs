//! Kafka: settings, topics, and the three ways in and out: reader, publisher, tail.

pub mod bounds;
mod client_log;
mod commits;
pub mod distance;
pub mod groups;
pub mod partitioner;
pub mod parts;
pub mod progress;
pub mod publisher;
pub mod reader;
pub mod security;
mod sender;
pub mod table;
pub mod tail;
pub mod topics;

use std::time::Duration;

use rdkafka::ClientConfig;
use serde::{Deserialize, Deserializer, Serialize};

use self::security::SecurityConfig;
use crate::failure::{Failure, FailureKind};

/// How to reach Kafka and how much may be on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// Name of this instance in its consumer group (static membership). Stable over restarts, unique among replicas. Empty: the
    /// host's name, which is the pod's name on Kubernetes.
    pub instance_id: String,
    /// Whether an orderly stop keeps the place in the group for a start under the same name, or gives the partitions to the others at once.
    pub keeps_place: bool,
    /// Longest wait for one answer of the broker to a question of ours.
    pub request_timeout_ms: u64,
    /// A member that is silent for this long loses its partitions.
    pub session_timeout_ms: u64,
    /// How often a member gives a sign of life; so soon it hears that partitions are to change hands. At most a third of the session.
    pub heartbeat_interval_ms: u64,
    /// How often acknowledged positions are committed to the group.
    pub commit_interval_ms: u64,
    /// Longest wait for records in flight when partitions are given up or taken over.
    pub rebalance_drain_timeout_ms: u64,
    /// Most records of one batch.
    pub batch_records_max: usize,
    /// Most bytes of one batch.
    pub batch_bytes_max: usize,
    /// Least time from a batch of few records to the next. What comes after a quiet time or a large batch goes at once.
    pub batch_interval_ms: u64,
    /// The same where they are many and yet no backlog: fewer and larger batches.
    pub batch_interval_busy_ms: u64,
    /// Batches that wait between two threads of a chain.
    pub queue_batches_max: usize,
    /// Bytes that librdkafka fetches ahead.
    pub prefetch_kilobytes_max: usize,
    /// How long the producer waits for more records before it sends; 0 sends at once and still fills batches under load.
    pub linger_ms: u64,
    /// Requests of the producer to one broker that wait for its answer.
    pub requests_in_flight_max: u64,
    /// `none`, `lz4`, `snappy`.
    pub compression: String,
    /// Records that wait in the producer.
    pub producer_records_max: usize,
    /// Bytes that wait in the producer.
    pub producer_kilobytes_max: usize,
    /// A record that is not acknowledged within this time ends the generation; it is sent again by the next one.
    pub delivery_timeout_ms: u64,
    /// How the broker is known, and how we prove who we are.
    pub security: SecurityConfig,
    /// Settings of topics that this service makes.
    pub topics: TopicConfig,
}

/// How topics are made where they are missing, and what present ones are held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicConfig {
    /// Partitions of the ODS topics. Later stages take the number of their input.
    pub partitions: i32,
    pub replication_factor: i32,
    /// Every version of a row stays readable for this long; a reader may be away so long without missing one.
    pub compaction_lag_ms: u64,
    /// Tombstones stay readable for this long.
    pub tombstone_retention_ms: u64,
    /// Largest record: a row with all its values, compressed or not.
    pub record_bytes_max: usize,
}

impl Default for TopicConfig {
    fn default() -> Self {
        const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
        TopicConfig {
            partitions: 4,
            replication_factor: 1,
            compaction_lag_ms: WEEK_MS,
            tombstone_retention_ms: WEEK_MS,
            record_bytes_max: 16 << 20,
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig {
            brokers: "127.0.0.1:9092".into(),
            instance_id: String::new(),
            keeps_place: true,
            request_timeout_ms: 10_000,
            session_timeout_ms: 10_000,
            heartbeat_interval_ms: 500,
            commit_interval_ms: 1_000,
            rebalance_drain_timeout_ms: 30_000,
            batch_records_max: 1_000,
            batch_bytes_max: 1 << 20,
            batch_interval_ms: 5,
            batch_interval_busy_ms: 20,
            queue_batches_max: 2,
            prefetch_kilobytes_max: 16_384,
            linger_ms: 0,
            // librdkafka looks in a loop, without a rest, while records wait and their partition may not send: an idempotent producer's, from its
            // fifth record that is not acknowledged. With one request on its way the next is made ready and then nothing is looked at.
            requests_in_flight_max: 1,
            compression: "lz4".into(),
            producer_records_max: 100_000,
            producer_kilobytes_max: 16_384,
            delivery_timeout_ms: 30_000,
            security: SecurityConfig::default(),
            topics: TopicConfig::default(),
        }
    }
}

/// How long the broker may hold back the answer to an idle consumer; it answers at once when there is a record.
const LONG_POLL_MS: &str = "500";

/// So many requests of an idempotent producer the broker can tell from repeats (KIP-98).
const REQUESTS_IN_FLIGHT_MAX: u64 = 5;

/// Longest distance between two batches.
const BATCH_INTERVAL_MS_MAX: u64 = 10_000;

impl KafkaConfig {
    /// Reads a section over these defaults, so that naming one key leaves the others as they are.
    pub fn given<'de, D: Deserializer<'de>>(self, section: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given {
            brokers: Option<String>,
            instance_id: Option<String>,
            keeps_place: Option<bool>,
            request_timeout_ms: Option<u64>,
            session_timeout_ms: Option<u64>,
            heartbeat_interval_ms: Option<u64>,
            commit_interval_ms: Option<u64>,
            rebalance_drain_timeout_ms: Option<u64>,
            batch_records_max: Option<usize>,
            batch_bytes_max: Option<usize>,
            batch_interval_ms: Option<u64>,
            batch_interval_busy_ms: Option<u64>,
            queue_batches_max: Option<usize>,
            prefetch_kilobytes_max: Option<usize>,
            linger_ms: Option<u64>,
            requests_in_flight_max: Option<u64>,
            compression: Option<String>,
            producer_records_max: Option<usize>,
            producer_kilobytes_max: Option<usize>,
            delivery_timeout_ms: Option<u64>,
            security: Option<SecurityConfig>,
            topics: Option<TopicConfig>,
        }
        let given = Given::deserialize(section)?;
        Ok(KafkaConfig {
            brokers: given.brokers.unwrap_or(self.brokers),
            instance_id: given.instance_id.unwrap_or(self.instance_id),
            keeps_place: given.keeps_place.unwrap_or(self.keeps_place),
            request_timeout_ms: given.request_timeout_ms.unwrap_or(self.request_timeout_ms),
            session_timeout_ms: given.session_timeout_ms.unwrap_or(self.session_timeout_ms),
            heartbeat_interval_ms: given.heartbeat_interval_ms.unwrap_or(self.heartbeat_interval_ms),
            commit_interval_ms: given.commit_interval_ms.unwrap_or(self.commit_interval_ms),
            rebalance_drain_timeout_ms: given.rebalance_drain_timeout_ms.unwrap_or(self.rebalance_drain_timeout_ms),
            batch_records_max: given.batch_records_max.unwrap_or(self.batch_records_max),
            batch_bytes_max: given.batch_bytes_max.unwrap_or(self.batch_bytes_max),
            batch_interval_ms: given.batch_interval_ms.unwrap_or(self.batch_interval_ms),
            batch_interval_busy_ms: given.batch_interval_busy_ms.unwrap_or(self.batch_interval_busy_ms),
            queue_batches_max: given.queue_batches_max.unwrap_or(self.queue_batches_max),
            prefetch_kilobytes_max: given.prefetch_kilobytes_max.unwrap_or(self.prefetch_kilobytes_max),
            linger_ms: given.linger_ms.unwrap_or(self.linger_ms),
            requests_in_flight_max: given.requests_in_flight_max.unwrap_or(self.requests_in_flight_max),
            compression: given.compression.unwrap_or(self.compression),
            producer_records_max: given.producer_records_max.unwrap_or(self.producer_records_max),
            producer_kilobytes_max: given.producer_kilobytes_max.unwrap_or(self.producer_kilobytes_max),
            delivery_timeout_ms: given.delivery_timeout_ms.unwrap_or(self.delivery_timeout_ms),
            security: given.security.unwrap_or(self.security),
            topics: given.topics.unwrap_or(self.topics),
        })
    }

    /// What can be seen to be wrong without asking the broker.
    pub fn validate(&self) -> Result<(), Failure> {
        let least: [(&str, u64, u64); 12] = [
            ("request_timeout_ms", self.request_timeout_ms, 100),
            ("session_timeout_ms", self.session_timeout_ms, 1_000),
            ("heartbeat_interval_ms", self.heartbeat_interval_ms, 100),
            ("commit_interval_ms", self.commit_interval_ms, 1),
            ("batch_records_max", self.batch_records_max as u64, 1),
            ("batch_bytes_max", self.batch_bytes_max as u64, 1),
            ("queue_batches_max", self.queue_batches_max as u64, 1),
            ("prefetch_kilobytes_max", self.prefetch_kilobytes_max as u64, 1),
            ("requests_in_flight_max", self.requests_in_flight_max, 1),
            ("producer_records_max", self.producer_records_max as u64, 1),
            ("producer_kilobytes_max", self.producer_kilobytes_max as u64, 1),
            ("delivery_timeout_ms", self.delivery_timeout_ms, 1_000),
        ];
        let most = [
            ("batch_interval_ms", self.batch_interval_ms, BATCH_INTERVAL_MS_MAX, "meanwhile nothing goes on"),
            ("batch_interval_busy_ms", self.batch_interval_busy_ms, BATCH_INTERVAL_MS_MAX, "meanwhile nothing goes on"),
            (
                "requests_in_flight_max",
                self.requests_in_flight_max,
                REQUESTS_IN_FLIGHT_MAX,
                "the broker remembers no more of a producer",
            ),
        ];
        if let Some((key, set, most, why)) = most.into_iter().find(|(_, set, most, _)| set > most) {
            return Err(Failure::new(FailureKind::Settings, format!("kafka.{key} is {set}"))
                .cure(format!("set at most {most}: {why}")));
        }
        if let Some((key, set, least)) = least.into_iter().find(|(_, set, least)| set < least) {
            return Err(Failure::new(FailureKind::Settings, format!("kafka.{key} is {set}"))
                .cure(format!("set at least {least}")));
        }
        let largest = self.topics.record_bytes_max.div_ceil(1024);
        if self.producer_kilobytes_max < largest {
            let what = format!("kafka.producer_kilobytes_max is {}", self.producer_kilobytes_max);
            let cure =
                format!("set at least {largest}: a record of kafka.topics.record_bytes_max would never find a place");
            return Err(Failure::new(FailureKind::Settings, what).cure(cure));
        }
        self.security.validate()
    }

    /// Longest wait for one answer.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// How long this process may sleep and still own its partitions: the broker counts the session from the last heartbeat, which may
    /// be a third of the session old.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms * 2 / 3)
    }

    /// The name of this instance.
    pub fn instance(&self, service: &str) -> String {
        if !self.instance_id.is_empty() {
            return self.instance_id.clone();
        }
        let host = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
        let host = host.or_else(|| std::fs::read_to_string("/etc/hostname").ok()).unwrap_or_default();
        format!("{service}-{}", host.trim())
    }

    /// What all clients have in common.
    pub fn client(&self, service: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", service)
            .set("reconnect.backoff.ms", "50")
            // A broker that is back is found soon, by each of several clients one behind the other.
            .set("reconnect.backoff.max.ms", "250")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("log_level", "4")
            // Asking for a topic must not make it: it would have the broker's settings, not ours.
            .set("allow.auto.create.topics", "false")
            // A client that does not know a topic's leaders yet asks after this time; while they stay unknown it asks ever less often.
            .set("topic.metadata.refresh.fast.interval.ms", "10");
        self.security.apply(&mut client);
        client
    }

    /// A member of a consumer group.
    pub(crate) fn member(&self, service: &str, group: &str) -> ClientConfig {
        let mut client = self.looker(service);
        client
            .set("group.id", group)
            .set("group.instance.id", self.instance(service))
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.wait.max.ms", LONG_POLL_MS)
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", self.heartbeat_interval_ms.min(self.session_timeout_ms / 3).to_string())
            .set("statistics.interval.ms", "1000")
            // The lease and the drain have bounds of their own.
            .set("max.poll.interval.ms", "86400000");
        client
    }

    /// A consumer outside of any group, for tails and scans. It goes from partition to partition, and would wait out a long poll at
    /// each, so its polls are short.
    pub(crate) fn looker(&self, service: &str) -> ClientConfig {
        let mut client = self.client(service);
        client
            .set("group.id", format!("{service}-look"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "20")
            .set("queued.max.messages.kbytes", self.prefetch_kilobytes_max.to_string());
        client
    }

    /// A consumer outside of any group that stays with its partitions.
    pub fn follower(&self, service: &str) -> ClientConfig {
        let mut client = self.looker(service);
        client.set("fetch.wait.max.ms", LONG_POLL_MS);
        client
    }

    /// The producer of a stage: nothing is acknowledged before all in-sync replicas have it, and nothing goes out twice or out of order.
    pub fn producer(&self, service: &str) -> ClientConfig {
        let mut client = self.client(service);
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", self.linger_ms.to_string())
            .set("max.in.flight", self.requests_in_flight_max.to_string())
            .set("compression.type", &self.compression)
            // A record must not time out alone: the one behind it would be delivered, and the tail would name a position behind the
            // lost one. So records wait for ever, and the publisher ends the generation when the oldest waits for too long.
            .set("message.timeout.ms", "0")
            .set("enable.gapless.guarantee", "true")
            .set("message.max.bytes", self.topics.record_bytes_max.to_string())
            .set("queue.buffering.max.messages", self.producer_records_max.to_string())
            .set("queue.buffering.max.kbytes", self.producer_kilobytes_max.to_string());
        client
    }

    /// The producer of states for the console: small, and nobody waits for it. A state that is not taken soon is of no use.
    pub(crate) fn teller(&self, service: &str) -> ClientConfig {
        let mut client = self.client(service);
        client
            .set("acks", "1")
            .set("linger.ms", "0")
            .set("compression.type", &self.compression)
            .set("message.timeout.ms", "5000")
            .set("queue.buffering.max.messages", "10");
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_held_with_a_cure() {
        assert!(KafkaConfig::default().validate().is_ok());
        let refused = |change: fn(&mut KafkaConfig)| {
            let mut config = KafkaConfig::default();
            change(&mut config);
            config.validate().err().map(|failure| failure.chain()).unwrap_or_default()
        };
        let none = refused(|config| config.requests_in_flight_max = 0);
        assert!(none.contains("kafka.requests_in_flight_max is 0") && none.contains("at least 1"), "{none}");
        let many = refused(|config| config.requests_in_flight_max = 6);
        assert!(many.contains("kafka.requests_in_flight_max is 6") && many.contains("at most 5"), "{many}");
        let narrow = refused(|config| config.producer_kilobytes_max = 16_383);
        assert!(narrow.contains("is 16383") && narrow.contains("at least 16384"), "{narrow}");
        let far = refused(|config| config.batch_interval_ms = 10_001);
        assert!(far.contains("kafka.batch_interval_ms is 10001") && far.contains("at most 10000"), "{far}");
    }
}
