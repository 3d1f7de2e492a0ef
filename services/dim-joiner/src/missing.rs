//! Rows that facts name and that are not known: since when, oldest first, up to a bound.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::record::time;

use crate::names::{self, Name};
use crate::settings::MissingConfig;

/// The missing rows of all dimensions.
#[derive(Debug)]
pub struct Missing {
    /// By dimension: microseconds since 1970 when it was first missed.
    rows: Vec<BTreeMap<Name, i64>>,
    /// By dimension: there were more than are registered.
    has_more: Vec<bool>,
    config: MissingConfig,
}

impl Missing {
    pub fn new(dimensions: usize, config: &MissingConfig) -> Self {
        let config = config.clone();
        Missing { rows: vec![BTreeMap::new(); dimensions], has_more: vec![false; dimensions], config }
    }

    /// A fact names a row that is not known.
    pub fn note(&mut self, dimension: usize, name: &Name, since_us: i64) {
        let (Some(rows), Some(has_more)) = (self.rows.get_mut(dimension), self.has_more.get_mut(dimension)) else {
            return;
        };
        if let Some(known) = rows.get_mut(name) {
            *known = since_us.min(*known);
        } else if rows.len() < self.config.registered_max {
            rows.insert(name.clone(), since_us);
        } else {
            *has_more = true;
        }
    }

    /// A row is known, or no fact names it any more.
    pub fn heal(&mut self, dimension: usize, name: &str) {
        if let Some(rows) = self.rows.get_mut(dimension) {
            rows.remove(name);
        }
    }

    /// Forgets the rows for which `keep` says false.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, &Name) -> bool) {
        for (dimension, rows) in self.rows.iter_mut().enumerate() {
            rows.retain(|name, _| keep(dimension, name));
        }
    }

    pub fn len(&self, dimension: usize) -> usize {
        self.rows.get(dimension).map_or(0, BTreeMap::len)
    }

    /// The age of the oldest one, in seconds; 0 where none is missing.
    pub fn oldest_s(&self, dimension: usize, now_us: i64) -> i64 {
        let oldest = self.rows.get(dimension).and_then(|rows| rows.values().min());
        oldest.map_or(0, |since| (now_us - since).max(0) / 1_000_000)
    }

    /// What `/api/v1/missing` says of a dimension.
    pub fn page(&self, dimension: usize, now_us: i64) -> Value {
        let mut rows: Vec<(&Name, i64)> =
            self.rows.get(dimension).into_iter().flatten().map(|(name, since)| (name, *since)).collect();
        rows.sort_by_key(|(_, since)| *since);
        let shown = rows.iter().take(self.config.shown_max).map(|(name, since)| {
            let at = jiff::Timestamp::from_microsecond(*since).map(time::milliseconds).unwrap_or_default();
            json!({ "name": names::shown(name), "since": at, "age_s": (now_us - since).max(0) / 1_000_000 })
        });
        json!({
            "missing": rows.len(),
            "more_than_registered": self.has_more.get(dimension).copied().unwrap_or_default(),
            "oldest_age_s": self.oldest_s(dimension, now_us),
            "oldest": shown.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rows_have_an_age_and_a_bound() {
        let config = MissingConfig { registered_max: 2, shown_max: 1, waiting_facts_max: 1 };
        let mut missing = Missing::new(2, &config);
        missing.note(0, &"7".into(), 5_000_000);
        missing.note(0, &"8".into(), 3_000_000);
        missing.note(0, &"8".into(), 4_000_000);
        missing.note(0, &"9".into(), 1_000_000);
        assert_eq!((missing.len(0), missing.len(1), missing.oldest_s(0, 10_000_000)), (2, 0, 7));
        assert_eq!(
            missing.page(0, 10_000_000),
            json!({
                "missing": 2, "more_than_registered": true, "oldest_age_s": 7,
                "oldest": [{ "name": "8", "since": "1970-01-01 00:00:03.000", "age_s": 7 }],
            })
        );
        missing.heal(0, "8");
        missing.retain(|_, name| **name != *"7");
        assert_eq!((missing.len(0), missing.oldest_s(0, 10_000_000)), (0, 0));
    }
}
