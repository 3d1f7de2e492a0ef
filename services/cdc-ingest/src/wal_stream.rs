//! The replication connection: the actor that reads the WAL stream and confirms what is durable.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;
use pgwire_replication::{
    IdentifySystem, Lsn as WireLsn, PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent,
    SslMode as WireSslMode, TlsConfig,
};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::progress::Progress;
use shared::kafka::{KafkaConfig, distance};
use shared::metrics;
use shared::pg::tls::{SslMode, refused_connection};
use shared::pg::{PostgresConfig, TEXT_FORM};
use shared::position::Lsn;
use tokio::sync::watch;

use crate::settings::Settings;
use crate::source::CAPTURE_FORM;
use crate::told::Told;

/// Microseconds from 1970 to PostgreSQL's own epoch, 2000-01-01.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The name under which this process shows up at the server, so that it can tell a broken connection of its own from another instance.
pub static APPLICATION: LazyLock<String> = LazyLock::new(|| {
    let born = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("tidemill cdc-ingest {}-{:x}", std::process::id(), born.as_micros())
});

/// Messages of the stream, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WalBatch {
    pub events: Vec<ReplicationEvent>,
    /// When the first of them came.
    pub since: Instant,
}

/// Please write into the state that the server may be told this position.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Remember(pub Lsn);

/// Opens the connection and waits before START_REPLICATION, so that the server can be asked who it is.
pub async fn connect(settings: &Settings) -> Result<(ReplicationClient, IdentifySystem), Failure> {
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
    config.tls = tls(source);
    config.start_lsn = WireLsn::from_u64(0); // the slot's confirmed position
    config.status_interval = Duration::from_millis(settings.slot.status_interval_ms);
    config.idle_wakeup_interval = Duration::from_millis(settings.slot.status_interval_ms);
    config.buffer_events = settings.slot.queue_messages_max;
    config.max_message_size = settings.slot.message_bytes_max;
    config.application_name = Some(APPLICATION.clone());
    config.options = Some(session_options(settings));
    let identified = async {
        let mut client = ReplicationClient::connect_gated(config).await?;
        let identity = client.identify_system().await?;
        Ok((client, identity))
    };
    match tokio::time::timeout(Duration::from_millis(source.connect_timeout_ms), identified).await {
        Ok(identified) => identified.map_err(|error| failure(settings, error)),
        Err(_) => Err(Failure::new(
            FailureKind::Unreachable,
            format!("PostgreSQL at {} did not answer within {} ms", source.address(), source.connect_timeout_ms),
        )),
    }
}

fn tls(source: &PostgresConfig) -> TlsConfig {
    let file = |path: &str| (!path.is_empty()).then(|| path.into());
    TlsConfig {
        mode: match source.sslmode {
            SslMode::Disable => WireSslMode::Disable,
            SslMode::Prefer => WireSslMode::Prefer,
            SslMode::Require => WireSslMode::Require,
            SslMode::VerifyCa => WireSslMode::VerifyCa,
            SslMode::VerifyFull => WireSslMode::VerifyFull,
        },
        ca_pem_path: file(&source.ca_file),
        // Said again, or an address in place of a name would be refused: a certificate may have one.
        sni_hostname: Some(source.host.clone()),
        client_cert_pem_path: file(&source.certificate_file),
        client_key_pem_path: file(&source.key_file),
    }
}

fn session_options(settings: &Settings) -> String {
    let form = TEXT_FORM.iter().chain(&CAPTURE_FORM).map(|(name, value)| format!("-c {name}={value}"));
    let timeout = format!("-c wal_sender_timeout={}", settings.slot.server_timeout_ms);
    form.chain([timeout]).collect::<Vec<_>>().join(" ")
}

/// What an error of the stream means.
pub fn failure(settings: &Settings, error: PgWireError) -> Failure {
    let (kind, cure) = if let Some(meaning) = refused_connection(&error.to_string()) {
        meaning
    } else if error.is_auth() {
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

/// What is durable, as the publisher says it.
#[derive(Debug, Clone)]
pub struct Durable {
    /// The position behind which everything is acknowledged.
    pub confirmed: watch::Receiver<Lsn>,
    /// The position that the server may be told: it stands in the state.
    pub remembered: watch::Receiver<Lsn>,
}

/// Reads the stream in batches; the next is read when the worker has handled the last.
pub struct WalReader {
    pub settings: Settings,
    pub client: Option<ReplicationClient>,
    pub next: Option<Recipient<WalBatch>>,
    /// Where a position is written down before the server is told.
    pub memory: Option<Recipient<Remember>>,
    pub durable: Option<Durable>,
    pub told: Told,
    pub progress: Progress,
    pub fate: Fate,
}

impl Actor for WalReader {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let (Some(client), Some(next), Some(memory), Some(durable)) =
            (self.client.take(), self.next.take(), self.memory.take(), self.durable.take())
        else {
            return self.fate.end_broken("WAL reader");
        };
        let reading = Reading {
            settings: self.settings.clone(),
            client,
            next,
            memory,
            durable,
            told: self.told.clone(),
            asked: Lsn(0),
            next_ask: Instant::now(),
            next_batch: Instant::now(),
            pieces: Pieces::default(),
            progress: self.progress.clone(),
            fate: self.fate.clone(),
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

/// The first event of a batch that begins no sooner.
async fn event_from(begin: Instant, client: &mut ReplicationClient) -> Result<Option<ReplicationEvent>, PgWireError> {
    tokio::time::sleep_until(begin.into()).await;
    client.recv().await
}

/// So many pieces of a transaction go on at once. A small one comes in fewer.
const PIECES_AT_ONCE: u32 = 4;

/// Which batches are followed at a distance: many small transactions then become one, and a large one that trickles in does not become a
/// batch for each of its rows. The few pieces of a small one are not held up.
#[derive(Debug, Default)]
struct Pieces(u32);

impl Pieces {
    /// From this batch to the next; `None` where that follows at once.
    fn distance_after(&mut self, gathered: &Gathered, config: &KafkaConfig) -> Option<Duration> {
        let ends_a_transaction = |event: &ReplicationEvent| matches!(event, ReplicationEvent::Commit { .. });
        let ends_one = gathered.batch.iter().any(ends_a_transaction);
        self.0 = if ends_one || gathered.is_full { 0 } else { self.0.saturating_add(1) };
        let is_row = |event: &&ReplicationEvent| matches!(event, ReplicationEvent::XLogData { .. });
        let is_followed_at_once = gathered.is_full || (!ends_one && self.0 < PIECES_AT_ONCE);
        if is_followed_at_once { None } else { distance::after(gathered.batch.iter().filter(is_row).count(), config) }
    }
}

/// What was there at once.
struct Gathered {
    batch: Vec<ReplicationEvent>,
    /// A bound was reached: there may be more.
    is_full: bool,
}

struct Reading {
    settings: Settings,
    client: ReplicationClient,
    next: Recipient<WalBatch>,
    memory: Recipient<Remember>,
    durable: Durable,
    told: Told,
    /// The last position that was to be written down, and when the next may be.
    asked: Lsn,
    next_ask: Instant,
    /// When the next batch begins at the soonest.
    next_batch: Instant,
    pieces: Pieces,
    progress: Progress,
    fate: Fate,
}

impl Reading {
    async fn run(mut self) -> Result<(), Failure> {
        loop {
            let asks = self.confirmed() > self.asked;
            // In this order: the end, the wish to stop, what is durable, and only then more work.
            tokio::select! {
                biased;
                () = self.fate.ended() => return Ok(()),
                () = self.fate.draining() => return self.drain().await,
                Ok(()) = self.durable.remembered.changed() => self.tell(),
                () = tokio::time::sleep_until(self.next_ask.into()), if asks => self.remember(),
                Ok(()) = self.durable.confirmed.changed(), if !asks => {}
                event = event_from(self.next_batch, &mut self.client) => {
                    let begun = Instant::now();
                    let gathered = self.gather(event)?;
                    if let Some(distance) = self.pieces.distance_after(&gathered, &self.settings.kafka) {
                        self.next_batch = begun + distance;
                    }
                    self.send(gathered.batch, begun).await?;
                }
            }
        }
    }

    fn confirmed(&self) -> Lsn {
        *self.durable.confirmed.borrow()
    }

    /// Has the confirmed position written down, at most once in a status interval.
    fn remember(&mut self) {
        self.asked = *self.durable.confirmed.borrow_and_update();
        self.next_ask = Instant::now() + Duration::from_millis(self.settings.slot.status_interval_ms);
        self.memory.do_send(Remember(self.asked));
    }

    /// Takes in what is there already, up to the bounds of a batch.
    fn gather(&mut self, first: Result<Option<ReplicationEvent>, PgWireError>) -> Result<Gathered, Failure> {
        let mut batch = Vec::new();
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(event) = next {
            let event = event
                .map_err(|error| failure(&self.settings, error))?
                .ok_or_else(|| Failure::new(FailureKind::Unreachable, "the server ended the WAL stream"))?;
            if let ReplicationEvent::XLogData { data, .. } = &event {
                bytes += data.len();
            }
            batch.push(event);
            if batch.len() >= self.settings.kafka.batch_records_max || bytes >= self.settings.kafka.batch_bytes_max {
                return Ok(Gathered { batch, is_full: true });
            }
            // Of a connection that has ended the next plain recv tells why.
            if !self.client.is_running() {
                break;
            }
            // Within tokio's budget of a task it would seem after some hundred events that there are no more.
            next = futures_util::FutureExt::now_or_never(tokio::task::unconstrained(self.client.recv()));
        }
        Ok(Gathered { batch, is_full: false })
    }

    async fn send(&self, events: Vec<ReplicationEvent>, since: Instant) -> Result<(), Failure> {
        let asked = Instant::now();
        let sent = self.next.send(WalBatch { events, since }).await;
        metrics::WAITING_MICROSECONDS.inc_by(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        sent.map_err(|_| Failure::new(FailureKind::Broken, "the worker of the chain is gone"))
    }

    /// Tells the server what it may forget.
    fn tell(&mut self) {
        let told = *self.durable.remembered.borrow_and_update();
        self.client.update_applied_lsn(WireLsn::from_u64(told.0));
        self.told.tell(told);
    }

    /// Nothing more is taken in; what is in flight is acknowledged and confirmed.
    async fn drain(mut self) -> Result<(), Failure> {
        while !self.progress.is_drained() {
            if self.fate.has_ended() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let deadline = Instant::now() + 2 * Duration::from_millis(self.settings.slot.status_interval_ms);
        let confirmed = self.confirmed();
        if confirmed > self.asked {
            self.remember();
        }
        while *self.durable.remembered.borrow() < confirmed && Instant::now() < deadline && !self.fate.has_ended() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.tell();
        // The client sends the position with its next status; without it the next start reads, and skips, what was sent.
        let told = |client: &ReplicationClient| client.metrics().last_applied_lsn().as_u64();
        let remembered = self.durable.remembered.borrow().0;
        while told(&self.client) < remembered && Instant::now() < deadline && !self.fate.has_ended() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.told.forget();
        if let Err(error) = self.client.shutdown().await {
            tracing::debug!(%error, "the WAL stream was not closed in an orderly way");
        }
        self.fate.finish();
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.told.ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_behind_the_end_of_a_transaction_keeps_its_distance() {
        let (lsn, commit_time_micros) = (WireLsn::from_u64(1), 0);
        let begin = || ReplicationEvent::Begin { final_lsn: lsn, xid: 1, commit_time_micros };
        let commit = || ReplicationEvent::Commit { lsn, end_lsn: lsn, commit_time_micros };
        let config = KafkaConfig::default();
        let keeps = |batch| Pieces::default().distance_after(&Gathered { batch, is_full: false }, &config).is_some();
        assert!(!keeps(vec![]) && !keeps(vec![begin()]));
        assert!(keeps(vec![begin(), commit()]));
        assert!(keeps(vec![commit(), begin()]), "also where the next one has begun already");
    }

    #[test]
    fn a_transaction_that_trickles_in_keeps_its_distance_too() {
        let lsn = WireLsn::from_u64(1);
        let row = |is_full| Gathered {
            batch: vec![ReplicationEvent::Begin { final_lsn: lsn, xid: 1, commit_time_micros: 0 }],
            is_full,
        };
        let (config, mut pieces) = (KafkaConfig::default(), Pieces::default());
        let mut keeps = |is_full| pieces.distance_after(&row(is_full), &config).is_some();
        assert_eq!([false; 6].map(&mut keeps), [false, false, false, true, true, true]);
        assert!(!keeps(true), "a backlog is not held up");
        assert!(!keeps(false), "and the pieces are counted from there");
    }
}
