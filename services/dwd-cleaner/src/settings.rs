//! The settings of dwd-cleaner. `config/dwd-cleaner.toml` documents each key.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use shared::config::{HttpConfig, LogConfig, RestartConfig};
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::run::ServiceConfig;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub input: InputConfig,
    pub output: OutputConfig,
    pub rules: RulesConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub log: LogConfig,
    pub restart: RestartConfig,
}

/// Where the rows come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputConfig {
    pub topic: String,
    pub group: String,
}

/// Where the rows go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    pub topic: String,
    pub dead_letter_topic: String,
}

/// How a row is cleaned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    /// Category as the shop writes it → code.
    pub categories: BTreeMap<String, String>,
    /// The code of a category that is not named, or absent.
    pub category_default: String,
    /// Status code → words.
    pub statuses: BTreeMap<String, String>,
    /// The words for a status that is not named.
    pub status_default: String,
    /// Written before the amount.
    pub currency: String,
    /// Least digits behind the decimal point of the amount's text; more are kept where the amount has more.
    pub amount_decimals_min: usize,
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
            rules: RulesConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            log: LogConfig::default(),
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
        OutputConfig { topic: "dwd_orders".into(), dead_letter_topic: "dlq_dwd_cleaner".into() }
    }
}

impl Default for RulesConfig {
    fn default() -> Self {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
        RulesConfig {
            categories: map(&[
                ("电子产品", "ELECTRONICS"),
                ("服装鞋帽", "CLOTHING"),
                ("家居用品", "HOME"),
                ("图书音像", "BOOKS"),
                ("食品饮料", "FOOD"),
                ("美妆护肤", "BEAUTY"),
                ("运动户外", "SPORTS"),
                ("母婴用品", "BABY"),
            ]),
            category_default: "OTHER".into(),
            statuses: map(&[
                ("PENDING", "待处理"),
                ("PAID", "已支付"),
                ("SHIPPED", "已发货"),
                ("DELIVERED", "已送达"),
                ("COMPLETED", "已完成"),
                ("CANCELLED", "已取消"),
                ("REFUNDED", "已退款"),
            ]),
            status_default: "未知状态".into(),
            currency: "¥".into(),
            amount_decimals_min: 2,
        }
    }
}

impl ServiceConfig for Settings {
    const MAPS: &'static [&'static str] = &["rules.categories", "rules.statuses"];

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
        let (input, output, letters) = (&self.input.topic, &self.output.topic, &self.output.dead_letter_topic);
        if input == output || output == letters || input == letters {
            return Err(Failure::new(
                FailureKind::Settings,
                "input, output and dead-letter topic must be three topics",
            )
            .cure("name each under [input] and [output]"));
        }
        Ok(())
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
}
