//! What is compared with what, how gently, and how it is mended. `config/pg-sinker.toml` documents each key.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use shared::config::Secret;
use shared::failure::{Failure, FailureKind};
use shared::pg::PostgresConfig;

use crate::settings::names;

/// The comparison of the source with the sink. Off where no source is given.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// A role that may read the compared tables, and no more.
    #[serde(deserialize_with = "source")]
    pub source: Option<PostgresConfig>,
    /// By a free name. Given at all, they replace the default as a whole.
    pub pairs: BTreeMap<String, PairConfig>,
    /// The service itself compares so often, in seconds; 0: only on command.
    pub interval_s: u64,
    /// Rows of a range whose sum is taken at a time, in one short transaction.
    pub range_rows: u32,
    /// The sums are those of parts of so many rows; a part that differs is listed.
    pub leaf_rows: u32,
    /// Of the time so much, in percent, the source works for the comparison at most.
    pub load_percent: u8,
    /// The servers give up a statement that takes longer.
    pub statement_timeout_ms: u64,
    /// Rows that are judged at a time.
    pub candidates_max: u32,
    /// A row that changes at so many looks in a row is reported as such.
    pub rounds_max: u32,
    /// With so many rows that differ the comparison ends.
    pub differences_max: u32,
    pub chain: ChainConfig,
    pub capture: CaptureConfig,
}

/// A table of the source and the table of the sink that is to hold the same.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PairConfig {
    /// `schema.table`.
    pub source_table: String,
    pub sink_table: String,
    /// The columns that make a row the same row, of the same name on both sides.
    #[serde(deserialize_with = "names")]
    pub key: Vec<String>,
    /// What is compared; empty: every column of the same name on both sides but those that pg-sinker fills.
    #[serde(default, deserialize_with = "names")]
    pub columns: Vec<String>,
    /// What a column of the sink is to hold, as SQL over the source's row `s`, where it is not the column of the same name.
    #[serde(default)]
    pub expressions: BTreeMap<String, String>,
    /// Only these rows, as SQL over `s`; empty: all.
    #[serde(default)]
    pub source_where: String,
    #[serde(default)]
    pub sink_where: String,
}

/// The way between the two, in order. Its last topic is `input.topic`, its last group pg-sinker's own.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// The slot that cdc-ingest follows; empty: nothing is waited for.
    pub slot: String,
    #[serde(deserialize_with = "names")]
    pub topics: Vec<String>,
    /// Who reads each of the topics.
    #[serde(deserialize_with = "names")]
    pub groups: Vec<String>,
    /// Where each of them puts what it rejects.
    #[serde(deserialize_with = "names")]
    pub dead_letter_topics: Vec<String>,
    /// Longest wait until a change of the source is in the sink.
    pub wait_ms: u64,
    /// How often it is looked whether it is.
    pub poll_ms: u64,
    /// Longest search of the topics for what became of a row.
    pub search_timeout_ms: u64,
}

/// Where it is asked whether a table is being copied, and where rows are ordered again.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Of cdc-ingest, the instance that holds the slot; empty: it is not asked.
    pub address: String,
    /// Its `http.control_token`.
    pub token: Secret,
    /// Longest wait until the rows are read again.
    pub timeout_ms: u64,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        let latest = PairConfig {
            source_table: "business.orders".into(),
            sink_table: "result.orders_latest".into(),
            key: vec!["order_id".into()],
            columns: Vec::new(),
            expressions: BTreeMap::new(),
            source_where: String::new(),
            sink_where: String::new(),
        };
        ReconcileConfig {
            source: None,
            pairs: BTreeMap::from([("latest".to_owned(), latest)]),
            interval_s: 3_600,
            range_rows: 50_000,
            leaf_rows: 500,
            load_percent: 50,
            statement_timeout_ms: 30_000,
            candidates_max: 1_000,
            rounds_max: 5,
            differences_max: 1_000,
            chain: ChainConfig::default(),
            capture: CaptureConfig::default(),
        }
    }
}

impl Default for ChainConfig {
    fn default() -> Self {
        ChainConfig {
            slot: "tidemill".into(),
            topics: vec!["ods_orders".into(), "dwd_orders".into()],
            groups: vec!["dwd-cleaner".into(), "dim-joiner".into()],
            dead_letter_topics: vec!["dlq_dwd_cleaner".into(), "dlq_dim_joiner".into()],
            wait_ms: 60_000,
            poll_ms: 50,
            search_timeout_ms: 60_000,
        }
    }
}

impl Default for CaptureConfig {
    fn default() -> Self {
        CaptureConfig { address: "http://127.0.0.1:8081".into(), token: Secret::default(), timeout_ms: 60_000 }
    }
}

fn default_source() -> PostgresConfig {
    PostgresConfig {
        database: "source_db".into(),
        user: "tidemill_reconcile".into(),
        password: Secret::new("tidemill_reconcile"),
        ..PostgresConfig::default()
    }
}

fn source<'de, D: Deserializer<'de>>(section: D) -> Result<Option<PostgresConfig>, D::Error> {
    default_source().given(section).map(Some)
}

impl ReconcileConfig {
    pub fn is_scheduled(&self) -> bool {
        self.source.is_some() && self.interval_s > 0
    }

    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }

    /// The pause behind so much work of the source.
    pub fn pause(&self, worked: Duration) -> Duration {
        let load = u32::from(self.load_percent.clamp(1, 100));
        worked * (100 - load) / load
    }

    /// What can be seen to be wrong without asking any server.
    pub fn validate(&self) -> Result<(), Failure> {
        let wrong = |what: String, cure: &str| Err(Failure::new(FailureKind::Settings, what).cure(cure));
        let least = [
            ("range_rows", u64::from(self.range_rows), 1),
            ("leaf_rows", u64::from(self.leaf_rows), 1),
            ("load_percent", u64::from(self.load_percent), 1),
            ("statement_timeout_ms", self.statement_timeout_ms, 1),
            ("candidates_max", u64::from(self.candidates_max), 1),
            ("rounds_max", u64::from(self.rounds_max), 2),
            ("differences_max", u64::from(self.differences_max), 1),
            ("chain.poll_ms", self.chain.poll_ms, 1),
        ];
        if let Some((key, set, least)) = least.into_iter().find(|(_, set, least)| set < least) {
            return wrong(format!("reconcile.{key} is {set}"), &format!("set at least {least}"));
        }
        if self.load_percent > 100 {
            return wrong(format!("reconcile.load_percent is {}", self.load_percent), "set at most 100");
        }
        if let Some(source) = &self.source {
            source.validate("reconcile.source")?;
        }
        let chain = &self.chain;
        if chain.groups.len() != chain.topics.len() || chain.dead_letter_topics.len() > chain.groups.len() {
            return wrong(
                "reconcile.chain does not name one group, and one dead-letter topic at most, for each topic".into(),
                "name them in the order in which a row goes through them",
            );
        }
        for (name, pair) in &self.pairs {
            if pair.key.is_empty() || pair.key.iter().any(String::is_empty) {
                return wrong(format!("reconcile.pairs.{name} has no key"), "name the key of the source's table");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_rests_for_what_is_left_of_the_time() {
        let pause = |load_percent| {
            let config = ReconcileConfig { load_percent, ..ReconcileConfig::default() };
            config.pause(Duration::from_millis(300)).as_millis()
        };
        assert_eq!([100, 75, 50, 25, 1].map(pause), [0, 100, 300, 900, 29_700]);
    }

    #[test]
    fn what_can_be_seen_to_be_wrong_is_refused() {
        assert!(ReconcileConfig::default().validate().is_ok());
        let chain = |groups: &[&str]| ChainConfig {
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..ChainConfig::default()
        };
        let mut no_key = ReconcileConfig::default();
        no_key.pairs.values_mut().for_each(|pair| pair.key.clear());
        for wrong in [
            no_key,
            ReconcileConfig { load_percent: 101, ..ReconcileConfig::default() },
            ReconcileConfig { rounds_max: 1, ..ReconcileConfig::default() },
            ReconcileConfig { chain: chain(&["one"]), ..ReconcileConfig::default() },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
