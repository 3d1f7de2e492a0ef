//! Topics: made with the right settings where they are missing, refused with a clear message where they are wrong.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::KafkaConfig;
use super::security::Refusal;
use super::tail::Looker;
use crate::check::Finding;
use crate::failure::{Failure, FailureKind};

/// A topic that a stage needs.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// A table of the pipeline: compacted, tombstones kept. Otherwise (dead letters) any settings do.
    pub compacted: bool,
}

/// Looks at topics and makes them.
pub struct Topics<'a> {
    config: &'a KafkaConfig,
    admin: AdminClient<DefaultClientContext>,
    /// Asks for metadata, for it can say why it has no connection; the other cannot.
    looker: BaseConsumer<Looker>,
}

impl<'a> Topics<'a> {
    pub fn connect(config: &'a KafkaConfig, service: &str) -> Result<Self, Failure> {
        let admin = config.client(service).create().map_err(|error| settings(config, error))?;
        let looker = config.looker(service).set_log_level(RDKafkaLogLevel::Info).create_with_context(Looker::default());
        Ok(Topics { config, admin, looker: looker.map_err(|error| settings(config, error))? })
    }

    /// The number of partitions of a topic; `None` where it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<Option<i32>, Failure> {
        let metadata = self.metadata(topic)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(found
            .filter(|found| found.error().is_none() && !found.partitions().is_empty())
            .map(|found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)))
    }

    fn metadata(&self, topic: &str) -> Result<Metadata, Failure> {
        match self.looker.fetch_metadata(Some(topic), self.config.request_timeout()) {
            Ok(metadata) => {
                self.looker.context().connected();
                Ok(metadata)
            }
            Err(error) => Err(refused_by_broker(self.config, error, Looker::refusal_of(&self.looker))),
        }
    }

    /// The number of partitions of a topic that another service makes.
    pub fn required(&self, topic: &str, maker: &str) -> Result<i32, Failure> {
        self.partitions(topic)?.ok_or_else(|| {
            Failure::new(FailureKind::Unreachable, format!("topic `{topic}` does not exist yet"))
                .cure(format!("start {maker}, which makes it"))
        })
    }

    /// Makes the topic where it is missing; otherwise holds it against the specification.
    pub async fn ensure(&self, spec: &TopicSpec) -> Result<(), Failure> {
        match self.partitions(&spec.name)? {
            Some(partitions) => self.hold_against(spec, partitions).await,
            None => self.make(spec).await,
        }
    }

    /// What `check` says of a topic.
    pub async fn finding(&self, spec: &TopicSpec) -> Finding {
        match self.partitions(&spec.name) {
            Ok(Some(partitions)) => {
                let held = self.hold_against(spec, partitions).await;
                Finding::of(&held, format!("topic {} is as it should be", spec.name))
            }
            Ok(None) => Finding::ok(format!("topic {} will be made at the start", spec.name)),
            Err(failure) => Finding::problem(&failure),
        }
    }

    /// Whether a present topic is as it must be.
    pub async fn hold_against(&self, spec: &TopicSpec, partitions: i32) -> Result<(), Failure> {
        if partitions != spec.partitions {
            return Err(Failure::new(
                FailureKind::Settings,
                format!("topic `{}` has {partitions} partitions, but {} are needed", spec.name, spec.partitions),
            )
            .cure("topics of one pipeline have one partition count: make the topic anew with that count, or set kafka.topics.partitions of cdc-ingest"));
        }
        let policy = self.cleanup_policy(&spec.name).await?;
        if spec.compacted && policy != "compact" {
            return Err(Failure::new(
                FailureKind::Settings,
                format!(
                    "topic `{}` has cleanup.policy={policy}: rows would be deleted from it by age or size",
                    spec.name
                ),
            )
            .cure(format!("kafka-configs.sh --alter --topic {} --add-config cleanup.policy=compact", spec.name)));
        }
        Ok(())
    }

    async fn cleanup_policy(&self, topic: &str) -> Result<String, Failure> {
        let options = AdminOptions::new().request_timeout(Some(self.config.request_timeout()));
        let mut answers = self
            .admin
            .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
            .await
            .map_err(|error| unreachable_broker(self.config, error))?;
        let resource = answers.pop().and_then(Result::ok).ok_or_else(|| {
            Failure::new(FailureKind::Refused, format!("the settings of topic `{topic}` cannot be read"))
                .cure("grant DESCRIBE_CONFIGS on the topic")
        })?;
        let entry = resource.entries.into_iter().find(|entry| entry.name == "cleanup.policy");
        Ok(entry.and_then(|entry| entry.value).unwrap_or_default())
    }

    async fn make(&self, spec: &TopicSpec) -> Result<(), Failure> {
        let topics = &self.config.topics;
        let (lag, retention) = (topics.compaction_lag_ms.to_string(), topics.tombstone_retention_ms.to_string());
        let record_bytes = topics.record_bytes_max.to_string();
        let mut settings = vec![("cleanup.policy", "compact"), ("max.message.bytes", record_bytes.as_str())];
        if spec.compacted {
            settings.extend([("min.compaction.lag.ms", lag.as_str()), ("delete.retention.ms", retention.as_str())]);
        }
        self.create(&spec.name, spec.partitions, &settings).await
    }

    /// Makes a topic with these settings; one that somebody else made meanwhile stays as it is.
    pub async fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<(), Failure> {
        let replicas = TopicReplication::Fixed(self.config.topics.replication_factor);
        let mut topic = NewTopic::new(name, partitions, replicas);
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().request_timeout(Some(self.config.request_timeout()));
        let answers = self
            .admin
            .create_topics(&[topic], &options)
            .await
            .map_err(|error| unreachable_broker(self.config, error))?;
        for answer in answers {
            match answer {
                Ok(name) => {
                    tracing::info!(topic = name, partitions, "topic made");
                    self.wait_for(&name, partitions).await?;
                }
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => self.wait_for(&name, partitions).await?,
                Err((name, code)) => {
                    return Err(Failure::new(FailureKind::Refused, format!("topic `{name}` could not be made"))
                        .caused_by(KafkaError::AdminOp(code))
                        .cure("grant CREATE on the cluster, or make the topic by hand: compacted, with the partition count of the pipeline"));
                }
            }
        }
        Ok(())
    }
}

impl Topics<'_> {
    /// A topic that was just made is known to the broker, with a leader for each partition, a moment later.
    async fn wait_for(&self, topic: &str, partitions: i32) -> Result<(), Failure> {
        let deadline = Instant::now() + self.config.request_timeout();
        while Instant::now() < deadline {
            let metadata = self.metadata(topic)?;
            let led = metadata.topics().iter().flat_map(|topic| topic.partitions()).filter(|found| found.leader() >= 0);
            if led.count() >= usize::try_from(partitions).unwrap_or(usize::MAX) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Failure::new(FailureKind::Unreachable, format!("topic `{topic}` was made but has no leaders yet"))
            .cure("look at the broker's log; the service tries again by itself"))
    }
}

fn settings(config: &KafkaConfig, error: KafkaError) -> Failure {
    Failure::new(FailureKind::Settings, format!("a Kafka client for {} cannot be made", config.brokers))
        .caused_by(error)
        .cure("correct the section [kafka]")
}

/// The failure for a broker that does not answer.
pub(crate) fn unreachable_broker(config: &KafkaConfig, error: KafkaError) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("Kafka at {} does not answer", config.brokers))
        .caused_by(error)
        .cure("start the broker, or set kafka.brokers; the service tries again by itself")
}

/// The failure for a broker that does not answer, where the client has said why.
fn refused_by_broker(config: &KafkaConfig, error: KafkaError, refusal: Option<Refusal>) -> Failure {
    let Some(refusal) = refusal else { return unreachable_broker(config, error) };
    match refusal.meaning() {
        Some(meaning) => {
            Failure::new(meaning.kind, format!("Kafka at {} {}", config.brokers, meaning.what)).cure(meaning.cure)
        }
        None => unreachable_broker(config, error),
    }
    .caused_by(refusal.reason)
}
