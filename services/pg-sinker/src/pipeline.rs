//! The service: looks at the sink and the topic, and builds the chain.

use std::process::ExitCode;
use std::time::Duration;

use actix::Actor as _;
use clap::{ArgMatches, Command};
use serde::Serialize;
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::pg::{TableName, refused};
use shared::run::{Chain, Service, Surroundings};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::runtime::Handle;

use crate::catalog::Facts;
use crate::checkpoint::{self, Place, SinkOffsets};
use crate::letters::{Letters, acknowledged};
use crate::rollups::register::{self, Asked};
use crate::rollups::{Details, Fill, Rollup, Rollups, Surroundings as Between, examine};
use crate::settings::Settings;
use crate::tables::{Table, Tables};
use crate::transaction::Plan;
use crate::writer::{Writer, WriterSetup};
use crate::{catalog, deleted_keys, reconcile, tables};

/// Topics of results are made by this service.
const MAKER: &str = "dim-joiner";

/// The service.
pub struct PgSinker;

impl Service for PgSinker {
    const NAME: &'static str = "pg-sinker";
    const ABOUT: &'static str = "Writes results to PostgreSQL: each row once, with its last value";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let mut findings = check_sink(config).await;
        findings.extend(check_topics(config).await);
        findings.extend(reconcile::open::check(config).await);
        findings
    }

    fn commands() -> Vec<Command> {
        vec![reconcile::command::command()]
    }

    async fn run_command(config: &Settings, _name: &str, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
        reconcile::command::run(config, arguments).await
    }

    fn failed_command() -> ExitCode {
        ExitCode::from(reconcile::command::FAILED)
    }

    async fn start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
        let (tables, rollups) = required_tables(config).await?;
        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        topics.required(&config.input.topic, MAKER)?;
        topics.ensure(&dead_letter_topic(config)).await?;
        surroundings
            .health
            .detail("tables", tables.tables.iter().map(|target| about(&target.table)).collect::<Vec<_>>());
        build(config, surroundings, tables, rollups)
    }
}

fn dead_letter_topic(config: &Settings) -> TopicSpec {
    TopicSpec { name: config.writer.dead_letter_topic.clone(), partitions: 1, compacted: false }
}

fn place(config: &Settings) -> Place {
    Place { group: config.input.group.clone(), topic: config.input.topic.clone() }
}

fn build(config: &Settings, surroundings: Surroundings, tables: Tables, rollups: Rollups) -> Result<Chain, Failure> {
    let Surroundings { fate, health, arbiter, lease, .. } = surroundings;
    let progress = Progress::new(lease, fate.clone());
    let publisher = Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: PgSinker::NAME,
        topics: TopicNames::new([config.writer.dead_letter_topic.clone()]),
        letters: None,
        fate: fate.clone(),
        lease: progress.lease().clone(),
        on_acked: Box::new(acknowledged),
    })?;
    let publisher = Publisher::start_in_arbiter(&arbiter, |_| publisher);
    let fill = Fill {
        sink: config.sink.clone(),
        config: config.fill.clone(),
        timeout: config.writer.transaction_timeout(),
        retry: config.writer.retry_wait(1),
        asked: Asked::of(&tables, &rollups),
        rollups: rollups.clone(),
        fate: fate.clone(),
        health: health.clone(),
    };
    arbiter.spawn(fill.run());
    let setup = WriterSetup {
        plan: Plan::new(place(config), tables, rollups),
        sink: config.sink.clone(),
        config: config.writer.clone(),
        ownership: Duration::from_millis(config.kafka.session_timeout_ms),
        letters: Letters::new(publisher, PgSinker::NAME, config.input.topic.clone()),
        progress: progress.clone(),
        fate: fate.clone(),
        health: health.clone(),
    };
    let writer = Writer::start_in_arbiter(&arbiter, |_| Writer::new(setup));
    let (receiver, thread) = reader::spawn(ReaderSetup {
        config: &config.kafka,
        service: PgSinker::NAME,
        topic: &config.input.topic,
        group: &config.input.group,
        start: SinkOffsets { sink: config.sink.clone(), place: place(config), runtime: Handle::current() },
        fate: fate.clone(),
        progress,
        health: health.clone(),
    })?;
    let comparing = reconcile::schedule::spawn(config, fate.clone(), health)?;
    Feed::start_in_arbiter(&arbiter, |_| Feed::new(receiver, writer.recipient(), fate));
    Ok(Chain { threads: std::iter::once(thread).chain(comparing).collect() })
}

/// A table in `/api/v1/state`.
#[derive(Serialize)]
struct About<'a> {
    table: &'a str,
    key: Vec<&'a str>,
    on_tombstone: &'static str,
    columns: usize,
}

fn about(table: &Table) -> About<'_> {
    let key = table.key_columns().map(|column| column.name.as_str()).collect();
    About { table: &table.label, key, on_tombstone: table.on_tombstone.as_str(), columns: table.columns.len() }
}

/// The tables and roll-ups as they are to be written, or the first thing that stands in the way of one.
async fn required_tables(config: &Settings) -> Result<(Tables, Rollups), Failure> {
    let mut connection = config.sink.connect(PgSinker::NAME).await?;
    for name in own_tables() {
        let facts = catalog::read(&mut connection, &name).await?;
        if let Some(problem) = tables::examine_own(&name, facts.as_ref(), &config.sink.user).into_iter().next() {
            return Err(problem);
        }
    }
    let mut found = Vec::new();
    for table in config.tables.values() {
        let facts = catalog::read(&mut connection, &TableName::parse(&table.table)).await?;
        let table = tables::examine(table, facts.as_ref(), &config.sink.user);
        found.push((table.map_err(first)?, facts));
    }
    let rollups = examined_rollups(&mut connection, config, &found).await?;
    let rollups: Result<Vec<_>, _> = rollups.into_iter().collect();
    let rollups = Rollups::new(rollups.map_err(first)?);
    let tables = Tables::new(found.into_iter().map(|(table, _)| table).collect());
    register::enter(&mut connection, &rollups).await.map_err(unregistered)?;
    let registered = register::read(&mut connection, &Asked::of(&tables, &rollups)).await.map_err(unregistered)?;
    register::progress(&rollups, &registered)?;
    // All is known; a server that does not say good-bye changes nothing.
    let _ = connection.close().await;
    Ok((tables, rollups))
}

fn own_tables() -> [TableName; 4] {
    [checkpoint::table(), deleted_keys::table(), register::table(), register::values_table()]
}

fn unregistered(error: sqlx::Error) -> Failure {
    refused("the registered roll-ups cannot be read", error)
}

fn first(problems: Vec<Failure>) -> Failure {
    problems.into_iter().next().unwrap_or_else(|| Failure::new(FailureKind::Broken, "a problem without a name"))
}

/// Each roll-up, or what stands in its way. `tables`: those that can be written.
async fn examined_rollups(
    connection: &mut PgConnection,
    config: &Settings,
    tables: &[(Table, Option<Facts>)],
) -> Result<Vec<Result<Rollup, Vec<Failure>>>, Failure> {
    let mut examined = Vec::new();
    for rollup in config.kept_rollups().values() {
        let of = TableName::parse(&rollup.of);
        // A table that cannot be written has been told of.
        let Some((table, Some(facts))) = tables.iter().find(|(table, _)| table.name == of) else { continue };
        let own = TableName::parse(&rollup.table);
        let own_facts = catalog::read(connection, &own).await?;
        let (details, own_details) = (Details::read(connection, &of).await?, Details::read(connection, &own).await?);
        let between = Between {
            table,
            facts,
            details: &details,
            own: own_facts.as_ref(),
            own_details: &own_details,
            role: &config.sink.user,
        };
        examined.push(examine(rollup, between));
    }
    Ok(examined)
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
    let mut writable = Vec::new();
    for table in config.tables.values() {
        let name = TableName::parse(&table.table);
        findings.extend(match catalog::read(&mut connection, &name).await {
            Err(failure) => vec![Finding::problem(&failure)],
            Ok(facts) => match tables::examine(table, facts.as_ref(), &config.sink.user) {
                Ok(found) => {
                    writable.push((found, facts));
                    vec![Finding::ok(format!("table {name} can be written by key ({})", table.key.join(", ")))]
                }
                Err(problems) => problems.iter().map(Finding::problem).collect(),
            },
        });
    }
    match check_rollups(&mut connection, config, writable).await {
        Ok(found) => findings.extend(found),
        Err(failure) => findings.push(Finding::problem(&failure)),
    }
    findings
}

async fn check_rollups(
    connection: &mut PgConnection,
    config: &Settings,
    tables: Vec<(Table, Option<Facts>)>,
) -> Result<Vec<Finding>, Failure> {
    let (mut findings, mut right) = (Vec::new(), Vec::new());
    for examined in examined_rollups(connection, config, &tables).await? {
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
        let (rollups, tables) =
            (Rollups::new(right), Tables::new(tables.into_iter().map(|(table, _)| table).collect()));
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
    let input = topics.required(&config.input.topic, MAKER);
    let mut findings = vec![match &input {
        Ok(partitions) => Finding::ok(format!("topic {} has {partitions} partitions", config.input.topic)),
        Err(failure) => Finding::problem(failure),
    }];
    // A broker that does not answer is said once.
    if input.is_ok() {
        findings.push(topics.finding(&dead_letter_topic(config)).await);
    }
    findings
}
