//! A table is filled beside the old one, in the topic's order, and takes its place when it has come to where the sink is.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Instant;

use shared::failure::{Failure, FailureKind};
use shared::kafka::parts::Parts;
use shared::pg::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::chunk::Writing;
use super::job::{self, Job, Step};
use super::reading::{self, Limits};
use super::runner::{Destination, LOOK_EVERY, Rest, Runner, limits, moved, open, rest};
use super::shadow;
use crate::entry::Item;
use crate::locks;
use crate::settings::TableConfig;
use crate::transaction::{Trouble, trouble};

/// A transaction that others' may run beside: nobody else knows the table.
const BEGIN: &str = "BEGIN";

/// What became of a try to swap.
enum Swap {
    Done,
    /// So much came meanwhile: the sink's offsets.
    Behind(BTreeMap<i32, i64>),
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
        let forget = sqlx::query("DELETE FROM tidemill.deleted_keys WHERE sink_table = $1")
            .bind(shadow::beside(&name).to_string())
            .execute(&mut *connection)
            .await;
        forget.map_err(|error| of_trouble(trouble("tidemill.deleted_keys", error)))?;
        if !self.setup.fill.fill_all().await.map_err(|failure| Some(rest(failure)))? {
            // Another instance fills them.
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(());
        }
        job::end(connection, job, None).await.map_err(|failure| Some(rest(failure)))?;
        tracing::info!(job = job.id, table = job.table, "a table was built anew");
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
        let mut parts = open(&self.setup.config, &self.setup.fate, job).map_err(rested)?;
        loop {
            self.read_all(connection, job, &mut into, &mut parts).await?;
            match self.swap(connection, job, &into, &mut parts, &name).await? {
                Swap::Done | Swap::Lost => return Ok(()),
                Swap::Behind(offsets) => {
                    let known = |partition: &i32| job.parts.iter().any(|part| part.partition == *partition);
                    if !offsets.keys().all(known) {
                        return Err(Some(Rest::Failed(lost(&name, "its topic has got partitions since it began"))));
                    }
                    job::extend(connection, job, &offsets).await.map_err(rested)?;
                    parts = open(&self.setup.config, &self.setup.fate, job).map_err(rested)?;
                }
            }
        }
    }

    /// Makes the table beside, unless the job is on its way into it.
    async fn make(&self, connection: &mut PgConnection, job: &Job, name: &TableName) -> Result<(), Option<Rest>> {
        let failed = |error| of_trouble(trouble(&name.to_string(), error));
        let is_begun = job.parts.iter().any(|part| part.next > part.first);
        if is_begun && shadow::is_alike(connection, name).await.map_err(failed)? {
            return Ok(());
        }
        if is_begun {
            return Err(Some(Rest::Failed(changed(name))));
        }
        let problems = shadow::problems(connection, name, &self.setup.config.sink.user).await;
        if let Some(problem) = problems.map_err(|failure| Some(rest(failure)))?.into_iter().next() {
            return Err(Some(Rest::Failed(problem)));
        }
        shadow::make(connection, name, job.id).await.map_err(failed)
    }

    /// With no batch of the topic open: reads what the table beside lacks, if that is little, and puts it in the old one's place.
    async fn swap(
        &self,
        connection: &mut PgConnection,
        job: &Job,
        into: &Destination,
        parts: &mut Parts,
        name: &TableName,
    ) -> Result<Swap, Option<Rest>> {
        let failed = |error| of_trouble(trouble(&name.to_string(), error));
        let begun = connection.begin_with(AssertSqlSafe(locks::begin_alone(&job.topic))).await;
        let mut transaction = begun.map_err(failed)?;
        let offsets: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT partition, next_offset FROM tidemill.sink_offsets WHERE consumer_group = $1 AND topic = $2",
        )
        .bind(&self.setup.config.input.group)
        .bind(&job.topic)
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        let offsets: BTreeMap<i32, i64> = offsets.into_iter().filter(|(_, next)| *next > 0).collect();
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
        shadow::lock(connection, name, self.setup.config.writer.evolve_lock_timeout_ms).await.map_err(failed)?;
        if !shadow::is_alike(connection, name).await.map_err(failed)? {
            return Err(Some(Rest::Failed(changed(name))));
        }
        shadow::swap(connection, name).await.map_err(failed)?;
        Ok(Swap::Done)
    }

    /// The last records, in the transaction of the swap. The job's positions stay: where the swap fails they are read again. False where a
    /// record of them is bad: they are to be written in halves, as others are.
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
                let rows = into.write(connection, job, &chunk, BEGIN.to_owned()).await?;
                moved(job, &chunk, rows);
                self.went_on(job, &chunk);
            }
            let due = self.setup.config.backfill.time_of(chunk.batch.len());
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
        Ok(())
    }

    /// What a rebuild that has ended without a swap left behind.
    pub(super) async fn sweep(&mut self, connection: &mut PgConnection, jobs: &[Job]) -> Result<(), Failure> {
        for job in jobs.iter().filter(|job| job.left_something()) {
            if self.swept.contains(&job.id) {
                continue;
            }
            let name = TableName::parse(&job.table);
            let dropped = shadow::drop(connection, &name, job.id).await;
            dropped.map_err(|error| {
                shared::pg::refused_for_now(format!("the table beside {name} cannot be dropped"), error)
            })?;
            self.swept.insert(job.id);
        }
        Ok(())
    }
}

fn of_trouble(trouble: Trouble) -> Option<Rest> {
    super::chunk::Unwritten::Trouble(trouble).into()
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
