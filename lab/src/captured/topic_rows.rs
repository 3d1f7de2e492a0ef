//! A topic as a reader of all of it ends up with it: the last record of each key.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use shared::failure::Failure;
use shared::position::Version;

use super::comparison::Findings;
use super::progress::Progress;
use crate::layers::{LayerRecord, Layers, Mark};

/// The rows of a topic, and what was wrong with versions on the way.
pub struct TopicRows {
    pub topic: String,
    pub not_growing: Findings<String>,
    /// Where the next read goes on; `None` before the first.
    read_to: Option<Mark>,
    last: BTreeMap<String, Last>,
}

/// The last record of a key.
struct Last {
    /// `None` is a tombstone.
    value: Option<String>,
    /// The newest one that could be read.
    version: Option<Version>,
}

/// The live records as rows of one table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LiveRows<'a> {
    /// Key and row, both JSON objects.
    pub rows: Vec<(&'a str, &'a str)>,
    pub unreadable: Findings<String>,
}

impl TopicRows {
    pub fn of(topic: &str) -> Self {
        let (not_growing, last) = (Findings::default(), BTreeMap::new());
        TopicRows { topic: topic.to_owned(), not_growing, read_to: None, last }
    }

    /// Reads to the end that stands now.
    pub fn catch_up(&mut self, layers: &Layers, progress: &mut Progress<'_>) -> Result<(), Failure> {
        let from = match self.read_to.take() {
            Some(mark) => mark,
            None => layers.begin(&self.topic)?,
        };
        let to = layers.end(&self.topic)?;
        let topic = self.topic.clone();
        let mut count = 0_u64;
        progress.begin(format_args!("reading {topic}"));
        layers.visit(&topic, &from, &to, |record| {
            self.take(record);
            count += 1;
            progress.tell(|| format!("reading {topic}: {count} of {} records", between(&from, &to)));
        })?;
        self.read_to = Some(to);
        Ok(())
    }

    fn take(&mut self, record: LayerRecord) {
        let before = self.last.get(&record.key).and_then(|last| last.version);
        let version = match &record.header {
            Ok(header) => {
                if before.is_some_and(|before| header.version <= before) {
                    let before = before.unwrap_or_default();
                    self.not_growing.add(named(&record, format_args!("{} behind {before}", header.version)));
                }
                Some(header.version).max(before)
            }
            Err(error) => {
                self.not_growing.add(named(&record, error));
                before
            }
        };
        self.last.insert(record.key, Last { value: record.value, version });
    }

    pub fn live_keys(&self) -> u64 {
        self.last.values().filter(|last| last.value.is_some()).count() as u64
    }

    fn live(&self) -> impl Iterator<Item = (&str, &str)> {
        self.last.iter().filter_map(|(key, last)| Some((key.as_str(), last.value.as_deref()?)))
    }

    /// The columns that the keys name, sorted: the primary key where some key has it, or else what the first key names.
    pub fn key_columns(&self, primary_key: &[String], is_column: impl Fn(&str) -> bool) -> Vec<String> {
        let keys = || self.live().filter_map(|(key, _)| names(key));
        let of_columns = |names: &Vec<String>| !names.is_empty() && names.iter().all(|name| is_column(name));
        let named = keys().find(|names| names == primary_key).or_else(|| keys().find(of_columns));
        named.unwrap_or_else(|| primary_key.to_vec())
    }

    /// The live records with these columns (sorted) in their keys as rows, the others with the reason.
    pub fn live_rows(&self, key_columns: &[String]) -> LiveRows<'_> {
        let mut sorted = LiveRows::default();
        for (key, row) in self.live() {
            if names(key).is_none_or(|names| names != key_columns) {
                sorted.unreadable.add(format!("{key:?} is not a key with the columns {}", key_columns.join(", ")));
            } else if names(row).is_none() {
                sorted.unreadable.add(format!("{key}: the value is not a JSON object"));
            } else {
                sorted.rows.push((key, row));
            }
        }
        sorted
    }
}

fn named(record: &LayerRecord, what: impl std::fmt::Display) -> String {
    format!("{}: {what}, partition {}, offset {}", record.key, record.partition, record.offset)
}

/// Offsets between two marks, with those that hold no record.
fn between(from: &Mark, to: &Mark) -> i64 {
    let sum = |mark: &Mark| mark.iter().map(|&(_, offset)| offset).sum::<i64>();
    sum(to) - sum(from)
}

/// The names of a JSON object, sorted; `None` for anything else.
fn names(text: &str) -> Option<Vec<String>> {
    let object: BTreeMap<String, IgnoredAny> = serde_json::from_str(text).ok()?;
    Some(object.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::record::header::{Header, HeaderError};

    fn record(key: &str, value: Option<&str>, version: Option<&str>) -> LayerRecord {
        let header = version.ok_or(HeaderError::Missing);
        let header = header.and_then(|version| Header::parse(Some(format!("op=c v={version}").as_bytes())));
        LayerRecord {
            partition: 3,
            offset: 7,
            produced_ms: None,
            key: key.to_owned(),
            value: value.map(str::to_owned),
            header,
        }
    }

    fn rows(records: Vec<LayerRecord>) -> TopicRows {
        let mut rows = TopicRows::of("ods");
        records.into_iter().for_each(|record| rows.take(record));
        rows
    }

    const ID: &str = r#"{"id":1}"#;
    const OTHER: &str = r#"{"id":2}"#;

    #[test]
    fn the_last_record_of_a_key_wins() {
        let rows = rows(vec![
            record(ID, Some(r#"{"id":1}"#), Some("1.1.0.0")),
            record(OTHER, Some(r#"{"id":2}"#), Some("1.1.1.0")),
            record(ID, Some(r#"{"id":1,"a":2}"#), Some("1.2.0.0")),
            record(OTHER, None, Some("1.3.0.0")),
        ]);
        assert_eq!((rows.live_keys(), rows.not_growing.count), (1, 0));
        let live = rows.live_rows(&["id".to_owned()]);
        assert_eq!(live, LiveRows { rows: vec![(ID, r#"{"id":1,"a":2}"#)], unreadable: Findings::default() });
    }

    #[test]
    fn a_version_must_grow_for_its_key_even_behind_a_tombstone() {
        let rows = rows(vec![
            record(ID, Some("{}"), Some("1.2.0.0")),
            record(ID, None, Some("1.4.0.0")),
            record(OTHER, Some("{}"), Some("1.1.0.0")),
            record(ID, Some("{}"), Some("1.3.0.0")),
            record(ID, Some("{}"), Some("1.4.0.0")),
            record(ID, Some("{}"), None),
            record(ID, Some("{}"), Some("2.0.0.0")),
        ]);
        assert_eq!(
            rows.not_growing.first,
            [
                "{\"id\":1}: 1.3.0.0 behind 1.4.0.0, partition 3, offset 7".to_owned(),
                "{\"id\":1}: 1.4.0.0 behind 1.4.0.0, partition 3, offset 7".to_owned(),
                format!("{{\"id\":1}}: {}, partition 3, offset 7", HeaderError::Missing),
            ]
        );
    }

    #[test]
    fn what_is_no_row_of_the_table_is_set_aside() {
        let key = r#"{"b": "x", "a": [1]}"#;
        let records = [(key, "{}"), ("", "{}"), (ID, "{}"), ("{\"a\":1,\"b\":2}", "[1]"), ("\"a\"", "{}")];
        let rows = rows(records.map(|(key, row)| record(key, Some(row), Some("1.0.0.0"))).into());
        let key_columns = rows.key_columns(&[], |name| name != "id");
        assert_eq!(key_columns, ["a", "b"]);
        let live = rows.live_rows(&key_columns);
        assert_eq!((live.rows, live.unreadable.count, rows.live_keys()), (vec![(key, "{}")], 4, 5));
        assert_eq!(live.unreadable.first.first().unwrap(), "\"\" is not a key with the columns a, b");
    }

    #[test]
    fn the_primary_key_comes_before_what_else_keys_may_name() {
        let id = ["id".to_owned()];
        let strange = record("{\"a\":1}", Some("{}"), Some("1.0.0.0"));
        assert_eq!(rows(vec![strange]).key_columns(&id, |_| true), ["a"]);
        let strange = record("{\"a\":1}", Some("{}"), Some("1.0.0.0"));
        assert_eq!(rows(vec![strange, record(ID, Some("{}"), Some("1.0.0.0"))]).key_columns(&id, |_| true), id);
        for (key, value) in [(OTHER, None), ("{}", Some("{}"))] {
            assert_eq!(rows(vec![record(key, value, Some("1.0.0.0"))]).key_columns(&id, |_| true), id);
        }
    }
}
