//! Where the records of a job are written, and how: into its table, or into the one beside it.

use std::collections::BTreeMap;

use shared::failure::Failure;
use shared::kafka::parts::Parts;
use shared::pg::TableName;
use shared::run::Service as _;
use sqlx::postgres::PgConnection;

use super::chunk::{SetAside, Unwritten, Writing};
use super::job::Job;
use super::reading::Chunk;
use super::runner::{Rest, Setup};
use super::{rebuild, shadow};
use crate::checkpoint::Place;
use crate::evolve::Grower;
use crate::growth::Wanted;
use crate::letters::Letters;
use crate::pipeline::PgSinker;
use crate::rollups::Rollups;
use crate::settings::{OnTombstone, TableConfig};
use crate::tables::{Table, Tables};
use crate::transaction::{Plan, Trouble};
use crate::upsert::Guard;
use crate::ways::Blueprint;

/// Where it is written, and how.
pub struct Destination {
    pub plan: Plan,
    grower: Grower,
    pub letters: Letters,
    pub on_tombstone: OnTombstone,
    /// Nothing may be missing of what the topic had.
    of: Option<TableName>,
}

impl Destination {
    pub async fn new(
        setup: &Setup,
        connection: &mut PgConnection,
        table: &TableConfig,
        job: &Job,
    ) -> Result<Self, Failure> {
        let config = &setup.config;
        let blueprint = Blueprint::of_table(config, table);
        let (tables, growth) = blueprint.tables(connection).await?;
        let place =
            Place { group: config.input.group.clone(), topic: job.topic.clone(), tables: vec![job.table.clone()] };
        let rollups = setup.fill.rollups.of(&tables);
        Ok(Destination {
            plan: Plan::new(place, tables, rollups, Guard::NotOlder),
            grower: Grower { growth, blueprint, lock_timeout_ms: config.writer.evolve_lock_timeout_ms },
            letters: Letters::new(setup.publisher.clone(), PgSinker::NAME, job.topic.clone()),
            on_tombstone: table.on_tombstone,
            of: None,
        })
    }

    /// Destination the table beside this one, which nobody else writes and no roll-up is kept over.
    pub async fn beside(
        setup: &Setup,
        connection: &mut PgConnection,
        table: &TableConfig,
        job: &Job,
    ) -> Result<Self, Failure> {
        let mut into = Destination::new(setup, connection, table, job).await?;
        let name = TableName::parse(&table.table);
        let beside = shadow::beside(&name);
        let tables = renamed(&into.plan.tables, &beside);
        into.plan = Plan::new(into.plan.place.clone(), tables, Rollups::default(), Guard::Newer);
        into.of = Some(name);
        Ok(into)
    }

    /// Whether the chunk brings a value without a column.
    pub fn lacks_columns(&self, chunk: &Chunk) -> bool {
        self.wanted(chunk) != Wanted::default()
    }

    fn wanted(&self, chunk: &Chunk) -> Wanted {
        let all: BTreeMap<i32, i64> = chunk.batch.records().map(|record| (record.partition, 0)).collect();
        self.grower.wanted(&chunk.batch, &all)
    }

    /// Refuses a gap in the topic where a row would be missing.
    pub fn whole(&self, parts: &Parts, job: &Job) -> Result<(), Option<Rest>> {
        let Some(name) = self.of.as_ref().filter(|_| self.on_tombstone != OnTombstone::Delete) else { return Ok(()) };
        let Some(gap) = parts.first_gap() else { return Ok(()) };
        let what = format!(
            "compaction has taken records {} to {} of partition {} of topic {}, and with on_tombstone = \"{}\" the table holds rows of such",
            gap.from,
            gap.to - 1,
            gap.partition,
            job.topic,
            self.on_tombstone.as_str()
        );
        Err(Some(Rest::Failed(rebuild::lost(name, &what))))
    }

    pub async fn write(
        &mut self,
        connection: &mut PgConnection,
        job: &Job,
        chunk: &Chunk,
        begin: String,
        set_aside: &mut SetAside,
    ) -> Result<u64, Option<Rest>> {
        let of_trouble = |trouble: Trouble| Option::<Rest>::from(Unwritten::Trouble(trouble));
        let refusing = self.grow(connection, chunk).await.map_err(of_trouble)?;
        let writing = Writing { plan: &self.plan, job, begin, letters: &self.letters };
        let refusing = refusing.then_some(&self.grower);
        writing.write(connection, chunk, refusing, set_aside).await.map_err(Option::<Rest>::from)
    }

    /// Makes what the table lacks for the rows of the chunk, and the one beside it with it. Answers whether some value of it gets no column.
    async fn grow(&mut self, connection: &mut PgConnection, chunk: &Chunk) -> Result<bool, Trouble> {
        let wanted = self.wanted(chunk);
        if !wanted.columns.is_empty() {
            let beside = self.of.as_ref().map(shadow::beside);
            let tables = match &beside {
                Some(beside) => renamed(&self.grower.make_twice(connection, &wanted, beside).await?, beside),
                None => self.grower.make(connection, &wanted).await?,
            };
            self.plan = self.plan.with_tables(tables);
        }
        Ok(wanted.has_impossible)
    }
}

/// The same under the name of the table beside.
fn renamed(tables: &Tables, beside: &TableName) -> Tables {
    let of = |table: &Table| Table { label: beside.to_string(), name: beside.clone(), ..table.clone() };
    Tables::new(tables.tables.iter().map(|target| of(&target.table)).collect())
}
