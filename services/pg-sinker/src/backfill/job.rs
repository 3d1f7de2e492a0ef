//! Jobs as they stand in the sink: what is read again, how far it is, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::failure::Failure;
use shared::pg::{TableName, refused};
use shared::record::time;
use sqlx::postgres::PgRow;
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::span::Span;
use crate::checkpoint::Place;

pub fn tables() -> [TableName; 2] {
    ["backfills", "backfill_parts"].map(|name| TableName { schema: "tidemill".into(), name: name.into() })
}

/// Ended jobs of a group that are kept.
const KEPT: i64 = 100;
/// Jobs that are shown.
const SHOWN: i64 = 20;

/// Why records are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The table is new to its topic.
    New,
    /// Somebody asked for it.
    Replay,
    /// The table is built anew beside itself.
    Rebuild,
}

/// What is done of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// What is gone, so that no older row of it comes.
    Deletions,
    Rows,
    /// The new table has taken the old one's place; what it needed goes.
    Swapped,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::New => "new",
            Kind::Replay => "replay",
            Kind::Rebuild => "rebuild",
        }
    }
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Step::Deletions => "deletions",
            Step::Rows => "rows",
            Step::Swapped => "swapped",
        }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Open,
    Done,
    Stopped,
    Failed,
}

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub topic: String,
    /// Its label.
    pub table: String,
    pub kind: Kind,
    pub span: Span,
    pub step: Step,
    pub state: State,
    /// Of one that is open: why its last try failed, where nothing was written since.
    pub failure: Option<String>,
    /// Tries that failed since something was written.
    pub tries: i32,
    /// Records that were read, and rows that were written or deleted, in this step.
    pub records: i64,
    pub rows: i64,
    pub begun_ms: i64,
    pub ended_ms: Option<i64>,
    pub parts: Vec<Part>,
}

/// Where it is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub partition: i32,
    pub first: i64,
    pub next: i64,
    /// The first offset that is not read.
    pub until: i64,
}

/// Records of a partition that did not go into a table: all before this offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub partition: i32,
    pub until: i64,
}

/// A step of a partition, by compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub partition: i32,
    pub expected: i64,
    pub next: i64,
}

impl Job {
    /// Offsets that are still to be read, and all that are read in this step.
    pub fn offsets(&self) -> (i64, i64) {
        let sum = |from: fn(&Part) -> i64| self.parts.iter().map(|part| (part.until - from(part)).max(0)).sum();
        (sum(|part| part.next), sum(|part| part.first))
    }

    /// Whether something was read in this step.
    pub fn is_begun(&self) -> bool {
        self.parts.iter().any(|part| part.next > part.first)
    }

    /// What this job has read and the sink, by its offsets, has not come to.
    pub fn ahead_of(&self, offsets: &BTreeMap<i32, i64>) -> Vec<Part> {
        let of_sink = |part: &Part| offsets.get(&part.partition).copied().unwrap_or_default().max(part.first);
        let ahead = self.parts.iter().filter(|part| of_sink(part) < part.next);
        ahead.map(|part| Part { next: of_sink(part), until: part.next, ..*part }).collect()
    }

    /// Whether it goes on until it is done: what lacks in a table that is new to its topic, or in roll-ups over one that was built anew, is
    /// nobody's to give up.
    pub fn must_be_done(&self) -> bool {
        self.kind == Kind::New || self.step == Step::Swapped
    }

    /// Whether a rebuild ended without a swap.
    pub fn left_something(&self) -> bool {
        self.kind == Kind::Rebuild && matches!(self.state, State::Stopped | State::Failed)
    }

    /// For the page.
    pub fn shown(&self) -> Value {
        let (remaining, of) = self.offsets();
        json!({
            "id": self.id,
            "table": self.table,
            "topic": self.topic,
            "kind": self.kind,
            "span": self.span,
            "state": self.state,
            "step": self.step,
            "records": self.records,
            "rows": self.rows,
            "offsets_remaining": remaining,
            "offsets": of,
            "begun_at": time::at_millisecond(self.begun_ms),
            "ended_at": self.ended_ms.map(time::at_millisecond),
            "failure": self.failure,
            "tries": self.tries,
        })
    }
}

fn failed(error: sqlx::Error) -> Failure {
    refused("tidemill.backfills cannot be read or written", error)
}

impl Job {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        let partitions: Vec<i32> = row.try_get("partitions")?;
        let (firsts, nexts): (Vec<i64>, Vec<i64>) = (row.try_get("firsts")?, row.try_get("nexts")?);
        let untils: Vec<i64> = row.try_get("untils")?;
        let offsets = firsts.iter().zip(&nexts).zip(&untils);
        let part = |(&partition, ((&first, &next), &until))| Part { partition, first, next, until };
        Ok(Job {
            id: row.try_get("id")?,
            topic: row.try_get("topic")?,
            table: row.try_get("sink_table")?,
            kind: word(row, "kind")?,
            span: json(row.try_get("span")?)?,
            step: word(row, "step")?,
            state: word(row, "state")?,
            failure: row.try_get("failure")?,
            tries: row.try_get("tries")?,
            records: row.try_get("records")?,
            rows: row.try_get("rows")?,
            begun_ms: row.try_get("begun_ms")?,
            ended_ms: row.try_get("ended_ms")?,
            parts: partitions.iter().zip(offsets).map(part).collect(),
        })
    }
}

fn json<T: DeserializeOwned>(text: &str) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A word of ours, as serde has it.
fn word<T: DeserializeOwned>(row: &PgRow, column: &str) -> sqlx::Result<T> {
    let text: &str = row.try_get(column)?;
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text))
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

const SELECT: &str = "SELECT b.id, b.topic, b.sink_table, b.kind, b.span::text AS span, b.step, b.state, b.failure, b.tries, b.records, b.rows, \
     (extract(epoch FROM b.begun_at) * 1000)::int8 AS begun_ms, (extract(epoch FROM b.ended_at) * 1000)::int8 AS ended_ms, \
     ARRAY(SELECT partition FROM tidemill.backfill_parts p WHERE p.backfill = b.id ORDER BY partition) AS partitions, \
     ARRAY(SELECT first_offset FROM tidemill.backfill_parts p WHERE p.backfill = b.id ORDER BY partition) AS firsts, \
     ARRAY(SELECT next_offset FROM tidemill.backfill_parts p WHERE p.backfill = b.id ORDER BY partition) AS nexts, \
     ARRAY(SELECT until_offset FROM tidemill.backfill_parts p WHERE p.backfill = b.id ORDER BY partition) AS untils \
     FROM tidemill.backfills b WHERE b.consumer_group = $1";

/// The last jobs of the group, the newest first; those that are open before all others.
pub async fn recent(connection: &mut PgConnection, group: &str) -> Result<Vec<Job>, Failure> {
    let sql = of_those(" ORDER BY b.state = 'open' DESC, b.id DESC LIMIT $2");
    let found = sqlx::query(AssertSqlSafe(sql)).bind(group).bind(SHOWN).fetch_all(connection).await.map_err(failed)?;
    found.iter().map(Job::read).collect::<sqlx::Result<_>>().map_err(failed)
}

/// What is shown of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Offsets that are still to be read.
    pub remaining: i64,
    /// An open job rests after a failure, or, where none is open, the last one failed.
    pub is_failing: bool,
}

/// What is shown of each table of these jobs, which come as [`recent`] has them.
pub fn figures(jobs: &[Job]) -> BTreeMap<&str, Figures> {
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    for job in jobs {
        let is_last = !figures.contains_key(job.table.as_str());
        let found = figures.entry(&job.table).or_default();
        match job.state {
            State::Open => {
                found.remaining += job.offsets().0;
                found.is_failing |= job.failure.is_some();
            }
            State::Failed => found.is_failing |= is_last,
            State::Done | State::Stopped => {}
        }
    }
    figures
}

/// The first job of the group that is open and does not rest, of these tables and the topics that they are written from. Another one is
/// that of an instance with other settings.
pub async fn next(
    connection: &mut PgConnection,
    group: &str,
    written: &[(String, &str)],
) -> Result<Option<Job>, Failure> {
    let sql = of_those(
        " AND b.state = 'open' AND (b.rests_until IS NULL OR b.rests_until <= clock_timestamp()) AND (b.sink_table, b.topic) IN (SELECT * FROM unnest($2::text[], $3::text[])) ORDER BY b.id LIMIT 1",
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(group);
    let query = query.bind(written.iter().map(|(table, _)| table).bind_iter());
    let query = query.bind(written.iter().map(|(_, topic)| *topic).bind_iter());
    let found = query.fetch_optional(connection).await.map_err(failed)?;
    found.as_ref().map(Job::read).transpose().map_err(failed)
}

fn of_those(rest: &str) -> String {
    format!("{SELECT}{rest}")
}

/// The job is not tried for so long. `failure`: a try of it failed, for this.
pub async fn rest(
    connection: &mut PgConnection,
    job: &Job,
    failure: Option<&str>,
    wait: Duration,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE tidemill.backfills SET rests_until = clock_timestamp() + $2 * interval '1 millisecond', \
         failure = coalesce($3, failure), tries = tries + ($3 IS NOT NULL)::int WHERE id = $1 AND state = 'open'",
    )
    .bind(job.id)
    .bind(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
    .bind(failure)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Enters a job that somebody asked for. `None` where one of the table is open.
pub async fn enter(
    connection: &mut PgConnection,
    (group, topic, table): (&str, &str, &str),
    (kind, step, span): (Kind, Step, &Span),
    parts: &[Part],
) -> Result<Option<i64>, Failure> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let entered: Option<i64> = sqlx::query_scalar(
        "INSERT INTO tidemill.backfills (consumer_group, topic, sink_table, kind, step, span) \
         SELECT $1, $2, $3, $4, $5, $6::jsonb \
         WHERE NOT EXISTS (SELECT FROM tidemill.backfills WHERE consumer_group = $1 AND sink_table = $3 AND state = 'open') \
         ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(group)
    .bind(topic)
    .bind(table)
    .bind(kind.as_str())
    .bind(step.as_str())
    .bind(span.text()?)
    .fetch_optional(&mut *transaction)
    .await
    .map_err(failed)?;
    let Some(id) = entered else { return Ok(None) };
    sqlx::query(
        "INSERT INTO tidemill.backfill_parts (backfill, partition, first_offset, next_offset, until_offset) \
         SELECT $1, u.partition, u.first, u.first, u.until FROM unnest($2::int4[], $3::int8[], $4::int8[]) AS u (partition, first, until)",
    )
    .bind(id)
    .bind(parts.iter().map(|part| part.partition).bind_iter())
    .bind(parts.iter().map(|part| part.first).bind_iter())
    .bind(parts.iter().map(|part| part.until).bind_iter())
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    sqlx::query(
        "DELETE FROM tidemill.backfills WHERE consumer_group = $1 AND state <> 'open' AND id <= \
         (SELECT id FROM tidemill.backfills WHERE consumer_group = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)",
    )
    .bind(group)
    .bind(KEPT)
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Some(id))
}

/// Enters the gaps of a table that is new to the topic. Where such a job of it is open it begins anew, with these as well; one that somebody
/// asked for goes on beside it.
pub async fn enter_gaps(connection: &mut PgConnection, place: &Place, table: &str, gaps: &[Gap]) -> sqlx::Result<()> {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO tidemill.backfills (consumer_group, topic, sink_table, kind, step, span) \
         VALUES ($1, $2, $3, 'new', 'deletions', '{}') \
         ON CONFLICT (consumer_group, topic, sink_table, (kind = 'new')) WHERE state = 'open' \
         DO UPDATE SET step = excluded.step, records = 0, rows = 0, tries = 0, rests_until = NULL RETURNING id",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(table)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO tidemill.backfill_parts AS p (backfill, partition, first_offset, next_offset, until_offset) \
         SELECT $1, u.partition, 0, 0, u.until FROM unnest($2::int4[], $3::int8[]) AS u (partition, until) \
         ON CONFLICT (backfill, partition) DO UPDATE SET until_offset = greatest(p.until_offset, excluded.until_offset)",
    )
    .bind(id)
    .bind(gaps.iter().map(|gap| gap.partition).bind_iter())
    .bind(gaps.iter().map(|gap| gap.until).bind_iter())
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE tidemill.backfill_parts SET next_offset = first_offset WHERE backfill = $1")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Stops what is open of a table. Answers how many jobs that were. A table that has taken its place is there: what is left to do is done.
pub async fn stop(connection: &mut PgConnection, group: &str, table: &str) -> Result<u64, Failure> {
    let stopped = sqlx::query(
        "UPDATE tidemill.backfills SET state = 'stopped', ended_at = now() \
         WHERE consumer_group = $1 AND sink_table = $2 AND state = 'open' AND step <> 'swapped'",
    )
    .bind(group)
    .bind(table)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(stopped.rows_affected())
}

/// Whether a job of the table is open.
pub async fn is_open(connection: &mut PgConnection, group: &str, table: &str) -> Result<bool, Failure> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM tidemill.backfills WHERE consumer_group = $1 AND sink_table = $2 AND state = 'open')",
    )
    .bind(group)
    .bind(table)
    .fetch_one(connection)
    .await
    .map_err(failed)
}

/// Moves the positions, and counts. False where the job is no longer open at this step, or not where these moves begin.
pub async fn advance(
    connection: &mut PgConnection,
    job: &Job,
    moves: &[Move],
    (records, rows): (i64, i64),
) -> sqlx::Result<bool> {
    let is_open = sqlx::query(
        "UPDATE tidemill.backfills SET records = records + $3, rows = rows + $4, moved_at = now(), failure = NULL, tries = 0 \
         WHERE id = $1 AND state = 'open' AND step = $2",
    )
    .bind(job.id)
    .bind(job.step.as_str())
    .bind(records)
    .bind(rows)
    .execute(&mut *connection)
    .await?;
    let moved = sqlx::query(
        "UPDATE tidemill.backfill_parts AS p SET next_offset = u.next \
         FROM unnest($2::int4[], $3::int8[], $4::int8[]) AS u (partition, expected, next) \
         WHERE p.backfill = $1 AND p.partition = u.partition AND p.next_offset = u.expected",
    )
    .bind(job.id)
    .bind(moves.iter().map(|step| step.partition).bind_iter())
    .bind(moves.iter().map(|step| step.expected).bind_iter())
    .bind(moves.iter().map(|step| step.next).bind_iter())
    .execute(connection)
    .await?;
    Ok(is_open.rows_affected() == 1 && moved.rows_affected() == moves.len() as u64)
}

/// Goes on to another step, from the beginning. False where the job is no longer where it was, or where its step `is_read` and has more to
/// read by now.
pub async fn go_on(connection: &mut PgConnection, job: &Job, step: Step, is_read: bool) -> Result<bool, Failure> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    // Who holds it may be entering gaps: they are seen by the statements behind this one.
    sqlx::query("SELECT FROM tidemill.backfills WHERE id = $1 FOR UPDATE")
        .bind(job.id)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let moved = sqlx::query(
        "UPDATE tidemill.backfills b SET step = $2, records = 0, rows = 0, moved_at = now(), failure = NULL, tries = 0 WHERE id = $1 AND state = 'open' AND step = $3 \
         AND NOT ($4 AND EXISTS (SELECT FROM tidemill.backfill_parts p WHERE p.backfill = b.id AND p.next_offset < p.until_offset))",
    )
    .bind(job.id)
    .bind(step.as_str())
    .bind(job.step.as_str())
    .bind(is_read)
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("UPDATE tidemill.backfill_parts SET next_offset = first_offset WHERE backfill = $1")
        .bind(job.id)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

/// The parts end later than they did.
pub async fn extend(connection: &mut PgConnection, job: &mut Job, until: &BTreeMap<i32, i64>) -> Result<(), Failure> {
    for part in &mut job.parts {
        part.until = until.get(&part.partition).copied().unwrap_or_default().max(part.until);
    }
    sqlx::query(
        "UPDATE tidemill.backfill_parts AS p SET until_offset = u.until \
         FROM unnest($2::int4[], $3::int8[]) AS u (partition, until) WHERE p.backfill = $1 AND p.partition = u.partition",
    )
    .bind(job.id)
    .bind(job.parts.iter().map(|part| part.partition).bind_iter())
    .bind(job.parts.iter().map(|part| part.until).bind_iter())
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// The new table has taken the old one's place. False where the job is no longer where it was.
pub async fn swapped(connection: &mut PgConnection, job: &Job) -> sqlx::Result<bool> {
    let moved = sqlx::query(
        "UPDATE tidemill.backfills SET step = $3, moved_at = now(), failure = NULL, tries = 0 \
         WHERE id = $1 AND state = 'open' AND step = $2",
    )
    .bind(job.id)
    .bind(job.step.as_str())
    .bind(Step::Swapped.as_str())
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE tidemill.backfill_parts SET next_offset = until_offset WHERE backfill = $1")
        .bind(job.id)
        .execute(connection)
        .await?;
    Ok(moved.rows_affected() == 1)
}

/// Ends the job. One that has more to read by now, or was ended by somebody else, stays as it is.
pub async fn end(connection: &mut PgConnection, job: &Job, failure: Option<&str>) -> Result<bool, Failure> {
    let ended = sqlx::query(
        "UPDATE tidemill.backfills b SET state = CASE WHEN $3::text IS NULL THEN 'done' ELSE 'failed' END, failure = $3, ended_at = now() \
         WHERE id = $1 AND state = 'open' AND step = $2 AND ($3::text IS NOT NULL \
             OR NOT EXISTS (SELECT FROM tidemill.backfill_parts p WHERE p.backfill = b.id AND p.next_offset < p.until_offset))",
    )
    .bind(job.id)
    .bind(job.step.as_str())
    .bind(failure)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(ended.rows_affected() == 1)
}

/// Tables whose records were to be read again from the beginning, and were not, or not yet since something is in the way: each with what.
pub async fn unfilled(connection: &mut PgConnection, group: &str) -> Result<Vec<(String, String)>, Failure> {
    sqlx::query_as(
        "SELECT DISTINCT ON (sink_table) sink_table, coalesce(failure, 'it was stopped') FROM tidemill.backfills b \
         WHERE consumer_group = $1 AND kind = 'new' AND (state = 'stopped' OR state = 'open' AND failure IS NOT NULL) AND NOT EXISTS ( \
             SELECT FROM tidemill.backfills l WHERE l.consumer_group = $1 AND l.sink_table = b.sink_table AND l.topic = b.topic \
             AND l.id > b.id AND l.state IN ('open', 'done') AND l.span = '{}') \
         ORDER BY sink_table, id DESC",
    )
    .bind(group)
    .fetch_all(connection)
    .await
    .map_err(failed)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example(kind: Kind, parts: &[Part]) -> Job {
        Job {
            id: 1,
            topic: "t".into(),
            table: "r.t".into(),
            kind,
            span: Span::default(),
            step: Step::Rows,
            state: State::Open,
            failure: None,
            tries: 0,
            records: 0,
            rows: 0,
            begun_ms: 0,
            ended_ms: None,
            parts: parts.to_vec(),
        }
    }

    #[test]
    fn a_job_that_is_open_says_more_of_a_table_than_one_that_has_ended() {
        let part = |next| Part { partition: 0, first: 0, next, until: 10 };
        let job = |state, next, failure: Option<&str>| Job {
            state,
            failure: failure.map(str::to_owned),
            ..example(Kind::Replay, &[part(next)])
        };
        let shown = |jobs: &[Job]| figures(jobs)["r.t"];
        let fault = Some("a fault");
        let figures = |remaining, is_failing| Figures { remaining, is_failing };
        assert_eq!(shown(&[job(State::Open, 4, None), job(State::Done, 10, None)]), figures(6, false));
        assert_eq!(shown(&[job(State::Open, 4, None), job(State::Open, 9, fault)]), figures(7, true));
        assert_eq!(shown(&[job(State::Open, 4, None), job(State::Failed, 0, fault)]), figures(6, false));
        assert_eq!(shown(&[job(State::Failed, 4, fault), job(State::Done, 10, None)]), figures(0, true));
        assert_eq!(shown(&[job(State::Done, 10, None), job(State::Failed, 4, fault)]), figures(0, false));
    }

    #[test]
    fn a_job_is_ahead_where_the_sink_has_not_been() {
        let part = |partition, next, until| Part { partition, first: 2, next, until };
        let job = example(Kind::Rebuild, &[part(0, 9, 9), part(1, 7, 9), part(2, 2, 2), part(3, 4, 9)]);
        let ahead = job.ahead_of(&BTreeMap::from([(0, 9), (1, 5), (2, 1)]));
        assert_eq!(ahead, [part(1, 5, 7), part(3, 2, 4)]);
        assert!(job.is_begun() && !example(Kind::Rebuild, &[part(2, 2, 2)]).is_begun());
    }

    #[test]
    fn how_far_it_is() {
        let part = |partition, first, next, until| Part { partition, first, next, until };
        let job = example(Kind::New, &[part(0, 0, 5, 10), part(1, 2, 8, 8), part(2, 7, 7, 3)]);
        assert_eq!(job.offsets(), (5, 16));
        let shown = job.shown();
        assert_eq!((&shown["kind"], &shown["state"], &shown["step"]), (&json!("new"), &json!("open"), &json!("rows")));
    }
}
