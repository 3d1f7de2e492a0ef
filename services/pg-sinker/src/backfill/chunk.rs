//! A chunk is written: the job's positions by compare-and-set, then rows and roll-ups as a batch writes them.

use std::collections::BTreeSet;

use shared::batch::{Batch, Record};
use shared::failure::Failure;
use shared::record::dead_letter::Rejection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::job::{self, Job, Move};
use super::reading::Chunk;
use super::span::Candidate;
use crate::entry::{Entry, Item};
use crate::evolve::Grower;
use crate::letters::Letters;
use crate::split::{Portions, Refused};
use crate::transaction::{self, Plan, Trouble, trouble};

/// What a chunk is written with.
pub struct Writing<'w> {
    pub plan: &'w Plan,
    pub job: &'w Job,
    /// The statements that begin the transaction.
    pub begin: String,
    pub letters: &'w Letters,
}

/// Records that are among the dead letters, and whose chunk is not written yet: of a job the partitions and offsets. A chunk that is tried
/// again sets none of them aside again. A process that starts anew knows none; the letter's key says that it is the same.
#[derive(Debug, Default)]
pub struct SetAside(BTreeSet<(i64, i32, i64)>);

impl SetAside {
    fn contains(&self, job: i64, record: &Record<'_>) -> bool {
        self.0.contains(&(job, record.partition, record.offset))
    }

    fn enter(&mut self, job: i64, record: &Record<'_>) {
        self.0.insert((job, record.partition, record.offset));
    }

    /// A chunk is written. Where it was tried before it may have held other records as well, which are still to come.
    fn written(&mut self, job: i64, chunk: &Batch) {
        for record in chunk.records() {
            self.0.remove(&(job, record.partition, record.offset));
        }
    }

    fn forget(&mut self, job: i64) {
        self.0.retain(|(id, ..)| *id != job);
    }
}

/// Why a chunk was not written.
#[derive(Debug)]
pub enum Unwritten {
    /// The job is no longer where it was: it was stopped, or somebody else does it.
    Lost,
    Trouble(Trouble),
    /// The dead letters were not taken.
    Failure(Failure),
}

impl From<Trouble> for Unwritten {
    fn from(trouble: Trouble) -> Self {
        Unwritten::Trouble(trouble)
    }
}

impl Writing<'_> {
    /// Writes it, in halves where a record of it is bad; that one is set aside. Answers the rows that were written.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        chunk: &Chunk,
        refusing: Option<&Grower>,
        set_aside: &mut SetAside,
    ) -> Result<u64, Unwritten> {
        let written = self.write_all(connection, chunk, refusing, set_aside).await;
        match &written {
            Ok(_) => set_aside.written(self.job.id, &chunk.batch),
            Err(Unwritten::Lost) => set_aside.forget(self.job.id),
            Err(Unwritten::Trouble(_) | Unwritten::Failure(_)) => {}
        }
        written
    }

    async fn write_all(
        &self,
        connection: &mut PgConnection,
        chunk: &Chunk,
        refusing: Option<&Grower>,
        set_aside: &mut SetAside,
    ) -> Result<u64, Unwritten> {
        let records: Vec<Record<'_>> = chunk.batch.records().collect();
        let mut items: Vec<Item<'_>> = records.iter().map(|record| Item::read(*record, &self.plan.tables)).collect();
        if let Some(grower) = refusing {
            grower.refuse_what_has_no_column(&mut items);
        }
        self.set_aside(&items, set_aside).await?;
        let mut portions = Portions::whole(items.len());
        let mut rows = 0;
        while let Some(range) = portions.take_next() {
            // The positions move with the last portion: until then all of it comes again.
            let moves =
                if range.end == items.len() { (chunk.moves.as_slice(), chunk.read) } else { Default::default() };
            let part = items.get(range.clone()).unwrap_or_default();
            let in_time = chunk.in_time.get(range.clone()).unwrap_or_default();
            match self.attempt(connection, part, in_time, moves).await {
                Ok(Some(more)) => rows += more,
                Ok(None) => return Err(Unwritten::Lost),
                Err(Trouble::Data(rejection)) => {
                    if let Refused::Alone(at) = portions.refuse(range)
                        && let Some(item) = items.get_mut(at)
                    {
                        item.content = Err(rejection);
                        self.set_aside(std::slice::from_ref(item), set_aside).await?;
                    }
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
        if items.is_empty() && self.attempt(connection, &[], &[], (&chunk.moves, chunk.read)).await?.is_none() {
            return Err(Unwritten::Lost);
        }
        Ok(rows)
    }

    async fn set_aside(&self, items: &[Item<'_>], set_aside: &mut SetAside) -> Result<(), Unwritten> {
        let rejected = items.iter().filter_map(|item| Some((item.record, item.content.as_ref().err()?)));
        let new = rejected.filter(|(record, _)| !set_aside.contains(self.job.id, record));
        let new: Vec<(Record<'_>, &Rejection)> = new.collect();
        self.letters.post(&new).await.map_err(Unwritten::Failure)?;
        new.iter().for_each(|(record, _)| set_aside.enter(self.job.id, record));
        Ok(())
    }

    async fn attempt(
        &self,
        connection: &mut PgConnection,
        items: &[Item<'_>],
        in_time: &[bool],
        (moves, read): (&[Move], u64),
    ) -> Result<Option<u64>, Trouble> {
        let failed = |what: &'static str| move |error| trouble(what, error);
        let begun = connection.begin_with(AssertSqlSafe(self.begin.clone())).await;
        let mut transaction = begun.map_err(failed("a transaction cannot begin"))?;
        let written = self.write_into(&mut transaction, items, in_time).await;
        let rows = match written {
            Ok(rows) => rows,
            Err(trouble) => {
                // Where the connection is lost the next use of it says so, and the server has rolled back.
                let _ = transaction.rollback().await;
                return Err(trouble);
            }
        };
        let counts = (i64::try_from(read).unwrap_or(i64::MAX), i64::try_from(rows).unwrap_or(i64::MAX));
        let advanced = job::advance(&mut transaction, self.job, moves, counts).await;
        if !advanced.map_err(failed("the positions cannot be moved"))? {
            transaction.rollback().await.map_err(failed("a transaction cannot be rolled back"))?;
            return Ok(None);
        }
        transaction.commit().await.map_err(failed("the transaction is not committed"))?;
        Ok(Some(rows))
    }

    /// The rows of these records, in a transaction that is open.
    pub async fn write_into(
        &self,
        connection: &mut PgConnection,
        items: &[Item<'_>],
        in_time: &[bool],
    ) -> Result<u64, Trouble> {
        let readable = items
            .iter()
            .zip(in_time)
            .filter_map(|(item, &is_in_time)| Some(Candidate { entry: item.content.as_ref().ok()?, is_in_time }));
        let candidates: Vec<Candidate<'_, '_>> = readable.collect();
        let taken: Vec<&Entry<'_>> = match self.plan.tables.tables.first() {
            Some(target) => self
                .job
                .span
                .taken(connection, target, &candidates)
                .await
                .map_err(|error| trouble(&self.job.table, error))?,
            None => candidates.iter().map(|candidate| candidate.entry).collect(),
        };
        if taken.is_empty() {
            return Ok(0);
        }
        let tally = transaction::write(connection, self.plan, &taken).await?;
        Ok(tally.written.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_known_until_its_own_chunk_is_written() {
        let record = |offset| Record { partition: 2, offset, key: None, value: None, header: None };
        let chunk = |offsets: &[i64]| {
            let mut chunk = Batch::default();
            offsets.iter().for_each(|offset| chunk.push(record(*offset)));
            chunk
        };
        let mut set_aside = SetAside::default();
        for (job, offset) in [(1, 3), (1, 4), (7, 3)] {
            set_aside.enter(job, &record(offset));
        }
        let known = |set_aside: &SetAside| {
            [(1, 3), (1, 4), (7, 3)].map(|(job, offset)| set_aside.contains(job, &record(offset)))
        };
        // The chunk that failed held both; the records come again in two.
        set_aside.written(1, &chunk(&[2, 3]));
        assert_eq!(known(&set_aside), [false, true, true]);
        set_aside.written(1, &chunk(&[4, 5]));
        assert_eq!(known(&set_aside), [false, false, true]);
        set_aside.forget(7);
        assert_eq!(known(&set_aside), [false; 3]);
    }
}
