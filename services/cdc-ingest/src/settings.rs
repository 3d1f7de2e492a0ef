//! The settings of cdc-ingest. `config/cdc-ingest.toml` documents each key.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use shared::config::{HttpConfig, LogConfig, RestartConfig, Secret};
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::pg::PostgresConfig;
use shared::run::ServiceConfig;

use crate::transaction::Bounds;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    #[serde(deserialize_with = "source")]
    pub source: PostgresConfig,
    pub slot: SlotConfig,
    pub tables: BTreeMap<String, TableConfig>,
    pub snapshot: SnapshotConfig,
    pub state: StateConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub log: LogConfig,
    pub restart: RestartConfig,
}

/// The replication slot and the publication.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlotConfig {
    pub name: String,
    pub publication: String,
    /// How often the server is told the confirmed position; it must stay below the server's `wal_sender_timeout`.
    pub status_interval_ms: u64,
    /// Messages of the stream that wait between the connection and the first actor.
    pub queue_messages_max: usize,
    /// A longer message (one row with all its values) ends the stream with an error.
    pub message_bytes_max: usize,
}

/// A captured table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// `schema.table`.
    pub table: String,
    pub topic: String,
}

/// The first copy of a table, and bounds of its merge into the stream.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    pub chunk_rows: u32,
    pub recent_transactions_max: usize,
    pub touched_keys_max: usize,
    /// Wait before a chunk is taken again because a commit was not visible yet.
    pub retake_wait_ms: u64,
}

/// Where cdc-ingest keeps what it must know after a restart.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    pub topic: String,
}

const HTTP_PORT: u16 = 8081;

fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
    HttpConfig::on(HTTP_PORT).given(section)
}

fn default_source() -> PostgresConfig {
    PostgresConfig {
        database: "source_db".into(),
        user: "tidemill_capture".into(),
        password: Secret::new("tidemill_capture"),
        ..PostgresConfig::default()
    }
}

fn source<'de, D: Deserializer<'de>>(section: D) -> Result<PostgresConfig, D::Error> {
    default_source().given(section)
}

impl Default for Settings {
    fn default() -> Self {
        let table = |table: &str, topic: &str| TableConfig { table: table.into(), topic: topic.into() };
        Settings {
            source: default_source(),
            slot: SlotConfig::default(),
            tables: BTreeMap::from([
                ("orders".to_owned(), table("business.orders", "ods_orders")),
                ("users".to_owned(), table("business.users", "ods_users")),
            ]),
            snapshot: SnapshotConfig::default(),
            state: StateConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            log: LogConfig::default(),
            restart: RestartConfig::default(),
        }
    }
}

impl Default for SlotConfig {
    fn default() -> Self {
        SlotConfig {
            name: "tidemill".into(),
            publication: "tidemill".into(),
            status_interval_ms: 1_000,
            queue_messages_max: 4_096,
            message_bytes_max: 256 << 20,
        }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            chunk_rows: 5_000,
            recent_transactions_max: 100_000,
            touched_keys_max: 200_000,
            retake_wait_ms: 10,
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        StateConfig { topic: "cdc_state".into() }
    }
}

impl SnapshotConfig {
    pub fn bounds(&self) -> Bounds {
        Bounds { recent_transactions_max: self.recent_transactions_max, touched_keys_max: self.touched_keys_max }
    }
}

impl ServiceConfig for Settings {
    fn http(&self) -> &HttpConfig {
        &self.http
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn restart(&self) -> &RestartConfig {
        &self.restart
    }

    fn kafka(&self) -> &KafkaConfig {
        &self.kafka
    }

    fn validate(&self) -> Result<(), Failure> {
        let wrong = |what: &str, cure: &str| Err(Failure::new(FailureKind::Settings, what).cure(cure));
        let simple = |name: &str| {
            !name.is_empty()
                && name.len() < 64
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !simple(&self.slot.name) {
            return wrong("slot.name may have lower-case letters, digits and underscores only", "choose such a name");
        }
        if !simple(&self.slot.publication) {
            return wrong(
                "slot.publication may have lower-case letters, digits and underscores only",
                "choose such a name",
            );
        }
        if self.tables.is_empty() {
            return wrong("no table is configured", "name at least one under [tables]");
        }
        let mut topics: Vec<&str> = self.tables.values().map(|table| table.topic.as_str()).collect();
        topics.push(&self.state.topic);
        topics.sort_unstable();
        if topics.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return wrong("two tables, or a table and the state, have the same topic", "give each a topic of its own");
        }
        if self.snapshot.chunk_rows == 0 || self.kafka.topics.partitions < 1 {
            return wrong("snapshot.chunk_rows and kafka.topics.partitions must be at least 1", "set them");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_holds_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/cdc-ingest.toml");
        let documented: Settings = shared::config::load("cdc-ingest", Some(path.as_ref()), Settings::MAPS).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", Settings::default()));
        assert!(documented.validate().is_ok());
    }
}
