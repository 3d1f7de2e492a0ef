//! The service: looks at the sink and the topic, and builds the chain.

use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use actix::{Actor as _, Addr, ArbiterHandle};
use clap::{ArgMatches, Command};
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::KafkaConfig;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::pg::TableName;
use shared::run::{Chain, Service, Surroundings};
use shared::traces::Tracer;
use shared::traces::span::{Database, Input, Stage};
use sqlx::postgres::PgConnection;
use tokio::runtime::Handle;

use crate::backfill::commands::Commands;
use crate::checkpoint::{Place, SinkOffsets};
use crate::evolve::Grower;
use crate::letters::{Acknowledgement, Letters, acknowledged};
use crate::outage::Outage;
use crate::parking::Parking;
use crate::reconcile::wanted::Wanted;
use crate::rollups::register::{self, Asked};
use crate::rollups::{Fill, Rollups};
use crate::settings::{Settings, TableConfig};
use crate::tables::Tables;
use crate::transaction::Plan;
use crate::upsert::Guard;
use crate::ways::{Blueprint, Looked, Way, Ways, examined_rollups, own_tables, unregistered};
use crate::writer::{Writer, WriterSetup};
use crate::{backfill, catalog, reconcile, rehearsal, size, tables, ways};

/// Who makes a topic: that of the results dim-joiner, another one any stage.
fn maker(config: &Settings, topic: &str) -> &'static str {
    if topic == config.input.topic { "dim-joiner" } else { "the stage that writes it" }
}

/// The service.
pub struct PgSinker;

impl Service for PgSinker {
    const NAME: &'static str = "pg-sinker";
    const ABOUT: &'static str = "Writes results to PostgreSQL: each row once, with its last value";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let mut findings = check_sink(config).await;
        findings.extend(check_topics(config).await);
        findings.extend(check_rows(config).await);
        findings.extend(reconcile::open::check(config).await);
        findings
    }

    fn commands() -> Vec<Command> {
        [vec![reconcile::command::command()], backfill::commands::all()].concat()
    }

    async fn run_command(config: &Settings, name: &str, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
        match name {
            reconcile::command::NAME => reconcile::command::run(config, arguments).await,
            name => backfill::commands::run(config, name, arguments).await,
        }
    }

    fn failed_command() -> ExitCode {
        ExitCode::from(reconcile::command::FAILED)
    }

    async fn start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
        let ways = ways::required(config, Self::NAME).await?;
        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        for topic in config.topics() {
            topics.required(topic, maker(config, topic))?;
        }
        topics.ensure(&dead_letter_topic(config)).await?;
        build(config, surroundings, ways)
    }
}

fn dead_letter_topic(config: &Settings) -> TopicSpec {
    TopicSpec { name: config.writer.dead_letter_topic.clone(), partitions: 1, compacted: false }
}

fn build(config: &Settings, surroundings: Surroundings, ways: Ways) -> Result<Chain, Failure> {
    let Surroundings { fate, health, arbiter, lease, control, traces, .. } = surroundings;
    let publisher = Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: PgSinker::NAME,
        topics: TopicNames::new([config.writer.dead_letter_topic.clone()]),
        letters: None,
        fate: fate.clone(),
        lease: lease.clone(),
        // It sends letters only.
        tracer: None,
        on_acked: Box::new(acknowledged),
    })?;
    let publisher = Publisher::start_in_arbiter(&arbiter, |_| publisher);
    let rollups = Rollups::new(ways.all.iter().flat_map(|way| way.rollups.all.clone()).collect());
    let fill = Fill {
        sink: config.sink.clone(),
        config: config.fill.clone(),
        timeout: config.writer.transaction_timeout(),
        retry: config.writer.retry_wait(1),
        asked: Asked::together(ways.all.iter().map(|way| Asked::of(&way.tables, &way.rollups))),
        rollups,
        fate: fate.clone(),
        health: health.clone(),
    };
    arbiter.spawn(fill.clone().run());
    arbiter.spawn(size::watch(config.sink.clone(), config.writer.transaction_timeout(), fate.clone()));
    let comparisons = Wanted::default();
    let commands = Commands { config: config.clone(), comparisons: comparisons.clone(), fate: fate.clone() };
    backfill::commands::obey(commands, &arbiter, &control);
    let setup = backfill::runner::Setup {
        config: config.clone(),
        fill,
        publisher: publisher.clone(),
        fate: fate.clone(),
        health: health.clone(),
    };
    let mut threads = vec![backfill::runner::spawn(setup)?];
    let parking = Parking::new(config, ways.all.len(), (&fate, &health));
    for way in ways.all {
        let (topic, own) = (way.topic.clone(), fate.branch());
        let health = parking.health_of(&topic);
        let progress = Progress::new(lease.clone(), own.clone());
        let input = Input { topic: topic.clone(), group: way.group.clone() };
        let tracer = traces.of(|| Stage::Sink { input, sink: Database::from(&config.sink) });
        threads.push(build_way(config, way, tracer, &publisher, (&arbiter, &own, &health, progress))?);
        arbiter.spawn(parking.clone().watch(topic, own));
    }
    for (topic, problem) in ways.parked {
        arbiter.spawn(parking.clone().rest(topic, problem));
    }
    threads.extend(reconcile::schedule::spawn(config, comparisons, fate, health)?);
    Ok(Chain { threads })
}

/// The reading thread and the actors of one topic. Answers the thread.
fn build_way(
    config: &Settings,
    way: Way,
    tracer: Option<Tracer>,
    publisher: &Addr<Publisher<Acknowledgement>>,
    (arbiter, fate, health, progress): (&ArbiterHandle, &Fate, &Health, Progress),
) -> Result<JoinHandle<()>, Failure> {
    let place =
        Place { group: config.input.group.clone(), topic: way.topic.clone(), tables: config.labels_of(&way.topic) };
    let setup = WriterSetup {
        plan: Plan::new(place.clone(), way.tables, way.rollups, Guard::Newer),
        grower: Grower {
            growth: way.growth,
            blueprint: way.blueprint,
            lock_timeout_ms: config.writer.evolve_lock_timeout_ms,
        },
        sink: config.sink.clone(),
        config: config.writer.clone(),
        ownership: Duration::from_millis(config.kafka.session_timeout_ms),
        letters: Letters::new(publisher.clone(), PgSinker::NAME, way.topic.clone()),
        progress: progress.clone(),
        fate: fate.clone(),
        outage: Outage::new(health.clone()),
        tracer,
        health: health.clone(),
    };
    let writer = Writer::start_in_arbiter(arbiter, |_| Writer::new(setup));
    let bounds = config.batch_of(&way.topic);
    let kafka = KafkaConfig {
        batch_records_max: bounds.records_max,
        batch_bytes_max: bounds.bytes_max,
        ..config.kafka.clone()
    };
    let (receiver, thread) = reader::spawn(ReaderSetup {
        config: &kafka,
        service: PgSinker::NAME,
        topic: &way.topic,
        group: &way.group,
        batch_wait: Duration::from_millis(bounds.wait_ms),
        mixes_partitions: true,
        start: SinkOffsets { sink: config.sink.clone(), place, runtime: Handle::current() },
        fate: fate.clone(),
        progress,
        health: health.clone(),
    })?;
    let fate = fate.clone();
    Feed::start_in_arbiter(arbiter, |_| Feed::new(receiver, writer.recipient(), fate));
    Ok(thread)
}

async fn check_sink(config: &Settings) -> Vec<Finding> {
    let connected = config.sink.connect(PgSinker::NAME).await;
    let mut findings = vec![Finding::of(&connected, format!("the sink answers: {}", config.sink.address()))];
    let Ok(mut connection) = connected else { return findings };
    // Without that of the comparisons nothing else fails.
    let of_comparisons = config.reconcile.is_scheduled().then(reconcile::kept::table);
    for name in own_tables().into_iter().chain(of_comparisons) {
        findings.extend(check_own(&mut connection, &name, config).await);
    }
    // Where the table lacks that was told.
    if let Ok(unfilled) = backfill::job::unfilled(&mut connection, &config.input.group).await {
        findings.extend(unfilled.iter().map(|(table, why)| Finding::problem(&not_filled(table, why))));
    }
    for topic in config.topics() {
        match check_way(&mut connection, config, topic).await {
            Ok(found) => findings.extend(found),
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
    }
    findings
}

async fn check_way(connection: &mut PgConnection, config: &Settings, topic: &str) -> Result<Vec<Finding>, Failure> {
    let (mut findings, mut writable) = (Vec::new(), Vec::new());
    for table in Blueprint::of(config, topic).look(connection).await? {
        findings.extend(check_table(&table, topic));
        writable.extend(table);
    }
    findings.extend(check_rollups(connection, config, (topic, writable)).await?);
    Ok(findings)
}

fn check_table(looked: &Result<Looked, Vec<Failure>>, topic: &str) -> Vec<Finding> {
    let found = match looked {
        Err(problems) => return problems.iter().map(Finding::problem).collect(),
        Ok(found) => found,
    };
    let written = found.table.iter().map(|(table, _)| {
        let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
        format!("table {} can be written by key ({})", table.name, key.join(", "))
    });
    let awaited = found.growing.iter().filter(|table| !table.is_there);
    let awaited = awaited.map(|table| format!("table {} will be made from the first record of {topic}", table.name));
    written.chain(awaited).map(Finding::ok).collect()
}

/// A table that lacks rows, and nobody reads their records again.
fn not_filled(table: &str, why: &str) -> Failure {
    let what = format!(
        "{table} lacks what its topic had before the table came to it: reading it again did not come to its end ({why})"
    );
    Failure::new(FailureKind::Settings, what).cure(format!("pg-sinker backfill --table {table}"))
}

async fn check_rollups(
    connection: &mut PgConnection,
    config: &Settings,
    (topic, tables): (&str, Vec<Looked>),
) -> Result<Vec<Finding>, Failure> {
    let (mut findings, mut right) = (Vec::new(), Vec::new());
    for examined in examined_rollups(connection, config, (topic, &tables)).await? {
        match examined {
            Ok(rollup) => {
                findings.push(Finding::ok(format!("roll-up {} can be kept over {}", rollup.label, rollup.of)));
                right.push(rollup);
            }
            Err(problems) => findings.extend(problems.iter().map(Finding::problem)),
        }
    }
    // One that cannot be kept is no stranger to these settings.
    if findings.iter().all(|finding| finding.ok) {
        let tables = tables.into_iter().filter_map(|found| found.table).map(|(table, _)| table);
        let (rollups, tables) = (Rollups::new(right), Tables::new(tables.collect()));
        let registered = register::read(connection, &Asked::of(&tables, &rollups)).await.map_err(unregistered)?;
        findings.extend(register::problems(&rollups, &registered).iter().map(Finding::problem));
    }
    Ok(findings)
}

async fn check_own(connection: &mut PgConnection, name: &TableName, config: &Settings) -> Vec<Finding> {
    match catalog::read(connection, name).await {
        Err(failure) => vec![Finding::problem(&failure)],
        Ok(facts) => {
            let problems = tables::examine_own(name, facts.as_ref(), &config.sink.user);
            if problems.is_empty() {
                return vec![Finding::ok(format!("table {name} can be written"))];
            }
            problems.iter().map(Finding::problem).collect()
        }
    }
}

async fn check_topics(config: &Settings) -> Vec<Finding> {
    let topics = match Topics::connect(&config.kafka, PgSinker::NAME) {
        Ok(topics) => topics,
        Err(failure) => return vec![Finding::problem(&failure)],
    };
    let mut findings = Vec::new();
    for topic in config.topics() {
        match topics.required(topic, maker(config, topic)) {
            Ok(partitions) => findings.push(Finding::ok(format!("topic {topic} has {partitions} partitions"))),
            Err(failure) => {
                findings.push(Finding::problem(&failure));
                // A broker that does not answer is said once.
                return findings;
            }
        }
    }
    findings.push(topics.finding(&dead_letter_topic(config)).await);
    findings
}

/// Where a server does not answer, that has been told.
async fn check_rows(config: &Settings) -> Vec<Finding> {
    let connected = (config.sink.connect(PgSinker::NAME).await, Topics::connect(&config.kafka, PgSinker::NAME));
    let (Ok(mut connection), Ok(topics)) = connected else { return Vec::new() };
    let mut findings = Vec::new();
    for topic in config.topics() {
        let Ok(partitions) = topics.required(topic, maker(config, topic)) else { continue };
        match rehearsal::newest_rows(&config.kafka, PgSinker::NAME, topic, partitions).await {
            Ok(rows) if rows.is_empty() => {
                findings
                    .push(Finding::ok(format!("topic {topic} has no row yet that its tables could be held against")));
            }
            Ok(rows) => {
                let tables = config.tables.values().filter(|table| config.topic_of(table) == topic);
                for table in tables {
                    findings.extend(check_rows_of(&mut connection, config, table, &rows).await);
                }
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
    }
    findings
}

async fn check_rows_of(
    connection: &mut PgConnection,
    config: &Settings,
    table: &TableConfig,
    rows: &[Vec<u8>],
) -> Vec<Finding> {
    let (name, role) = (TableName::parse(&table.table), config.sink.user.as_str());
    match catalog::read(connection, &name).await {
        Err(failure) => vec![Finding::problem(&failure)],
        Ok(None) if table.create => Vec::new(),
        Ok(None) => {
            let made = rehearsal::definition(table, role, rows).map(|sql| {
                let what =
                    format!("table {name} does not exist in the sink, and the newest rows would fit into this one");
                Finding::problem(&Failure::new(FailureKind::Settings, what).cure(sql))
            });
            made.into_iter().collect()
        }
        Ok(Some(facts)) => match tables::examine(table, Some(&facts), role) {
            Ok(found) => rehearsal::hold(connection, (table, &found, &facts), config.topic_of(table), rows).await,
            // What stands in its way has been told.
            Err(_) => Vec::new(),
        },
    }
}
