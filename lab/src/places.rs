//! Where the running pipeline is, and what its tables and topics are called.

use clap::{Args, Command, FromArgMatches as _};
use shared::config::Secret;
use shared::failure::{Failure, FailureKind};
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
    pub brokers: String,
    pub services: [ServicePlace; 4],
    pub names: Names,
}

impl From<Addresses> for Places {
    fn from(addresses: Addresses) -> Self {
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
        let services = [
            ServicePlace { name: "cdc-ingest", url: addresses.cdc_ingest_url },
            ServicePlace { name: "dwd-cleaner", url: addresses.dwd_cleaner_url },
            ServicePlace { name: "dim-joiner", url: addresses.dim_joiner_url },
            ServicePlace { name: "pg-sinker", url: addresses.pg_sinker_url },
        ];
        Places { source, sink, brokers: addresses.kafka_brokers, services, names: Names::default() }
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
        Ok(addresses.into())
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
        let places = Places::from(line.addresses);
        assert_eq!((places.sink.port, places.sink.password.reveal()), (7, "hunter2"));
        assert!(!format!("{places:?}").contains("hunter2"));
    }
}
