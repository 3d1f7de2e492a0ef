//! The replication connection: the actor that reads the WAL stream and confirms what is durable.

use std::time::{Duration, Instant};

use actix::prelude::*;
use pgwire_replication::{Lsn as WireLsn, PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::metrics;
use shared::pg::TEXT_FORM;
use shared::position::Lsn;
use tokio::sync::watch;

use crate::settings::Settings;

/// Microseconds from 1970 to PostgreSQL's own epoch, 2000-01-01.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Messages of the stream, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WalBatch(pub Vec<ReplicationEvent>);

/// Opens the connection and waits before START_REPLICATION, so that the server can be asked who it is.
pub async fn connect(settings: &Settings) -> Result<ReplicationClient, Failure> {
    let source = &settings.source;
    let mut config = ReplicationConfig::new(
        &source.host,
        &source.user,
        source.password.reveal(),
        &source.database,
        &settings.slot.name,
        settings.slot.publication.as_str(),
    );
    config.port = source.port;
    config.start_lsn = WireLsn::from_u64(0); // the slot's confirmed position
    config.status_interval = Duration::from_millis(settings.slot.status_interval_ms);
    config.idle_wakeup_interval = Duration::from_millis(settings.slot.status_interval_ms);
    config.buffer_events = settings.slot.queue_messages_max;
    config.max_message_size = settings.slot.message_bytes_max;
    config.application_name = Some("tidemill cdc-ingest".into());
    config.options = Some(TEXT_FORM.map(|(name, value)| format!("-c {name}={value}")).join(" "));
    ReplicationClient::connect_gated(config).await.map_err(|error| failure(settings, error))
}

/// What an error of the stream means.
pub fn failure(settings: &Settings, error: PgWireError) -> Failure {
    let (kind, cure) = if error.is_auth() {
        (FailureKind::Settings, "correct user and password; the role needs REPLICATION and a line in pg_hba.conf")
    } else if error.is_server() {
        (FailureKind::Refused, "look at the server's log; the service tries again by itself")
    } else {
        (FailureKind::Unreachable, "the service connects again by itself and goes on behind the confirmed position")
    };
    Failure::new(kind, format!("the WAL stream of {} (slot {}) broke", settings.source.address(), settings.slot.name))
        .caused_by(error)
        .cure(cure)
}

/// Reads the stream in batches; the next is read when the worker has handled the last.
pub struct WalReader {
    pub settings: Settings,
    pub client: Option<ReplicationClient>,
    pub next: Option<Recipient<WalBatch>>,
    /// The position behind which everything is acknowledged.
    pub confirmed: Option<watch::Receiver<Lsn>>,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
}

impl Actor for WalReader {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let (Some(client), Some(next), Some(confirmed)) = (self.client.take(), self.next.take(), self.confirmed.take())
        else {
            return self.fate.end_broken("WAL reader");
        };
        let reading = Reading {
            settings: self.settings.clone(),
            client,
            next,
            confirmed,
            progress: self.progress.clone(),
            fate: self.fate.clone(),
            health: self.health.clone(),
            received: Lsn(0),
        };
        let fate = self.fate.clone();
        let read = async move {
            if let Err(failure) = reading.run().await {
                fate.end(failure);
            }
        };
        context.spawn(read.into_actor(self));
    }
}

struct Reading {
    settings: Settings,
    client: ReplicationClient,
    next: Recipient<WalBatch>,
    confirmed: watch::Receiver<Lsn>,
    progress: Progress,
    fate: Fate,
    health: Health,
    received: Lsn,
}

impl Reading {
    async fn run(mut self) -> Result<(), Failure> {
        loop {
            // In this order: the end, the wish to stop, what is durable, and only then more work.
            tokio::select! {
                biased;
                () = self.fate.ended() => return Ok(()),
                () = self.fate.draining() => return self.drain().await,
                Ok(()) = self.confirmed.changed() => self.confirm(),
                event = self.client.recv() => {
                    let batch = self.gather(event)?;
                    self.send(batch).await?;
                }
            }
        }
    }

    /// Takes in what is there already, up to the bounds of a batch.
    fn gather(
        &mut self,
        first: Result<Option<ReplicationEvent>, PgWireError>,
    ) -> Result<Vec<ReplicationEvent>, Failure> {
        let mut batch = Vec::new();
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(event) = next {
            let event = event
                .map_err(|error| failure(&self.settings, error))?
                .ok_or_else(|| Failure::new(FailureKind::Unreachable, "the server ended the WAL stream"))?;
            match &event {
                ReplicationEvent::XLogData { data, .. } => bytes += data.len(),
                ReplicationEvent::KeepAlive { wal_end: end, .. } | ReplicationEvent::Commit { end_lsn: end, .. } => {
                    self.received = self.received.max(Lsn(end.as_u64()));
                }
                _ => {}
            }
            let lag = self.received.0.saturating_sub(self.confirmed.borrow().0);
            metrics::SLOT_LAG_BYTES.set(i64::try_from(lag).unwrap_or(i64::MAX));
            batch.push(event);
            if batch.len() >= self.settings.kafka.batch_records_max || bytes >= self.settings.kafka.batch_bytes_max {
                break;
            }
            // Of a connection that has ended the next plain recv tells why.
            if !self.client.is_running() {
                break;
            }
            next = futures_util::FutureExt::now_or_never(self.client.recv());
        }
        Ok(batch)
    }

    async fn send(&self, batch: Vec<ReplicationEvent>) -> Result<(), Failure> {
        let since = Instant::now();
        let sent = self.next.send(WalBatch(batch)).await;
        metrics::WAITING_MICROSECONDS.inc_by(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        sent.map_err(|_| Failure::new(FailureKind::Broken, "the worker of the chain is gone"))
    }

    fn confirm(&mut self) {
        let confirmed = *self.confirmed.borrow_and_update();
        self.client.update_applied_lsn(WireLsn::from_u64(confirmed.0));
        metrics::COMMITS.with_label_values(&["ok"]).inc();
        let lag = self.received.0.saturating_sub(confirmed.0);
        metrics::SLOT_LAG_BYTES.set(i64::try_from(lag).unwrap_or(i64::MAX));
        self.health.detail(
            "slot",
            serde_json::json!({
                "name": self.settings.slot.name,
                "publication": self.settings.slot.publication,
                "received_lsn": self.received.to_string(),
                "confirmed_lsn": confirmed.to_string(),
                "lag_bytes": lag,
            }),
        );
    }

    /// Nothing more is taken in; what is in flight is acknowledged and confirmed.
    async fn drain(mut self) -> Result<(), Failure> {
        while !self.progress.is_drained() {
            if self.fate.has_ended() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.confirm();
        // The client sends the position with its next status; without it the next start reads, and skips, what was sent.
        let deadline = Instant::now() + 2 * Duration::from_millis(self.settings.slot.status_interval_ms);
        let told = |client: &ReplicationClient| client.metrics().last_applied_lsn().as_u64();
        let confirmed = self.confirmed.borrow().0;
        while told(&self.client) < confirmed && Instant::now() < deadline && !self.fate.has_ended() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Err(error) = self.client.shutdown().await {
            tracing::debug!(%error, "the WAL stream was not closed in an orderly way");
        }
        self.fate.finish();
        Ok(())
    }
}
