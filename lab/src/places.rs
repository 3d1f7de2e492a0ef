//! Where the running pipeline is, and what its tables and topics are called.

use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches as _};
use serde::Deserialize;
use serde_json::Value;
use shared::config::Secret;
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::pg::{PostgresConfig, TableName};
use sqlx::postgres::PgConnection;

/// Addresses as flags and variables; `scripts/servers.sh env` prints the same variables.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Where the pipeline runs")]
pub struct Addresses {
    #[arg(long, global = true, env = "TIDEMILL_SOURCE_HOST", default_value = "127.0.0.1")]
    source_host: String,
    #[arg(long, global = true, env = "TIDEMILL_SOURCE_PORT", default_value_t = 5432)]
    source_port: u16,
    #[arg(long, global = true, env = "TIDEMILL_SOURCE_USER", default_value = "postgres")]
    source_user: String,
    #[arg(long, global = true, env = "TIDEMILL_SOURCE_PASSWORD", default_value = "postgres", hide_env_values = true)]
    source_password: String,
    #[arg(long, global = true, env = "TIDEMILL_SOURCE_DATABASE", default_value = "source_db")]
    source_database: String,
    #[arg(long, global = true, env = "TIDEMILL_SINK_HOST", default_value = "127.0.0.1")]
    sink_host: String,
    #[arg(long, global = true, env = "TIDEMILL_SINK_PORT", default_value_t = 5433)]
    sink_port: u16,
    #[arg(long, global = true, env = "TIDEMILL_SINK_USER", default_value = "postgres")]
    sink_user: String,
    #[arg(long, global = true, env = "TIDEMILL_SINK_PASSWORD", default_value = "postgres", hide_env_values = true)]
    sink_password: String,
    #[arg(long, global = true, env = "TIDEMILL_SINK_DATABASE", default_value = "sink_db")]
    sink_database: String,
    #[arg(long, global = true, env = "TIDEMILL_KAFKA_BROKERS", default_value = "127.0.0.1:9092")]
    kafka_brokers: String,
    #[arg(long, global = true, env = "TIDEMILL_CDC_INGEST_URL", default_value = "http://127.0.0.1:8081")]
    cdc_ingest_url: String,
    #[arg(long, global = true, env = "TIDEMILL_DWD_CLEANER_URL", default_value = "http://127.0.0.1:8082")]
    dwd_cleaner_url: String,
    #[arg(long, global = true, env = "TIDEMILL_DIM_JOINER_URL", default_value = "http://127.0.0.1:8083")]
    dim_joiner_url: String,
    #[arg(long, global = true, env = "TIDEMILL_PG_SINKER_URL", default_value = "http://127.0.0.1:8084")]
    pg_sinker_url: String,
    /// Sections [source], [sink] and [kafka] with the keys of the services' files, for TLS and passwords; they win over the addresses here
    #[arg(long, global = true, env = "TIDEMILL_LAB_CONFIG")]
    config: Option<PathBuf>,
}

/// What addresses as flags do not say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Connections {
    source: Option<Value>,
    sink: Option<Value>,
    kafka: Option<Value>,
}

/// One of the four services and where it answers over HTTP.
#[derive(Debug, Clone)]
pub struct ServicePlace {
    pub name: &'static str,
    pub url: String,
}

/// What tables, topics and slot are called. The defaults are the services' own.
#[derive(Debug, Clone)]
pub struct Names {
    pub orders: TableName,
    pub users: TableName,
    pub trail: TableName,
    pub latest: TableName,
    pub ods_topic: String,
    pub dwd_topic: String,
    pub result_topic: String,
    pub slot: String,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            orders: TableName::parse("business.orders"),
            users: TableName::parse("business.users"),
            trail: TableName::parse("result.orders_with_user_info"),
            latest: TableName::parse("result.orders_latest"),
            ods_topic: "ods_orders".into(),
            dwd_topic: "dwd_orders".into(),
            result_topic: "result_orders_with_user_info".into(),
            slot: "tidemill".into(),
        }
    }
}

/// A running pipeline, seen from outside.
#[derive(Debug, Clone)]
pub struct Places {
    pub source: PostgresConfig,
    pub sink: PostgresConfig,
    pub kafka: KafkaConfig,
    pub services: [ServicePlace; 4],
    pub names: Names,
}

impl Connections {
    fn over(
        self,
        source: PostgresConfig,
        sink: PostgresConfig,
        kafka: KafkaConfig,
    ) -> Result<(PostgresConfig, PostgresConfig, KafkaConfig), Failure> {
        let refused = |section: &str, error: serde_json::Error| {
            Failure::new(FailureKind::Settings, format!("the section [{section}] of --config is not right"))
                .caused_by(error)
                .cure("config/tidemill-lab.toml shows the keys; the services' files document them")
        };
        let database = |section: &str, given: Option<Value>, by_flags: PostgresConfig| match given {
            None => Ok(by_flags),
            Some(given) => {
                let config = by_flags.given(given).map_err(|error| refused(section, error))?;
                config.validate(section).map(|()| config)
            }
        };
        let kafka = match self.kafka {
            None => kafka,
            Some(mut given) => {
                if let Some(keys) = given.as_object_mut() {
                    keys.entry("brokers").or_insert_with(|| kafka.brokers.into());
                }
                let config: KafkaConfig = serde_json::from_value(given).map_err(|error| refused("kafka", error))?;
                config.validate().map(|()| config)?
            }
        };
        Ok((database("source", self.source, source)?, database("sink", self.sink, sink)?, kafka))
    }
}

impl TryFrom<Addresses> for Places {
    type Error = Failure;

    fn try_from(addresses: Addresses) -> Result<Self, Failure> {
        let source = PostgresConfig {
            host: addresses.source_host,
            port: addresses.source_port,
            database: addresses.source_database,
            user: addresses.source_user,
            password: Secret::new(addresses.source_password),
            ..PostgresConfig::default()
        };
        let sink = PostgresConfig {
            host: addresses.sink_host,
            port: addresses.sink_port,
            database: addresses.sink_database,
            user: addresses.sink_user,
            password: Secret::new(addresses.sink_password),
            ..PostgresConfig::default()
        };
        let kafka = KafkaConfig { brokers: addresses.kafka_brokers, ..KafkaConfig::default() };
        let connections: Connections = shared::config::load("tidemill-lab", addresses.config.as_deref(), &[])?;
        let (source, sink, kafka) = connections.over(source, sink, kafka)?;
        let services = [
            ServicePlace { name: "cdc-ingest", url: addresses.cdc_ingest_url },
            ServicePlace { name: "dwd-cleaner", url: addresses.dwd_cleaner_url },
            ServicePlace { name: "dim-joiner", url: addresses.dim_joiner_url },
            ServicePlace { name: "pg-sinker", url: addresses.pg_sinker_url },
        ];
        Ok(Places { source, sink, kafka, services, names: Names::default() })
    }
}

impl Places {
    /// The places that the environment names, without a command line.
    pub fn from_environment() -> Result<Self, Failure> {
        let matches = Addresses::augment_args(Command::new("tidemill-lab")).try_get_matches_from(["tidemill-lab"]);
        let addresses = matches.and_then(|found| Addresses::from_arg_matches(&found)).map_err(|error| {
            Failure::new(FailureKind::Settings, "the environment does not say where the pipeline runs")
                .caused_by(error)
                .cure("correct the variable; scripts/servers.sh env prints right ones")
        })?;
        addresses.try_into()
    }

    pub async fn connect_source(&self) -> Result<PgConnection, Failure> {
        self.source.connect("tidemill-lab").await
    }

    pub async fn connect_sink(&self) -> Result<PgConnection, Failure> {
        self.sink.connect("tidemill-lab").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        addresses: Addresses,
    }

    #[test]
    fn a_flag_wins_and_no_password_is_shown() {
        let line = Line::parse_from(["lab", "--sink-port", "7", "--sink-password", "hunter2"]);
        let places = Places::try_from(line.addresses).unwrap();
        assert_eq!((places.sink.port, places.sink.password.reveal()), (7, "hunter2"));
        assert!(!format!("{places:?}").contains("hunter2"));
    }
}
