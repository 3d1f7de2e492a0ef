//! The ways through the sink: each topic with the tables that its rows go into, held against the catalog.
//!
//! Each way has a reader, a group, a connection and transactions of its own: what holds up one holds up no other.

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, refused};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::catalog::Facts;
use crate::rollups::register::{self, Asked};
use crate::rollups::{Details, Rollup, Rollups, Surroundings, examine};
use crate::settings::Settings;
use crate::tables::{Table, Tables};
use crate::{catalog, checkpoint, deleted_keys, tables};

/// A topic, and what it is written into.
#[derive(Debug, Clone)]
pub struct Way {
    pub topic: String,
    /// Who reads it, at the broker. In the sink offsets stand under `input.group` and the topic.
    pub group: String,
    pub tables: Tables,
    /// Those over these tables.
    pub rollups: Rollups,
}

/// All that is written.
#[derive(Debug)]
pub struct Ways {
    /// At least one; that of `input.topic`, if any, is the first.
    pub all: Vec<Way>,
    /// All roll-ups.
    pub rollups: Rollups,
    /// What is registered of them.
    pub asked: Asked,
}

/// The tables and roll-ups as they are to be written, or the first thing that stands in the way of one.
pub async fn required(config: &Settings, service: &str) -> Result<Ways, Failure> {
    let mut connection = config.sink.connect(service).await?;
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
    let tables: Vec<Table> = found.into_iter().map(|(table, _)| table).collect();
    let asked = Asked::of(&Tables::new(tables.clone()), &rollups);
    register::enter(&mut connection, &rollups).await.map_err(unregistered)?;
    let registered = register::read(&mut connection, &asked).await.map_err(unregistered)?;
    register::progress(&rollups, &registered)?;
    // All is known; a server that does not say good-bye changes nothing.
    let _ = connection.close().await;
    Ok(Ways { all: by_topic(config, &tables, &rollups), rollups, asked })
}

/// `tables` in the order of the settings.
fn by_topic(config: &Settings, tables: &[Table], rollups: &Rollups) -> Vec<Way> {
    let way = |topic: &str| {
        let of_topic = config.tables.values().zip(tables).filter(|(set, _)| config.topic_of(set) == topic);
        let tables = Tables::new(of_topic.map(|(_, table)| table.clone()).collect());
        let is_over = |rollup: &&Rollup| tables.tables.iter().any(|target| target.table.label == rollup.of);
        let rollups = Rollups::new(rollups.all.iter().filter(is_over).cloned().collect());
        Way { topic: topic.to_owned(), group: config.group_of(topic), tables, rollups }
    };
    config.topics().into_iter().map(way).collect()
}

pub fn own_tables() -> [TableName; 4] {
    [checkpoint::table(), deleted_keys::table(), register::table(), register::values_table()]
}

pub fn unregistered(error: sqlx::Error) -> Failure {
    refused("the registered roll-ups cannot be read", error)
}

fn first(problems: Vec<Failure>) -> Failure {
    problems.into_iter().next().unwrap_or_else(|| Failure::new(FailureKind::Broken, "a problem without a name"))
}

/// Each roll-up, or what stands in its way. `tables`: those that can be written.
pub async fn examined_rollups(
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
        let between = Surroundings {
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
