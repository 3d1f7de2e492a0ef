//! Traces: one commit at the source is one trace through all services, for whoever runs an OpenTelemetry collector.
//!
//! ```text
//!  commit ─▶ cdc-ingest: send ods_orders ─▶ dwd-cleaner: process ods_orders ─▶ dim-joiner: process dwd_orders ─▶ pg-sinker: process result_…
//!
//!  publisher, sink ──Span, when it is acknowledged──▶ bounded queue ──▶ exporter (a task) ──OTLP over HTTP──▶ collector
//! ```
//!
//! No id is carried: each service derives them from what a record has anyway ([`id`]). Switched off, which is the default, there is no
//! [`Tracer`], and that is all that the data's path looks at, once for a batch. A span that finds the queue full is counted and forgotten:
//! nobody waits for traces.

mod exporter;
pub mod id;
pub mod settings;
pub mod span;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;

use self::exporter::Exporter;
use self::id::Sampling;
use self::settings::TracesConfig;
use self::span::{Begun, Given, Parts, Stage};
use crate::batch::Outgoing;
use crate::failure::Failure;
use crate::metrics;
use crate::record::header::Header;

pub use self::exporter::{Exporting, Who};

/// The traces of a process. Where they are off there is nothing in it.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Shared>>);

struct Shared {
    sampling: Sampling,
    queue: mpsc::Sender<Span>,
    ids_max: usize,
}

/// What a stage tells its work to. It lives as long as the generation: what that did not bring to its end is done anew by the next, under
/// the same ids.
pub struct Tracer {
    shared: Arc<Shared>,
    stage: Stage,
    given: Mutex<Given>,
}

impl Traces {
    /// Begins to export, where an endpoint is set. It must be called in the system's runtime.
    pub fn start(config: &TracesConfig, who: &Who) -> Result<(Self, Exporting), Failure> {
        let Some(endpoint) = config.endpoint()? else { return Ok((Traces::default(), Exporting::default())) };
        let (queue, spans) = mpsc::channel(config.queue_spans_max);
        let exporting = Exporter::new(endpoint, config, who, spans).start();
        let shared = Shared { sampling: Sampling::of(config.sample_ratio), queue, ids_max: config.queue_spans_max };
        tracing::info!(sample_ratio = config.sample_ratio, "traces go to {}", config.endpoint);
        Ok((Traces(Some(Arc::new(shared))), exporting))
    }

    /// The tracer of a stage; `None` where traces are off.
    pub fn of(&self, stage: impl FnOnce() -> Stage) -> Option<Tracer> {
        let shared = Arc::clone(self.0.as_ref()?);
        let given = Mutex::new(Given::new(shared.ids_max));
        Some(Tracer { shared, stage: stage(), given })
    }
}

impl Tracer {
    /// The spans of what is about to be sent: those of commits that are sampled.
    pub fn begin(&self, made: &Outgoing<()>, topics: &[Arc<str>]) -> Vec<Span> {
        let mut parts = Parts::new(self.shared.sampling);
        for record in made.records() {
            // What is no header of ours, and dead letters, belong to no commit.
            if let Ok(header) = Header::parse(Some(record.header)) {
                parts.note(&header, record.topic, record.partition, header.input_offset);
            }
        }
        if parts.is_empty() {
            return Vec::new();
        }
        let begun = Begun { at_ns: unix_ns(made.since), of_input: made.since.is_some() };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        self.stage.spans(&parts, begun, topics, &mut given)
    }

    /// What the spans are of is acknowledged.
    pub fn end(&self, spans: Vec<Span>) {
        let now = unix_ns(None);
        for span in spans {
            let span = Span { end_time_unix_nano: now.max(span.start_time_unix_nano), ..span };
            if self.shared.queue.try_send(span).is_err() {
                metrics::TRACE_SPANS.with_label_values(&["queue_full"]).inc();
            }
        }
    }

    /// Records that were read since then, with partition and offset, are committed in the sink.
    pub fn sunk<'a>(&self, since: Option<Instant>, records: impl Iterator<Item = (i32, i64, &'a Header)>) {
        let mut parts = Parts::new(self.shared.sampling);
        for (partition, offset, header) in records {
            parts.note(header, 0, partition, Some(offset));
        }
        if parts.is_empty() {
            return;
        }
        let begun = Begun { at_ns: unix_ns(since), of_input: true };
        // No span hangs under these, so none has to be known by its place.
        self.end(self.stage.spans(&parts, begun, &[], &mut Given::default()));
    }
}

/// The time of day of a moment, or of now, in nanoseconds since 1970.
fn unix_ns(moment: Option<Instant>) -> u64 {
    let ago = moment.map(|moment| moment.elapsed().as_nanos()).unwrap_or_default();
    let now = u128::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago)).unwrap_or_default()
}
