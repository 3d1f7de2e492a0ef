//! The settings of cdc-ingest. `config/cdc-ingest.toml` documents each key.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use shared::config::{HttpConfig, LogConfig, RestartConfig, Secret};
use shared::console::settings::ConsoleConfig;
use shared::console::topology::Topology;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::pg::{PostgresConfig, TableName};
use shared::run::ServiceConfig;
use shared::traces::settings::TracesConfig;

use crate::transaction::Bounds;

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    #[serde(deserialize_with = "source")]
    pub source: PostgresConfig,
    pub slot: SlotConfig,
    pub tables: BTreeMap<String, TableConfig>,
    pub other_tables: OtherTablesConfig,
    pub snapshot: SnapshotConfig,
    pub watch: WatchConfig,
    pub state: StateConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub console: ConsoleConfig,
    pub log: LogConfig,
    pub traces: TracesConfig,
    pub restart: RestartConfig,
}

/// The replication slot and the publication.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlotConfig {
    pub name: String,
    pub publication: String,
    /// The slot is made as a failover slot where the server can (PostgreSQL 17 and newer).
    pub failover: bool,
    /// How often the server is told the confirmed position; it must stay below `server_timeout_ms`.
    pub status_interval_ms: u64,
    /// The `wal_sender_timeout` of our connection: a server that has not heard of us for so long lets go of the slot.
    pub server_timeout_ms: u64,
    /// How often a slot that another process holds is looked at.
    pub takeover_poll_ms: u64,
    /// Messages of the stream that wait between the connection and the first actor.
    pub queue_messages_max: usize,
    /// A longer message (one row with all its values) ends the stream with an error.
    pub message_bytes_max: usize,
}

/// A captured table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// `schema.table`.
    pub table: String,
    pub topic: String,
}

/// Tables of the publication that no entry of `tables` names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtherTablesConfig {
    /// The topic of such a table, with `{schema}` and `{table}`; empty: they are passed over.
    pub topic: String,
}

/// How the source's catalog and slot are looked at while the stream runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    pub interval_ms: u64,
    /// A server that does not answer a look for so long is taken for gone, and the chain starts again.
    pub silence_max_ms: u64,
}

/// The copies of tables, and bounds of their merge into the stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    pub tables_at_once: usize,
    pub chunk_rows: u32,
    /// A chunk with more bytes is given up and read again with half the rows.
    pub chunk_bytes_max: usize,
    pub recent_transactions_max: usize,
    pub touched_keys_max: usize,
    /// Keys held in memory while a topic is searched for rows that are gone; a larger topic is read several times.
    pub sweep_keys_max: usize,
    /// Wait before a chunk is taken again because a commit was not visible yet, and the longest between two looks whether it is.
    pub retake_wait_ms: u64,
}

/// Where cdc-ingest keeps what it must know after a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
            other_tables: OtherTablesConfig::default(),
            snapshot: SnapshotConfig::default(),
            watch: WatchConfig::default(),
            state: StateConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            console: ConsoleConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
            restart: RestartConfig::default(),
        }
    }
}

impl Default for SlotConfig {
    fn default() -> Self {
        SlotConfig {
            name: "tidemill".into(),
            publication: "tidemill".into(),
            failover: true,
            status_interval_ms: 1_000,
            server_timeout_ms: 10_000,
            takeover_poll_ms: 100,
            queue_messages_max: 4_096,
            message_bytes_max: 256 << 20,
        }
    }
}

impl Default for OtherTablesConfig {
    fn default() -> Self {
        OtherTablesConfig { topic: "ods_{schema}_{table}".into() }
    }
}

impl OtherTablesConfig {
    /// The topic of a table; `None` where such tables are passed over. Kafka's names have letters, digits, `.`, `_` and `-` only: any
    /// other character of a table's name becomes `_u` and its number in hexadecimal.
    pub fn topic_of(&self, table: &TableName) -> Option<String> {
        let legal = |name: &str| -> String {
            let legal = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
            let written = |character| {
                if legal(character) { String::from(character) } else { format!("_u{:x}", u32::from(character)) }
            };
            name.chars().map(written).collect()
        };
        let named = || self.topic.replace("{schema}", &legal(&table.schema)).replace("{table}", &legal(&table.name));
        (!self.topic.is_empty()).then(named)
    }
}

impl Default for WatchConfig {
    fn default() -> Self {
        WatchConfig { interval_ms: 1_000, silence_max_ms: 5_000 }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            tables_at_once: 2,
            chunk_rows: 5_000,
            chunk_bytes_max: 16 << 20,
            recent_transactions_max: 100_000,
            touched_keys_max: 200_000,
            sweep_keys_max: 1_000_000,
            retake_wait_ms: 10,
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        StateConfig { topic: "cdc_state".into() }
    }
}

impl Settings {
    /// The tables that are named under `tables`.
    pub fn table_names(&self) -> Vec<TableName> {
        self.tables.values().map(|table| TableName::parse(&table.table)).collect()
    }

    /// Bounds of the assembler.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            recent_transactions_max: self.snapshot.recent_transactions_max,
            touched_keys_max: self.snapshot.touched_keys_max,
            record_bytes_max: self.kafka.topics.record_bytes_max,
        }
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

    fn console(&self) -> &ConsoleConfig {
        &self.console
    }

    fn traces(&self) -> &TracesConfig {
        &self.traces
    }

    fn topology(&self) -> Topology {
        Topology {
            source: Some(self.source.address()),
            outputs: self.tables.values().map(|table| table.topic.clone()).collect(),
            own: vec![self.state.topic.clone()],
            ..Topology::default()
        }
    }

    fn validate(&self) -> Result<(), Failure> {
        self.source.validate("source")?;
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
        if self.tables.is_empty() && self.other_tables.topic.is_empty() {
            return wrong("no table is configured", "name at least one under [tables], or set other_tables.topic");
        }
        if !self.other_tables.topic.is_empty() && !self.other_tables.topic.contains("{table}") {
            return wrong(
                "other_tables.topic has no {table}, so all tables would share a topic",
                "put {schema} and {table} in",
            );
        }
        let mut topics: Vec<&str> = self.tables.values().map(|table| table.topic.as_str()).collect();
        topics.push(&self.state.topic);
        topics.sort_unstable();
        if topics.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return wrong("two tables, or a table and the state, have the same topic", "give each a topic of its own");
        }
        let least: [(&str, u64, u64); 8] = [
            ("snapshot.chunk_rows", u64::from(self.snapshot.chunk_rows), 1),
            ("snapshot.chunk_bytes_max", self.snapshot.chunk_bytes_max as u64, 1),
            ("snapshot.tables_at_once", self.snapshot.tables_at_once as u64, 1),
            ("snapshot.sweep_keys_max", self.snapshot.sweep_keys_max as u64, 1),
            ("kafka.topics.partitions", u64::try_from(self.kafka.topics.partitions).unwrap_or(0), 1),
            ("watch.interval_ms", self.watch.interval_ms, 10),
            ("watch.silence_max_ms", self.watch.silence_max_ms, 100),
            ("slot.server_timeout_ms", self.slot.server_timeout_ms, self.slot.status_interval_ms * 2),
        ];
        match least.into_iter().find(|(_, set, least)| set < least) {
            None => Ok(()),
            Some((key, set, least)) => wrong(&format!("{key} is {set}"), &format!("set at least {least}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_legal_topic_name() {
        let other = OtherTablesConfig::default();
        let topic = |name| other.topic_of(&TableName::parse(name)).unwrap();
        assert_eq!(topic("public.pgbench_accounts"), "ods_public_pgbench_accounts");
        assert_eq!(topic("\"Shop\".\"订单 1\""), "ods_Shop__u8ba2_u5355_u201");
        assert_eq!(OtherTablesConfig { topic: String::new() }.topic_of(&TableName::parse("a.b")), None);
    }

    #[test]
    fn the_documented_file_holds_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/cdc-ingest.toml");
        let documented: Settings = shared::config::load("cdc-ingest", Some(path.as_ref()), Settings::MAPS).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", Settings::default()));
        assert!(documented.validate().is_ok());
    }
}
