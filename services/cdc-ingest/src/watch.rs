//! The guardian: looks at slot and catalog of the source while the stream runs, on a connection of its own.
//!
//! It shows how far the slot is from being lost, sees tables that come, go, or change what the stream does not tell (privileges, the
//! publication, a DROP), and notices a server that has fallen silent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::*;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::publisher::TopicNames;
use shared::kafka::tail::{self, TailReader};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::metrics;
use shared::pg::TableName;
use shared::position::{Lsn, Version};
use sqlx::postgres::PgConnection;
use tokio::sync::Notify;

use crate::catalog::{self, Catalog, Meaning, SourceTable};
use crate::settings::Settings;
use crate::slot::{self, SlotLook, WalPast, minutes_left};
use crate::source;
use crate::told::Told;
use crate::visibility::DatabaseSnapshot;

/// What a look at a table brought, and the WAL position behind that look.
#[derive(Debug)]
pub struct TableLook {
    pub table: usize,
    /// The table, or why it cannot be carried and what to do.
    pub found: Result<SourceTable, String>,
    pub since: Lsn,
}

/// A table that came into the publication; its topic exists.
#[derive(Debug)]
pub struct Added {
    pub source: SourceTable,
    pub topic: String,
    /// Index of the topic in the publisher's list.
    pub topic_index: usize,
    /// What stands last in the topic, by partition.
    pub sent: HashMap<i32, Version>,
    pub since: Lsn,
}

/// What the worker hears after a look.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Looked {
    pub seen: Option<DatabaseSnapshot>,
    pub tables: Vec<TableLook>,
    pub added: Vec<Added>,
}

/// Tables that the worker wants to be looked at now.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    tables: Arc<Mutex<BTreeSet<usize>>>,
    called: Arc<Notify>,
}

impl Wanted {
    pub fn look_at(&self, table: usize) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).insert(table);
        self.called.notify_one();
    }

    fn take(&self) -> BTreeSet<usize> {
        std::mem::take(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A table as the guardian knows it. The worker has them under the same indexes.
#[derive(Debug, Clone)]
pub struct Watched {
    pub meaning: Meaning,
    pub topic: String,
    /// What the worker knows.
    pub told: Option<Result<SourceTable, String>>,
}

/// What does not change while estimates do.
fn essence(found: &Result<SourceTable, String>) -> Result<SourceTable, String> {
    found.clone().map(|table| SourceTable { rows_estimate: 0, ..table })
}

/// Born with the chain.
pub struct Watch {
    pub settings: Settings,
    pub watched: Vec<Watched>,
    pub topics: TopicNames,
    pub wanted: Wanted,
    /// What the server was told: the slot shows whether it has taken it.
    pub told: Told,
    pub worker: Option<Recipient<Looked>>,
    pub fate: Fate,
    pub health: Health,
}

impl Actor for Watch {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Some(worker) = self.worker.take() else { return self.fate.end_broken("guardian") };
        let looking = Looking {
            settings: self.settings.clone(),
            watched: std::mem::take(&mut self.watched),
            topics: self.topics.clone(),
            wanted: self.wanted.clone(),
            told: self.told.clone(),
            worker,
            fate: self.fate.clone(),
            health: self.health.clone(),
            connection: None,
            past: WalPast::default(),
            born: Instant::now(),
            heard: Instant::now(),
            idle_looks: 0,
            refused: BTreeMap::new(),
        };
        let fate = self.fate.clone();
        let look = async move {
            if let Err(failure) = looking.run().await {
                fate.end(failure);
            }
        };
        context.spawn(look.into_actor(self));
    }
}

struct Looking {
    settings: Settings,
    watched: Vec<Watched>,
    topics: TopicNames,
    wanted: Wanted,
    told: Told,
    worker: Recipient<Looked>,
    fate: Fate,
    health: Health,
    connection: Option<PgConnection>,
    past: WalPast,
    born: Instant,
    /// When the server answered last.
    heard: Instant,
    /// Looks in a row that found the slot without a holder.
    idle_looks: u32,
    /// Tables of the publication that are not captured, and why.
    refused: BTreeMap<String, String>,
}

/// So many looks in a row must find the slot let go: the first may fall between two connections.
const IDLE_LOOKS_MAX: u32 = 2;

impl Looking {
    async fn run(mut self) -> Result<(), Failure> {
        let interval = Duration::from_millis(self.settings.watch.interval_ms);
        let silence = Duration::from_millis(self.settings.watch.silence_max_ms);
        let (fate, called) = (self.fate.clone(), Arc::clone(&self.wanted.called));
        loop {
            tokio::select! {
                () = fate.ended() => return Ok(()),
                () = called.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            let looked = tokio::select! {
                () = fate.ended() => return Ok(()),
                looked = tokio::time::timeout(silence, self.look()) => looked,
            };
            match looked {
                Ok(Ok(looked)) => {
                    self.heard = Instant::now();
                    self.worker.do_send(looked);
                }
                Ok(Err(failure)) if failure.kind == FailureKind::Fenced => return Err(failure),
                // A connection that cannot be made is silence as well.
                Ok(Err(failure)) if failure.kind == FailureKind::Unreachable && self.heard.elapsed() >= silence => {
                    return Err(source::silent(&self.settings.source, silence).caused_by(failure));
                }
                // The stream has its own word on whether the server is there.
                Ok(Err(failure)) => {
                    tracing::warn!("the source could not be looked at: {}", failure.chain());
                    self.connection = None;
                }
                Err(_) => return Err(source::silent(&self.settings.source, silence)),
            }
        }
    }

    async fn look(&mut self) -> Result<Looked, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => source::connect(&self.settings.source, "tidemill watch").await?,
        };
        let wanted = self.wanted.take();
        let looked = self.look_with(&mut connection, &wanted).await;
        match looked {
            Ok(looked) => {
                self.connection = Some(connection);
                Ok(looked)
            }
            Err(failure) => {
                // They are still wanted.
                wanted.into_iter().for_each(|table| self.wanted.look_at(table));
                Err(failure)
            }
        }
    }

    async fn look_with(&mut self, connection: &mut PgConnection, wanted: &BTreeSet<usize>) -> Result<Looked, Failure> {
        let slot = slot::guard(connection, &self.settings.slot.name).await?;
        self.guard(slot.as_ref())?;
        let names: Vec<TableName> = self.watched.iter().map(|watched| watched.meaning.name.clone()).collect();
        let oids: Vec<u32> = self.watched.iter().filter_map(|watched| watched.meaning.oid).collect();
        let catalog = catalog::look(connection, &self.settings.slot.publication, &names, &oids).await?;
        let since = source::insert_position(connection).await?;
        let tables = self.changed(&catalog, wanted, since);
        let added = self.added(&catalog, since).await;
        let seen = slot.and_then(|slot| slot.snapshot.parse().ok());
        Ok(Looked { seen, tables, added })
    }

    /// Shows the slot; an error when the server has let go of it.
    fn guard(&mut self, slot: Option<&SlotLook>) -> Result<(), Failure> {
        let active = slot.is_some_and(|slot| slot.active);
        self.idle_looks = if active { 0 } else { self.idle_looks + 1 };
        if self.idle_looks > IDLE_LOOKS_MAX {
            return Err(Failure::new(
                FailureKind::Fenced,
                format!("slot {} is not held by our connection any more", self.settings.slot.name),
            )
            .cure("the service connects again by itself; the server's log says why it ended the connection"));
        }
        let Some(slot) = slot else { return Ok(()) };
        self.told.shown(slot.confirmed);
        let elapsed_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.past.push(elapsed_ms, slot.current);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let lag = slot.current.0.saturating_sub(slot.confirmed.0);
        let retained = slot.current.0.saturating_sub(slot.restart.0);
        let (lag_seconds, rate) = (self.past.lag_seconds(slot.confirmed), self.past.bytes_a_minute());
        let minutes = minutes_left(slot.safe_wal_bytes, rate);
        metrics::SLOT_LAG_BYTES.set(signed(lag));
        metrics::SLOT_LAG_SECONDS.set(signed(lag_seconds));
        metrics::SLOT_RETAINED_WAL_BYTES.set(signed(retained));
        metrics::SLOT_SAFE_WAL_BYTES.set(slot.safe_wal_bytes.unwrap_or(-1));
        metrics::SLOT_MINUTES_LEFT.set(minutes.unwrap_or(-1));
        self.health.detail(
            "slot",
            serde_json::json!({
                "name": self.settings.slot.name,
                "publication": self.settings.slot.publication,
                "wal_status": slot.wal_status,
                "confirmed_lsn": slot.confirmed.to_string(),
                "server_lsn": slot.current.to_string(),
                "lag_bytes": lag,
                "lag_seconds": lag_seconds,
                "retained_wal_bytes": retained,
                "safe_wal_bytes": slot.safe_wal_bytes,
                "wal_bytes_a_minute": rate,
                "minutes_left": minutes,
            }),
        );
        Ok(())
    }

    /// Tables that are not what the worker was told, and those that it asks for.
    fn changed(&mut self, catalog: &Catalog, wanted: &BTreeSet<usize>, since: Lsn) -> Vec<TableLook> {
        let mut looks = Vec::new();
        let meanings: Vec<Meaning> = self.watched.iter().map(|watched| watched.meaning.clone()).collect();
        let found = catalog.meant(&meanings).into_iter().map(|found| found.map_err(|failure| failure.chain()));
        for (table, (watched, found)) in self.watched.iter_mut().zip(found).enumerate() {
            let now = essence(&found);
            if watched.told.as_ref() == Some(&now) && !wanted.contains(&table) {
                continue;
            }
            watched.told = Some(now);
            if let Ok(source) = &found {
                watched.meaning.oid = Some(source.oid);
            }
            looks.push(TableLook { table, found, since });
        }
        looks
    }

    /// Published tables that nobody knows yet, with their topics made.
    async fn added(&mut self, catalog: &Catalog, since: Lsn) -> Vec<Added> {
        let known = |source: &SourceTable| {
            let is_meant =
                |known: &Meaning| known.oid == Some(source.oid) || known.by_name && known.name == source.name;
            self.watched.iter().any(|watched| is_meant(&watched.meaning))
        };
        let mut fresh: Vec<SourceTable> = catalog.published().filter(|source| !known(source)).cloned().collect();
        // Of two that would share a topic the older one has it, whatever the order of the answer.
        fresh.sort_by_key(|source| source.oid);
        let (mut added, mut refused) = (Vec::new(), BTreeMap::new());
        for source in fresh {
            let Some(topic) = self.settings.other_tables.topic_of(&source.name) else { continue };
            match self.add(catalog, &source, &topic).await {
                Ok((topic_index, sent)) => {
                    self.watched.push(Watched {
                        meaning: Meaning { name: source.name.clone(), by_name: false, oid: Some(source.oid) },
                        topic: topic.clone(),
                        told: Some(essence(&Ok(source.clone()))),
                    });
                    added.push(Added { source, topic, topic_index, sent, since });
                }
                Err(failure) => {
                    refused.insert(source.name.to_string(), failure.chain());
                }
            }
        }
        self.report_refused(refused);
        added
    }

    /// Says once what is not captured, and shows it for as long as it is so.
    fn report_refused(&mut self, refused: BTreeMap<String, String>) {
        if refused == self.refused {
            return;
        }
        for (table, why) in refused.iter().filter(|(table, why)| self.refused.get(*table) != Some(why)) {
            tracing::error!(table, "a table of the publication is not captured: {why}");
        }
        self.health.detail("not_captured", &refused);
        self.refused = refused;
    }

    async fn add(
        &self,
        catalog: &Catalog,
        source: &SourceTable,
        topic: &str,
    ) -> Result<(usize, HashMap<i32, Version>), Failure> {
        catalog.table_by_oid(&source.name, source.oid)?;
        if let Some(other) = self.watched.iter().find(|watched| watched.topic == topic) {
            return Err(Failure::new(
                FailureKind::Settings,
                format!("its topic {topic} is that of table {}", other.meaning.name),
            )
            .cure("name the table under [tables], with a topic of its own"));
        }
        let kafka = &self.settings.kafka;
        let spec = TopicSpec { name: topic.to_owned(), partitions: kafka.topics.partitions, compacted: true };
        Topics::connect(kafka, "cdc-ingest")?.ensure(&spec).await?;
        let sent = tails(&self.settings, topic.to_owned(), &self.fate).await?;
        Ok((self.topics.add(topic), sent))
    }
}

/// The version of the last record of each partition of a topic.
async fn tails(settings: &Settings, topic: String, fate: &Fate) -> Result<HashMap<i32, Version>, Failure> {
    let partitions = settings.kafka.topics.partitions;
    let read = move |reader: &TailReader| {
        let headers = reader.last_headers(&topic, 0..partitions)?;
        Ok(headers.into_iter().map(|(partition, header)| (partition, header.version)).collect())
    };
    tail::read_in_task(&settings.kafka, "cdc-ingest", fate, read).await
}
