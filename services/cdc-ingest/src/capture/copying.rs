//! The copies of tables, carried out: chunks asked for, taken, recorded, shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::Failure;
use shared::metrics;
use shared::pg::refused_for_now;
use shared::position::Version;
use sqlx::AssertSqlSafe;

use super::sweep::Gone;
use super::{Core, SNAPSHOT_LATCH, Standing, unwritable};
use crate::catalog::KeyColumn;
use crate::copies::{Acked, Copy, progress};
use crate::key_order::{Order, compare};
use crate::merge::{Chunk, Offered};
use crate::snapshot::{ChunkTaken, TakeChunk};
use crate::state::{KeyRange, table_record};
use crate::transaction::ChunkDone;

/// A chunk that is refused so often stops its table.
const REFUSALS_MAX: u32 = 5;

/// The log tells of each copy this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How fast each copy goes, by index of the table.
#[derive(Debug, Default)]
pub struct Paces(BTreeMap<usize, Pace>);

#[derive(Debug)]
struct Pace {
    since: Instant,
    rows_then: u64,
    /// All rows of the copy, by the planner's estimate.
    rows_estimate: i64,
    next_log: Instant,
}

impl Paces {
    /// A copy begins, or goes on after a restart; so many rows are left.
    fn begin(&mut self, table: usize, rows: u64, rows_left: i64) {
        let now = Instant::now();
        let rows_estimate = rows_left.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX));
        self.0.insert(table, Pace { since: now, rows_then: rows, rows_estimate, next_log: now + LOG_EVERY });
    }

    fn forget(&mut self, table: usize) {
        self.0.remove(&table);
    }

    fn estimate(&self, table: usize) -> i64 {
        self.0.get(&table).map_or(0, |pace| pace.rows_estimate)
    }

    fn rows_a_second(&self, table: usize, rows: u64) -> f64 {
        let Some(pace) = self.0.get(&table) else { return 0.0 };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let copied = rows.saturating_sub(pace.rows_then) as f64;
        copied / pace.since.elapsed().as_secs_f64().max(0.001)
    }

    fn is_log_due(&mut self, table: usize) -> bool {
        let now = Instant::now();
        self.0.get_mut(&table).is_some_and(|pace| {
            let due = now >= pace.next_log;
            if due {
                pace.next_log = now + LOG_EVERY;
            }
            due
        })
    }
}

impl Core {
    /// Asks for the chunks that are due.
    pub fn take_chunks(&mut self, wait: Duration) {
        for ask in self.copies.asks() {
            let source = self.tables.get(ask.table).and_then(|table| table.source.clone());
            let (Some(source), Some(reader)) = (source, self.readers.get(ask.seat)) else { continue };
            self.assembler.watch(ask.table, ask.ask);
            reader.do_send(TakeChunk { ask, table: source, wait });
        }
    }

    /// The chunk that is on its way is of no use: it is asked for again, a moment later.
    pub(super) fn retake_chunk(&mut self, table: usize) {
        metrics::CHUNKS_RETAKEN.inc();
        self.assembler.give_up(table);
        let tries = self.copies.retake(table);
        let wait = self.settings.snapshot.retake_wait_ms.saturating_mul(1 << tries.min(7));
        self.take_chunks(Duration::from_millis(wait));
    }

    pub(super) async fn chunk_taken(&mut self, taken: ChunkTaken) -> Result<(), Failure> {
        match taken {
            ChunkTaken::Read(chunk) => self.chunk(chunk).await,
            ChunkTaken::Refused { ask, .. } if !self.copies.is_asked(ask.table, ask.ask) => Ok(()),
            ChunkTaken::Refused { ask, failure } if ask.tries < REFUSALS_MAX => {
                tracing::warn!(table = self.table_name(ask.table), "a chunk is read again: {}", failure.chain());
                self.wanted.look_at(ask.table);
                self.retake_chunk(ask.table);
                Ok(())
            }
            ChunkTaken::Refused { ask, failure } => {
                self.stop_table(ask.table, Standing::Spoilt, failure.chain())?;
                self.send().await
            }
        }
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), Failure> {
        let table = chunk.table;
        if let (Some(rows_left), Some(copy)) = (chunk.rows_left, self.copies.get(table)) {
            self.paces.begin(table, copy.state.rows, rows_left);
        }
        match self.assembler.offer(chunk, &mut self.out) {
            Offered::Taken => self.send().await,
            Offered::Stale => Ok(()),
            Offered::TakeAgain => {
                self.retake_chunk(table);
                Ok(())
            }
        }
    }

    /// A new copy of the table, or of a range of its keys. What the topic has and the copy does not find gets a tombstone.
    pub fn begin_copy(&mut self, table: usize, range: KeyRange) -> Result<(), Failure> {
        self.assembler.give_up(table);
        let last = self.assembler.last();
        let behind = Version { part: last.part.saturating_add(1), ..last };
        // Of a list of keys each gets its row or its tombstone at once.
        let sweep_below = (self.assembler.has_sent(table) && range.keys.is_none()).then_some(behind);
        self.copies.begin(table, range, sweep_below);
        self.paces.forget(table);
        self.record_table(table)
    }

    /// Adds the table's record to what goes out next.
    pub fn record_table(&mut self, table: usize) -> Result<(), Failure> {
        let Some(copy) = self.copies.get(table) else { return Ok(()) };
        let (key, value) =
            table_record(&self.settings.slot.name, self.table_name(table), &copy.state).map_err(unwritable)?;
        self.push_state(&key, &value);
        self.report_copies();
        Ok(())
    }

    /// Records what is acknowledged, between transactions only: the tombstones of a sweep must not stand amid their changes.
    pub(super) async fn record_chunks(&mut self) -> Result<(), Failure> {
        while !self.assembler.is_in_transaction()
            && let Some(done) = self.acked.pop_front()
        {
            self.record_chunk(&done).await?;
        }
        Ok(())
    }

    async fn record_chunk(&mut self, done: &ChunkDone) -> Result<(), Failure> {
        match self.copies.acked(done) {
            Acked::Stale => return Ok(()),
            Acked::Further => {
                self.log_progress(done.table);
                self.take_chunks(Duration::ZERO);
            }
            Acked::Last => self.finish_copy(done.table).await?,
        }
        self.record_table(done.table)?;
        self.send().await
    }

    async fn finish_copy(&mut self, table: usize) -> Result<(), Failure> {
        let Some(state) = self.copies.get(table).map(|copy| copy.state.clone()) else { return Ok(()) };
        if let Some(below) = state.sweep_below {
            let gone = Gone { below: Some(below), range: state.range.clone() };
            self.tombstone_live_keys(table, None, &gone).await?;
            self.drain().await?;
        }
        tracing::info!(table = self.table_name(table), rows = state.rows, "table copied");
        self.copies.finish(table);
        self.paces.forget(table);
        self.take_chunks(Duration::ZERO);
        Ok(())
    }

    /// Of these keys, in their JSON form, those in the range.
    pub(super) async fn in_range(
        &mut self,
        table: usize,
        keys: Vec<Vec<u8>>,
        range: &KeyRange,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let source = self.tables.get(table).and_then(|table| table.source.clone());
        let (Some(source), false) = (source, range.is_all() || keys.is_empty()) else { return Ok(keys) };
        let condition = range_condition(&source.key, range);
        let sql = format!("SELECT u.key FROM unnest($1::text[]) AS u (key) WHERE {condition}");
        let texts: Vec<String> = keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let failed = |error| refused_for_now(format!("keys of {} could not be compared", source.name), error);
        let found: Vec<String> = self
            .ask(async |connection| {
                sqlx::query_scalar(AssertSqlSafe(sql)).bind(texts).fetch_all(connection).await.map_err(failed)
            })
            .await?;
        Ok(found.into_iter().map(String::into_bytes).collect())
    }

    fn log_progress(&mut self, table: usize) {
        if !self.paces.is_log_due(table) {
            return;
        }
        let Some(copy) = self.copies.get(table) else { return };
        let (percent, seconds_left, rate) = self.pace(table, copy);
        tracing::info!(
            table = self.table_name(table),
            rows = copy.state.rows,
            percent,
            rows_a_second = rate.round(),
            seconds_left,
            "copying"
        );
    }

    fn pace(&self, table: usize, copy: &Copy) -> (u8, Option<u64>, f64) {
        let rate = self.paces.rows_a_second(table, copy.state.rows);
        let (percent, left) = progress(copy.state.rows, self.paces.estimate(table), copy.state.done, rate);
        (percent, left, rate)
    }

    /// Shows how far the copies have come, and releases readiness when none is open.
    pub fn report_copies(&self) {
        let mut shown = BTreeMap::new();
        for (table, (entry, copy)) in self.tables.iter().zip(self.copies.iter()).enumerate() {
            let (percent, seconds_left, rate) = self.pace(table, copy);
            let name = entry.state_name.as_str();
            let signed = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
            metrics::SNAPSHOT_ROWS.with_label_values(&[name]).set(signed(copy.state.rows));
            metrics::SNAPSHOT_PERCENT.with_label_values(&[name]).set(i64::from(percent));
            metrics::TABLE_STOPPED.with_label_values(&[name]).set(i64::from(copy.state.stopped.is_some()));
            let open = copy.is_open();
            let called_now = entry.source.as_ref().map(|source| source.name.to_string());
            let row = CopyShown {
                topic: &entry.topic,
                rows: copy.state.rows,
                done: copy.state.done,
                percent,
                rows_a_second: open.then_some(rate.round()),
                seconds_left: seconds_left.filter(|_| open),
                paused: open.then_some(copy.state.paused),
                stopped: copy.state.stopped.as_deref(),
                called_now: called_now.filter(|called| *called != entry.state_name),
            };
            shown.insert(name, row);
        }
        self.health.detail(SNAPSHOT_LATCH, shown);
        if self.copies.iter().all(|copy| !copy.is_open() || copy.state.paused) {
            self.health.release(SNAPSHOT_LATCH);
        }
    }
}

/// A table in `/api/v1/state`.
#[derive(Debug, Serialize)]
struct CopyShown<'a> {
    topic: &'a str,
    rows: u64,
    done: bool,
    percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_a_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    /// Why the table is not carried, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'a str>,
    /// Where it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    called_now: Option<String>,
}

/// Whether a key, the column `u.key` in JSON, lies in the range.
fn range_condition(key: &[KeyColumn], range: &KeyRange) -> String {
    let field =
        |column: &KeyColumn| format!("(u.key::json ->> '{}')::{}", column.name.replace('\'', "''"), column.sql_type);
    let fields: Vec<String> = key.iter().map(field).collect();
    let bound =
        |values: &Option<Vec<String>>, order| values.as_ref().map(|values| compare(key, &fields, order, values));
    let bounds = [bound(&range.from, Order::AtLeast), bound(&range.to, Order::AtMost)];
    bounds.into_iter().flatten().collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_json_is_held_against_the_range() {
        let key = [KeyColumn::new("a'b", "text"), KeyColumn::new("n", "bigint")];
        let range = KeyRange { from: Some(vec!["x".into(), "1".into()]), ..KeyRange::default() };
        assert_eq!(
            range_condition(&key, &range),
            "((u.key::json ->> 'a''b')::text, (u.key::json ->> 'n')::bigint) >= ('x'::text, '1'::bigint)"
        );
    }
}
