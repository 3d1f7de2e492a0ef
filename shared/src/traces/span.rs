//! The spans of a stage: what one batch did with the records of one commit in one partition.
//!
//! A span that writes to a topic has the id of that place ([`super::id`]), and is the parent of what reads there. Where a later batch brings
//! more records of the same commit to the same place, its span gets an id of its own beside the first: it hangs under the same parent, and
//! what reads its records hangs under the first.
//!
//! What a stage sends without a record of its input, as facts that a changed row sends again, hangs under the commit itself.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::id::{Commit, Sampling, SpanId, TraceId};
use crate::pg::PostgresConfig;
use crate::position::Version;
use crate::record::header::Header;

/// Where a stage takes records from, and where it puts them.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Commits of a database, into topics.
    Capture { source: Database },
    /// The records of a topic, into topics.
    Topics { input: Input },
    /// The records of a topic, into tables.
    Sink { input: Input, sink: Database },
}

#[derive(Debug, Clone)]
pub struct Input {
    pub topic: String,
    pub group: String,
}

#[derive(Debug, Clone)]
pub struct Database {
    host: String,
    port: u16,
    name: String,
}

impl From<&PostgresConfig> for Database {
    fn from(config: &PostgresConfig) -> Self {
        Database { host: config.host.clone(), port: config.port, name: config.database.clone() }
    }
}

/// Records of one commit in one partition.
#[derive(Debug)]
struct Part {
    trace: TraceId,
    records: u64,
    /// Offset in the input, and version, of the first one.
    offset: Option<i64>,
    version: Version,
}

/// What a batch has of each commit that is sampled, by the topic's index and the partition.
pub struct Parts {
    sampling: Sampling,
    /// Most often the next record is of the same commit.
    last: Option<(Commit, Option<TraceId>)>,
    found: BTreeMap<(Commit, usize, i32), Part>,
}

impl Parts {
    pub fn new(sampling: Sampling) -> Self {
        Parts { sampling, last: None, found: BTreeMap::new() }
    }

    pub fn note(&mut self, header: &Header, topic: usize, partition: i32, offset: Option<i64>) {
        let Some(commit) = Commit::of(header) else { return };
        let trace = match self.last {
            Some((last, trace)) if last == commit => trace,
            _ => Some(commit.trace()).filter(|trace| self.sampling.takes(*trace)),
        };
        self.last = Some((commit, trace));
        let Some(trace) = trace else { return };
        let first = || Part { trace, records: 0, offset, version: header.version };
        self.found.entry((commit, topic, partition)).or_insert_with(first).records += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// When the batch was taken in.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// It came from the stage's input; otherwise the stage made it by itself.
    pub of_input: bool,
}

/// Ids of places that were given lately: a place has one span of a commit, further ones get ids of their own.
#[derive(Debug, Default)]
pub struct Given {
    ids: HashSet<SpanId>,
    oldest_first: VecDeque<SpanId>,
    most: usize,
}

impl Given {
    pub fn new(most: usize) -> Self {
        Given { most, ..Given::default() }
    }

    fn is_new(&mut self, id: SpanId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > self.most
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl Stage {
    /// Takes the records of a topic, as a member of a group.
    pub fn from_topic(topic: &str, group: &str) -> Self {
        Stage::Topics { input: Input { topic: topic.to_owned(), group: group.to_owned() } }
    }

    /// The spans of a batch; their end is not known yet.
    pub fn spans(&self, parts: &Parts, begun: Begun, topics: &[Arc<str>], given: &mut Given) -> Vec<Span> {
        let mut spans = Vec::with_capacity(parts.found.len());
        for (&(commit, topic, partition), part) in &parts.found {
            if let Stage::Capture { source } = self {
                spans.extend(root(source, commit, part, begun, given));
            }
            let output = topics.get(topic).map(|topic| &**topic);
            spans.push(self.span((output, partition), part, begun, given));
        }
        spans
    }

    fn span(&self, (output, partition): (Option<&str>, i32), part: &Part, begun: Begun, given: &mut Given) -> Span {
        let trace = part.trace;
        let id = self.id((output, partition), part, given);
        let mut attributes = vec![
            text("messaging.system", "kafka"),
            text("messaging.destination.partition.id", partition.to_string()),
            text("tidemill.version", part.version.to_string()),
            number("tidemill.records", i64::try_from(part.records).unwrap_or(i64::MAX)),
        ];
        let (parent, kind, doing, topic) = match self {
            Stage::Topics { input } | Stage::Sink { input, .. } if begun.of_input => {
                attributes.push(text("messaging.consumer.group.name", &input.group));
                attributes.extend(part.offset.map(|offset| number("messaging.kafka.offset", offset)));
                attributes.extend(output.map(|topic| text("tidemill.output.topic", topic)));
                let parent = trace.span(format_args!("{}/{partition}", input.topic));
                (parent, SpanKind::Consumer, "process", input.topic.as_str())
            }
            _ => (commit_span(trace), SpanKind::Producer, "send", output.unwrap_or_default()),
        };
        if let Stage::Sink { sink, .. } = self {
            attributes.extend(sink.attributes());
        }
        attributes.extend([
            text("messaging.operation.type", doing),
            text("messaging.operation.name", doing),
            text("messaging.destination.name", topic),
        ]);
        let is_remote = !matches!(self, Stage::Capture { .. });
        Span {
            parent_span_id: parent.0.to_vec(),
            flags: SAMPLED_AND_RANDOM | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 },
            kind: kind.into(),
            start_time_unix_nano: begun.at_ns,
            attributes,
            ..span(trace, id, format!("{doing} {topic}"))
        }
    }

    /// That of the place where it writes, once; a further one has the version of its first record in it.
    fn id(&self, (output, partition): (Option<&str>, i32), part: &Part, given: &mut Given) -> SpanId {
        let (trace, version) = (part.trace, part.version);
        match (self, output) {
            // Nothing reads behind it.
            (Stage::Sink { input, .. }, _) => trace.span(format_args!("sink {}/{partition} {version}", input.topic)),
            (_, output) => {
                let topic = output.unwrap_or_default();
                let first = trace.span(format_args!("{topic}/{partition}"));
                let further = || trace.span(format_args!("{topic}/{partition} {version}"));
                if given.is_new(first) { first } else { further() }
            }
        }
    }
}

impl Database {
    fn attributes(&self) -> [KeyValue; 4] {
        [
            text("db.system.name", "postgresql"),
            text("db.namespace", &self.name),
            text("server.address", &self.host),
            number("server.port", i64::from(self.port)),
        ]
    }
}

/// W3C's flags of the trace, and OTLP's of the parent.
const SAMPLED_AND_RANDOM: u32 = 0x03;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

fn commit_span(trace: TraceId) -> SpanId {
    trace.span(format_args!("commit"))
}

/// The span of the commit, once. It lasts from the commit until its rows are acknowledged.
fn root(source: &Database, commit: Commit, part: &Part, begun: Begun, given: &mut Given) -> Option<Span> {
    let id = commit_span(part.trace);
    if !given.is_new(id) {
        return None;
    }
    let committed_ns = u64::try_from(commit.time_us).unwrap_or_default().saturating_mul(1_000);
    let lsn = part.version.lsn.to_string();
    let own = [number("tidemill.transaction", i64::from(commit.transaction)), text("tidemill.commit_lsn", lsn)];
    Some(Span {
        flags: SAMPLED_AND_RANDOM | HAS_IS_REMOTE,
        kind: SpanKind::Internal.into(),
        // The source's clock may be ahead of ours.
        start_time_unix_nano: committed_ns.min(begun.at_ns),
        attributes: source.attributes().into_iter().chain(own).collect(),
        ..span(part.trace, id, "commit".to_owned())
    })
}

fn span(trace: TraceId, id: SpanId, name: String) -> Span {
    Span { trace_id: trace.0.to_vec(), span_id: id.0.to_vec(), name, ..Span::default() }
}

pub fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests;
