//! The settings of pg-sinker. `config/pg-sinker.toml` documents each key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use shared::config::{HttpConfig, LogConfig, RestartConfig, Secret};
use shared::console::settings::ConsoleConfig;
use shared::console::topology::Topology;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::pg::{PostgresConfig, TableName};
use shared::run::ServiceConfig;

use crate::reconcile::settings::ReconcileConfig;
use crate::rollups::declared::{self, FillConfig, RollupConfig};

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub input: InputConfig,
    #[serde(deserialize_with = "sink")]
    pub sink: PostgresConfig,
    /// By a free name, so that the environment can set each. Given at all, they replace the default tables as a whole.
    pub tables: BTreeMap<String, TableConfig>,
    /// By a free name. Given at all, they replace the default ones as a whole.
    pub rollups: BTreeMap<String, RollupConfig>,
    pub fill: FillConfig,
    pub writer: WriterConfig,
    pub reconcile: ReconcileConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub console: ConsoleConfig,
    pub log: LogConfig,
    pub restart: RestartConfig,
}

/// What is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputConfig {
    pub topic: String,
    /// The consumer group; offsets stand in the sink under this name.
    pub group: String,
}

/// A table that is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// `schema.table`.
    pub table: String,
    /// The columns that make a row the same row; a list, or names with commas (the environment knows no lists).
    #[serde(deserialize_with = "names")]
    pub key: Vec<String>,
    #[serde(default)]
    pub on_tombstone: OnTombstone,
    /// With [`OnTombstone::Soft`]: the column that says that the row was deleted.
    #[serde(default = "deleted_column")]
    pub deleted_column: String,
}

fn deleted_column() -> String {
    "deleted_at".into()
}

/// What a deletion at the source does to a table.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnTombstone {
    /// The row stays as it was written: a trail.
    #[default]
    Keep,
    /// The row is deleted, and its version kept, so that a repeat of an older record does not revive it.
    Delete,
    /// The row stays, and a column says that it was deleted, until a newer row comes.
    Soft,
}

impl OnTombstone {
    /// Whether a deletion changes the table.
    pub fn is_heeded(self) -> bool {
        self != OnTombstone::Keep
    }

    pub fn as_str(self) -> &'static str {
        match self {
            OnTombstone::Keep => "keep",
            OnTombstone::Delete => "delete",
            OnTombstone::Soft => "soft",
        }
    }
}

/// How it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WriterConfig {
    /// Where records go that the database refuses.
    pub dead_letter_topic: String,
    /// A transaction that takes longer is given up and tried again on a new connection.
    pub transaction_timeout_ms: u64,
    /// Wait before a transaction is tried again; doubled for each further try.
    pub retry_first_ms: u64,
    /// Longest wait between two tries.
    pub retry_longest_ms: u64,
    /// How long the version of a deleted key is kept: longer than any older record of it can be read again.
    pub deleted_keys_keep_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let table = |table: &str, key: &[&str], on_tombstone| TableConfig {
            table: table.into(),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            on_tombstone,
            deleted_column: deleted_column(),
        };
        let trail = table("result.orders_with_user_info", &["order_id", "order_status"], OnTombstone::Keep);
        let latest = table("result.orders_latest", &["order_id"], OnTombstone::Delete);
        Settings {
            input: InputConfig::default(),
            sink: default_sink(),
            tables: BTreeMap::from([("trail".to_owned(), trail), ("latest".to_owned(), latest)]),
            rollups: declared::by_default(),
            fill: FillConfig::default(),
            writer: WriterConfig::default(),
            reconcile: ReconcileConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            console: ConsoleConfig::default(),
            log: LogConfig::default(),
            restart: RestartConfig::default(),
        }
    }
}

impl Default for InputConfig {
    fn default() -> Self {
        InputConfig { topic: "result_orders_with_user_info".into(), group: "pg-sinker".into() }
    }
}

impl Default for WriterConfig {
    fn default() -> Self {
        WriterConfig {
            dead_letter_topic: "dlq_pg_sinker".into(),
            transaction_timeout_ms: 30_000,
            retry_first_ms: 100,
            retry_longest_ms: 400,
            deleted_keys_keep_days: 8,
        }
    }
}

const HTTP_PORT: u16 = 8084;

fn default_sink() -> PostgresConfig {
    PostgresConfig {
        port: 5433,
        database: "sink_db".into(),
        user: "tidemill_writer".into(),
        password: Secret::new("tidemill_writer"),
        ..PostgresConfig::default()
    }
}

fn sink<'de, D: Deserializer<'de>>(section: D) -> Result<PostgresConfig, D::Error> {
    default_sink().given(section)
}

fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
    HttpConfig::on(HTTP_PORT).given(section)
}

/// A list, or names with commas.
pub fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        Names::List(list) => list,
    })
}

impl WriterConfig {
    /// The wait before try number `attempt` (from 1).
    pub fn retry_wait(&self, attempt: u32) -> Duration {
        let doubled = self.retry_first_ms.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.retry_longest_ms))
    }

    pub fn transaction_timeout(&self) -> Duration {
        Duration::from_millis(self.transaction_timeout_ms)
    }
}

impl Settings {
    /// The roll-ups that are kept. The default ones are where their table is among [tables].
    pub fn kept_rollups(&self) -> BTreeMap<String, RollupConfig> {
        let by_default = declared::by_default();
        let written = self.table_names();
        let is_kept = |rollup: &RollupConfig| written.contains(&TableName::parse(&rollup.of));
        let all = self.rollups.iter().filter(|(_, rollup)| self.rollups != by_default || is_kept(rollup));
        all.map(|(name, rollup)| (name.clone(), rollup.clone())).collect()
    }

    fn table_names(&self) -> BTreeSet<TableName> {
        self.tables.values().map(|table| TableName::parse(&table.table)).collect()
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

    fn topology(&self) -> Topology {
        Topology {
            input: Some(self.input.topic.clone()),
            sink: Some(self.sink.address()),
            dead_letters: vec![self.writer.dead_letter_topic.clone()],
            ..Topology::default()
        }
    }

    fn validate(&self) -> Result<(), Failure> {
        self.sink.validate("sink")?;
        let wrong = |what: String, cure: &str| Err(Failure::new(FailureKind::Settings, what).cure(cure));
        if self.tables.is_empty() {
            return wrong("no table is to be written".into(), "name one in [tables]");
        }
        let mut seen = BTreeSet::new();
        for (name, table) in &self.tables {
            if table.key.is_empty() || table.key.iter().any(String::is_empty) {
                return wrong(format!("tables.{name} has no key"), "name the columns that make a row the same row");
            }
            if table.key.iter().collect::<BTreeSet<_>>().len() < table.key.len() {
                return wrong(format!("tables.{name} names a column of its key twice"), "name each once");
            }
            if table.on_tombstone == OnTombstone::Soft && table.key.contains(&table.deleted_column) {
                return wrong(
                    format!(
                        "tables.{name} names {} as part of its key and as its deleted_column",
                        table.deleted_column
                    ),
                    "name another column",
                );
            }
            if !seen.insert(TableName::parse(&table.table)) {
                return wrong(format!("{} is named twice in [tables]", table.table), "name each table once");
            }
        }
        declared::validate(&self.kept_rollups(), &self.table_names(), &self.fill)?;
        if self.writer.retry_first_ms == 0 || self.writer.transaction_timeout_ms == 0 {
            return wrong(
                "writer.retry_first_ms or writer.transaction_timeout_ms is 0".into(),
                "set at least 1 millisecond",
            );
        }
        self.reconcile.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str) -> Result<Settings, Failure> {
        let path = std::env::temp_dir().join(format!("pg-sinker-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let loaded = shared::config::load("pg-sinker", Some(&path), &[]);
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    #[test]
    fn the_documented_file_holds_the_defaults() {
        let documented = load("documented", include_str!("../../../config/pg-sinker.toml")).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", Settings::default()));
        assert_eq!(documented.sink.password.reveal(), "tidemill_writer");
        assert!(documented.validate().is_ok());
    }

    #[test]
    fn a_section_in_part_keeps_the_other_defaults() {
        let settings = load("part", "[sink]\nhost = \"db\"\n[http]\nhost = \"0.0.0.0\"").unwrap();
        assert_eq!((settings.sink.host.as_str(), settings.sink.port), ("db", 5433));
        assert_eq!((settings.sink.database.as_str(), settings.http.port), ("sink_db", 8084));
        assert!(load("unknown", "[sink]\nhots = \"db\"").unwrap_err().chain().contains("hots"));
    }

    #[test]
    fn tables_replace_the_default_ones_and_a_key_may_be_text() {
        let settings = load("tables", "[tables.one]\ntable = \"a.b\"\nkey = \"x, y\"").unwrap();
        let table = settings.tables.get("one").unwrap();
        assert_eq!((settings.tables.len(), table.key.len(), table.on_tombstone), (1, 2, OnTombstone::Keep));
    }

    #[test]
    fn default_roll_ups_go_with_their_table_and_others_replace_them() {
        assert_eq!(Settings::default().kept_rollups().len(), 3);
        let other_table = load("other", "[tables.one]\ntable = \"a.b\"\nkey = \"x\"").unwrap();
        assert!(other_table.kept_rollups().is_empty() && other_table.validate().is_ok());
        assert!(load("none", "[rollups]").unwrap().kept_rollups().is_empty());
        let one = "[rollups.one]\ntable = \"a.b\"\nof = \"result.orders_latest\"\ngroups = \"city, order_status\"\ncount = \"n\"";
        let one = load("one", one).unwrap();
        assert_eq!((one.kept_rollups().len(), one.kept_rollups()["one"].groups.len()), (1, 2));
        assert!(
            load("wrong-rollup", "[rollups.one]\ntable = \"a.b\"\nof = \"c.d\"\ncount = \"n\"")
                .unwrap()
                .validate()
                .is_err()
        );
    }

    #[test]
    fn what_can_be_seen_to_be_wrong_is_refused() {
        for (at, text) in [
            "[tables.a]\ntable = \"a.b\"\nkey = []",
            "[tables.a]\ntable = \"a.b\"\nkey = \"x,x\"",
            "[tables.a]\ntable = \"b\"\nkey = \"x\"\n[tables.c]\ntable = \"public.b\"\nkey = \"x\"",
            "[tables.a]\ntable = \"a.b\"\nkey = \"x\"\non_tombstone = \"soft\"\ndeleted_column = \"x\"",
            "[writer]\nretry_first_ms = 0",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(load(&format!("wrong{at}"), text).unwrap().validate().is_err(), "{text}");
        }
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let writer = WriterConfig::default();
        let waits: Vec<_> = [1, 2, 3, 7, 100].map(|attempt| writer.retry_wait(attempt).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 400, 400]);
    }
}
