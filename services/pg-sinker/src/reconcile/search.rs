//! Reads what the topics of the chain have of some keys: their newest records, and their dead letters. One pass over each partition that may
//! hold one of them.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::Deserialize;
use shared::batch::Record;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::KafkaConfig;
use shared::kafka::partitioner::partition;
use shared::kafka::tail::{TailReader, read_in_task};
use shared::kafka::topics::Topics;
use shared::position::ResultVersion;
use shared::record::dead_letter::Letter;
use shared::record::header::Header;
use shared::record::row::{Columns, Extend, Field};

use super::kind::{Kind, as_key_text};
use super::lost::Rejected;
use super::pair::KeyName;
use super::parts::Key;

/// The newest record of a key, as it stands in a topic.
#[derive(Debug, Clone)]
pub struct Newest {
    pub partition: i32,
    pub offset: i64,
    pub version: ResultVersion,
    /// The values of the columns that were asked for, as text; `None` for the row: a tombstone, for a column: the record lacks it.
    pub row: Option<Vec<Option<Option<String>>>>,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub key: Vec<KeyName>,
    pub keys: Vec<Key>,
    pub columns: Vec<String>,
    pub topics: Vec<String>,
    pub dead_letter_topics: Vec<String>,
    pub timeout: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sightings {
    /// For each topic, by the number of the key.
    pub newest: Vec<HashMap<usize, Newest>>,
    /// By the number of the key.
    pub rejected: HashMap<usize, Vec<Rejected>>,
}

/// Searches all of them. It may take long: topics keep every version for a week.
pub async fn search(kafka: &KafkaConfig, fate: &Fate, wanted: Wanted) -> Result<Sightings, Failure> {
    let asked = kafka.clone();
    read_in_task(kafka, "pg-sinker", fate, move |tail| {
        let topics = Topics::connect(&asked, "pg-sinker")?;
        let deadline = Instant::now() + wanted.timeout;
        let lookup = Lookup::new(&wanted.key, &wanted.keys);
        let mut found = Sightings::default();
        for topic in &wanted.topics {
            let partitions = topics.partitions(topic)?.unwrap_or_default();
            found.newest.push(newest(tail, topic, &lookup.partitions(partitions), &lookup, &wanted, deadline)?);
        }
        for topic in &wanted.dead_letter_topics {
            let partitions = topics.partitions(topic)?.unwrap_or_default();
            letters(tail, topic, 0..partitions, &lookup, deadline, &mut found.rejected)?;
        }
        Ok(found)
    })
    .await
}

/// Keys by the form that they have in topics.
struct Lookup {
    columns: Columns,
    kinds: Vec<Kind>,
    /// By their bytes, where these are known from a key's text.
    exact: Option<HashMap<Vec<u8>, usize>>,
    numbers: HashMap<Key, usize>,
}

impl Lookup {
    fn new(key: &[KeyName], keys: &[Key]) -> Self {
        let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
        let mut lookup = Lookup {
            columns: Columns::new(&names),
            kinds: key.iter().map(|column| column.kind).collect(),
            exact: None,
            numbers: keys.iter().enumerate().map(|(number, key)| (key.clone(), number)).collect(),
        };
        let is_exact =
            |kind: &Kind| matches!(kind, Kind::Integer | Kind::Text | Kind::Uuid | Kind::Boolean | Kind::Date);
        if lookup.kinds.iter().all(is_exact) {
            lookup.exact = Some(keys.iter().enumerate().map(|(number, key)| (lookup.bytes(key), number)).collect());
        }
        lookup
    }

    /// The number of the key of a record.
    fn number(&self, key: &[u8]) -> Option<usize> {
        if let Some(exact) = &self.exact {
            return exact.get(key).copied();
        }
        let fields = self.columns.read(key).ok()?;
        let texts: Option<Key> = self
            .kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| fields.get(at).and_then(Field::text).map(|text| as_key_text(*kind, &text)))
            .collect();
        self.numbers.get(&texts?).copied()
    }

    /// Those that may hold one of the keys: the one that a key's bytes belong to, where they are known.
    fn partitions(&self, of_topic: i32) -> Vec<i32> {
        let Some(exact) = &self.exact else { return (0..of_topic).collect() };
        let of_keys: BTreeSet<i32> = exact.keys().map(|bytes| partition(bytes, of_topic)).collect();
        of_keys.into_iter().collect()
    }

    /// The key as cdc-ingest writes it.
    fn bytes(&self, key: &Key) -> Vec<u8> {
        let mut out = Vec::new();
        let mut row = Extend::new(&mut out);
        for ((name, kind), text) in self.columns.names().iter().zip(&self.kinds).zip(key) {
            match kind {
                Kind::Integer | Kind::Boolean => row.raw(name, text),
                _ => row.text(name, text),
            };
        }
        row.end();
        out
    }
}

fn in_time(deadline: Instant, topic: &str) -> Result<(), Failure> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Unreachable, format!("topic {topic} could not be searched to its end in time"))
        .cure("raise reconcile.chain.search_timeout_ms"))
}

fn newest(
    tail: &TailReader,
    topic: &str,
    partitions: &[i32],
    lookup: &Lookup,
    wanted: &Wanted,
    deadline: Instant,
) -> Result<HashMap<usize, Newest>, Failure> {
    let columns = Columns::new(&wanted.columns);
    let mut found: HashMap<usize, Newest> = HashMap::new();
    let from: Vec<(i32, i64)> = partitions.iter().map(|partition| (*partition, 0)).collect();
    tail.scan(topic, &from, &mut |record| {
        in_time(deadline, topic)?;
        let Some(number) = record.key.and_then(|key| lookup.number(key)) else { return Ok(()) };
        // What no stage wrote is no version of the row.
        let Ok(header) = Header::parse(record.header) else { return Ok(()) };
        let version = header.result_version();
        if found.get(&number).is_none_or(|known| known.version < version) {
            found.insert(number, seen(record, version, &columns));
        }
        Ok(())
    })?;
    Ok(found)
}

fn seen(record: &Record<'_>, version: ResultVersion, columns: &Columns) -> Newest {
    let row = record.value.map(|value| {
        let fields = columns.read(value);
        let text = |at: usize| {
            let field = fields.as_ref().ok()?.get(at)?;
            Some(field.text().map(|text| text.into_owned()))
        };
        (0..columns.names().len()).map(text).collect()
    });
    Newest { partition: record.partition, offset: record.offset, version, row }
}

fn letters(
    tail: &TailReader,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    lookup: &Lookup,
    deadline: Instant,
    rejected: &mut HashMap<usize, Vec<Rejected>>,
) -> Result<(), Failure> {
    let from: Vec<(i32, i64)> = partitions.map(|partition| (partition, 0)).collect();
    tail.scan(topic, &from, &mut |record| {
        in_time(deadline, topic)?;
        let Some(letter) = record.value.and_then(Letter::read) else { return Ok(()) };
        if let Some(number) = letter.key.as_deref().and_then(|key| lookup.number(key)) {
            let place = format!("{topic} {}/{}: {}", record.partition, record.offset, reason(record.value));
            let Letter { topic, partition, offset, .. } = letter;
            rejected.entry(number).or_default().push(Rejected { topic, partition, offset, letter: place });
        }
        Ok(())
    })
}

fn reason(value: Option<&[u8]>) -> String {
    #[derive(Deserialize)]
    struct Told {
        reason: String,
        rule: Option<String>,
    }
    match value.and_then(|value| serde_json::from_slice::<Told>(value).ok()) {
        Some(Told { reason, rule: Some(rule) }) => format!("{reason}, rule `{rule}`"),
        Some(Told { reason, rule: None }) => reason,
        None => "no reason is given".to_owned(),
    }
}

/// The topics of a chain with who writes each.
pub fn writers<'a>(topics: &'a [String], groups: &'a [String], last: &'a str) -> Vec<(&'a str, &'a str)> {
    let writers = std::iter::once("cdc-ingest").chain(groups.iter().map(String::as_str));
    topics.iter().map(String::as_str).chain(std::iter::once(last)).zip(writers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(columns: &[(&str, Kind)], keys: &[&[&str]]) -> Lookup {
        let key: Vec<KeyName> =
            columns.iter().map(|(name, kind)| KeyName { name: (*name).into(), kind: *kind }).collect();
        let keys: Vec<Key> = keys.iter().map(|key| key.iter().map(|&value| value.to_owned()).collect()).collect();
        Lookup::new(&key, &keys)
    }

    #[test]
    fn the_key_of_a_record_is_found_as_it_is_written() {
        let found = lookup(&[("shop", Kind::Text), ("id", Kind::Integer)], &[&["北\"京", "7"], &["b", "8"]]);
        assert_eq!(found.number("{\"shop\":\"北\\\"京\",\"id\":7}".as_bytes()), Some(0));
        assert_eq!(found.number(br#"{"shop":"b","id":8}"#), Some(1));
        assert_eq!(found.number(br#"{"shop":"b","id":9}"#), None);
        assert_eq!(found.number(b"no json"), None);
        assert_eq!(found.bytes(&vec!["北\"京".into(), "7".into()]), "{\"shop\":\"北\\\"京\",\"id\":7}".as_bytes());
    }

    #[test]
    fn only_partitions_that_may_hold_a_key_are_read() {
        let exact = lookup(&[("order_id", Kind::Integer)], &[&["2001"]]);
        assert_eq!(exact.partitions(4), [partition(br#"{"order_id":2001}"#, 4)]);
        let prices = lookup(&[("price", Kind::Numeric)], &[&["5.5"]]);
        assert_eq!(prices.partitions(3), [0, 1, 2]);
        assert_eq!(prices.number(br#"{"price":5.50}"#), Some(0));
    }

    #[test]
    fn stages_write_the_topics_in_their_order() {
        let (topics, groups) = (["ods".to_owned(), "dwd".to_owned()], ["cleaner".to_owned(), "joiner".to_owned()]);
        assert_eq!(
            writers(&topics, &groups, "results"),
            [("ods", "cdc-ingest"), ("dwd", "cleaner"), ("results", "joiner")]
        );
    }
}
