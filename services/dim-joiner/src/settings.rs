//! The settings of dim-joiner. `config/dim-joiner.toml` documents each key.

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
    pub orders: OrdersConfig,
    pub users: UsersConfig,
    pub output: OutputConfig,
    pub join: JoinConfig,
    pub reemission: ReemissionConfig,
    pub kafka: KafkaConfig,
    #[serde(deserialize_with = "http")]
    pub http: HttpConfig,
    pub log: LogConfig,
    pub restart: RestartConfig,
}

/// Where the orders come from, and how many may be held.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrdersConfig {
    pub topic: String,
    pub group: String,
    /// Orders held in memory (some 450 bytes each), so that a user's change reaches them. Beyond it the process ends with an error.
    pub held_max: usize,
}

/// Where the users come from, and how many may be held.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsersConfig {
    pub topic: String,
    /// Users held in memory (some 300 bytes each). Beyond it the process ends with an error.
    pub held_max: usize,
    /// Longest wait for the users to be read at the start.
    pub load_timeout_ms: u64,
}

/// Where the results go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    pub topic: String,
    pub dead_letter_topic: String,
}

/// What is joined.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JoinConfig {
    pub unknown_username: String,
    pub unknown_email: String,
    /// City → tier.
    pub city_tiers: BTreeMap<String, String>,
    /// The tier of a city that is not named.
    pub city_tier_default: String,
}

/// Sending a changed user's orders again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReemissionConfig {
    /// Orders sent at a time; fresh orders go between.
    pub batch_records_max: usize,
}

const HTTP_PORT: u16 = 8083;

fn http<'de, D: Deserializer<'de>>(section: D) -> Result<HttpConfig, D::Error> {
    HttpConfig::on(HTTP_PORT).given(section)
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            orders: OrdersConfig::default(),
            users: UsersConfig::default(),
            output: OutputConfig::default(),
            join: JoinConfig::default(),
            reemission: ReemissionConfig::default(),
            kafka: KafkaConfig::default(),
            http: HttpConfig::on(HTTP_PORT),
            log: LogConfig::default(),
            restart: RestartConfig::default(),
        }
    }
}

impl Default for OrdersConfig {
    fn default() -> Self {
        OrdersConfig { topic: "dwd_orders".into(), group: "dim-joiner".into(), held_max: 5_000_000 }
    }
}

impl Default for UsersConfig {
    fn default() -> Self {
        UsersConfig { topic: "ods_users".into(), held_max: 5_000_000, load_timeout_ms: 120_000 }
    }
}

impl Default for OutputConfig {
    fn default() -> Self {
        OutputConfig { topic: "result_orders_with_user_info".into(), dead_letter_topic: "dlq_dim_joiner".into() }
    }
}

impl Default for ReemissionConfig {
    fn default() -> Self {
        ReemissionConfig { batch_records_max: 500 }
    }
}

impl Default for JoinConfig {
    fn default() -> Self {
        let tiers = [
            ("一线城市", "北京 上海 广州 深圳"),
            ("新一线城市", "成都 杭州 重庆 武汉 苏州 西安 南京 长沙 天津 郑州 东莞 无锡 宁波 青岛 合肥"),
        ];
        let city_tiers =
            tiers.iter().flat_map(|(tier, cities)| cities.split(' ').map(|city| (city.to_owned(), (*tier).to_owned())));
        JoinConfig {
            unknown_username: "Unknown User".into(),
            unknown_email: "unknown@example.com".into(),
            city_tiers: city_tiers.collect(),
            city_tier_default: "其他城市".into(),
        }
    }
}

impl ServiceConfig for Settings {
    const MAPS: &'static [&'static str] = &["join.city_tiers"];

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
        let mut topics = [&self.orders.topic, &self.users.topic, &self.output.topic, &self.output.dead_letter_topic];
        topics.sort();
        if topics.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(Failure::new(
                FailureKind::Settings,
                "orders, users, output and dead letters must be four topics",
            )
            .cure("name each under [orders], [users] and [output]"));
        }
        if self.reemission.batch_records_max == 0 {
            return Err(Failure::new(FailureKind::Settings, "reemission.batch_records_max is 0").cure("set at least 1"));
        }
        Ok(())
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
