//! A collector of traces: takes OTLP over HTTP as the protocol says, and keeps what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use lab::ports::free_port;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A span, and the service that told it.
#[derive(Debug, Clone)]
pub struct Told {
    pub service: String,
    pub span: Span,
}

/// Nothing listens until it is opened.
pub struct Collector {
    port: u16,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Collector {
    pub fn new() -> Self {
        Collector { port: free_port().unwrap(), told: Arc::default() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The thread ends with the process.
    pub fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let told = Arc::clone(&self.told);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                take(client, &told);
            }
        });
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// The spans of a trace so far.
    pub fn trace(&self, id: [u8; 16]) -> Trace {
        Trace(self.told().into_iter().filter(|told| told.span.trace_id == id).collect())
    }

    /// The traces that a service told of.
    pub fn traces_of(&self, service: &str) -> BTreeSet<Vec<u8>> {
        let of_it = self.told().into_iter().filter(|told| told.service == service);
        of_it.map(|told| told.span.trace_id).collect()
    }
}

fn take(client: TcpStream, told: &Mutex<Vec<Told>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    let mut head = Vec::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
        head.push(std::mem::take(&mut line).trim_end().to_lowercase());
    }
    // Who gave up before it was its turn comes again.
    if head.is_empty() {
        return;
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    let fields: BTreeMap<&str, &str> = head.iter().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(fields["content-type"], "application/x-protobuf");
    let mut body = vec![0; fields["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    for resource in request.resource_spans {
        let about = resource.resource.unwrap().attributes;
        assert_eq!(text(&about, "service.version"), env!("CARGO_PKG_VERSION"));
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let of_service = |span| Told { service: text(&about, "service.name"), span };
        told.lock().unwrap().extend(spans.map(of_service));
    }
    let mut client = client;
    let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n");
}

/// An attribute as text.
pub fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

impl Told {
    pub fn text(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    pub fn number(&self, key: &str) -> i64 {
        self.text(key).parse().unwrap()
    }

    /// Service and name: `cdc-ingest: commit`.
    pub fn title(&self) -> String {
        format!("{}: {}", self.service, self.span.name)
    }
}

/// The spans of one trace.
#[derive(Debug)]
pub struct Trace(pub Vec<Told>);

impl Trace {
    pub fn root(&self) -> Option<&Told> {
        self.0.iter().find(|told| told.span.parent_span_id.is_empty())
    }

    pub fn parent_of(&self, told: &Told) -> Option<&Told> {
        self.0.iter().find(|other| other.span.span_id == told.span.parent_span_id)
    }

    /// Titles from the root down to a span.
    pub fn way_to(&self, told: &Told) -> Vec<String> {
        let mut way: Vec<String> = self.parent_of(told).map(|parent| self.way_to(parent)).unwrap_or_default();
        way.push(told.title());
        way
    }

    /// The spans of a service that have this name.
    pub fn titled<'t>(&'t self, title: &str) -> impl Iterator<Item = &'t Told> {
        self.0.iter().filter(move |told| told.title() == title)
    }

    /// Records of the spans that have this title.
    pub fn records(&self, title: &str) -> i64 {
        self.titled(title).map(|told| told.number("tidemill.records")).sum()
    }

    /// One root; every other span has its parent in the trace, and ended after that had begun; no id twice; no end before a beginning.
    /// It may have begun before its parent: a batch begins with its first record, which another partition's span may have brought.
    pub fn assert_is_a_tree(&self) {
        let ids: BTreeSet<&[u8]> = self.0.iter().map(|told| told.span.span_id.as_slice()).collect();
        assert_eq!(ids.len(), self.0.len(), "an id is there twice: {self:#?}");
        let roots = self.0.iter().filter(|told| told.span.parent_span_id.is_empty()).count();
        assert_eq!(roots, 1, "{self:#?}");
        for told in &self.0 {
            assert_eq!((told.span.trace_id.len(), told.span.span_id.len()), (16, 8));
            assert!(told.span.start_time_unix_nano <= told.span.end_time_unix_nano, "{told:#?}");
            if told.span.parent_span_id.is_empty() {
                continue;
            }
            let parent = self.parent_of(told).unwrap_or_else(|| panic!("no parent of {told:#?} in {self:#?}"));
            assert!(parent.span.start_time_unix_nano <= told.span.end_time_unix_nano, "{parent:#?} {told:#?}");
        }
    }
}
