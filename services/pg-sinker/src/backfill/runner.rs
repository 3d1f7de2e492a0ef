//! Does the jobs that stand in the sink, one after the other, on a thread of its own with connections of its own. What goes wrong here is told,
//! and ends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::Addr;
use serde_json::{Value, json};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::bounds::Bounds;
use shared::kafka::parts::{self, Parts};
use shared::kafka::publisher::Publisher;
use shared::kafka::tail::TailReader;
use shared::metrics;
use shared::pg::{TableName, refused};
use shared::run::Service as _;
use shared::said::Said;
use sqlx::postgres::PgConnection;

use super::chunk::{Unwritten, Writing};
use super::job::{self, Job, Kind, State, Step};
use super::reading::{self, Chunk, Limits};
use super::{rebuild, shadow};
use crate::checkpoint::Place;
use crate::evolve::Grower;
use crate::growth::Wanted;
use crate::letters::{Acknowledgement, Letters};
use crate::pipeline::PgSinker;
use crate::rollups::{Fill, Rollups};
use crate::settings::{OnTombstone, Settings, TableConfig};
use crate::tables::{Table, Tables};
use crate::transaction::{Plan, Trouble};
use crate::upsert::Guard;
use crate::ways::Blueprint;
use crate::{locks, session};

/// How often it is looked whether there is a job, and how those of other instances are.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// A job that fails so often, without a chunk between, has failed for good.
const TRIES_MAX: u32 = 5;
/// The name of the page: `/api/v1/backfills`.
const PAGE: &str = "backfills";

/// What the thread needs.
pub struct Setup {
    pub config: Settings,
    /// Knows the roll-ups of all tables, and fills those over one that was built anew.
    pub fill: Fill,
    pub publisher: Addr<Publisher<Acknowledgement>>,
    pub fate: Fate,
    pub health: Health,
}

/// The thread of a generation.
pub fn spawn(setup: Setup) -> Result<JoinHandle<()>, Failure> {
    let cannot = |error| Failure::new(FailureKind::Broken, "the thread of backfills cannot start").caused_by(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let runner = Runner {
        setup,
        connection: None,
        said: Said::default(),
        tries: (0, 0),
        shown: Instant::now(),
        swept: BTreeSet::new(),
    };
    let run = move || {
        runtime.block_on(runner.run());
        // A question to the broker may still wait for its answer.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("backfill".into()).spawn(run).map_err(cannot)
}

/// The jobs of a generation.
pub struct Runner {
    pub(super) setup: Setup,
    connection: Option<PgConnection>,
    said: Said,
    /// A job, and how often it failed since its last chunk.
    tries: (i64, u32),
    shown: Instant,
    /// Rebuilds whose table beside was dropped.
    pub(super) swept: BTreeSet<i64>,
}

/// Why a job rests.
pub enum Rest {
    /// It is tried again.
    ForNow(Failure),
    /// It is tried again, but not for ever.
    Failed(Failure),
}

/// Faults of servers pass; whatever else there is may be mended by a look at the catalog.
pub fn rest(failure: Failure) -> Rest {
    if failure.kind == FailureKind::Unreachable { Rest::ForNow(failure) } else { Rest::Failed(failure) }
}

impl From<Unwritten> for Option<Rest> {
    fn from(unwritten: Unwritten) -> Self {
        Some(match unwritten {
            Unwritten::Lost => return None,
            Unwritten::Trouble(Trouble::Passing(failure)) => Rest::ForNow(failure),
            Unwritten::Trouble(Trouble::Lasting(failure)) => Rest::Failed(failure),
            Unwritten::Trouble(Trouble::Data(rejection)) => {
                Rest::Failed(Failure::new(FailureKind::Refused, format!("the sink refuses it: {}", rejection.detail)))
            }
            Unwritten::Failure(failure) => rest(failure),
        })
    }
}

impl Runner {
    async fn run(mut self) {
        let fate = self.setup.fate.clone();
        loop {
            let step = async {
                match self.look().await {
                    Ok(true) => {}
                    Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
                    Err(failure) => {
                        self.connection = None;
                        let chain = failure.chain();
                        if self.said.is_news(&chain) {
                            tracing::warn!("records are read again later: {chain}");
                        }
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = fate.ended() => return,
                () = fate.draining() => return,
                () = step => {}
            }
        }
    }

    /// Shows what there is, and does a step of the next job, if no other instance does. Answers whether it did something.
    async fn look(&mut self) -> Result<bool, Failure> {
        let group = self.setup.config.input.group.clone();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = &self.setup.config;
                let silence = Duration::from_millis(config.kafka.session_timeout_ms);
                session::connect(&config.sink, "pg-sinker backfill", &config.writer, silence).await?
            }
        };
        let jobs = job::recent(&mut connection, &group).await?;
        self.show(&jobs);
        self.sweep(&mut connection, &jobs).await?;
        let config = &self.setup.config;
        let written: Vec<_> = config.tables.values().map(|table| (table.label(), config.topic_of(table))).collect();
        let next = job::next(&mut connection, &group, &written).await?;
        let Some(job) = next.filter(|_| self.setup.health.is_ready()) else {
            self.connection = Some(connection);
            return Ok(false);
        };
        let mine: bool = sqlx::query_scalar(locks::TRY_BACKFILL)
            .bind(&group)
            .fetch_one(&mut connection)
            .await
            .map_err(|error| refused("the turn to read records again cannot be taken", error))?;
        if !mine {
            self.connection = Some(connection);
            return Ok(false);
        }
        let worked = self.work(&mut connection, job.clone()).await;
        if let Some(rest) = worked {
            self.rest(&mut connection, &job, rest).await?;
        }
        // The turn goes with the connection: a further one may be another instance's.
        Ok(true)
    }

    async fn rest(&mut self, connection: &mut PgConnection, job: &Job, rest: Rest) -> Result<(), Failure> {
        let failure = match rest {
            Rest::ForNow(failure) => return Err(failure),
            Rest::Failed(failure) => failure,
        };
        let tries = if self.tries.0 == job.id { self.tries.1 + 1 } else { 1 };
        self.tries = (job.id, tries);
        if failure.kind.is_retried() && tries < TRIES_MAX {
            return Err(failure);
        }
        let chain = failure.chain();
        tracing::error!(job = job.id, table = job.table, "what was to be read again is not: {chain}");
        job::end(connection, job, Some(&chain)).await?;
        Ok(())
    }

    /// Does a step of the job, or as much of it as there is.
    async fn work(&mut self, connection: &mut PgConnection, mut job: Job) -> Option<Rest> {
        let worked = self.step(connection, &mut job).await;
        metrics::BACKFILL_REMAINING.with_label_values(&[&job.table]).set(job.offsets().0);
        worked.err().flatten()
    }

    async fn step(&mut self, connection: &mut PgConnection, job: &mut Job) -> Result<(), Option<Rest>> {
        let rested = |failure| Some(rest(failure));
        let table = written(&self.setup.config, job).map_err(rested)?.clone();
        if job.kind == Kind::Rebuild {
            return self.rebuild(connection, job, &table).await;
        }
        if job.step == Step::Deletions && table.on_tombstone != OnTombstone::Delete {
            job::go_on(connection, job, Step::Rows, false).await.map_err(rested)?;
            return Ok(());
        }
        let mut into = Destination::new(&self.setup, connection, &table, job).await.map_err(rested)?;
        self.read_to_the_end(connection, job, &mut into).await?;
        let ended = match job.step {
            Step::Deletions => job::go_on(connection, job, Step::Rows, true).await.map_err(rested)?,
            Step::Rows | Step::Swapped => job::end(connection, job, None).await.map_err(rested)?,
        };
        if ended && job.step == Step::Rows {
            tracing::info!(
                job = job.id,
                table = job.table,
                records = job.records,
                rows = job.rows,
                "records were read again"
            );
        }
        Ok(())
    }

    async fn read_to_the_end(
        &mut self,
        connection: &mut PgConnection,
        job: &mut Job,
        into: &mut Destination,
    ) -> Result<(), Option<Rest>> {
        let config = self.setup.config.clone();
        let mut parts = open(&config, &self.setup.fate, job).map_err(|failure| Some(rest(failure)))?;
        loop {
            let begun = Instant::now();
            let chunk = reading::next(&mut parts, job, into.on_tombstone, limits(&config));
            let chunk = chunk.map_err(|failure| Some(rest(failure)))?;
            if !chunk.moves.is_empty() {
                let rows = into.write(connection, job, &chunk, locks::begin_alone(&job.topic)).await?;
                moved(job, &chunk, rows);
                self.went_on(job, &chunk);
            }
            if parts.is_done() {
                return Ok(());
            }
            tokio::time::sleep(config.backfill.time_of(chunk.batch.len()).saturating_sub(begun.elapsed())).await;
        }
    }

    /// Tells of a chunk.
    pub(super) fn went_on(&mut self, job: &Job, chunk: &Chunk) {
        self.tries = (job.id, 0);
        metrics::BACKFILL_RECORDS.with_label_values(&[&job.table]).inc_by(chunk.batch.len() as u64);
        if self.shown.elapsed() >= SHOW_EVERY {
            self.shown = Instant::now();
            self.show_one(job);
        }
    }

    fn show(&self, jobs: &[Job]) {
        for job in jobs {
            let remaining = if job.state == State::Open { job.offsets().0 } else { 0 };
            metrics::BACKFILL_REMAINING.with_label_values(&[&job.table]).set(remaining);
        }
        let jobs: Vec<_> = jobs.iter().map(Job::shown).collect();
        self.setup.health.page(PAGE, json!({ "jobs": jobs }));
    }

    /// The job that is done stands before those that were read with it.
    fn show_one(&self, job: &Job) {
        metrics::BACKFILL_REMAINING.with_label_values(&[&job.table]).set(job.offsets().0);
        let page = self.setup.health.page_of(PAGE).unwrap_or_default();
        let others = page.get("jobs").and_then(Value::as_array).into_iter().flatten();
        let jobs: Vec<_> = others
            .map(
                |other| {
                    if other.get("id").and_then(Value::as_i64) == Some(job.id) { job.shown() } else { other.clone() }
                },
            )
            .collect();
        self.setup.health.page(PAGE, json!({ "jobs": jobs }));
    }
}

/// The bounds of a chunk.
pub fn limits(config: &Settings) -> Limits {
    let records = usize::try_from(config.backfill.chunk_records).unwrap_or(usize::MAX);
    Limits { records, bytes: config.kafka.batch_bytes_max }
}

/// The chunk is in the sink.
pub fn moved(job: &mut Job, chunk: &Chunk, rows: u64) {
    for step in &chunk.moves {
        if let Some(part) = job.parts.iter_mut().find(|part| part.partition == step.partition) {
            part.next = step.next;
        }
    }
    job.records += i64::try_from(chunk.read).unwrap_or(i64::MAX);
    job.rows += i64::try_from(rows).unwrap_or(i64::MAX);
}

/// The table of the job in the settings.
pub fn written<'s>(config: &'s Settings, job: &Job) -> Result<&'s TableConfig, Failure> {
    let is_meant = |table: &&TableConfig| table.label() == job.table && config.topic_of(table) == job.topic.as_str();
    config.tables.values().find(is_meant).ok_or_else(|| {
        let what = format!("{} is not written from topic {} by these settings", job.table, job.topic);
        Failure::new(FailureKind::Settings, what).cure("ask again for what the settings say now")
    })
}

/// Opens the topic where the job is. What retention has taken is passed over.
pub fn open(config: &Settings, fate: &Fate, job: &Job) -> Result<Parts, Failure> {
    let tail = TailReader::new(&config.kafka, PgSinker::NAME, fate)?;
    let bounds = tail.bounds(&job.topic, job.parts.iter().map(|part| part.partition))?;
    if job.kind == Kind::Rebuild {
        let is_cut = |part: &&job::Part| bounds.get(&part.partition).is_some_and(|bounds| bounds.first > part.next);
        if let Some(part) = job.parts.iter().find(is_cut) {
            let what = format!("retention has cut off the beginning of partition {}", part.partition);
            return Err(rebuild::lost(&TableName::parse(&job.table), &what));
        }
    }
    let within = |part: &job::Part| {
        let Bounds { first, .. } = bounds.get(&part.partition).copied().filter(|bounds| bounds.end >= part.until)?;
        Some(parts::Part { partition: part.partition, next: part.next.max(first), until: part.until })
    };
    let parts: Option<Vec<parts::Part>> = job.parts.iter().map(within).collect();
    let parts = parts.ok_or_else(|| {
        let what = format!("topic {} ends before what is to be read again: it was made anew", job.topic);
        Failure::new(FailureKind::Settings, what).cure("ask again for what it has now")
    })?;
    Parts::new(&config.kafka, PgSinker::NAME, &job.topic, &parts)
}

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
    async fn new(
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
        let mut tables: Vec<Table> = into.plan.tables.tables.iter().map(|target| target.table.clone()).collect();
        for table in &mut tables {
            (table.label, table.name) = (beside.to_string(), beside.clone());
        }
        let tables = Tables::new(tables);
        into.plan = Plan::new(into.plan.place.clone(), tables, Rollups::default(), Guard::Newer);
        // It has the columns that the table has; where that one gets more, it begins anew.
        into.grower.growth.clear();
        into.of = Some(name);
        Ok(into)
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
    ) -> Result<u64, Option<Rest>> {
        let of_trouble = |trouble: Trouble| Option::<Rest>::from(Unwritten::Trouble(trouble));
        let refusing = self.grow(connection, chunk).await.map_err(of_trouble)?;
        let writing = Writing { plan: &self.plan, job, begin, letters: &self.letters };
        writing.write(connection, chunk, refusing.then_some(&self.grower)).await.map_err(Option::<Rest>::from)
    }

    /// Makes what the table lacks for the rows of the chunk. Answers whether some value of it gets no column.
    async fn grow(&mut self, connection: &mut PgConnection, chunk: &Chunk) -> Result<bool, Trouble> {
        let all: BTreeMap<i32, i64> = chunk.batch.records().map(|record| (record.partition, 0)).collect();
        let wanted: Wanted = self.grower.wanted(&chunk.batch, &all);
        if !wanted.columns.is_empty() {
            let tables: Tables = self.grower.make(connection, &wanted).await?;
            self.plan = self.plan.with_tables(tables);
        }
        Ok(wanted.has_impossible)
    }
}
