//! What a Kafka client has to say, once: a broker that is away is told of every few seconds, not a hundred times.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::security::Refusal;

/// The same error is told of again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The voice of one client.
#[derive(Debug)]
pub(crate) struct ClientLog {
    who: &'static str,
    told: Mutex<HashMap<String, Instant>>,
    /// Why there is no connection, as far as it was said.
    refusal: Mutex<Option<Refusal>>,
}

impl ClientLog {
    pub(crate) fn new(who: &'static str) -> Self {
        ClientLog { who, told: Mutex::default(), refusal: Mutex::default() }
    }

    /// An error that the client mends by itself.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        self.keep(error.rdkafka_error_code().and_then(|code| Refusal::of(code, reason)));
        let what = error.to_string();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&what).is_some_and(|last| now.duration_since(*last) < AGAIN_AFTER) {
            return;
        }
        told.insert(what, now);
        tracing::warn!(client = self.who, %error, reason, "kafka; the client tries again by itself");
    }

    /// A line of librdkafka's own. Of a broker that breaks off in the middle of the first answer there is a line, and no error.
    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if facility == "FAIL" {
            self.keep(Refusal::of(RDKafkaErrorCode::BrokerTransportFailure, text));
        }
        line(level, facility, text);
    }

    fn keep(&self, refusal: Option<Refusal>) {
        let Some(refusal) = refusal else { return };
        let mut kept = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| refusal.tells_as_much_as(kept)) {
            *kept = Some(refusal);
        }
    }

    /// Why there is no connection, as far as it was said.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There is one.
    pub(super) fn connected(&self) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
