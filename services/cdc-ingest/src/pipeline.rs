//! The chain of cdc-ingest: checked, built sink first, started where it stopped.

use std::time::{Duration, SystemTime};

use actix::ArbiterHandle;
use actix::prelude::*;
use pgwire_replication::{IdentifySystem, ReplicationClient};
use shared::batch::Outgoing;
use shared::check::Finding;
use shared::control::Control;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::topics::Topics;
use shared::metrics;
use shared::position::Lsn;
use shared::run::{Chain, Service, Surroundings};
use sqlx::postgres::PgConnection;
use tokio::sync::oneshot;

use crate::capture::copying::Paces;
use crate::capture::{Capture, Commanded, Core, SNAPSHOT_LATCH, STREAM_LATCH, Standing, Table};
use crate::catalog::{Meaning, SourceTable};
use crate::check;
use crate::copies::Copies;
use crate::found::{self, Beginning, Found, FoundTable, beginning};
use crate::outlet::Outlet;
use crate::settings::Settings;
use crate::slot::{self, Slot};
use crate::snapshot::ChunkReader;
use crate::source;
use crate::start::{Plan, Server, first_epoch, plan};
use crate::state::{KeyRange, SlotState, TableState};
use crate::told::Told;
use crate::transaction::{Assembler, Before, Captured};
use crate::wal_stream::{self, WalReader};
use crate::watch::{Wanted, Watch, Watched};
use crate::witness::Witnesses;

/// The service.
pub struct CdcIngest;

impl Service for CdcIngest {
    const NAME: &'static str = "cdc-ingest";
    const ABOUT: &'static str =
        "Captures tables of a PostgreSQL database into Kafka topics: a chunked snapshot, then the WAL stream";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let mut findings = Vec::new();
        match source::connect(&config.source, "tidemill check").await {
            Ok(mut connection) => check::look(&mut connection, config, &mut findings).await,
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => {
                let tables = config.tables.values().map(|table| &table.topic);
                for spec in tables.map(|topic| found::table_topic(config, topic)).chain([found::state_topic(config)]) {
                    findings.push(topics.finding(&spec).await);
                }
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        findings
    }

    async fn start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
        tokio::select! {
            started = open_and_start(config, surroundings) => started,
            silent = source::until_silent(&config.source, &config.watch) => Err(silent),
        }
    }
}

async fn open_and_start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
    let health = &surroundings.health;
    let outlet = Outlet::open(config, &surroundings)?;
    let mut connection = source::connect(&config.source, "tidemill cdc-ingest").await?;
    source::is_primary(&mut connection).await?;
    source::wal_level(&mut connection).await?;
    source::replication_privilege(&mut connection).await?;
    // A standby waits for nothing but the slot.
    let slot = slot::free(&mut connection, &config.slot, health).await?;
    health.hold(STREAM_LATCH, "the WAL stream");
    health.hold(SNAPSHOT_LATCH, "the copy of the tables");
    let (client, identity) = connect_in(&surroundings.arbiter, config).await?;
    let mut opened = Opened { connection, client, identity, slot };
    // The topics are read once nobody else writes to them: who holds the slot is alone.
    if opened.slot.as_ref().is_some_and(|slot| slot.lost.is_none()) {
        opened.hold_slot(config).await?;
    }
    let found = found::find(config, &mut opened.connection, &surroundings.fate).await?;
    start_chain(config, opened, found, outlet, surroundings).await
}

/// Connects in the arbiter: the task of the connection runs in the thread of the actors that read it, and no message of the stream wakes
/// another thread.
async fn connect_in(
    arbiter: &ArbiterHandle,
    config: &Settings,
) -> Result<(ReplicationClient, IdentifySystem), Failure> {
    let (sender, receiver) = oneshot::channel();
    let config = config.clone();
    arbiter.spawn(async move {
        let _ = sender.send(wal_stream::connect(&config).await);
    });
    receiver.await.map_err(|_| Failure::new(FailureKind::Broken, "the arbiter of the chain is gone"))?
}

/// The source, ready to be streamed from.
struct Opened {
    connection: PgConnection,
    client: ReplicationClient,
    identity: IdentifySystem,
    slot: Option<Slot>,
}

impl Opened {
    /// Begins to stream, which fails when another process was quicker. Where the slot stands is looked up again: between the first look
    /// and now another one may have read on.
    async fn hold_slot(&mut self, config: &Settings) -> Result<(), Failure> {
        self.client.start().await.map_err(|error| wal_stream::failure(config, error))?;
        self.client.wait_started().await.map_err(|error| wal_stream::failure(config, error))?;
        self.slot = slot::look(&mut self.connection, &config.slot.name).await?;
        Ok(())
    }
}

async fn start_chain(
    config: &Settings,
    mut opened: Opened,
    found: Found,
    Outlet { publisher, topics, progress, durable, worker: worker_of_acks }: Outlet,
    Surroundings { fate, health, arbiter, control, .. }: Surroundings,
) -> Result<Chain, Failure> {
    let flushed = source::flush_position(&mut opened.connection).await?;
    let identity = &opened.identity;
    let server = Server { system_id: identity.system_id.clone(), timeline: identity.timeline, flushed };
    let highest = found.tails.values().map(|header| header.version).max().unwrap_or_default();
    let first = first_epoch(SystemTime::now());
    let plan = plan(found.state.slot.as_ref(), opened.slot.as_ref(), &server, highest, first);
    if let Some(why) = &plan.interrupted {
        metrics::SLOT_INTERRUPTIONS.inc();
        tracing::warn!(epoch = plan.epoch, "{why}: every table is read again, and rows that are gone get tombstones");
    }

    // The tables' topics have the tables' indexes.
    for table in &found.tables {
        topics.add(&table.topic);
    }
    let state_topic = topics.add(&config.state.topic);
    let wanted = Wanted::default();
    let watched = watched(&found.tables);
    let confirmed_at_server = opened.slot.as_ref().and_then(|slot| slot.confirmed).unwrap_or_default();
    let mut core = Core {
        settings: config.clone(),
        assembler: assembler(config, &found, &plan, confirmed_at_server),
        copies: Copies::new(config.snapshot.tables_at_once),
        paces: Paces::default(),
        acked: Default::default(),
        tables: Vec::new(),
        publisher,
        readers: Vec::new(),
        wanted: wanted.clone(),
        slot: slot_state(&found, &plan, &server),
        state_topic,
        progress: progress.clone(),
        fate: fate.clone(),
        health: health.clone(),
        connection: None,
        goal: Lsn(0),
        out: Outgoing::default(),
    };
    // The epoch is durable before the slot is made: a crash between the two leads to a higher epoch, never to a silent gap.
    core.record_slot(None).await?;
    core.drain().await?;
    if plan.drop_slot {
        slot::drop(&mut opened.connection, &config.slot.name).await?;
    }
    if plan.make_slot {
        let made = slot::make(&mut opened.connection, &config.slot).await?;
        core.slot.confirmed = Some(made);
        core.record_slot(None).await?;
        opened.hold_slot(config).await?;
    }
    core.enter_tables(found.tables, found.since).await?;
    core.goal = source::flush_position(&mut opened.connection).await?;
    health.detail("epoch", plan.epoch);

    let worker = start_worker(core, &arbiter, config, &fate);
    let _ = worker_of_acks.set(worker.clone().recipient());
    obey(&arbiter, &control, worker.clone());
    let (reader_fate, reader_worker, told) = (fate.clone(), worker.clone(), Told::default());
    let reader = WalReader {
        settings: config.clone(),
        client: Some(opened.client),
        next: Some(reader_worker.clone().recipient()),
        memory: Some(reader_worker.recipient()),
        durable: Some(durable),
        told: told.clone(),
        progress,
        fate: reader_fate,
    };
    WalReader::start_in_arbiter(&arbiter, |_| reader);
    let worker = Some(worker.recipient());
    let watch = Watch { settings: config.clone(), watched, topics, wanted, told, worker, fate, health };
    Watch::start_in_arbiter(&arbiter, |_| watch);
    Ok(Chain { threads: Vec::new() })
}

fn slot_state(found: &Found, plan: &Plan, server: &Server) -> SlotState {
    let fresh = SlotState::new(plan.epoch, &server.system_id, server.timeline);
    match &found.state.slot {
        Some(known) if known.epoch == plan.epoch => SlotState { timeline: server.timeline, ..known.clone() },
        _ => fresh,
    }
}

fn assembler(config: &Settings, found: &Found, plan: &Plan, confirmed: Lsn) -> Assembler {
    let captured = found.tables.iter().enumerate().map(|(index, table)| {
        let source = table.found.as_ref().ok();
        Captured {
            oid: source.map_or(0, |source| source.oid),
            name: source.map_or_else(|| table.meaning.name.clone(), |source| source.name.clone()),
            topic: index,
            partitions: config.kafka.topics.partitions,
            key: source.map(SourceTable::key_names).unwrap_or_default(),
            carried: source.is_some(),
            since: Lsn(0),
        }
    });
    let known = found.state.slot.as_ref().filter(|known| known.epoch == plan.epoch);
    let noted = known.and_then(|known| known.streamed);
    let before = Before {
        epoch: plan.epoch,
        sent: found.tails.iter().map(|(place, header)| (*place, header.version)).collect(),
        unseen: known.map(|known| known.unseen.clone()).unwrap_or_default(),
        witnesses: Witnesses::new(found.tails.values(), noted, plan.epoch, confirmed),
    };
    Assembler::new(captured.collect(), before, config.bounds())
}

fn watched(tables: &[FoundTable]) -> Vec<Watched> {
    let watched = |table: &FoundTable| {
        let oid = table.found.as_ref().ok().map(|source| source.oid).or(table.meaning.oid);
        Watched { meaning: Meaning { oid, ..table.meaning.clone() }, topic: table.topic.clone(), told: None }
    };
    tables.iter().map(watched).collect()
}

impl Core {
    /// Enters the tables that were found, each with the copy that it needs.
    async fn enter_tables(&mut self, tables: Vec<FoundTable>, since: Lsn) -> Result<(), Failure> {
        let epoch = self.slot.epoch;
        for (index, table) in tables.into_iter().enumerate() {
            let FoundTable { meaning, topic, found, known } = table;
            let state_name = meaning.name.to_string();
            let (source, refused) = match found {
                Ok(source) => (Some(source), None),
                Err(failure) => (None, Some(failure)),
            };
            let standing = if source.is_some() { Standing::Carried } else { Standing::Refused };
            let beginning = source.as_ref().map(|source| beginning(known.as_ref(), source, epoch));
            let known = known.filter(|known| known.epoch == epoch);
            let state = known.clone().unwrap_or_else(|| TableState { epoch, ..TableState::default() });
            let state = TableState { topic: topic.clone(), ..state };
            let state = source.iter().fold(state, |state, source| TableState { stopped: None, ..state.of(source) });
            let is_news = known.as_ref() != Some(&state);
            self.copies.add(state, source.is_some());
            self.tables.push(Table { state_name, topic, source: source.clone(), standing });
            match (source, beginning, refused) {
                (Some(source), Some(Beginning::Anew(why)), _) => {
                    tracing::info!(table = self.table_name(index), "the table is copied: {why}");
                    self.assembler.settle(index, source.oid, source.name.clone(), source.key_names(), since);
                    self.begin_copy(index, KeyRange::default())?;
                }
                (None, _, Some(failure)) => self.stop_table(index, Standing::Refused, failure.chain())?,
                _ if is_news => self.record_table(index)?,
                _ => {}
            }
        }
        self.send().await
    }
}

/// The worker and the chunk readers know each other: the worker asks, a reader answers.
fn start_worker(mut core: Core, arbiter: &ArbiterHandle, config: &Settings, fate: &Fate) -> Addr<Capture> {
    let (settings, fate) = (config.clone(), fate.clone());
    Capture::start_in_arbiter(arbiter, move |context| {
        let reader = |_| ChunkReader::new(settings.clone(), context.address().recipient(), fate.clone()).start();
        core.readers = (0..settings.snapshot.tables_at_once).map(reader).collect();
        core.report_copies();
        core.take_chunks(Duration::ZERO);
        Capture::new(core)
    })
}

/// Hands commands from HTTP to the worker for as long as the generation lives.
fn obey(arbiter: &ArbiterHandle, control: &Control, worker: Addr<Capture>) {
    let mut commands = control.attach();
    arbiter.spawn(async move {
        while let Some(command) = commands.recv().await {
            if worker.send(Commanded(command)).await.is_err() {
                return;
            }
        }
    });
}
