//! A table is filled beside the old one, in the topic's order, and takes its place when it has come to where the sink is.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Instant;

use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::parts::Parts;
use shared::pg::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::chunk::Writing;
use super::destination::Destination;
use super::job::{self, Job, Part, Step};
use super::reading::{self, Limits, WAIT};
use super::runner::{Rest, Runner, limits, moved, rest};
use super::{shadow, topic};
use crate::entry::Item;
use crate::locks;
use crate::settings::{Settings, TableConfig};
use crate::transaction::{Trouble, trouble};

/// A transaction that others' may run beside: nobody else knows the table.
const BEGIN: &str = "BEGIN";

/// What became of a try to swap.
enum Swap {
    Done,
    /// So much came meanwhile: the sink's offsets.
    Behind(BTreeMap<i32, i64>),
    /// The sink has not come to where the table beside is.
    Ahead,
    /// It was stopped.
    Lost,
}

impl Runner {
    /// Does what is open of a rebuild.
    pub(super) async fn rebuild(
        &mut self,
        connection: &mut PgConnection,
        job: &mut Job,
        table: &TableConfig,
    ) -> Result<(), Option<Rest>> {
        let name = TableName::parse(&table.table);
        if job.step != Step::Swapped {
            let filled = self.fill_and_swap(connection, job, table).await;
            if let Err(Some(Rest::ForNow(failure))) = filled {
                // The stream needs the space that this takes.
                return Err(Some(if is_full(&failure) {
                    Rest::Failed(full(&name, failure))
                } else {
                    Rest::ForNow(failure)
                }));
            }
            return filled;
        }
        self.finish(connection, job, &name).await
    }

    /// The new table is in its place: its roll-ups are filled, and what only the building needed goes.
    async fn finish(&self, connection: &mut PgConnection, job: &Job, name: &TableName) -> Result<(), Option<Rest>> {
        let rested = |failure| Some(rest(failure));
        let fill = &self.setup.fill;
        if !fill.is_complete(connection).await.map_err(rested)? {
            // This session would be silent for as long as that takes: the next look has another one.
            let is_mine = fill.fill_all().await.map_err(rested)?;
            return if is_mine { Ok(()) } else { Err(Some(Rest::Awaits)) };
        }
        let forgotten = shadow::forget_deleted_keys(connection, name).await;
        forgotten.map_err(|error| of_trouble(trouble("tidemill.deleted_keys", error)))?;
        if job::end(connection, job, None).await.map_err(rested)? {
            tracing::info!(job = job.id, table = job.table, "a table was built anew");
        }
        Ok(())
    }

    async fn fill_and_swap(
        &mut self,
        connection: &mut PgConnection,
        job: &mut Job,
        table: &TableConfig,
    ) -> Result<(), Option<Rest>> {
        let rested = |failure| Some(rest(failure));
        let name = TableName::parse(&table.table);
        self.make(connection, job, &name).await?;
        let mut into = Destination::beside(&self.setup, connection, table, job).await.map_err(rested)?;
        let mut parts = topic::open(&self.setup.config, &self.setup.fate, job).map_err(rested)?;
        loop {
            self.read_all(connection, job, &mut into, &mut parts).await?;
            let sink = self.await_sink(connection, job).await?;
            match self.swap(connection, job, &into, &mut parts, (&name, &sink)).await? {
                Swap::Done | Swap::Lost => return Ok(()),
                Swap::Ahead => return Err(Some(Rest::Awaits)),
                Swap::Behind(offsets) => {
                    let known = |partition: &i32| job.parts.iter().any(|part| part.partition == *partition);
                    if !offsets.keys().all(known) {
                        return Err(Some(Rest::Failed(lost(&name, "its topic has got partitions since it began"))));
                    }
                    job::extend(connection, job, &offsets).await.map_err(rested)?;
                    parts = topic::open(&self.setup.config, &self.setup.fate, job).map_err(rested)?;
                }
            }
        }
    }

    /// Makes the table beside, unless the job is on its way into it.
    async fn make(&self, connection: &mut PgConnection, job: &Job, name: &TableName) -> Result<(), Option<Rest>> {
        let failed = |error| of_trouble(trouble(&name.to_string(), error));
        if job.is_begun() {
            // What its rows went into.
            let is_its = shadow::is_its(connection, name, job.id).await.map_err(failed)?;
            let is_as_it_was = is_its && shadow::is_alike(connection, name).await.map_err(failed)?;
            return if is_as_it_was { Ok(()) } else { Err(Some(Rest::Failed(changed(name)))) };
        }
        let problems = shadow::problems(connection, name, &self.setup.config.sink.user).await;
        if let Some(problem) = problems.map_err(|failure| Some(rest(failure)))?.into_iter().next() {
            return Err(Some(Rest::Failed(problem)));
        }
        if shadow::is_of_another(connection, name, job.id).await.map_err(failed)? {
            return Err(Some(Rest::Failed(taken(name))));
        }
        shadow::make(connection, name, job.id).await.map_err(failed)
    }

    /// Waits for the sink where the table beside is ahead of it: a row that was deleted would come back in the new table, and go again, when
    /// the sink comes to the records before the deletion. Answers the sink's offsets; between these and the job's there is no record.
    async fn await_sink(&self, connection: &mut PgConnection, job: &Job) -> Result<BTreeMap<i32, i64>, Option<Rest>> {
        let failed = |error| of_trouble(trouble("tidemill.sink_offsets", error));
        let offsets = self.offsets(connection, job).await.map_err(failed)?;
        let ahead = job.ahead_of(&offsets);
        let config = &self.setup.config;
        let is_awaited = ahead.is_empty()
            || has_no_record(config, &self.setup.fate, job, &ahead).await.map_err(|failure| Some(rest(failure)))?;
        if is_awaited { Ok(offsets) } else { Err(Some(Rest::Awaits)) }
    }

    /// Where the sink is in the job's topic.
    async fn offsets(&self, connection: &mut PgConnection, job: &Job) -> sqlx::Result<BTreeMap<i32, i64>> {
        let found: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT partition, next_offset FROM tidemill.sink_offsets WHERE consumer_group = $1 AND topic = $2 AND next_offset > 0",
        )
        .bind(&self.setup.config.input.group)
        .bind(&job.topic)
        .fetch_all(connection)
        .await?;
        Ok(found.into_iter().collect())
    }

    /// With no batch of the topic open: reads what the table beside lacks, if that is little, and puts it in the old one's place. The sink
    /// was `seen` where it has passed all that the table beside has.
    async fn swap(
        &self,
        connection: &mut PgConnection,
        job: &Job,
        into: &Destination,
        parts: &mut Parts,
        (name, seen): (&TableName, &BTreeMap<i32, i64>),
    ) -> Result<Swap, Option<Rest>> {
        let failed = |error| of_trouble(trouble(&name.to_string(), error));
        let begun = connection.begin_with(AssertSqlSafe(locks::begin_alone(&job.topic))).await;
        let mut transaction = begun.map_err(failed)?;
        let offsets = self.offsets(&mut transaction, job).await.map_err(failed)?;
        if seen.iter().any(|(partition, seen)| offsets.get(partition).is_none_or(|offset| offset < seen)) {
            transaction.rollback().await.map_err(failed)?;
            return Ok(Swap::Ahead);
        }
        let next_of =
            |partition: &i32| job.parts.iter().find(|part| part.partition == *partition).map(|part| part.next);
        let lacks =
            |(partition, offset): (&i32, &i64)| next_of(partition).map_or(i64::MAX, |next| (offset - next).max(0));
        let lacking = offsets.iter().map(lacks).fold(0, i64::saturating_add);
        let limits = limits(&self.setup.config);
        if lacking > i64::try_from(limits.records).unwrap_or(i64::MAX) {
            transaction.rollback().await.map_err(failed)?;
            return Ok(Swap::Behind(offsets));
        }
        match self.put_in_place(&mut transaction, job, into, parts, (name, offsets)).await {
            Ok(Swap::Done) => {
                transaction.commit().await.map_err(failed)?;
                tracing::info!(job = job.id, table = job.table, "the table that was built anew has taken its place");
                Ok(Swap::Done)
            }
            other => {
                // Where the connection is lost the next use of it says so, and the server has rolled back.
                let _ = transaction.rollback().await;
                other
            }
        }
    }

    async fn put_in_place(
        &self,
        connection: &mut PgConnection,
        job: &Job,
        into: &Destination,
        parts: &mut Parts,
        (name, offsets): (&TableName, BTreeMap<i32, i64>),
    ) -> Result<Swap, Option<Rest>> {
        let failed = |error| of_trouble(trouble(&name.to_string(), error));
        if !self.catch_up(connection, job, into, parts, &offsets).await? {
            return Ok(Swap::Behind(offsets));
        }
        if !job::swapped(connection, job).await.map_err(failed)? {
            return Ok(Swap::Lost);
        }
        // They are filled anew, before the job ends.
        let refill =
            sqlx::query("UPDATE tidemill.rollups SET is_complete = false, filled_to = NULL WHERE of_table = $1");
        refill.bind(&job.table).execute(&mut *connection).await.map_err(failed)?;
        let config = &self.setup.config;
        shadow::lock(connection, name, config.writer.evolve_lock_timeout_ms).await.map_err(failed)?;
        // Nobody changes it any more. What came to it since the job began would be lost.
        let problems = shadow::problems(connection, name, &config.sink.user).await;
        if let Some(problem) = problems.map_err(|failure| Some(rest(failure)))?.into_iter().next() {
            return Err(Some(Rest::Failed(problem)));
        }
        if !shadow::is_alike(connection, name).await.map_err(failed)? {
            return Err(Some(Rest::Failed(changed(name))));
        }
        shadow::swap(connection, name).await.map_err(failed)?;
        Ok(Swap::Done)
    }

    /// The last records, in the transaction of the swap. The job's positions stay: where the swap fails they are read again. False where a
    /// record of them is bad, or brings a column: they are to be written as others are. One that cannot be read is among the dead letters: the
    /// sink has passed it.
    async fn catch_up(
        &self,
        connection: &mut PgConnection,
        job: &Job,
        into: &Destination,
        parts: &mut Parts,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<bool, Option<Rest>> {
        let rested = |failure| Some(rest(failure));
        parts.extend(offsets.iter().map(|(&partition, &until)| (partition, until))).map_err(rested)?;
        let begun = Instant::now();
        let timeout = self.setup.config.writer.transaction_timeout();
        while !parts.is_done() {
            if begun.elapsed() > timeout {
                let late = format!("the last records for {} did not come within {} ms", job.table, timeout.as_millis());
                return Err(Some(Rest::ForNow(Failure::new(FailureKind::Unreachable, late))));
            }
            let limits = Limits { records: usize::MAX, ..limits(&self.setup.config) };
            let chunk = reading::next(parts, job, into.on_tombstone, limits).map_err(rested)?;
            into.whole(parts, job)?;
            if into.lacks_columns(&chunk) {
                return Ok(false);
            }
            let items: Vec<Item<'_>> =
                chunk.batch.records().map(|record| Item::read(record, &into.plan.tables)).collect();
            let writing = Writing { plan: &into.plan, job, begin: BEGIN.to_owned(), letters: &into.letters };
            match writing.write_into(connection, &items, &chunk.in_time).await {
                Ok(_) => {}
                Err(Trouble::Data(_)) => return Ok(false),
                Err(trouble) => return Err(of_trouble(trouble)),
            }
        }
        Ok(true)
    }

    /// Reads up to the ends of the parts.
    async fn read_all(
        &mut self,
        connection: &mut PgConnection,
        job: &mut Job,
        into: &mut Destination,
        parts: &mut Parts,
    ) -> Result<(), Option<Rest>> {
        while !parts.is_done() {
            let begun = Instant::now();
            let limits = limits(&self.setup.config);
            let chunk = reading::next(parts, job, into.on_tombstone, limits).map_err(|failure| Some(rest(failure)))?;
            into.whole(parts, job)?;
            if !chunk.moves.is_empty() {
                let begin = BEGIN.to_owned();
                let rows = into.write(connection, job, &chunk, begin, &mut self.set_aside).await?;
                moved(job, &chunk, rows);
                self.went_on(job, &chunk);
            }
            let due = self.setup.config.backfill.time_of(chunk.batch.len());
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
        Ok(())
    }
}

/// Whether these parts of the job's topic have no record.
async fn has_no_record(config: &Settings, fate: &Fate, job: &Job, parts: &[Part]) -> Result<bool, Failure> {
    let mut parts = topic::open_parts(config, fate, &job.topic, parts)?;
    let mut is_empty = true;
    while is_empty && !parts.is_done() {
        parts.read(WAIT, &mut |_, _| is_empty = false)?;
        // Where the generation ends this ends.
        tokio::task::yield_now().await;
    }
    Ok(is_empty)
}

fn of_trouble(trouble: Trouble) -> Option<Rest> {
    super::chunk::Unwritten::Trouble(trouble).into()
}

/// Somebody's table stands where the one beside would.
pub fn taken(name: &TableName) -> Failure {
    let beside = shadow::beside(name);
    Failure::new(FailureKind::Settings, format!("there is a table {beside} already"))
        .cure(format!("DROP TABLE {}", beside.sql()))
}

fn changed(name: &TableName) -> Failure {
    let what = format!("{name} was changed while it was built anew, or the table beside it was");
    Failure::new(FailureKind::Settings, what).cure("ask for it again; the table is as it was")
}

/// Rows would be missing in the new table.
pub fn lost(name: &TableName, what: &str) -> Failure {
    Failure::new(FailureKind::Settings, format!("{name} cannot be built anew from its topic: {what}"))
        .cure("the table is as it was; `pg-sinker backfill` reads again what the topic still has")
}

fn full(name: &TableName, failure: Failure) -> Failure {
    Failure::new(FailureKind::Settings, format!("the sink has no room for {name} beside itself"))
        .caused_by(failure)
        .cure("make room, and ask for it again; the table is as it was")
}

/// SQLSTATE class 53: no space, no memory, too many connections.
fn is_full(failure: &Failure) -> bool {
    let mut next = failure.source();
    while let Some(error) = next {
        let of_server = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        if of_server.and_then(|error| error.code()).is_some_and(|code| code.starts_with("53")) {
            return true;
        }
        next = error.source();
    }
    false
}
