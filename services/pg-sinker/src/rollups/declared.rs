//! Roll-ups as the settings declare them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::TableName;

use crate::settings::names;

/// Sums over the rows of a table, by groups.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RollupConfig {
    /// `schema.table` that holds a row for each group.
    pub table: String,
    /// The table of `[tables]` whose rows are summed up.
    pub of: String,
    /// The column whose time is cut to `grain`; empty: none.
    #[serde(default)]
    pub time: String,
    #[serde(default)]
    pub grain: Option<Grain>,
    /// Columns whose values make a group; a list, or names with commas.
    #[serde(default, deserialize_with = "names")]
    pub groups: Vec<String>,
    /// The column that takes the number of rows.
    pub count: String,
    /// Column of the roll-up = column whose values are added.
    #[serde(default)]
    pub sums: BTreeMap<String, String>,
    /// Column of the roll-up = column whose different values are counted, NULL left out.
    #[serde(default)]
    pub distinct: BTreeMap<String, String>,
}

/// How long a group is.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    Minute,
    Hour,
    Day,
}

impl Grain {
    pub fn as_str(self) -> &'static str {
        match self {
            Grain::Minute => "minute",
            Grain::Hour => "hour",
            Grain::Day => "day",
        }
    }
}

/// How a roll-up is filled from rows that are there already.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FillConfig {
    /// Rows of a chunk; batches wait for the chunk that is being added.
    pub chunk_rows: u32,
    /// Wait between two chunks.
    pub pause_ms: u64,
}

impl Default for FillConfig {
    fn default() -> Self {
        FillConfig { chunk_rows: 5_000, pause_ms: 10 }
    }
}

impl FillConfig {
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}

/// The column with the cut time.
pub const BUCKET: &str = "bucket";
/// The column with the hash of the group's values, the primary key.
pub const GROUP_KEY: &str = "group_key";

/// The roll-ups that are there without a word in the settings; `postgres_sink/init/04_rollups.sql` makes their tables.
pub fn by_default() -> BTreeMap<String, RollupConfig> {
    let orders = |table: &str, grain, groups: &[&str], distinct: &[(&str, &str)]| RollupConfig {
        table: table.into(),
        of: "result.orders_latest".into(),
        time: "order_time".into(),
        grain: Some(grain),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        count: "orders".into(),
        sums: pairs(&[("amount", "total_amount"), ("quantity", "quantity")]),
        distinct: pairs(distinct),
    };
    let all = ["city", "user_city_tier", "product_category_normalized", "price_band", "order_status"];
    let few = ["product_category_normalized", "order_status"];
    BTreeMap::from([
        ("by_minute".to_owned(), orders("dws.orders_by_minute", Grain::Minute, &few, &[])),
        ("by_hour".to_owned(), orders("dws.orders_by_hour", Grain::Hour, &all, &[])),
        ("by_day".to_owned(), orders("dws.orders_by_day", Grain::Day, &all, &[("users", "user_id")])),
    ])
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, of)| (name.to_owned(), of.to_owned())).collect()
}

impl RollupConfig {
    /// The columns of the roll-up's table that pg-sinker fills.
    pub fn filled(&self) -> Vec<&str> {
        let bucket = self.grain.map(|_| BUCKET);
        let groups = self.groups.iter().map(String::as_str);
        let measures = self.sums.keys().chain(self.distinct.keys()).map(String::as_str);
        [GROUP_KEY].into_iter().chain(bucket).chain(groups).chain([self.count.as_str()]).chain(measures).collect()
    }

    /// What can be seen to be wrong without the sink. `tables`: those that are written.
    fn problem(&self, tables: &BTreeSet<TableName>) -> Option<(String, &'static str)> {
        let filled = self.filled();
        let named = BTreeSet::from_iter(filled.iter().copied());
        if self.time.is_empty() != self.grain.is_none() {
            return Some(("has a time without a grain, or a grain without a time".into(), "set both, or neither"));
        }
        if filled.iter().any(|name| name.is_empty()) {
            return Some(("has a column without a name".into(), "name it"));
        }
        if named.len() < filled.len() {
            let what = format!("names a column twice among {}", filled.join(", "));
            return Some((what, "give each column one meaning; group_key and bucket are pg-sinker's own"));
        }
        if !tables.contains(&TableName::parse(&self.of)) {
            return Some((format!("is over {}, which is not among [tables]", self.of), "name a table that is written"));
        }
        if tables.contains(&TableName::parse(&self.table)) {
            return Some((format!("is kept in {}, which is among [tables]", self.table), "give it a table of its own"));
        }
        None
    }
}

/// Holds the roll-ups against each other and against the tables.
pub fn validate(
    rollups: &BTreeMap<String, RollupConfig>,
    tables: &BTreeSet<TableName>,
    fill: &FillConfig,
) -> Result<(), Failure> {
    let wrong = |what: String, cure: &str| Err(Failure::new(FailureKind::Settings, what).cure(cure));
    let mut seen = BTreeSet::new();
    for (name, rollup) in rollups {
        if let Some((what, cure)) = rollup.problem(tables) {
            return wrong(format!("rollups.{name} {what}"), cure);
        }
        if !seen.insert(TableName::parse(&rollup.table)) {
            return wrong(format!("{} is named twice in [rollups]", rollup.table), "give each a table of its own");
        }
    }
    if fill.chunk_rows == 0 {
        return wrong("fill.chunk_rows is 0".into(), "set at least 1 row");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> BTreeSet<TableName> {
        ["result.orders_latest", "result.orders_with_user_info"].map(TableName::parse).into()
    }

    fn refused(change: impl Fn(&mut RollupConfig)) -> String {
        let mut rollups = by_default();
        change(rollups.get_mut("by_day").unwrap());
        validate(&rollups, &tables(), &FillConfig::default()).unwrap_err().chain()
    }

    #[test]
    fn the_default_ones_are_right() {
        validate(&by_default(), &tables(), &FillConfig::default()).unwrap();
        let day = &by_default()["by_day"];
        let filled = day.filled();
        assert_eq!((filled[0], filled[1], filled.len()), ("group_key", "bucket", 11));
    }

    #[test]
    fn what_can_be_seen_to_be_wrong_is_refused() {
        assert!(refused(|day| day.grain = None).contains("set both"));
        assert!(refused(|day| day.time = String::new()).contains("set both"));
        assert!(refused(|day| day.count = "city".into()).contains("twice"));
        assert!(refused(|day| day.groups.push("bucket".into())).contains("twice"));
        assert!(refused(|day| day.groups.push(String::new())).contains("without a name"));
        assert!(refused(|day| day.of = "result.other".into()).contains("not among [tables]"));
        assert!(refused(|day| day.table = "result.orders_latest".into()).contains("table of its own"));
        assert!(refused(|day| day.table = "dws.orders_by_hour".into()).contains("named twice"));
        let none = FillConfig { chunk_rows: 0, ..FillConfig::default() };
        assert!(validate(&by_default(), &tables(), &none).is_err());
    }
}
