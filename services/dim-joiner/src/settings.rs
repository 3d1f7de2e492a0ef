//! The settings of dim-joiner. `config/dim-joiner.toml` documents each key.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use shared::check::CheckConfig;
use shared::config::{HttpConfig, LogConfig, RestartConfig};
use shared::console::settings::ConsoleConfig;
use shared::console::topology::Topology;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::record::ods::{orders, users};
use shared::record::result;
use shared::run::ServiceConfig;
use shared::scalar::Scalar;
use shared::traces::settings::TracesConfig;

use crate::plan::Plan;

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub facts: FactsConfig,
    /// What the facts are joined with. A result's columns come in this order.
    pub dimensions: Vec<DimensionConfig>,
    pub output: OutputConfig,
    pub reemission: ReemissionConfig,
    pub missing: MissingConfig,
    pub check: CheckConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub console: ConsoleConfig,
    pub log: LogConfig,
    pub traces: TracesConfig,
    pub restart: RestartConfig,
}

/// The table that is joined: where it comes from, and how much of it may be held.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FactsConfig {
    pub topic: String,
    pub group: String,
    /// The column with the time of a fact, for dimensions of mode `as-of`; empty: none.
    pub time: String,
    /// The zone of times that name none.
    pub time_zone: String,
    /// Facts are held in memory up to this, so that a change of a dimension reaches them.
    pub memory_megabytes_max: u64,
    pub disk: DiskConfig,
    pub expiry: ExpiryConfig,
}

/// Where facts go that memory has no room for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// A folder of this process alone; emptied at each start. Empty: more facts than memory may hold end the process with an error.
    pub folder: String,
    /// Memory for blocks that were read and for rows that are not written yet.
    pub memory_megabytes_max: u64,
    /// Longest wait until the disk has taken what was to be written.
    pub write_timeout_ms: u64,
}

/// Facts that will change no more, and are forgotten.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpiryConfig {
    /// A fact is forgotten so many hours after its time; 0: never.
    pub after_hours: u32,
    /// The column with the time that the hours count from.
    pub time: String,
    /// Only facts with one of these values in this column; no column: all facts.
    pub status: String,
    pub statuses: Vec<String>,
}

/// A table that facts are joined with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimensionConfig {
    /// In metrics, messages and pages.
    pub name: String,
    /// The compacted topic that the rows are read from; empty where they come from elsewhere.
    #[serde(default)]
    pub topic: String,
    /// The table that they are read from in place of a topic.
    #[serde(default)]
    pub fluss: Option<FlussConfig>,
    /// Columns of the dimension's key, and the columns of a fact that name them.
    pub on: BTreeMap<String, String>,
    #[serde(default)]
    pub mode: Mode,
    /// Mode `wait`: longest wait for a row that is not known.
    #[serde(default = "DimensionConfig::wait_ms")]
    pub wait_ms: u64,
    /// Mode `as-of`: the column that says since when a row is so; empty: the commit of the change.
    #[serde(default)]
    pub time: String,
    /// Mode `as-of`: so many versions of a row are kept.
    #[serde(default = "DimensionConfig::versions_max")]
    pub versions_max: usize,
    /// The table is held whole in memory. Beyond it the process ends with an error.
    #[serde(default = "DimensionConfig::memory_megabytes_max")]
    pub memory_megabytes_max: u64,
    /// Longest wait for the table to be read at the start.
    #[serde(default = "DimensionConfig::load_timeout_ms")]
    pub load_timeout_ms: u64,
    /// Stands in front of the names of columns that have none of their own.
    #[serde(default)]
    pub prefix: String,
    pub columns: Vec<ColumnConfig>,
}

/// A table of Apache Fluss with a primary key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlussConfig {
    /// `host:port`, several with commas.
    pub servers: String,
    pub database: String,
    pub table: String,
    /// Longest wait for one answer.
    #[serde(default = "FlussConfig::request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How often it is looked whether servers and table are still there.
    #[serde(default = "FlussConfig::look_interval_ms")]
    pub look_interval_ms: u64,
    /// A log whose end has no records counts as read when none came for so long.
    #[serde(default = "FlussConfig::settle_ms")]
    pub settle_ms: u64,
    /// Rows of one bucket that are asked for at once, where the log does not go back to the first change. More end the process with an error.
    #[serde(default = "FlussConfig::bucket_rows_max")]
    pub bucket_rows_max: u32,
}

/// Which version of a dimension's row a fact is joined with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The row as it is now; a change sends its facts again.
    #[default]
    Latest,
    /// The row as it was at the fact's time.
    AsOf,
    /// As `latest`, and a fact whose row is not known waits a while for it.
    Wait,
}

/// A column that a dimension gives to a fact.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnConfig {
    /// The dimension's column.
    pub from: String,
    /// The result's column; if it is not set, the prefix and `from`.
    #[serde(default)]
    pub name: Option<String>,
    /// What a fact carries while the row is not known; null if it is not set.
    #[serde(default)]
    pub default: Option<Scalar>,
    /// Another value for some of the dimension's values; blanks around them do not count.
    #[serde(default)]
    pub map: BTreeMap<String, Scalar>,
    /// The value for those that the map does not name.
    #[serde(default)]
    pub otherwise: Option<Scalar>,
}

/// Where the results go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    pub topic: String,
    pub dead_letter_topic: String,
    /// The column with the time of the join, UTC.
    pub time: String,
}

/// Sending the facts of a changed row again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReemissionConfig {
    /// Facts sent at a time; fresh ones go between.
    pub batch_records_max: usize,
    /// Facts sent in a second, so that the stages behind have room for fresh ones; 0: as many as go.
    pub records_per_second_max: u64,
}

/// Facts whose row is not known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MissingConfig {
    /// Rows that are missing and of which a list is kept, by dimension.
    pub registered_max: usize,
    /// Of these `/api/v1/missing` shows the oldest.
    pub shown_max: usize,
    /// Facts that wait for a row (mode `wait`). Beyond it the oldest go out with the defaults before their time, and are counted.
    pub waiting_facts_max: usize,
}

const HTTP_PORT: u16 = 8083;

fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
    HttpConfig::on(HTTP_PORT).given(section)
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            facts: FactsConfig::default(),
            dimensions: vec![users_dimension()],
            output: OutputConfig::default(),
            reemission: ReemissionConfig::default(),
            missing: MissingConfig::default(),
            check: CheckConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            console: ConsoleConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
            restart: RestartConfig::default(),
        }
    }
}

impl Default for FactsConfig {
    fn default() -> Self {
        FactsConfig {
            topic: "dwd_orders".into(),
            group: "dim-joiner".into(),
            time: orders::ORDER_TIME.into(),
            time_zone: "UTC".into(),
            memory_megabytes_max: 2048,
            disk: DiskConfig::default(),
            expiry: ExpiryConfig::default(),
        }
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig { folder: String::new(), memory_megabytes_max: 64, write_timeout_ms: 30_000 }
    }
}

impl Default for OutputConfig {
    fn default() -> Self {
        OutputConfig {
            topic: "result_orders_with_user_info".into(),
            dead_letter_topic: "dlq_dim_joiner".into(),
            time: result::JOIN_TIME.into(),
        }
    }
}

impl Default for ReemissionConfig {
    fn default() -> Self {
        ReemissionConfig { batch_records_max: 500, records_per_second_max: 2_000 }
    }
}

impl Default for MissingConfig {
    fn default() -> Self {
        MissingConfig { registered_max: 100_000, shown_max: 1000, waiting_facts_max: 10_000 }
    }
}

impl FlussConfig {
    fn request_timeout_ms() -> u64 {
        10_000
    }

    fn look_interval_ms() -> u64 {
        5000
    }

    fn settle_ms() -> u64 {
        5000
    }

    fn bucket_rows_max() -> u32 {
        1_000_000
    }
}

impl DimensionConfig {
    /// What it is read from, for metrics, messages and dead letters: the topic, or `database.table`.
    pub fn read_from(&self) -> String {
        self.fluss.as_ref().map_or_else(|| self.topic.clone(), |fluss| format!("{}.{}", fluss.database, fluss.table))
    }

    fn wait_ms() -> u64 {
        5000
    }

    fn versions_max() -> usize {
        100
    }

    fn memory_megabytes_max() -> u64 {
        2048
    }

    fn load_timeout_ms() -> u64 {
        120_000
    }
}

/// The users of the example.
fn users_dimension() -> DimensionConfig {
    let tiers = [
        ("一线城市", "北京 上海 广州 深圳"),
        ("新一线城市", "成都 杭州 重庆 武汉 苏州 西安 南京 长沙 天津 郑州 东莞 无锡 宁波 青岛 合肥"),
    ];
    let tiers =
        tiers.iter().flat_map(|(tier, cities)| cities.split(' ').map(|city| (city.to_owned(), Scalar::from(*tier))));
    let taken = |from: &str| ColumnConfig {
        from: from.into(),
        name: None,
        default: None,
        map: BTreeMap::new(),
        otherwise: None,
    };
    let or = |from: &str, default: &str| ColumnConfig { default: Some(default.into()), ..taken(from) };
    let named = |from: &str, name: &str| ColumnConfig { name: Some(name.into()), ..taken(from) };
    DimensionConfig {
        name: "users".into(),
        topic: "ods_users".into(),
        fluss: None,
        on: BTreeMap::from([(users::USER_ID.into(), orders::USER_ID.into())]),
        mode: Mode::Latest,
        wait_ms: DimensionConfig::wait_ms(),
        time: String::new(),
        versions_max: DimensionConfig::versions_max(),
        memory_megabytes_max: DimensionConfig::memory_megabytes_max(),
        load_timeout_ms: DimensionConfig::load_timeout_ms(),
        prefix: String::new(),
        columns: vec![
            or(users::USERNAME, "Unknown User"),
            or(users::EMAIL, "unknown@example.com"),
            taken(users::PHONE),
            taken(users::CITY),
            named(users::REGISTER_TIME, result::USER_REGISTER_TIME),
            ColumnConfig {
                map: tiers.collect(),
                otherwise: Some("其他城市".into()),
                ..named(users::CITY, result::USER_CITY_TIER)
            },
        ],
    }
}

impl Settings {
    /// Whether facts may wait for a row.
    pub fn has_waits(&self) -> bool {
        self.dimensions.iter().any(|dimension| dimension.mode == Mode::Wait)
    }
}

impl ServiceConfig for Settings {
    const MAPS: &'static [&'static str] = &["dimensions"];

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
            input: Some(self.facts.topic.clone()),
            beside: self.dimensions.iter().map(|dimension| dimension.topic.clone()).collect(),
            outputs: vec![self.output.topic.clone()],
            dead_letters: vec![self.output.dead_letter_topic.clone()],
            ..Topology::default()
        }
    }

    fn validate(&self) -> Result<(), Failure> {
        let least = [
            ("check.rows_max", self.check.rows_max as u64),
            ("facts.memory_megabytes_max", self.facts.memory_megabytes_max),
            ("facts.disk.memory_megabytes_max", self.facts.disk.memory_megabytes_max),
            ("reemission.batch_records_max", self.reemission.batch_records_max as u64),
            ("missing.registered_max", self.missing.registered_max as u64),
            ("missing.shown_max", self.missing.shown_max as u64),
            ("missing.waiting_facts_max", self.missing.waiting_facts_max as u64),
        ];
        if let Some((key, _)) = least.into_iter().find(|(_, set)| *set == 0) {
            return Err(Failure::new(FailureKind::Settings, format!("{key} is 0")).cure("set at least 1"));
        }
        Plan::new(self).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_holds_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/dim-joiner.toml");
        let documented: Settings = shared::config::load("dim-joiner", Some(path.as_ref()), Settings::MAPS).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", Settings::default()));
        assert!(documented.validate().is_ok());
    }
}
