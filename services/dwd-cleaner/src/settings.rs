//! The settings of dwd-cleaner. `config/dwd-cleaner.toml` documents each key.

use serde::{Deserialize, Deserializer, Serialize};
use shared::check::CheckConfig;
use shared::config::{HttpConfig, LogConfig, RestartConfig, Secret};
use shared::console::settings::ConsoleConfig;
use shared::console::topology::Topology;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::record::dwd;
use shared::record::ods::orders;
use shared::run::ServiceConfig;
use shared::scalar::Scalar;
use shared::traces::settings::TracesConfig;

use crate::fold::Difference;
use crate::plan::{Plan, Surroundings};
use crate::rule::{Absent, Kind, OnFail, RuleConfig};

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub input: InputConfig,
    pub output: OutputConfig,
    /// How a row is cleaned, in this order.
    pub rules: Vec<RuleConfig>,
    pub personal: PersonalConfig,
    pub quality: QualityConfig,
    pub check: CheckConfig,
    pub replay: ReplayConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub console: ConsoleConfig,
    pub log: LogConfig,
    pub traces: TracesConfig,
    pub restart: RestartConfig,
}

/// Where the rows come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputConfig {
    pub topic: String,
    pub group: String,
}

/// Where the rows go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    pub topic: String,
    pub dead_letter_topic: String,
    /// The column that names the rules which a row failed; added where a rule has `on_fail = "mark"`.
    pub marks_column: String,
}

/// Personal values.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PersonalConfig {
    /// Key of the rules of kind `hash`.
    pub hash_key: Secret,
}

/// What is kept of the quality of the rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QualityConfig {
    /// Rows are counted by rule in intervals of this length.
    pub interval_s: u64,
    /// So many intervals are kept.
    pub intervals_max: usize,
}

/// Putting dead letters back in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Dead letters held at a time; the command goes on with the next ones by itself.
    pub letters_max: usize,
    /// Bytes of dead letters held at a time.
    pub bytes_max: usize,
    /// Longest wait of the command for the answer of the running service.
    pub answer_timeout_ms: u64,
}

const HTTP_PORT: u16 = 8082;

fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
    HttpConfig::on(HTTP_PORT).given(section)
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            input: InputConfig::default(),
            output: OutputConfig::default(),
            rules: orders_rules(),
            personal: PersonalConfig::default(),
            quality: QualityConfig::default(),
            check: CheckConfig::default(),
            replay: ReplayConfig::default(),
            kafka: KafkaConfig::default(),
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
        InputConfig { topic: "ods_orders".into(), group: "dwd-cleaner".into() }
    }
}

impl Default for OutputConfig {
    fn default() -> Self {
        OutputConfig {
            topic: "dwd_orders".into(),
            dead_letter_topic: "dlq_dwd_cleaner".into(),
            marks_column: "quality_marks".into(),
        }
    }
}

impl Default for QualityConfig {
    fn default() -> Self {
        QualityConfig { interval_s: 60, intervals_max: 60 }
    }
}

impl Default for ReplayConfig {
    fn default() -> Self {
        ReplayConfig { letters_max: 10_000, bytes_max: 64 << 20, answer_timeout_ms: 600_000 }
    }
}

const CATEGORIES: [(&str, &str); 8] = [
    ("电子产品", "ELECTRONICS"),
    ("服装鞋帽", "CLOTHING"),
    ("家居用品", "HOME"),
    ("图书音像", "BOOKS"),
    ("食品饮料", "FOOD"),
    ("美妆护肤", "BEAUTY"),
    ("运动户外", "SPORTS"),
    ("母婴用品", "BABY"),
];

const STATUSES: [(&str, &str); 7] = [
    ("PENDING", "待处理"),
    ("PAID", "已支付"),
    ("SHIPPED", "已发货"),
    ("DELIVERED", "已送达"),
    ("COMPLETED", "已完成"),
    ("CANCELLED", "已取消"),
    ("REFUNDED", "已退款"),
];

/// The rules of the example's orders.
fn orders_rules() -> Vec<RuleConfig> {
    let rule = |name: &str, kind| {
        let (on_fail, absent) = (OnFail::Reject, Absent::Reject);
        RuleConfig { name: name.into(), on_fail, default: None, absent, kind }
    };
    let or = |default: &str, rule| RuleConfig { on_fail: OnFail::Default, default: Some(default.into()), ..rule };
    let map = |column: &str, to: &str, values: &[(&str, &str)], fold: &[Difference]| Kind::Map {
        column: column.into(),
        to: to.into(),
        values: values.iter().map(|(name, value)| ((*name).into(), Scalar::from(*value))).collect(),
        fold: fold.into(),
    };
    let spelling = [Difference::Width, Difference::Blank, Difference::Case];
    let (assume_zone, zone) = (None, None);
    let (time, date, hour) = (orders::ORDER_TIME.to_owned(), dwd::ORDER_DATE.into(), dwd::ORDER_HOUR.into());
    vec![
        or(
            "OTHER",
            rule("category", map(orders::PRODUCT_CATEGORY, dwd::PRODUCT_CATEGORY_NORMALIZED, &CATEGORIES, &spelling)),
        ),
        rule(
            "amount_text",
            Kind::Amount {
                column: orders::TOTAL_AMOUNT.into(),
                to: dwd::TOTAL_AMOUNT_YUAN.into(),
                currency: "¥".into(),
                decimals_min: 2,
                decimals_max: None,
            },
        ),
        rule("status_given", Kind::Required { column: orders::ORDER_STATUS.into(), blank: true }),
        or("未知状态", rule("status_text", map(orders::ORDER_STATUS, dwd::ORDER_STATUS_DESC, &STATUSES, &[]))),
        rule("order_date", Kind::Date { column: time.clone(), to: date, assume_zone, zone }),
        rule("order_hour", Kind::Hour { column: time, to: hour, assume_zone: None, zone: None }),
        rule("etl_time", Kind::Now { to: dwd::ETL_TIME.into() }),
    ]
}

impl Settings {
    /// The rules, ready for use.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let surroundings = Surroundings { marks_column: &self.output.marks_column, hash_key: &self.personal.hash_key };
        Plan::new(&self.rules, &surroundings)
    }
}

impl ServiceConfig for Settings {
    const MAPS: &'static [&'static str] = &["rules"];

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
            input: Some(self.input.topic.clone()),
            outputs: vec![self.output.topic.clone()],
            dead_letters: vec![self.output.dead_letter_topic.clone()],
            ..Topology::default()
        }
    }

    fn validate(&self) -> Result<(), Failure> {
        let (input, output, letters) = (&self.input.topic, &self.output.topic, &self.output.dead_letter_topic);
        if input == output || output == letters || input == letters {
            return Err(Failure::new(
                FailureKind::Settings,
                "input, output and dead-letter topic must be three topics",
            )
            .cure("name each under [input] and [output]"));
        }
        let least = [
            ("quality.interval_s", self.quality.interval_s),
            ("quality.intervals_max", self.quality.intervals_max as u64),
            ("check.rows_max", self.check.rows_max as u64),
            ("replay.letters_max", self.replay.letters_max as u64),
            ("replay.bytes_max", self.replay.bytes_max as u64),
            ("replay.answer_timeout_ms", self.replay.answer_timeout_ms),
        ];
        if let Some((key, _)) = least.into_iter().find(|(_, set)| *set == 0) {
            return Err(Failure::new(FailureKind::Settings, format!("{key} is 0")).cure("set at least 1"));
        }
        self.plan().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_holds_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/dwd-cleaner.toml");
        let documented: Settings = shared::config::load("dwd-cleaner", Some(path.as_ref()), Settings::MAPS).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", Settings::default()));
        assert!(documented.validate().is_ok());
    }
    /// The file with its commented rules put in force.
    #[test]
    fn the_documented_examples_go_together() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/dwd-cleaner.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let (front, rest) = text.split_once("# One of each further kind.").unwrap();
        let (examples, back) = rest.split_once("[personal]").unwrap();
        let examples = examples.split_once('\n').unwrap().1.replace("\n# ", "\n");
        let in_force =
            format!("{front}{examples}[personal]{back}").replace("hash_key = \"\"", "hash_key = \"of sixteen bytes\"");
        let file = std::env::temp_dir().join(format!("tidemill-examples-{}.toml", std::process::id()));
        std::fs::write(&file, in_force).unwrap();
        let settings = shared::config::load::<Settings>("dwd-cleaner", Some(&file), Settings::MAPS);
        std::fs::remove_file(&file).unwrap();
        let settings = settings.unwrap_or_else(|failure| panic!("{}", failure.chain()));
        settings.validate().unwrap_or_else(|failure| panic!("{}", failure.chain()));
        let kinds: std::collections::BTreeSet<_> = settings.rules.iter().map(|rule| rule.kind.name()).collect();
        assert_eq!(kinds.len(), 16, "every kind has an example: {kinds:?}");
    }
}
