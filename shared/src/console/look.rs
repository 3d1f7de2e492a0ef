//! Looks into the topics of the pipeline: which there are, records of one, and one row on its way through all.
//!
//! Each look has a consumer of its own, outside of any group, and is bounded in records, bytes and time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::settings::ConsoleConfig;
use super::topology::Role;
use crate::control::Problem;
use crate::failure::Failure;
use crate::generation::Fate;
use crate::kafka::KafkaConfig;
use crate::kafka::bounds::Bounds;
use crate::kafka::partitioner::partition;
use crate::kafka::tail::TailReader;
use crate::kafka::topics::Topics;
use crate::record::dead_letter::Letter;
use crate::record::time;

/// A topic, and where its partitions begin and end.
#[derive(Debug, Serialize)]
pub struct TopicShown {
    pub topic: String,
    pub role: Role,
    /// Empty: it is not there yet.
    pub partitions: Vec<PartitionShown>,
}

/// See [`TopicShown`].
#[derive(Debug, Serialize)]
pub struct PartitionShown {
    pub partition: i32,
    pub first: i64,
    /// Behind the last record.
    pub end: i64,
}

/// A record as it stands in a topic.
#[derive(Debug, Clone, Serialize)]
pub struct RecordShown {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When it was produced.
    pub at: Option<String>,
    pub key: Option<Text>,
    /// Absent: a tombstone.
    pub value: Option<Text>,
    /// Of the value.
    pub bytes: usize,
    pub headers: Vec<HeaderShown>,
}

/// Bytes as text, or in hexadecimal where they are not UTF-8.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    Text(String),
    Hex(String),
}

/// A header of a record.
#[derive(Debug, Clone, Serialize)]
pub struct HeaderShown {
    pub name: String,
    pub value: Option<Text>,
}

/// Records of a topic.
#[derive(Debug, Serialize)]
pub struct RecordsShown {
    pub topic: String,
    pub records: Vec<RecordShown>,
    /// There were more bytes than `console.look_bytes_max`.
    pub cut: bool,
}

/// A row on its way.
#[derive(Debug, Serialize)]
pub struct Followed {
    pub layers: Vec<Layer>,
    /// Dead letters of the row, of all stages.
    pub dead_letters: Vec<RecordShown>,
    pub cut: bool,
}

/// What a topic holds of the row.
#[derive(Debug, Serialize)]
pub struct Layer {
    pub topic: String,
    pub key: String,
    pub partition: i32,
    /// The first offset that was searched.
    pub searched_from: i64,
    /// Whether older records of the partition were left out.
    pub older_left_out: bool,
    /// Oldest first.
    pub records: Vec<RecordShown>,
}

/// Which records of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub partition: Option<i32>,
    /// From this offset on; `None`: the newest.
    pub from: Option<i64>,
    pub limit: Option<usize>,
}

/// Which row.
#[derive(Debug, Clone)]
pub enum Row {
    /// In the topics that lead to the sink, by the value of their key's one column.
    Id(String),
    /// In all topics, by the whole key.
    Key(String),
}

/// Looks into topics.
#[derive(Clone)]
pub struct Looker {
    kafka: KafkaConfig,
    config: ConsoleConfig,
    service: &'static str,
    seats: Arc<Semaphore>,
}

/// A row's column is longer than that only by mistake.
const ID_BYTES_MAX: usize = 1_000;
/// The key's column is read from one of so many last records.
const KEY_RECORDS: i64 = 100;

impl Looker {
    pub fn new(kafka: &KafkaConfig, config: &ConsoleConfig, service: &'static str) -> Self {
        let seats = Arc::new(Semaphore::new(config.looks_at_once));
        Looker { kafka: kafka.clone(), config: config.clone(), service, seats }
    }

    /// The topics, with their partitions.
    pub async fn topics(&self, topics: BTreeMap<String, Role>) -> Result<Vec<TopicShown>, Problem> {
        self.look(move |look| {
            let shown = topics.into_iter().map(|(topic, role)| {
                let bounds = look.bounds(&topic)?.into_iter();
                let partition = |(partition, bounds): (i32, Bounds)| PartitionShown {
                    partition,
                    first: bounds.first,
                    end: bounds.end,
                };
                Ok(TopicShown { partitions: bounds.map(partition).collect(), topic, role })
            });
            shown.collect()
        })
        .await
    }

    pub async fn records(&self, topic: String, wanted: Wanted) -> Result<RecordsShown, Problem> {
        let limit = wanted.limit.unwrap_or(20);
        if limit == 0 || limit > self.config.look_records_max {
            return Err(Problem::bad_request(format!("limit must be 1 to {}", self.config.look_records_max)));
        }
        if wanted.from.is_some() && wanted.partition.is_none() {
            return Err(Problem::bad_request("an offset is one of a partition: name the partition"));
        }
        self.look(move |look| look.records(topic, wanted, limit)).await
    }

    /// `way` are the topics that lead to the sink, in their order; `topics` are all.
    pub async fn follow(
        &self,
        row: Row,
        way: Vec<String>,
        topics: BTreeMap<String, Role>,
    ) -> Result<Followed, Problem> {
        let (Row::Id(text) | Row::Key(text)) = &row;
        if text.is_empty() || text.len() > ID_BYTES_MAX {
            return Err(Problem::bad_request(format!("an id or a key has 1 to {ID_BYTES_MAX} bytes")));
        }
        self.look(move |look| look.follow(&row, way, &topics)).await
    }

    /// Looks in a task that may block, for a bounded time, where there is a seat.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Look) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Problem> {
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            return Err(Problem::unavailable("others look into topics just now; try again in a moment"));
        };
        let (fate, looker) = (Fate::default(), self.clone());
        let looking = tokio::task::spawn_blocking({
            let fate = fate.clone();
            move || {
                let tail = TailReader::new(&looker.kafka, looker.service, &fate)?;
                let found = look(&Look { tail, looker });
                drop(seat);
                found
            }
        });
        let timeout_ms = self.config.look_timeout_ms;
        match tokio::time::timeout(self.config.look_timeout(), looking).await {
            Ok(Ok(found)) => found.map_err(|failure| Problem::unavailable(failure.chain())),
            Ok(Err(error)) => Err(Problem::unavailable(format!("the look failed: {error}"))),
            Err(_) => {
                fate.finish();
                let why = format!("it took longer than console.look_timeout_ms, {timeout_ms}, and was given up");
                Err(Problem::unavailable(why))
            }
        }
    }
}

/// One look.
struct Look {
    tail: TailReader,
    looker: Looker,
}

impl Look {
    /// Of all partitions of a topic; empty where it is not there.
    fn bounds(&self, topic: &str) -> Result<BTreeMap<i32, Bounds>, Failure> {
        let found = Topics::connect(&self.looker.kafka, self.looker.service)?.partitions(topic)?;
        self.tail.bounds(topic, 0..found.unwrap_or_default())
    }

    fn records(&self, topic: String, wanted: Wanted, limit: usize) -> Result<RecordsShown, Failure> {
        let mut parts = self.bounds(&topic)?;
        parts.retain(|partition, _| wanted.partition.is_none_or(|wanted| wanted == *partition));
        let count = i64::try_from(limit).unwrap_or(i64::MAX);
        for bounds in parts.values_mut() {
            let first = wanted.from.unwrap_or_else(|| bounds.end.saturating_sub(count));
            bounds.first = first.max(bounds.first);
        }
        let newest_of_each = limit.saturating_mul(parts.len().max(1));
        let kept_max = if wanted.from.is_some() { limit } else { newest_of_each };
        let mut kept = Kept::new(kept_max, self.looker.config.look_bytes_max);
        self.tail.scan_messages(&topic, parts, &mut |message| {
            let record = shown(message);
            if wanted.from.is_some() && !kept.has_room_for(&record) {
                kept.cut = kept.records.len() < limit;
                return Ok(ControlFlow::Break(()));
            }
            kept.keep(record);
            Ok(ControlFlow::Continue(()))
        })?;
        let Kept { records, cut, .. } = kept;
        let mut records: Vec<RecordShown> = records.into();
        if wanted.from.is_none() {
            records.sort_by(|a, b| (&b.at, b.partition, b.offset).cmp(&(&a.at, a.partition, a.offset)));
            records.truncate(limit);
        }
        Ok(RecordsShown { topic, records, cut })
    }

    fn follow(&self, row: &Row, way: Vec<String>, topics: &BTreeMap<String, Role>) -> Result<Followed, Failure> {
        let mut followed = Followed { layers: Vec::new(), dead_letters: Vec::new(), cut: false };
        let mut keys = Vec::new();
        let rows = topics.iter().filter(|(_, role)| **role == Role::Rows).map(|(topic, _)| topic);
        let others = rows.filter(|topic| !way.contains(topic)).cloned().collect::<Vec<_>>();
        let is_by_key = matches!(row, Row::Key(_));
        for topic in way.into_iter().chain(others.into_iter().filter(|_| is_by_key)) {
            let bounds = self.bounds(&topic)?;
            let key = match row {
                Row::Key(key) => Some(key.clone()),
                Row::Id(id) => self.key_like_the_last(&topic, &bounds, id)?,
            };
            let Some(key) = key else { continue };
            let at = partition(key.as_bytes(), i32::try_from(bounds.len()).unwrap_or(i32::MAX));
            let Some(&whole) = bounds.get(&at) else { continue };
            let searched = self.newest(whole);
            let mut kept = self.kept();
            self.tail.scan_messages(&topic, [(at, searched)].into(), &mut |message| {
                if message.key() == Some(key.as_bytes()) {
                    kept.keep(shown(message));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            followed.cut |= kept.cut;
            followed.layers.push(Layer {
                topic,
                key: key.clone(),
                partition: at,
                searched_from: searched.first,
                older_left_out: searched.first > whole.first,
                records: kept.records.into(),
            });
            keys.push(key);
        }
        self.follow_dead_letters(&keys, topics, &mut followed)?;
        Ok(followed)
    }

    fn follow_dead_letters(
        &self,
        keys: &[String],
        topics: &BTreeMap<String, Role>,
        followed: &mut Followed,
    ) -> Result<(), Failure> {
        let mut kept = self.kept();
        for (topic, _) in topics.iter().filter(|(_, role)| **role == Role::DeadLetters) {
            let parts = self.bounds(topic)?.into_iter().map(|(partition, bounds)| (partition, self.newest(bounds)));
            self.tail.scan_messages(topic, parts.collect(), &mut |message| {
                let letter = message.payload().and_then(Letter::read);
                let is_meant = |key: Vec<u8>| keys.iter().any(|wanted| wanted.as_bytes() == key);
                if letter.and_then(|letter| letter.key).is_some_and(is_meant) {
                    kept.keep(shown(message));
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        followed.cut |= kept.cut;
        followed.dead_letters = kept.records.into();
        Ok(())
    }

    fn newest(&self, bounds: Bounds) -> Bounds {
        let first = bounds.end.saturating_sub(i64::from(self.looker.config.search_records_max));
        Bounds { first: first.max(bounds.first), ..bounds }
    }

    fn kept(&self) -> Kept {
        Kept::new(self.looker.config.look_records_max, self.looker.config.look_bytes_max)
    }

    /// The key of the row with this id, by the key of the topic's last records; `None` where the topic is empty or its key has several
    /// columns.
    fn key_like_the_last(
        &self,
        topic: &str,
        bounds: &BTreeMap<i32, Bounds>,
        id: &str,
    ) -> Result<Option<String>, Failure> {
        let mut found = None;
        for (&partition, &bounds) in bounds.iter().filter(|(_, bounds)| !bounds.is_empty()) {
            let last = Bounds { first: bounds.end.saturating_sub(KEY_RECORDS).max(bounds.first), ..bounds };
            self.tail.scan_messages(topic, [(partition, last)].into(), &mut |message| {
                found = message.key().and_then(|key| key_with(key, id)).or(found.take());
                Ok(ControlFlow::Continue(()))
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }
}

/// The key with another value; `None` for a key that is no object of one column.
fn key_with(key: &[u8], id: &str) -> Option<String> {
    let key: serde_json::Map<String, Value> = serde_json::from_slice(key).ok()?;
    let mut columns = key.into_iter();
    let ((name, value), None) = (columns.next()?, columns.next()) else { return None };
    let value = match value {
        Value::Number(_) => Value::Number(id.parse().ok()?),
        _ => Value::String(id.to_owned()),
    };
    Some(Value::Object([(name, value)].into_iter().collect()).to_string())
}

/// The newest records, within bounds.
struct Kept {
    records: VecDeque<RecordShown>,
    records_max: usize,
    bytes: usize,
    bytes_max: usize,
    /// Some were left out for their bytes.
    cut: bool,
}

impl Kept {
    fn new(records_max: usize, bytes_max: usize) -> Self {
        Kept { records: VecDeque::new(), records_max, bytes: 0, bytes_max, cut: false }
    }

    fn has_room_for(&self, record: &RecordShown) -> bool {
        self.records.is_empty()
            || self.records.len() < self.records_max && self.bytes.saturating_add(record.bytes) <= self.bytes_max
    }

    /// Takes a record in, and lets the oldest go where there are too many. The newest stays, however long it is.
    fn keep(&mut self, record: RecordShown) {
        self.bytes += record.bytes;
        self.records.push_back(record);
        while self.records.len() > 1 && (self.records.len() > self.records_max || self.bytes > self.bytes_max) {
            self.cut |= self.bytes > self.bytes_max;
            self.bytes -= self.records.pop_front().map_or(0, |oldest| oldest.bytes);
        }
    }
}

fn shown(message: &BorrowedMessage<'_>) -> RecordShown {
    let at = message.timestamp().to_millis().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let headers = message.headers().map(|headers| {
        let shown =
            headers.iter().map(|header| HeaderShown { name: header.key.to_owned(), value: header.value.map(text) });
        shown.collect()
    });
    RecordShown {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        at: at.map(time::milliseconds),
        key: message.key().map(text),
        value: message.payload().map(text),
        bytes: message.payload_len(),
        headers: headers.unwrap_or_default(),
    }
}

fn text(bytes: &[u8]) -> Text {
    match std::str::from_utf8(bytes) {
        Ok(text) => Text::Text(text.to_owned()),
        Err(_) => Text::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_another_value_of_its_own_type() {
        let with = |key: &str, id| key_with(key.as_bytes(), id);
        assert_eq!(with("{\"order_id\":1}", "2001").as_deref(), Some("{\"order_id\":2001}"));
        assert_eq!(with("{\"code\":\"a\"}", "2\"1").as_deref(), Some("{\"code\":\"2\\\"1\"}"));
        for (key, id) in [("{\"order_id\":1}", "x"), ("{\"a\":1,\"b\":2}", "1"), ("{}", "1"), ("?", "1")] {
            assert_eq!(with(key, id), None, "{key} {id}");
        }
    }

    #[test]
    fn the_newest_are_kept_within_the_bounds() {
        let record = |offset, bytes| RecordShown {
            topic: "t".into(),
            partition: 0,
            offset,
            at: None,
            key: None,
            value: None,
            bytes,
            headers: Vec::new(),
        };
        let offsets = |records_max, bytes_max, all: &[usize]| {
            let mut kept = Kept::new(records_max, bytes_max);
            all.iter().zip(0..).for_each(|(bytes, offset)| kept.keep(record(offset, *bytes)));
            (kept.records.iter().map(|record| record.offset).collect::<Vec<_>>(), kept.cut)
        };
        assert_eq!(offsets(2, 100, &[1, 1, 1]), (vec![1, 2], false));
        assert_eq!(offsets(9, 100, &[60, 60]), (vec![1], true));
        assert_eq!(offsets(9, 100, &[600]), (vec![0], false));
    }
}
