//! The chain of cdc-ingest: checked, built sink first, started where it stopped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use actix::ArbiterHandle;
use actix::prelude::*;
use shared::batch::Outgoing;
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup};
use shared::kafka::tail::TailReader;
use shared::kafka::topics::{TopicSpec, Topics};
use shared::pg::refused;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};
use shared::run::{Chain, Service, Surroundings};
use sqlx::postgres::PgConnection;
use tokio::sync::watch;

use crate::capture::{Capture, CapturePublisher, ChunkAcked, Copying, Core, SNAPSHOT_LATCH, STREAM_LATCH, on_acked};
use crate::settings::Settings;
use crate::snapshot::ChunkReader;
use crate::source::{self, SourceTable};
use crate::start::{Plan, Server, plan};
use crate::state::{CaptureState, SlotState, TableState, slot_record};
use crate::transaction::{Assembler, Captured};
use crate::wal_stream::{self, WalReader};

/// The service.
pub struct CdcIngest;

impl Service for CdcIngest {
    const NAME: &'static str = "cdc-ingest";
    const ABOUT: &'static str =
        "Captures tables of a PostgreSQL database into Kafka topics: a chunked snapshot, then the WAL stream";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let mut findings = Vec::new();
        match config.source.connect("tidemill check").await {
            Ok(mut connection) => check_source(&mut connection, config, &mut findings).await,
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => {
                for spec in topic_specs(config) {
                    findings.push(topics.finding(&spec).await);
                }
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        findings
    }

    async fn start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
        surroundings.health.hold(STREAM_LATCH, "the WAL stream");
        surroundings.health.hold(SNAPSHOT_LATCH, "the first copy of the tables");
        let mut connection = config.source.connect("tidemill cdc-ingest").await?;
        let tables = look_at_source(&mut connection, config).await?;
        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        for spec in topic_specs(config) {
            topics.ensure(&spec).await?;
        }
        let known = read_known(config, &tables, &surroundings.fate).await?;
        start_chain(config, connection, tables, known, surroundings).await
    }
}

async fn check_source(connection: &mut PgConnection, config: &Settings, findings: &mut Vec<Finding>) {
    findings.push(Finding::ok(format!("PostgreSQL at {} answers", config.source.address())));
    findings.push(Finding::of(&source::wal_level(connection).await, "wal_level is logical"));
    findings.push(Finding::of(&source::replication_privilege(connection).await, "the role may replicate"));
    let mut tables = Vec::new();
    for table in config.tables.values() {
        match source::table(connection, table).await {
            Ok(found) => {
                let key: Vec<_> = found.key.iter().map(|column| column.name.as_str()).collect();
                findings.push(Finding::ok(format!("table {} is readable, key ({})", found.table, key.join(", "))));
                tables.push(found);
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
    }
    let publication = &config.slot.publication;
    findings.push(match source::publication_statement(connection, publication, &tables).await {
        Ok(None) => Finding::ok(format!("publication {publication} has the tables")),
        Ok(Some(statement)) => Finding::ok(format!(
            "publication {publication} will be completed at the start, as far as the role may: {statement}"
        )),
        Err(failure) => Finding::problem(&failure),
    });
    let slot = source::slot(connection, config).await;
    let holds = match &slot {
        Ok(Some(slot)) => match slot.active_pid {
            Some(pid) => format!("slot {} exists, in use by process {pid} of the server", config.slot.name),
            None => format!("slot {} exists and is free", config.slot.name),
        },
        _ => format!("slot {} will be made at the start", config.slot.name),
    };
    findings.push(Finding::of(&slot, holds));
}

fn topic_specs(config: &Settings) -> Vec<TopicSpec> {
    let table =
        |topic: &String| TopicSpec { name: topic.clone(), partitions: config.kafka.topics.partitions, compacted: true };
    let mut specs: Vec<_> = config.tables.values().map(|captured| table(&captured.topic)).collect();
    specs.push(TopicSpec { name: config.state.topic.clone(), partitions: 1, compacted: true });
    specs
}

async fn look_at_source(connection: &mut PgConnection, config: &Settings) -> Result<Vec<SourceTable>, Failure> {
    source::wal_level(connection).await?;
    source::replication_privilege(connection).await?;
    let mut tables = Vec::new();
    for table in config.tables.values() {
        tables.push(source::table(connection, table).await?);
    }
    source::ensure_publication(connection, &config.slot.publication, &tables).await?;
    Ok(tables)
}

/// What the topics say of the time before this start.
struct Known {
    state: CaptureState,
    sent: HashMap<(usize, i32), Version>,
}

async fn read_known(config: &Settings, tables: &[SourceTable], fate: &Fate) -> Result<Known, Failure> {
    let (kafka, slot, state_topic, fate) =
        (config.kafka.clone(), config.slot.name.clone(), config.state.topic.clone(), fate.clone());
    let partitions = kafka.topics.partitions;
    let topics: Vec<String> = tables.iter().map(|table| table.topic.clone()).collect();
    let read = move || -> Result<Known, Failure> {
        let reader = TailReader::new(&kafka, CdcIngest::NAME, &fate)?;
        let mut state = CaptureState::default();
        reader.scan(&state_topic, &[(0, 0)], &mut |record| {
            state.apply(&slot, record.key.unwrap_or_default(), record.value).map_err(|error| {
                Failure::new(
                    FailureKind::Settings,
                    format!("topic `{state_topic}` has a record that is not of Tidemill"),
                )
                .caused_by(error)
                .cure("set state.topic to a topic that nobody else writes to")
            })
        })?;
        let mut sent = HashMap::new();
        for (index, topic) in topics.iter().enumerate() {
            for partition in 0..partitions {
                if let Some(header) = reader.last_header(topic, partition)? {
                    sent.insert((index, partition), header.version);
                }
            }
        }
        Ok(Known { state, sent })
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| Failure::new(FailureKind::Broken, "the topics could not be read").caused_by(error))?
}

async fn start_chain(
    config: &Settings,
    mut connection: PgConnection,
    tables: Vec<SourceTable>,
    known: Known,
    Surroundings { fate, health, arbiter, lease }: Surroundings,
) -> Result<Chain, Failure> {
    let mut client = wal_stream::connect(config).await?;
    let identity = client.identify_system().await.map_err(|error| wal_stream::failure(config, error))?;
    let flushed = flush_position(&mut connection).await?;
    let server = Server { system_id: identity.system_id, timeline: identity.timeline, flushed };
    let slot = source::slot(&mut connection, config).await?;
    if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid) {
        return Err(Failure::new(
            FailureKind::Fenced,
            format!("slot {} is in use by process {pid} of the server", config.slot.name),
        )
        .cure("another cdc-ingest runs: this one takes over when it ends"));
    }
    let highest = known.sent.values().copied().max().unwrap_or_default();
    let plan = plan(known.state.slot.as_ref(), slot.is_some(), &server, highest);
    if let Some(why) = plan.interrupted {
        tracing::warn!(epoch = plan.epoch, "{why}: every table is read again, and rows that are gone get tombstones");
    }

    let progress = Progress::new(lease);
    let (confirmed_sender, confirmed) = watch::channel(Lsn(0));
    let worker_of_acks: Arc<OnceLock<Recipient<ChunkAcked>>> = Arc::default();
    let state_topic = tables.len();
    let mut topics: Vec<String> = tables.iter().map(|table| table.topic.clone()).collect();
    topics.push(config.state.topic.clone());
    let publisher: CapturePublisher = Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: CdcIngest::NAME,
        topics,
        letters: None,
        fate: fate.clone(),
        lease: progress.lease().clone(),
        on_acked: on_acked(progress.clone(), confirmed_sender, Arc::clone(&worker_of_acks)),
    })?;
    let publisher = CapturePublisher::start_in_arbiter(&arbiter, |_| publisher).recipient();

    let mut core = Core {
        settings: config.clone(),
        assembler: assembler(config, &tables, &plan, known.sent),
        copying: copying(&tables, &plan, &known.state),
        tables: tables.clone(),
        publisher,
        chunks: None,
        state_topic,
        progress: progress.clone(),
        fate: fate.clone(),
        health: health.clone(),
        connection: None,
        goal: Lsn(0),
        out: Outgoing::default(),
    };
    // The epoch is durable before the slot is made: a crash between the two leads to a higher epoch, never to a silent gap.
    core.record_slot(&SlotState { epoch: plan.epoch, system_id: server.system_id, timeline: server.timeline }).await?;
    if plan.make_slot {
        source::make_slot(&mut connection, &config.slot.name).await?;
    }
    core.goal = flush_position(&mut connection).await?;
    client.start().await.map_err(|error| wal_stream::failure(config, error))?;
    health.detail("epoch", plan.epoch);

    let worker = start_worker(core, &arbiter, config, tables, &fate);
    let _ = worker_of_acks.set(worker.clone().recipient());
    let reader = WalReader {
        settings: config.clone(),
        client: Some(client),
        next: Some(worker.recipient()),
        confirmed: Some(confirmed),
        progress,
        fate,
        health,
    };
    WalReader::start_in_arbiter(&arbiter, |_| reader);
    Ok(Chain { threads: Vec::new() })
}

fn assembler(
    config: &Settings,
    tables: &[SourceTable],
    plan: &Plan,
    sent: HashMap<(usize, i32), Version>,
) -> Assembler {
    let captured = tables.iter().enumerate().map(|(index, source)| Captured {
        table: source.table.clone(),
        topic: index,
        partitions: config.kafka.topics.partitions,
        key: source.key.iter().map(|column| column.name.clone()).collect(),
    });
    Assembler::new(plan.epoch, captured.collect(), sent, config.snapshot.bounds())
}

fn copying(tables: &[SourceTable], plan: &Plan, known: &CaptureState) -> Copying {
    let state = |source: &SourceTable| {
        let state = known.tables.get(&source.table.to_string()).filter(|state| state.epoch == plan.epoch);
        state.cloned().unwrap_or(TableState { epoch: plan.epoch, rows: 0, last_key: None, done: false })
    };
    let states: Vec<TableState> = tables.iter().map(state).collect();
    let mut copying = Copying {
        epoch: plan.epoch,
        states,
        current: None,
        after: None,
        sweep: plan.epoch > 1,
        acked: VecDeque::new(),
    };
    copying.current = copying.first();
    copying.after = copying.current.and_then(|table| copying.resume_key(table));
    copying
}

/// The worker and the chunk reader know each other: the worker asks, the reader answers.
fn start_worker(
    mut core: Core,
    arbiter: &ArbiterHandle,
    config: &Settings,
    tables: Vec<SourceTable>,
    fate: &Fate,
) -> Addr<Capture> {
    let (source, chunk_rows, fate) = (config.source.clone(), config.snapshot.chunk_rows, fate.clone());
    Capture::start_in_arbiter(arbiter, move |context| {
        if core.copying.current.is_some() {
            let reader = ChunkReader::new(source, tables, chunk_rows, context.address().recipient(), fate);
            core.chunks = Some(reader.start());
        }
        core.report_snapshot();
        core.take_chunk(false);
        Capture::new(core)
    })
}

async fn flush_position(connection: &mut PgConnection) -> Result<Lsn, Failure> {
    let text: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the WAL position cannot be read", error))?;
    text.parse().map_err(|error: shared::position::PositionError| {
        Failure::new(FailureKind::Data, "the WAL position cannot be read").caused_by(error)
    })
}

impl Core {
    /// Writes the slot's record and waits until it is durable.
    async fn record_slot(&mut self, state: &SlotState) -> Result<(), Failure> {
        let (key, value) = slot_record(&self.settings.slot.name, state)
            .map_err(|error| Failure::new(FailureKind::Broken, "a state record cannot be written").caused_by(error))?;
        self.out.push(self.state_topic, 0, &key, &Header::new(Operation::Update, Version::default()), Some(&value));
        self.send().await?;
        self.drain().await
    }
}
