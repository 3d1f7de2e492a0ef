//! The chain of cdc-ingest: checked, built sink first, started where it stopped.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::ArbiterHandle;
use actix::prelude::*;
use pgwire_replication::{IdentifySystem, ReplicationClient};
use shared::batch::Outgoing;
use shared::check::Finding;
use shared::control::Control;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::tail::TailReader;
use shared::kafka::topics::{TopicSpec, Topics};
use shared::metrics;
use shared::pg::TableName;
use shared::position::Lsn;
use shared::record::header::Header;
use shared::run::{Chain, Service, Surroundings};
use sqlx::postgres::PgConnection;
use tokio::sync::watch;

use crate::capture::copying::Paces;
use crate::capture::{
    Acknowledged, Capture, CapturePublisher, ChunkAcked, Commanded, Core, SNAPSHOT_LATCH, STREAM_LATCH, Standing, Table,
};
use crate::catalog::{self, Catalog, SourceTable};
use crate::copies::Copies;
use crate::settings::Settings;
use crate::slot::{self, Slot};
use crate::snapshot::ChunkReader;
use crate::source;
use crate::start::{Plan, Server, plan};
use crate::state::{CaptureState, KeyRange, SlotState, TableState};
use crate::transaction::{Assembler, Before, Captured};
use crate::wal_stream::{self, APPLICATION, Durable, WalReader};
use crate::watch::{Wanted, Watch, Watched};
use crate::witness::Witnesses;

/// The service.
pub struct CdcIngest;

/// The health latch of the slot.
const SLOT_LATCH: &str = "slot";

impl Service for CdcIngest {
    const NAME: &'static str = "cdc-ingest";
    const ABOUT: &'static str =
        "Captures tables of a PostgreSQL database into Kafka topics: a chunked snapshot, then the WAL stream";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let mut findings = Vec::new();
        match source::connect(&config.source, "tidemill check").await {
            Ok(mut connection) => check_source(&mut connection, config, &mut findings).await,
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => {
                let tables = config.tables.values().map(|table| &table.topic);
                for spec in tables.map(|topic| table_topic(config, topic)).chain([state_topic(config)]) {
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
    health.hold(STREAM_LATCH, "the WAL stream");
    health.hold(SNAPSHOT_LATCH, "the copy of the tables");
    let mut connection = source::connect(&config.source, "tidemill cdc-ingest").await?;
    source::is_primary(&mut connection).await?;
    source::wal_level(&mut connection).await?;
    source::replication_privilege(&mut connection).await?;
    let slot = free_slot(&mut connection, config, health).await?;
    let (client, identity) = wal_stream::connect(config).await?;
    let mut opened = Opened { connection, client, identity, slot };
    // The topics are read once nobody else writes to them: who holds the slot is alone.
    if opened.slot.as_ref().is_some_and(|slot| slot.lost.is_none()) {
        opened.hold_slot(config).await?;
    }
    let found = find(config, &mut opened.connection, &surroundings.fate).await?;
    start_chain(config, opened, found, surroundings).await
}

// --- what is there ----------------------------------------------------------------------------------------------------

fn configured(config: &Settings) -> Vec<TableName> {
    config.tables.values().map(|table| TableName::parse(&table.table)).collect()
}

async fn check_source(connection: &mut PgConnection, config: &Settings, findings: &mut Vec<Finding>) {
    findings.push(Finding::ok(format!("PostgreSQL at {} answers", config.source.address())));
    findings.push(Finding::of(&source::is_primary(connection).await, "it is a primary"));
    findings.push(Finding::of(&source::wal_level(connection).await, "wal_level is logical"));
    findings.push(Finding::of(&source::replication_privilege(connection).await, "the role may replicate"));
    let publication = &config.slot.publication;
    match catalog::look(connection, publication, &configured(config), &[]).await {
        Ok(catalog) => check_tables(connection, config, &catalog, findings).await,
        Err(failure) => findings.push(Finding::problem(&failure)),
    }
    let name = &config.slot.name;
    let mut slot = slot::look(connection, name).await;
    if let Ok(None) = slot
        && let Err(failure) = slot::has_room(connection).await
    {
        slot = Err(failure);
    }
    let holds = match &slot {
        Ok(Some(Slot { lost: Some(why), .. })) => {
            format!("slot {name} was invalidated ({why}): it will be made anew, and every table read again")
        }
        Ok(Some(Slot { holder: Some(holder), .. })) => format!("slot {name} exists, in use by {holder}"),
        Ok(Some(_)) => format!("slot {name} exists and is free"),
        _ => format!("slot {name} will be made at the start"),
    };
    findings.push(Finding::of(&slot, holds));
}

async fn check_publication(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    catalog: &Catalog,
) -> Result<String, Failure> {
    let statements = source::publication_statements(connection, publication, names, catalog).await?;
    source::may_publish(connection, publication, names, catalog, &statements).await?;
    Ok(match statements.is_empty() {
        true => format!("publication {publication} has the tables"),
        false => format!("publication {publication} will be completed at the start: {}", statements.join("; ")),
    })
}

async fn check_tables(
    connection: &mut PgConnection,
    config: &Settings,
    catalog: &Catalog,
    findings: &mut Vec<Finding>,
) {
    let (publication, names) = (&config.slot.publication, configured(config));
    findings.push(match check_publication(connection, publication, &names, catalog).await {
        Ok(holds) => Finding::ok(holds),
        Err(failure) => Finding::problem(&failure),
    });
    let will_be_published: Vec<_> = catalog.unpublished(&names).map(|table| table.name.clone()).collect();
    for name in names {
        match catalog.table(&name, None) {
            Ok(table) => {
                findings.push(Finding::ok(format!("table {name} is readable, key ({})", table.key_names().join(", "))));
            }
            // What is missing in the publication was said already.
            Err(failure) if will_be_published.contains(&name) && failure.to_string().contains("does not publish") => {}
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
    }
    for table in catalog.published().filter(|table| !configured(config).contains(&table.name)) {
        findings.push(match config.other_tables.topic_of(&table.name) {
            Some(topic) => Finding::ok(format!("table {} of the publication goes to topic {topic}", table.name)),
            None => Finding::ok(format!("table {} of the publication is passed over", table.name)),
        });
    }
}

fn table_topic(config: &Settings, topic: &str) -> TopicSpec {
    TopicSpec { name: topic.to_owned(), partitions: config.kafka.topics.partitions, compacted: true }
}

fn state_topic(config: &Settings) -> TopicSpec {
    TopicSpec { name: config.state.topic.clone(), partitions: 1, compacted: true }
}

/// Waits until nobody uses the slot: this instance is the standby of the one that does.
async fn free_slot(connection: &mut PgConnection, config: &Settings, health: &Health) -> Result<Option<Slot>, Failure> {
    let name = &config.slot.name;
    let mut said = None;
    loop {
        let slot = slot::look(connection, name).await?;
        let Some(holder) = slot.as_ref().and_then(|slot| slot.holder.clone()) else {
            health.release(SLOT_LATCH);
            return Ok(slot);
        };
        if holder.application == *APPLICATION {
            slot::end_holder(connection, &holder).await?;
        } else if said.as_ref() != Some(&holder) {
            let waits = format!("slot {name}, which is in use by {holder}");
            tracing::warn!("waiting for {waits}; this instance takes over when it is free");
            health.hold(SLOT_LATCH, waits);
            said = Some(holder);
        }
        tokio::time::sleep(Duration::from_millis(config.slot.takeover_poll_ms)).await;
    }
}

/// A table, and what is known of it from before.
struct FoundTable {
    state_name: String,
    topic: String,
    by_name: bool,
    found: Result<SourceTable, Failure>,
    known: Option<TableState>,
}

/// What source and topics say before anything is started.
struct Found {
    state: CaptureState,
    tables: Vec<FoundTable>,
    tails: HashMap<(usize, i32), Header>,
    /// The WAL position behind the look.
    since: Lsn,
}

async fn find(config: &Settings, connection: &mut PgConnection, fate: &Fate) -> Result<Found, Failure> {
    let topics = Topics::connect(&config.kafka, CdcIngest::NAME)?;
    topics.ensure(&state_topic(config)).await?;
    let state = read_state(config, fate).await?;
    let oids: Vec<u32> = state.tables.values().map(|table| table.oid).filter(|oid| *oid != 0).collect();
    let catalog = source::ensure_publication(connection, &config.slot.publication, &configured(config), &oids).await?;
    let since = source::insert_position(connection).await?;
    let tables = tables(config, &catalog, &state)?;
    for table in &tables {
        topics.ensure(&table_topic(config, &table.topic)).await?;
    }
    let tails = read_tails(config, tables.iter().map(|table| table.topic.clone()).collect(), fate).await?;
    Ok(Found { state, tables, tails, since })
}

/// The configured tables, and those of the publication that were captured before. Further ones are added by the guardian.
fn tables(config: &Settings, catalog: &Catalog, state: &CaptureState) -> Result<Vec<FoundTable>, Failure> {
    let mut tables = Vec::new();
    for table in config.tables.values() {
        let name = TableName::parse(&table.table);
        let known = state.tables.get(&name.to_string()).cloned();
        let oid = known.as_ref().map(|known| known.oid).filter(|oid| *oid != 0);
        let found = match catalog.table(&name, oid) {
            // What was captured before does not hold up the others; what was not is a mistake in the settings.
            Err(failure) if known.is_none() => return Err(failure),
            found => found,
        };
        let state_name = name.to_string();
        tables.push(FoundTable { state_name, topic: table.topic.clone(), by_name: true, found, known });
    }
    for (state_name, known) in &state.tables {
        let name = TableName::parse(state_name);
        let is_other = tables.iter().all(|table| table.state_name != *state_name)
            && catalog.published().any(|source| source.oid == known.oid)
            && config.other_tables.topic_of(&name).is_some();
        if is_other && !known.topic.is_empty() {
            tables.push(FoundTable {
                state_name: state_name.clone(),
                topic: known.topic.clone(),
                by_name: false,
                found: catalog.table_by_oid(&name, known.oid),
                known: Some(known.clone()),
            });
        }
    }
    Ok(tables)
}

async fn blocking<T: Send + 'static>(
    config: &Settings,
    fate: &Fate,
    read: impl FnOnce(&TailReader) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (kafka, fate) = (config.kafka.clone(), fate.clone());
    tokio::task::spawn_blocking(move || read(&TailReader::new(&kafka, CdcIngest::NAME, &fate)?))
        .await
        .map_err(|error| Failure::new(FailureKind::Broken, "the topics could not be read").caused_by(error))?
}

async fn read_state(config: &Settings, fate: &Fate) -> Result<CaptureState, Failure> {
    let (slot, topic) = (config.slot.name.clone(), config.state.topic.clone());
    let read = move |reader: &TailReader| {
        let mut state = CaptureState::default();
        reader.scan(&topic, &[(0, 0)], &mut |record| {
            state.apply(&slot, record.key.unwrap_or_default(), record.value).map_err(|error| {
                Failure::new(FailureKind::Settings, format!("topic `{topic}` has a record that is not of Tidemill"))
                    .caused_by(error)
                    .cure("set state.topic to a topic that nobody else writes to")
            })
        })?;
        Ok(state)
    };
    blocking(config, fate, read).await
}

async fn read_tails(
    config: &Settings,
    topics: Vec<String>,
    fate: &Fate,
) -> Result<HashMap<(usize, i32), Header>, Failure> {
    let partitions = config.kafka.topics.partitions;
    let read = move |reader: &TailReader| {
        let mut tails = HashMap::new();
        for (index, topic) in topics.iter().enumerate() {
            for partition in 0..partitions {
                if let Some(header) = reader.last_header(topic, partition)? {
                    tails.insert((index, partition), header);
                }
            }
        }
        Ok(tails)
    };
    blocking(config, fate, read).await
}

// --- the chain --------------------------------------------------------------------------------------------------------

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
    Surroundings { fate, health, arbiter, lease, control }: Surroundings,
) -> Result<Chain, Failure> {
    let flushed = source::flush_position(&mut opened.connection).await?;
    let identity = &opened.identity;
    let server = Server { system_id: identity.system_id.clone(), timeline: identity.timeline, flushed };
    let highest = found.tails.values().map(|header| header.version).max().unwrap_or_default();
    let plan = plan(found.state.slot.as_ref(), opened.slot.as_ref(), &server, highest);
    if let Some(why) = &plan.interrupted {
        metrics::SLOT_INTERRUPTIONS.inc();
        tracing::warn!(epoch = plan.epoch, "{why}: every table is read again, and rows that are gone get tombstones");
    }

    let progress = Progress::new(lease);
    let ((confirmed_in, confirmed), (remembered_in, remembered)) = (watch::channel(Lsn(0)), watch::channel(Lsn(0)));
    let worker_of_acks: Arc<OnceLock<Recipient<ChunkAcked>>> = Arc::default();
    let acknowledged = Acknowledged {
        progress: progress.clone(),
        confirmed: confirmed_in,
        remembered: remembered_in,
        worker: Arc::clone(&worker_of_acks),
    };
    let topics = TopicNames::new(found.tables.iter().map(|table| table.topic.clone()));
    let state_topic = topics.add(&config.state.topic);
    let publisher: CapturePublisher = Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: CdcIngest::NAME,
        topics: topics.clone(),
        letters: None,
        fate: fate.clone(),
        lease: progress.lease().clone(),
        on_acked: acknowledged.hook(),
    })?;
    let publisher = CapturePublisher::start_in_arbiter(&arbiter, |_| publisher).recipient();

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
    let (reader_fate, reader_worker) = (fate.clone(), worker.clone());
    let reader = WalReader {
        settings: config.clone(),
        client: Some(opened.client),
        next: Some(reader_worker.clone().recipient()),
        memory: Some(reader_worker.recipient()),
        durable: Some(Durable { confirmed, remembered }),
        progress,
        fate: reader_fate,
    };
    WalReader::start_in_arbiter(&arbiter, |_| reader);
    let watch =
        Watch { settings: config.clone(), watched, topics, wanted, worker: Some(worker.recipient()), fate, health };
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
            name: source.map_or_else(|| TableName::parse(&table.state_name), |source| source.name.clone()),
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
    let watched = |table: &FoundTable| Watched {
        name: TableName::parse(&table.state_name),
        by_name: table.by_name,
        oid: table.found.as_ref().ok().map(|source| source.oid).or(table.known.as_ref().map(|known| known.oid)),
        topic: table.topic.clone(),
        told: None,
    };
    tables.iter().map(watched).collect()
}

/// What a table's copy has to do after a start.
#[derive(Debug, PartialEq, Eq)]
enum Beginning {
    GoOn,
    Anew(&'static str),
}

/// How the table that was found goes on from what is known of it. The topic's records must be those of this table, under this key.
fn beginning(known: Option<&TableState>, source: &SourceTable, epoch: u32) -> Beginning {
    match known {
        None => Beginning::Anew("it was not captured before"),
        Some(known) if known.epoch != epoch => Beginning::Anew("a new epoch begins"),
        Some(known) if known.stopped.is_some() => Beginning::Anew("it was stopped, and its changes were passed over"),
        Some(known) if known.oid != 0 && known.oid != source.oid => Beginning::Anew("it is another table than before"),
        Some(known) if !known.key.is_empty() && known.key != source.key_names() => Beginning::Anew("its key changed"),
        Some(_) => Beginning::GoOn,
    }
}

impl Core {
    /// Enters the tables that were found, each with the copy that it needs.
    async fn enter_tables(&mut self, tables: Vec<FoundTable>, since: Lsn) -> Result<(), Failure> {
        let epoch = self.slot.epoch;
        for (index, table) in tables.into_iter().enumerate() {
            let FoundTable { state_name, topic, found, known, .. } = table;
            let (source, refused) = match found {
                Ok(source) => (Some(source), None),
                Err(failure) => (None, Some(failure)),
            };
            let standing = if source.is_some() { Standing::Carried } else { Standing::Refused };
            let beginning = source.as_ref().map(|source| beginning(known.as_ref(), source, epoch));
            let of_source = |state: TableState, source: &SourceTable| TableState {
                epoch,
                oid: source.oid,
                key: source.key_names(),
                topic: topic.clone(),
                stopped: None,
                ..state
            };
            let known = known.filter(|known| known.epoch == epoch);
            let state = known.unwrap_or_else(|| TableState { epoch, topic: topic.clone(), ..TableState::default() });
            let state = source.iter().fold(state, of_source);
            self.copies.add(state, source.is_some());
            self.tables.push(Table { state_name, topic, source: source.clone(), standing });
            match (source, beginning, refused) {
                (Some(source), Some(Beginning::Anew(why)), _) => {
                    tracing::info!(table = self.table_name(index), "the table is copied: {why}");
                    self.assembler.settle(index, source.oid, source.name.clone(), source.key_names(), since);
                    self.begin_copy(index, KeyRange::default())?;
                }
                (None, _, Some(failure)) => self.stop_table(index, Standing::Refused, failure.chain())?,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::KeyColumn;

    #[test]
    fn a_table_goes_on_only_as_the_same_table_under_the_same_key_in_the_same_epoch() {
        let source = SourceTable {
            oid: 5,
            name: TableName::parse("a.b"),
            partitioned: false,
            key: vec![KeyColumn { name: "id".into(), sql_type: "bigint".into() }],
            filter: None,
            rows_estimate: 0,
        };
        let known = TableState { epoch: 2, oid: 5, key: vec!["id".into()], ..TableState::default() };
        let begins = |known: &TableState| beginning(Some(known), &source, 2);
        assert_eq!(begins(&known), Beginning::GoOn);
        assert_eq!(begins(&TableState { oid: 0, key: Vec::new(), ..known.clone() }), Beginning::GoOn);
        let others = [
            TableState { epoch: 1, ..known.clone() },
            TableState { oid: 6, ..known.clone() },
            TableState { key: vec!["other".into()], ..known.clone() },
            TableState { stopped: Some("?".into()), ..known.clone() },
        ];
        for other in &others {
            assert!(matches!(begins(other), Beginning::Anew(_)), "{other:?}");
        }
        assert!(matches!(beginning(None, &source, 2), Beginning::Anew(_)));
    }
}
