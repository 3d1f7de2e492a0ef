//! The service: looks at the sink and the topic, and builds the chain.

use std::time::Duration;

use actix::Actor as _;
use serde::Serialize;
use shared::check::Finding;
use shared::failure::Failure;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::pg::TableName;
use shared::run::{Chain, Service, Surroundings};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::runtime::Handle;

use crate::checkpoint::{self, Place, SinkOffsets};
use crate::letters::{Letters, acknowledged};
use crate::settings::{OnTombstone, Settings};
use crate::tables::{Table, Tables};
use crate::transaction::Plan;
use crate::writer::{Writer, WriterSetup};
use crate::{catalog, deleted_keys, tables};

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
        findings
    }

    async fn start(config: &Settings, surroundings: Surroundings) -> Result<Chain, Failure> {
        let tables = Tables::new(required_tables(config).await?);
        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        topics.required(&config.input.topic, MAKER)?;
        topics.ensure(&dead_letter_topic(config)).await?;
        surroundings
            .health
            .detail("tables", tables.tables.iter().map(|target| about(&target.table)).collect::<Vec<_>>());
        build(config, surroundings, tables)
    }
}

fn dead_letter_topic(config: &Settings) -> TopicSpec {
    TopicSpec { name: config.writer.dead_letter_topic.clone(), partitions: 1, compacted: false }
}

fn place(config: &Settings) -> Place {
    Place { group: config.input.group.clone(), topic: config.input.topic.clone() }
}

fn build(config: &Settings, surroundings: Surroundings, tables: Tables) -> Result<Chain, Failure> {
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
    let setup = WriterSetup {
        plan: Plan::new(place(config), tables),
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
        health,
    })?;
    Feed::start_in_arbiter(&arbiter, |_| Feed::new(receiver, writer.recipient(), fate));
    Ok(Chain { threads: vec![thread] })
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
    let on_tombstone = match table.on_tombstone {
        OnTombstone::Keep => "keep",
        OnTombstone::Delete => "delete",
    };
    let key = table.key_columns().map(|column| column.name.as_str()).collect();
    About { table: &table.label, key, on_tombstone, columns: table.columns.len() }
}

/// The tables as they are to be written, or the first thing that stands in the way of one.
async fn required_tables(config: &Settings) -> Result<Vec<Table>, Failure> {
    let mut connection = config.sink.connect(PgSinker::NAME).await?;
    for name in [checkpoint::table(), deleted_keys::table()] {
        let facts = catalog::read(&mut connection, &name).await?;
        if let Some(problem) = tables::examine_own(&name, facts.as_ref(), &config.sink.user).into_iter().next() {
            return Err(problem);
        }
    }
    let mut found = Vec::new();
    for table in config.tables.values() {
        let facts = catalog::read(&mut connection, &TableName::parse(&table.table)).await?;
        match tables::examine(table, facts.as_ref(), &config.sink.user) {
            Ok(table) => found.push(table),
            Err(problems) => {
                if let Some(problem) = problems.into_iter().next() {
                    return Err(problem);
                }
            }
        }
    }
    // All is known; a server that does not say good-bye changes nothing.
    let _ = connection.close().await;
    Ok(found)
}

async fn check_sink(config: &Settings) -> Vec<Finding> {
    let connected = config.sink.connect(PgSinker::NAME).await;
    let mut findings = vec![Finding::of(&connected, format!("the sink answers: {}", config.sink.address()))];
    if let Ok(mut connection) = connected {
        for name in [checkpoint::table(), deleted_keys::table()] {
            findings.extend(check_own(&mut connection, &name, config).await);
        }
        for table in config.tables.values() {
            let name = TableName::parse(&table.table);
            findings.extend(match catalog::read(&mut connection, &name).await {
                Err(failure) => vec![Finding::problem(&failure)],
                Ok(facts) => match tables::examine(table, facts.as_ref(), &config.sink.user) {
                    Ok(_) => {
                        vec![Finding::ok(format!("table {name} can be written by key ({})", table.key.join(", ")))]
                    }
                    Err(problems) => problems.iter().map(Finding::problem).collect(),
                },
            });
        }
    }
    findings
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
