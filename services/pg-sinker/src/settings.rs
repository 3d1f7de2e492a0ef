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
use shared::traces::settings::TracesConfig;

use crate::backfill::settings::BackfillConfig;
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
    pub backfill: BackfillConfig,
    pub writer: WriterConfig,
    pub reconcile: ReconcileConfig,
    #[serde(deserialize_with = "kafka")]
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub console: ConsoleConfig,
    pub log: LogConfig,
    pub traces: TracesConfig,
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
    /// Whose rows go into it; empty: those of `input.topic`.
    #[serde(default)]
    pub topic: String,
    /// The columns that make a row the same row; a list, or names with commas (the environment knows no lists).
    #[serde(deserialize_with = "names")]
    pub key: Vec<String>,
    #[serde(default)]
    pub on_tombstone: OnTombstone,
    /// With [`OnTombstone::Soft`]: the column that says that the row was deleted.
    #[serde(default = "deleted_column")]
    pub deleted_column: String,
    /// Columns that are not written, such as personal ones.
    #[serde(default, deserialize_with = "names")]
    pub leave_out: Vec<String>,
    /// A table that does not exist is made from the first record.
    #[serde(default)]
    pub create: bool,
    #[serde(default)]
    pub evolve: Evolve,
    /// SQL types of columns that pg-sinker makes, by name; others get theirs by the value.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// Bounds of a batch of its topic, where they are narrower than those of [kafka].
    #[serde(default)]
    pub batch_records_max: Option<usize>,
    #[serde(default)]
    pub batch_bytes_max: Option<usize>,
    /// In the place of `writer.batch_wait_ms`, be it longer or shorter.
    #[serde(default)]
    pub batch_wait_ms: Option<u64>,
}

/// How much a batch holds, and how long one that is not full waits for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBounds {
    pub records_max: usize,
    pub bytes_max: usize,
    pub wait_ms: u64,
}

/// What happens when the topic brings a field that the table has no column for.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Evolve {
    /// It is passed over.
    #[default]
    None,
    /// The table gets a column.
    Add,
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

/// What a commit waits for, as PostgreSQL has it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousCommit {
    #[default]
    On,
    /// Nothing. Rows and offsets that a crash of the server takes are written again from the topic.
    Off,
    Local,
    RemoteWrite,
    RemoteApply,
}

impl SynchronousCommit {
    pub fn as_str(self) -> &'static str {
        match self {
            SynchronousCommit::On => "on",
            SynchronousCommit::Off => "off",
            SynchronousCommit::Local => "local",
            SynchronousCommit::RemoteWrite => "remote_write",
            SynchronousCommit::RemoteApply => "remote_apply",
        }
    }
}

/// How it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WriterConfig {
    /// Where records go that the database refuses.
    pub dead_letter_topic: String,
    /// A batch that is not full waits so long for more records.
    pub batch_wait_ms: u64,
    /// Most connections that write the partitions of a batch side by side, each in a transaction of its own.
    pub connections: usize,
    /// Records that each of several connections has at least.
    pub connection_records_min: usize,
    /// A transaction that takes longer is given up and tried again on a new connection.
    pub transaction_timeout_ms: u64,
    /// A transaction that waits longer for a lock of somebody else is given up and tried again: it holds locks, too.
    pub lock_timeout_ms: u64,
    pub synchronous_commit: SynchronousCommit,
    /// A column that is added waits so long for a lock, and who comes behind waits with it; then it is tried again.
    pub evolve_lock_timeout_ms: u64,
    /// Columns that a table comes to by `evolve`.
    pub evolve_columns_max: usize,
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
            topic: String::new(),
            key: key.iter().map(|&name| name.to_owned()).collect(),
            on_tombstone,
            deleted_column: deleted_column(),
            leave_out: Vec::new(),
            create: false,
            evolve: Evolve::None,
            types: BTreeMap::new(),
            batch_records_max: None,
            batch_bytes_max: None,
            batch_wait_ms: None,
        };
        let trail = table("result.orders_with_user_info", &["order_id", "order_status"], OnTombstone::Keep);
        let latest = table("result.orders_latest", &["order_id"], OnTombstone::Delete);
        Settings {
            input: InputConfig::default(),
            sink: default_sink(),
            tables: BTreeMap::from([("trail".to_owned(), trail), ("latest".to_owned(), latest)]),
            rollups: declared::by_default(),
            fill: FillConfig::default(),
            backfill: BackfillConfig::default(),
            writer: WriterConfig::default(),
            reconcile: ReconcileConfig::default(),
            kafka: default_kafka(),
            http: HttpConfig::on(HTTP_PORT),
            console: ConsoleConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
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
            batch_wait_ms: 0,
            connections: 2,
            connection_records_min: 100,
            transaction_timeout_ms: 30_000,
            lock_timeout_ms: 5_000,
            synchronous_commit: SynchronousCommit::On,
            evolve_lock_timeout_ms: 500,
            evolve_columns_max: 500,
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

/// A batch is a transaction on each connection: larger and fewer than those of other stages.
fn default_kafka() -> KafkaConfig {
    KafkaConfig {
        batch_records_max: 4_000,
        batch_bytes_max: 4 << 20,
        batch_interval_ms: 10,
        queue_batches_max: 1,
        ..KafkaConfig::default()
    }
}

fn kafka<'de, D: Deserializer<'de>>(section: D) -> Result<KafkaConfig, D::Error> {
    default_kafka().given(section)
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

impl TableConfig {
    /// `schema.table`, the schema named in any case.
    pub fn label(&self) -> String {
        TableName::parse(&self.table).to_string()
    }
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

    /// The topic whose rows go into a table.
    pub fn topic_of<'s>(&'s self, table: &'s TableConfig) -> &'s str {
        if table.topic.is_empty() { &self.input.topic } else { &table.topic }
    }

    /// The topics that are read, each once; that of the input, where a table takes it, is the first.
    pub fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self.tables.values().map(|table| self.topic_of(table)).collect();
        topics.sort_by_key(|topic| (*topic != self.input.topic, *topic));
        topics.dedup();
        topics
    }

    /// The bounds of a batch of a topic. Its tables share each batch, so the narrowest counts.
    pub fn batch_of(&self, topic: &str) -> BatchBounds {
        let of_topic = || self.tables.values().filter(|table| self.topic_of(table) == topic);
        let least = |of: fn(&TableConfig) -> Option<usize>, all: usize| of_topic().filter_map(of).fold(all, usize::min);
        BatchBounds {
            records_max: least(|table| table.batch_records_max, self.kafka.batch_records_max),
            bytes_max: least(|table| table.batch_bytes_max, self.kafka.batch_bytes_max),
            wait_ms: of_topic().filter_map(|table| table.batch_wait_ms).min().unwrap_or(self.writer.batch_wait_ms),
        }
    }

    /// The tables of a topic by label, in order.
    pub fn labels_of(&self, topic: &str) -> Vec<String> {
        let of_topic = self.tables.values().filter(|table| self.topic_of(table) == topic);
        let labels: BTreeSet<String> = of_topic.map(TableConfig::label).collect();
        labels.into_iter().collect()
    }

    /// The consumer group of a topic. Each has one of its own, so that a rebalance of one holds up no other.
    pub fn group_of(&self, topic: &str) -> String {
        let group = &self.input.group;
        if topic == self.input.topic { group.clone() } else { format!("{group}-{topic}") }
    }

    fn table_names(&self) -> BTreeSet<TableName> {
        self.tables.values().map(|table| TableName::parse(&table.table)).collect()
    }
}

impl ServiceConfig for Settings {
    const MAPS: &'static [&'static str] = &["tables.*.types", "rollups.*.sums", "rollups.*.distinct"];

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
            input: self.topics().first().map(|&topic| topic.to_owned()),
            beside: self.topics().into_iter().skip(1).map(str::to_owned).collect(),
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
        if self.writer.connections == 0 {
            return wrong("writer.connections is 0".into(), "set at least 1");
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
            if !table.types.is_empty() && !table.create && table.evolve == Evolve::None {
                return wrong(
                    format!("tables.{name} names types of columns, and pg-sinker makes none of them"),
                    "set create or evolve, or leave out types",
                );
            }
            if let Some(column) = table.key.iter().find(|column| table.leave_out.contains(column)) {
                return wrong(
                    format!("tables.{name} leaves out {column}, which is part of its key"),
                    "take it out of leave_out, or hash it in dwd-cleaner",
                );
            }
            if table.batch_records_max == Some(0) || table.batch_bytes_max == Some(0) {
                return wrong(
                    format!("tables.{name} has a batch of nothing"),
                    "set at least 1, or leave the bound out",
                );
            }
            if !seen.insert(TableName::parse(&table.table)) {
                return wrong(format!("{} is named twice in [tables]", table.table), "name each table once");
            }
        }
        declared::validate(&self.kept_rollups(), &self.table_names(), &self.fill)?;
        let writer = &self.writer;
        for (name, value) in [
            ("retry_first_ms", writer.retry_first_ms),
            ("transaction_timeout_ms", writer.transaction_timeout_ms),
            ("lock_timeout_ms", writer.lock_timeout_ms),
            ("evolve_lock_timeout_ms", writer.evolve_lock_timeout_ms),
        ] {
            if value == 0 {
                return wrong(format!("writer.{name} is 0"), "set at least 1 millisecond");
            }
        }
        // The server knows no table of more columns; fewer are not even the key and what pg-sinker itself writes.
        if !EVOLVE_COLUMNS.contains(&writer.evolve_columns_max) {
            let what = format!("writer.evolve_columns_max is {}", writer.evolve_columns_max);
            return wrong(what, "set 8 to 1600");
        }
        self.backfill.validate()?;
        self.reconcile.validate()
    }
}

/// See PostgreSQL's appendix K, limits.
const EVOLVE_COLUMNS: std::ops::RangeInclusive<usize> = 8..=1_600;

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
    fn each_topic_is_read_once_by_a_group_of_its_own() {
        assert_eq!(Settings::default().topics(), ["result_orders_with_user_info"]);
        let table = |name: &str, topic: &str| format!("[tables.{name}]\ntable = \"a.{name}\"\nkey = \"x\"\n{topic}\n");
        let text = table("a", "topic = \"dwd\"") + &table("b", "") + &table("c", "topic = \"dwd\"");
        let settings = load("topics", &text).unwrap();
        assert_eq!(settings.topics(), ["result_orders_with_user_info", "dwd"]);
        assert_eq!(settings.topology().beside, ["dwd"]);
        assert_eq!(settings.group_of("dwd"), "pg-sinker-dwd");
        assert_eq!(settings.group_of("result_orders_with_user_info"), "pg-sinker");
        assert_eq!(load("one-topic", &table("a", "topic = \"dwd\"")).unwrap().topics(), ["dwd"]);
    }

    #[test]
    fn the_narrowest_bound_of_its_tables_is_that_of_a_topics_batches() {
        let table = |name: &str, rest: &str| format!("[tables.{name}]\ntable = \"a.{name}\"\nkey = \"x\"\n{rest}\n");
        let text = table("a", "batch_records_max = 50\nbatch_wait_ms = 20")
            + &table("b", "batch_records_max = 5000\nbatch_wait_ms = 30")
            + &table("c", "topic = \"dwd\"\nbatch_bytes_max = 1000");
        let settings = load("bounds", &text).unwrap();
        let bounds = |topic| {
            let BatchBounds { records_max, bytes_max, wait_ms } = settings.batch_of(topic);
            (records_max, bytes_max, wait_ms)
        };
        assert_eq!(bounds("result_orders_with_user_info"), (50, 4 << 20, 20));
        assert_eq!(bounds("dwd"), (4_000, 1_000, 0));
        assert!(load("no-bound", &table("a", "batch_records_max = 0")).unwrap().validate().is_err());
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
            "[tables.a]\ntable = \"a.b\"\nkey = \"x\"\nleave_out = [\"y\", \"x\"]",
            "[writer]\nretry_first_ms = 0",
            "[writer]\nlock_timeout_ms = 0",
            "[tables.a]\ntable = \"a.b\"\nkey = \"x\"\ntypes = { y = \"int\" }",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(load(&format!("wrong{at}"), text).unwrap().validate().is_err(), "{text}");
        }
    }

    #[test]
    fn naming_a_broker_leaves_the_batches_as_they_are() {
        let settings = load("broker", "[kafka]\nbrokers = \"b:1\"\nbatch_interval_ms = 3").unwrap();
        let kafka = &settings.kafka;
        assert_eq!((kafka.brokers.as_str(), kafka.batch_records_max, kafka.batch_interval_ms), ("b:1", 4_000, 3));
    }

    #[test]
    fn what_a_commit_waits_for_is_named_as_the_server_names_it() {
        let settings = load("commit", "[writer]\nsynchronous_commit = \"remote_apply\"").unwrap();
        assert_eq!(settings.writer.synchronous_commit.as_str(), "remote_apply");
        assert!(load("no-commit", "[writer]\nsynchronous_commit = \"maybe\"").is_err());
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let writer = WriterConfig::default();
        let waits: Vec<_> = [1, 2, 3, 7, 100].map(|attempt| writer.retry_wait(attempt).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 400, 400]);
    }
}
