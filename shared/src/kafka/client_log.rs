//! What a Kafka client has to say, once: a broker that is away is told of every few seconds, not a hundred times.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The same error is told of again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The voice of one client.
#[derive(Debug)]
pub(crate) struct ClientLog {
    who: &'static str,
    told: Mutex<HashMap<String, Instant>>,
}

impl ClientLog {
    pub(crate) fn new(who: &'static str) -> Self {
        ClientLog { who, told: Mutex::default() }
    }

    /// An error that the client mends by itself.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        let what = error.to_string();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&what).is_some_and(|last| now.duration_since(*last) < AGAIN_AFTER) {
            return;
        }
        told.insert(what, now);
        tracing::warn!(client = self.who, %error, reason, "kafka; the client tries again by itself");
    }
}

/// librdkafka's own lines repeat what the error callback says, so they are for a closer look only (`librdkafka=debug`).
pub(crate) fn line(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}
