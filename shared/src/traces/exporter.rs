//! Sends spans to a collector: OTLP over HTTP, in its binary form. A task beside the data's path; no failure of it ends anything.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::settings::{Endpoint, TracesConfig};
use super::span::text;
use crate::failure::{Failure, FailureKind};
use crate::metrics;
use crate::page::{self, Content};

const OTLP: &str = "application/x-protobuf";

/// Whose spans they are.
#[derive(Debug, Clone)]
pub struct Who {
    pub service: &'static str,
    pub version: &'static str,
    pub instance: String,
}

/// The export as it runs; where traces are off there is none.
#[derive(Default)]
pub struct Exporting {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Exporting {
    /// Sends what is there, within the time of one request.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(task) = self.task {
            // A task that panicked has said so.
            let _ = task.await;
        }
    }
}

pub(super) struct Exporter {
    endpoint: Endpoint,
    config: TracesConfig,
    who: Who,
    spans: mpsc::Receiver<Span>,
    /// The next request.
    gathered: Vec<Span>,
    stop: CancellationToken,
    /// The collector takes nothing: it was told of, and is told of no more.
    is_out: bool,
}

/// Why a request was not taken.
struct Refusal {
    /// Another try may help.
    is_passing: bool,
    failure: Failure,
}

impl Exporter {
    pub fn new(endpoint: Endpoint, config: &TracesConfig, who: &Who, spans: mpsc::Receiver<Span>) -> Self {
        let (config, who) = (config.clone(), who.clone());
        let (gathered, stop) = (Vec::new(), CancellationToken::new());
        Exporter { endpoint, config, who, spans, gathered, stop, is_out: false }
    }

    pub fn start(self) -> Exporting {
        let stop = self.stop.clone();
        Exporting { stop, task: Some(tokio::spawn(self.run())) }
    }

    async fn run(mut self) {
        let stop = self.stop.clone();
        while stop.run_until_cancelled(self.gather()).await.is_some() {
            self.export().await;
        }
        let bound = Duration::from_millis(self.config.timeout_ms);
        let rest = timeout(bound, async {
            self.take();
            while !self.gathered.is_empty() {
                self.export().await;
                self.take();
            }
        });
        if rest.await.is_err() {
            tracing::warn!("the last spans could not be sent within {} ms", bound.as_millis());
        }
    }

    /// Waits for a span, and for what comes until the next request is due. What it has is kept where it is given up.
    async fn gather(&mut self) {
        if self.gathered.is_empty() {
            match self.spans.recv().await {
                Some(first) => self.gathered.push(first),
                // Nobody is left to tell of anything.
                None => std::future::pending().await,
            }
        }
        if self.gathered.len() + self.spans.len() < self.config.batch_spans_max {
            sleep(Duration::from_millis(self.config.export_interval_ms)).await;
        }
        self.take();
    }

    /// Fills the request from what waits.
    fn take(&mut self) {
        while self.gathered.len() < self.config.batch_spans_max
            && let Ok(span) = self.spans.try_recv()
        {
            self.gathered.push(span);
        }
    }

    /// Sends a request until it is taken, refused for good, or tried often enough.
    async fn export(&mut self) {
        let spans = std::mem::take(&mut self.gathered);
        let count = spans.len() as u64;
        let body = request(&self.who, spans).encode_to_vec();
        let mut wait = Duration::from_millis(self.config.export_interval_ms);
        for attempt in 1..=self.config.attempts_max {
            let refusal = match self.post(&body).await {
                Ok(partial) => return self.taken(count, &partial),
                Err(refusal) => refusal,
            };
            metrics::TRACE_EXPORT_FAILURES.inc();
            self.say(&refusal.failure);
            // Whoever stops tries once.
            let is_last = attempt == self.config.attempts_max || self.stop.is_cancelled();
            if is_last || !refusal.is_passing {
                break;
            }
            self.stop.run_until_cancelled(sleep(wait)).await;
            wait = wait.saturating_mul(2);
        }
        metrics::TRACE_SPANS.with_label_values(&["given_up"]).inc_by(count);
    }

    async fn post(&self, body: &[u8]) -> Result<ExportTracePartialSuccess, Refusal> {
        let Endpoint { server, path } = &self.endpoint;
        let within = Duration::from_millis(self.config.timeout_ms);
        let answer = page::send(server, path, Content { kind: OTLP, bytes: body }, within)
            .await
            .map_err(|failure| Refusal { is_passing: true, failure })?;
        if answer.status != 200 {
            let what = format!("{server}{path} answers {} to spans", answer.status);
            let failure = Failure::new(FailureKind::Refused, what);
            return Err(Refusal { is_passing: [429, 502, 503, 504].contains(&answer.status), failure });
        }
        // Who answers with something else has taken the spans all the same.
        let response = ExportTraceServiceResponse::decode(answer.body.as_slice()).unwrap_or_default();
        Ok(response.partial_success.unwrap_or_default())
    }

    fn taken(&mut self, count: u64, partial: &ExportTracePartialSuccess) {
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default().min(count);
        metrics::TRACE_SPANS.with_label_values(&["exported"]).inc_by(count - rejected);
        metrics::TRACE_SPANS.with_label_values(&["rejected"]).inc_by(rejected);
        if rejected > 0 {
            let what = format!("the collector rejects {rejected} of {count} spans: {}", partial.error_message);
            return self.say(&Failure::new(FailureKind::Refused, what));
        }
        if std::mem::take(&mut self.is_out) {
            tracing::info!("the collector of traces takes spans again");
        }
    }

    /// Once in an outage.
    fn say(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.is_out, true) {
            tracing::warn!("traces cannot be sent, and spans are lost while that lasts: {}", failure.chain());
        }
    }
}

/// What a service tells of itself, and its spans.
fn request(who: &Who, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let attributes = vec![
        text("service.namespace", "tidemill"),
        text("service.name", who.service),
        text("service.version", who.version),
        text("service.instance.id", &who.instance),
    ];
    let scope = InstrumentationScope { name: "tidemill".into(), version: who.version.into(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }];
    let resource = Resource { attributes, ..Default::default() };
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() }];
    ExportTraceServiceRequest { resource_spans }
}
