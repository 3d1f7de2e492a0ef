//! The ways through the sink: each topic with the tables that its rows go into, held against the catalog.
//!
//! Each way has a reader, a group, a connection and transactions of its own, and can fail alone: what holds up one holds up no other.

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, refused};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::backfill::job;
use crate::catalog::Facts;
use crate::growth::Growing;
use crate::rollups::register::{self, Asked};
use crate::rollups::{Details, Rollup, Rollups, Surroundings, examine};
use crate::settings::{Settings, TableConfig};
use crate::tables::{Table, Tables, Target};
use crate::{catalog, checkpoint, deleted_keys, tables};

/// A topic, and what it is written into.
#[derive(Debug, Clone)]
pub struct Way {
    pub topic: String,
    /// Who reads it, at the broker. In the sink offsets stand under `input.group` and the topic.
    pub group: String,
    pub blueprint: Blueprint,
    pub tables: Tables,
    /// What may be made of them, and of those that are not there yet.
    pub growth: Vec<Growing>,
    /// Those over these tables.
    pub rollups: Rollups,
}

/// All that is written.
#[derive(Debug)]
pub struct Ways {
    /// At least one; in the order of the settings' topics.
    pub all: Vec<Way>,
    /// Topics that cannot be written now, and why.
    pub parked: Vec<(String, Failure)>,
}

/// What the settings say of the tables of one topic. They are looked at again when one has come or got columns.
#[derive(Debug, Clone)]
pub struct Blueprint {
    tables: Vec<TableConfig>,
    role: String,
    columns_max: usize,
}

/// A table of the settings as the sink has it.
#[derive(Debug)]
pub struct Looked {
    /// `None` where it is made from the first record.
    pub table: Option<(Table, Facts)>,
    pub growing: Option<Growing>,
}

impl Blueprint {
    pub fn of(config: &Settings, topic: &str) -> Self {
        let of_topic = config.tables.values().filter(|table| config.topic_of(table) == topic);
        Blueprint::with(config, of_topic.cloned().collect())
    }

    /// That of one table alone.
    pub fn of_table(config: &Settings, table: &TableConfig) -> Self {
        Blueprint::with(config, vec![table.clone()])
    }

    fn with(config: &Settings, tables: Vec<TableConfig>) -> Self {
        Blueprint { tables, role: config.sink.user.clone(), columns_max: config.writer.evolve_columns_max }
    }

    /// Each table, or what stands in its way.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<Vec<Result<Looked, Vec<Failure>>>, Failure> {
        let mut looked = Vec::new();
        for table in &self.tables {
            looked.push(self.look_at(connection, table).await?);
        }
        Ok(looked)
    }

    async fn look_at(
        &self,
        connection: &mut PgConnection,
        table: &TableConfig,
    ) -> Result<Result<Looked, Vec<Failure>>, Failure> {
        let name = TableName::parse(&table.table);
        let facts = catalog::read(connection, &name).await?;
        let may_create = match facts {
            None if table.create => catalog::may_create_in(connection, &name.schema).await?,
            _ => None,
        };
        let mut wrong_types = Vec::new();
        for type_sql in table.types.values() {
            if !catalog::is_type(connection, type_sql).await? {
                wrong_types.push(type_sql.clone());
            }
        }
        let bounds = (self.role.as_str(), self.columns_max);
        Ok(examined(table, facts, may_create, bounds, &wrong_types))
    }

    /// The tables as they are to be written, and what may be made of them.
    pub async fn tables(&self, connection: &mut PgConnection) -> Result<(Tables, Vec<Growing>), Failure> {
        let looked: Result<Vec<_>, _> = self.look(connection).await?.into_iter().collect();
        Ok(together(&looked.map_err(first)?))
    }
}

fn examined(
    config: &TableConfig,
    facts: Option<Facts>,
    may_create: Option<bool>,
    (role, columns_max): (&str, usize),
    wrong_types: &[String],
) -> Result<Looked, Vec<Failure>> {
    let growing = tables::examine_growth(config, facts.as_ref(), may_create, (role, columns_max), wrong_types);
    if facts.is_none() && config.create {
        return growing.map(|growing| Looked { table: None, growing });
    }
    match (tables::examine(config, facts.as_ref(), role), growing, facts) {
        (Ok(table), Ok(growing), Some(facts)) => Ok(Looked { table: Some((table, facts)), growing }),
        (table, growing, _) => {
            let problems = table.err().into_iter().chain(growing.err());
            Err(problems.flatten().collect())
        }
    }
}

fn together(looked: &[Looked]) -> (Tables, Vec<Growing>) {
    let growth: Vec<Growing> = looked.iter().filter_map(|found| found.growing.clone()).collect();
    let tables = looked.iter().filter_map(|found| found.table.as_ref()).map(|(table, _)| table.clone());
    (Tables::with_awaited(tables.collect(), growth.iter().filter(|table| !table.is_there)), growth)
}

/// The ways as they are to be written. What stands in the way of one is no reason for the others to wait; where it does so for all, it is the failure.
pub async fn required(config: &Settings, service: &str) -> Result<Ways, Failure> {
    let mut connection = config.sink.connect(service).await?;
    for name in own_tables() {
        let facts = catalog::read(&mut connection, &name).await?;
        if let Some(problem) = tables::examine_own(&name, facts.as_ref(), &config.sink.user).into_iter().next() {
            return Err(problem);
        }
    }
    let (mut all, mut parked) = (Vec::new(), Vec::new());
    for topic in config.topics() {
        match required_of(&mut connection, config, topic).await? {
            Ok(way) => all.push(way),
            Err(problem) => parked.push((topic.to_owned(), problem)),
        }
    }
    // All is known; a server that does not say good-bye changes nothing.
    let _ = connection.close().await;
    if all.is_empty() {
        return Err(first(parked.into_iter().map(|(_, problem)| problem).collect()));
    }
    Ok(Ways { all, parked })
}

/// The tables and roll-ups of a topic, or the first thing that stands in the way of one.
pub async fn required_of(
    connection: &mut PgConnection,
    config: &Settings,
    topic: &str,
) -> Result<Result<Way, Failure>, Failure> {
    let blueprint = Blueprint::of(config, topic);
    let looked: Result<Vec<_>, _> = blueprint.look(connection).await?.into_iter().collect();
    let looked = match looked {
        Ok(looked) => looked,
        Err(problems) => return Ok(Err(first(problems))),
    };
    let examined: Result<Vec<_>, _> =
        examined_rollups(connection, config, (topic, &looked)).await?.into_iter().collect();
    let rollups = match examined {
        Ok(rollups) => Rollups::new(rollups),
        Err(problems) => return Ok(Err(first(problems))),
    };
    let (tables, growth) = together(&looked);
    register::enter(connection, &rollups).await.map_err(unregistered)?;
    let registered = register::read(connection, &Asked::of(&tables, &rollups)).await.map_err(unregistered)?;
    if let Some(problem) = register::problems(&rollups, &registered).into_iter().next() {
        return Ok(Err(problem));
    }
    let (topic, group) = (topic.to_owned(), config.group_of(topic));
    Ok(Ok(Way { topic, group, blueprint, tables, growth, rollups }))
}

pub fn own_tables() -> [TableName; 6] {
    let [backfills, parts] = job::tables();
    [checkpoint::table(), deleted_keys::table(), register::table(), register::values_table(), backfills, parts]
}

pub fn unregistered(error: sqlx::Error) -> Failure {
    refused("the registered roll-ups cannot be read", error)
}

fn first(problems: Vec<Failure>) -> Failure {
    problems.into_iter().next().unwrap_or_else(|| Failure::new(FailureKind::Broken, "a problem without a name"))
}

/// Each roll-up over tables of the topic, or what stands in its way. `looked`: those that can be written.
pub async fn examined_rollups(
    connection: &mut PgConnection,
    config: &Settings,
    (topic, looked): (&str, &[Looked]),
) -> Result<Vec<Result<Rollup, Vec<Failure>>>, Failure> {
    let mut examined = Vec::new();
    for rollup in config.kept_rollups().values() {
        let of = TableName::parse(&rollup.of);
        if let Some(problem) = looked.iter().find_map(|found| not_there_yet(found, &of, &rollup.table)) {
            examined.push(Err(vec![problem]));
            continue;
        }
        let mut tables = looked.iter().filter_map(|found| found.table.as_ref());
        // It is another topic's, or cannot be written, which has been told.
        let Some((table, facts)) = tables.find(|(table, _)| table.name == of) else { continue };
        let own = TableName::parse(&rollup.table);
        let own_facts = catalog::read(connection, &own).await?;
        let (details, own_details) = (Details::read(connection, &of).await?, Details::read(connection, &own).await?);
        let between = Surroundings {
            topic,
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

/// A roll-up is held against its table before the first row.
fn not_there_yet(found: &Looked, of: &TableName, rollup: &str) -> Option<Failure> {
    let awaited = found.growing.as_ref().filter(|table| !table.is_there && table.name == *of)?;
    let what = format!("{rollup} is kept over {}, which is made from the first record", awaited.name);
    Some(
        Failure::new(FailureKind::Settings, what)
            .cure("make the table first, or keep the roll-up from the next start on"),
    )
}

/// A table in `/api/v1/state`.
#[derive(Serialize)]
pub struct About<'a> {
    table: &'a str,
    topic: &'a str,
    key: Vec<&'a str>,
    on_tombstone: &'static str,
    /// Those that are written.
    columns: usize,
}

pub fn about<'a>(tables: &'a Tables, topic: &'a str) -> Vec<About<'a>> {
    let about = |Target { table, .. }: &'a Target| About {
        table: &table.label,
        topic,
        key: table.key_columns().map(|column| column.name.as_str()).collect(),
        on_tombstone: table.on_tombstone.as_str(),
        columns: table.columns.len(),
    };
    tables.tables.iter().map(about).collect()
}
