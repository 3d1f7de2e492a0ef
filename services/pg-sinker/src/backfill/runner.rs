//! Does the jobs that stand in the sink, one after the other, on a thread of its own with connections of its own. What goes wrong here is told,
//! and ends nothing.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::Addr;
use serde_json::{Value, json};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::publisher::Publisher;
use shared::metrics;
use shared::pg::refused;
use shared::said::Said;
use sqlx::postgres::PgConnection;

use super::chunk::{SetAside, Unwritten};
use super::destination::Destination;
use super::job::{self, Job, Kind, Step};
use super::reading::{self, Chunk, Limits};
use super::sweep::Sweep;
use super::topic;
use crate::letters::Acknowledgement;
use crate::rollups::Fill;
use crate::settings::{OnTombstone, Settings, TableConfig};
use crate::transaction::Trouble;
use crate::{locks, parking, session};

/// How often it is looked whether there is a job, and how those of other instances are.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// The name of the page: `/api/v1/backfills`.
const PAGE: &str = "backfills";
/// So many jobs are in the state of the instance, which every console shows.
const TOLD_MAX: usize = 5;

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
        shown: Instant::now(),
        set_aside: SetAside::default(),
        sweep: Sweep::default(),
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
    shown: Instant,
    pub(super) set_aside: SetAside,
    sweep: Sweep,
}

/// Why a job rests.
pub enum Rest {
    /// It is tried again.
    ForNow(Failure),
    /// It is tried again, but, unless it must be done, not for ever.
    Failed(Failure),
    /// Nothing is wrong: something else comes first.
    Awaits,
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
            None => self.connect().await?,
        };
        let jobs = job::recent(&mut connection, &group).await?;
        self.show(&jobs);
        self.sweep.look(&mut connection, &jobs, &self.setup.config).await;
        let is_some = self.next(&mut connection).await?.is_some();
        // A topic that rests holds up nothing of the others.
        let is_ready = self.setup.health.is_ready_but_for(parking::LATCH);
        if !(is_some && is_ready && take_turn(&mut connection, &group).await?) {
            self.connection = Some(connection);
            return Ok(false);
        }
        // The turn goes with the connection: a further one may be another instance's. Between the look and the turn somebody may have gone
        // on with the job.
        let Some(mut job) = self.next(&mut connection).await? else { return Ok(false) };
        if let Some(rest) = self.work(&mut connection, &mut job).await {
            self.rest(&mut connection, &job, rest).await?;
        }
        Ok(true)
    }

    /// A session that holds the turn: the server gives it up when it hears nothing for longer than a chunk may take.
    async fn connect(&self) -> Result<PgConnection, Failure> {
        let config = &self.setup.config;
        let silence = Duration::from_millis(config.kafka.session_timeout_ms);
        let mut connection = session::connect(&config.sink, "pg-sinker backfill", &config.writer, silence).await?;
        let chunk_records = usize::try_from(config.backfill.chunk_records).unwrap_or(usize::MAX);
        let between_chunks = config.backfill.time_of(chunk_records) + config.kafka.request_timeout();
        session::end_when_silent(&mut connection, silence, silence + between_chunks).await?;
        Ok(connection)
    }

    async fn next(&self, connection: &mut PgConnection) -> Result<Option<Job>, Failure> {
        let config = &self.setup.config;
        let written: Vec<_> = config.tables.values().map(|table| (table.label(), config.topic_of(table))).collect();
        job::next(connection, &config.input.group, &written).await
    }

    /// Others come before the job for a while, or it has ended.
    async fn rest(&mut self, connection: &mut PgConnection, job: &Job, rest: Rest) -> Result<(), Failure> {
        let config = &self.setup.config.backfill;
        let is_given_up = is_given_up(job, &rest, config.tries_max);
        let (Rest::ForNow(failure) | Rest::Failed(failure)) = rest else {
            return job::rest(connection, job, None, LOOK_EVERY).await;
        };
        let chain = failure.chain();
        if is_given_up {
            tracing::error!(job = job.id, table = job.table, "what was to be read again is not: {chain}");
            return job::end(connection, job, Some(&chain)).await.map(|_| ());
        }
        let wait = config.retry_wait(u32::try_from(job.tries).unwrap_or_default().saturating_add(1));
        if job::rest(connection, job, Some(&chain), wait).await.is_err() {
            // The sink is away: nothing else can be done meanwhile.
            return Err(failure);
        }
        if self.said.is_news(&chain) {
            tracing::warn!(job = job.id, table = job.table, "records are read again later: {chain}");
        }
        Ok(())
    }

    /// Does a step of the job, or as much of it as there is.
    async fn work(&mut self, connection: &mut PgConnection, job: &mut Job) -> Option<Rest> {
        let worked = self.step(connection, job).await;
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
        let mut parts = topic::open(&config, &self.setup.fate, job).map_err(|failure| Some(rest(failure)))?;
        loop {
            let begun = Instant::now();
            let chunk = reading::next(&mut parts, job, into.on_tombstone, limits(&config));
            let chunk = chunk.map_err(|failure| Some(rest(failure)))?;
            if !chunk.moves.is_empty() {
                let begin = locks::begin_alone(&job.topic);
                let rows = into.write(connection, job, &chunk, begin, &mut self.set_aside).await?;
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
        metrics::BACKFILL_RECORDS.with_label_values(&[&job.table]).inc_by(chunk.batch.len() as u64);
        if self.shown.elapsed() >= SHOW_EVERY {
            self.shown = Instant::now();
            self.show_one(job);
        }
    }

    fn show(&self, jobs: &[Job]) {
        for (table, figures) in job::figures(jobs) {
            metrics::BACKFILL_REMAINING.with_label_values(&[table]).set(figures.remaining);
            metrics::BACKFILL_FAILED.with_label_values(&[table]).set(i64::from(figures.is_failing));
        }
        self.page(jobs.iter().map(Job::shown).collect());
    }

    /// The page, and the first of them for every console.
    fn page(&self, jobs: Vec<Value>) {
        self.setup.health.detail(PAGE, jobs.get(..TOLD_MAX).unwrap_or(&jobs));
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
        self.page(jobs);
    }
}

async fn take_turn(connection: &mut PgConnection, group: &str) -> Result<bool, Failure> {
    sqlx::query_scalar(locks::TRY_BACKFILL)
        .bind(group)
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the turn to read records again cannot be taken", error))
}

/// Whether the job has failed for good.
fn is_given_up(job: &Job, rest: &Rest, tries_max: u32) -> bool {
    match rest {
        Rest::Failed(failure) if !job.must_be_done() => {
            !failure.kind.is_retried() || u32::try_from(job.tries).is_ok_and(|tries| tries + 1 >= tries_max)
        }
        _ => false,
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
    job.tries = 0;
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

#[cfg(test)]
mod tests {
    use super::super::job::tests::example;
    use super::*;

    #[test]
    fn what_must_be_done_is_never_given_up() {
        let refused = || Rest::Failed(Failure::new(FailureKind::Refused, "a fault"));
        let settings = || Rest::Failed(Failure::new(FailureKind::Settings, "a fault"));
        let passing = Rest::ForNow(Failure::new(FailureKind::Unreachable, "away"));
        let job = |kind, step, tries| Job { step, tries, ..example(kind, &[]) };
        for kind in [Kind::Replay, Kind::Rebuild] {
            assert!(!is_given_up(&job(kind, Step::Rows, 3), &refused(), 5));
            assert!(is_given_up(&job(kind, Step::Rows, 4), &refused(), 5));
            assert!(is_given_up(&job(kind, Step::Rows, 0), &settings(), 5));
            assert!(!is_given_up(&job(kind, Step::Rows, 99), &passing, 5));
            assert!(!is_given_up(&job(kind, Step::Rows, 99), &Rest::Awaits, 5));
        }
        for job in [job(Kind::New, Step::Rows, 99), job(Kind::Rebuild, Step::Swapped, 99)] {
            assert!(!is_given_up(&job, &refused(), 5) && !is_given_up(&job, &settings(), 5));
        }
    }
}
