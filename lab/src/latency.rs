//! How long a single change takes from the source to a reader of the sink.
//!
//! An open loop: changes are due at fixed times, whatever became of those before, so a stall is seen in every change that was due in it.
//! Each change sets `updated_at` of an order to the time it was due, and a reader looks for that value in the sink.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use shared::record::time;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::changes;
use crate::paper::Paper;
use crate::percentiles::{Bucket, Summary, histogram};
use crate::places::{Names, Places};
use crate::sightings::{self, Sighting};
use crate::table::{Table, bar};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    pub changes: u32,
    /// Changes a second; up to 1,000, since each is known by its millisecond.
    pub rate: u32,
    /// Orders that are changed in turn: those with the highest ids.
    pub orders: u32,
    /// A change that is not seen within this time is lost.
    pub patience: Duration,
}

/// A change that will be made.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Due {
    order_id: i64,
    updated_at_ms: i64,
    at: Instant,
}

/// What became of a change. Times in microseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Fate {
    returned_us: Option<i64>,
    seen_us: Option<i64>,
    /// Commit at the source, as the sink has it; `None` where a later change of the order was seen first.
    committed_us: Option<i64>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub changes: usize,
    /// Not seen within the patience.
    pub unseen: usize,
    /// Not seen by themselves: a later change of the same order stood there already.
    pub overtaken: usize,
    /// The latest that a change was made after it was due: what the measuring side itself was late.
    pub behind_schedule_ms_max: f64,
    /// From the commit time that the source wrote to its log, until seen.
    pub from_commit: Option<Summary>,
    /// From the moment at which the client had the answer to its COMMIT, until seen.
    pub from_answer: Option<Summary>,
    /// From the moment at which the change was due, until seen.
    pub from_due: Option<Summary>,
    /// Of `from_commit`.
    pub histogram: Vec<Bucket>,
}

/// Makes the changes and watches for them.
pub async fn measure(places: &Places, plan: &Plan) -> Result<Outcome, Failure> {
    let mut source = places.connect_source().await?;
    let mut sink = places.connect_sink().await?;
    let order_ids = highest_orders(&mut source, &places.names, plan.orders).await?;
    let dues = schedule(plan, &order_ids, Instant::now(), time::now().as_millisecond());
    let (returned, mut fates) = tokio::try_join!(
        change(&mut source, &places.names, &dues),
        watch(&mut sink, &places.names, &order_ids, &dues, plan.patience)
    )?;
    for (fate, returned_us) in fates.iter_mut().zip(returned) {
        fate.returned_us = Some(returned_us);
    }
    Ok(outcome(plan, &dues, &fates))
}

async fn highest_orders(source: &mut PgConnection, names: &Names, count: u32) -> Result<Vec<i64>, Failure> {
    let sql = format!("SELECT order_id FROM {} ORDER BY order_id DESC LIMIT $1", names.orders.sql());
    let order_ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(i64::from(count))
        .fetch_all(source)
        .await
        .map_err(|error| refused(format!("the orders of {} cannot be read", names.orders), error))?;
    if order_ids.is_empty() {
        return Err(Failure::new(FailureKind::Data, format!("{} has no order that could be changed", names.orders))
            .cure("insert one, for instance with tidemill-lab load --orders 1"));
    }
    Ok(order_ids)
}

/// Time before the first change.
const LEAD: Duration = Duration::from_millis(50);

fn schedule(plan: &Plan, order_ids: &[i64], now: Instant, now_ms: i64) -> Vec<Due> {
    let rate = u64::from(plan.rate.max(1));
    let due = |(n, &order_id): (u32, &i64)| {
        let after = LEAD + Duration::from_micros(u64::from(n) * 1_000_000 / rate);
        let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Due { order_id, updated_at_ms: now_ms.saturating_add(after_ms), at: now + after }
    };
    (0..plan.changes).zip(order_ids.iter().cycle()).map(due).collect()
}

/// Makes each change when it is due; when each was answered.
async fn change(source: &mut PgConnection, names: &Names, dues: &[Due]) -> Result<Vec<i64>, Failure> {
    let mut returned = Vec::with_capacity(dues.len());
    for due in dues {
        tokio::time::sleep_until(due.at.into()).await;
        changes::touch(source, names, due.order_id, due.updated_at_ms).await?;
        returned.push(time::now().as_microsecond());
    }
    Ok(returned)
}

/// Looks at the sink while a change is under way; ends when all are seen, or the last one is lost.
async fn watch(
    sink: &mut PgConnection,
    names: &Names,
    order_ids: &[i64],
    dues: &[Due],
    patience: Duration,
) -> Result<Vec<Fate>, Failure> {
    let mut watched = Watched::of(dues);
    while let Some(next) = watched.next(dues) {
        if next.at > Instant::now() {
            tokio::time::sleep_until(next.at.into()).await;
        }
        for sighting in sightings::now(sink, &names.latest, order_ids, None).await? {
            watched.see(dues, &sighting);
        }
        if dues.last().is_some_and(|last| last.at.elapsed() > patience) {
            break;
        }
        sightings::pause().await?;
    }
    Ok(watched.fates)
}

/// Which changes were seen so far.
struct Watched {
    fates: Vec<Fate>,
    by_value: HashMap<(i64, i64), usize>,
    /// All changes before this one were seen.
    first_unseen: usize,
}

impl Watched {
    fn of(dues: &[Due]) -> Self {
        let by_value = dues.iter().enumerate().map(|(n, due)| ((due.order_id, due.updated_at_ms), n)).collect();
        Watched { fates: vec![Fate::default(); dues.len()], by_value, first_unseen: 0 }
    }

    /// The first change that was not seen.
    fn next<'a>(&mut self, dues: &'a [Due]) -> Option<&'a Due> {
        while self.fates.get(self.first_unseen).is_some_and(|fate| fate.seen_us.is_some()) {
            self.first_unseen += 1;
        }
        dues.get(self.first_unseen)
    }

    /// A value that is seen shows its own change, and that those of the same order before it are through as well.
    fn see(&mut self, dues: &[Due], sighting: &Sighting) {
        let Some(&found) = self.by_value.get(&(sighting.order_id, sighting.updated_at_us / 1000)) else { return };
        let pairs = dues.iter().zip(self.fates.iter_mut()).enumerate().take(found + 1).skip(self.first_unseen);
        for (n, (due, fate)) in pairs {
            if due.order_id == sighting.order_id && fate.seen_us.is_none() {
                fate.seen_us = Some(sighting.seen_us);
                fate.committed_us = if n == found { sighting.committed_us } else { None };
            }
        }
    }
}

fn outcome(plan: &Plan, dues: &[Due], fates: &[Fate]) -> Outcome {
    let patience_us = i64::try_from(plan.patience.as_micros()).unwrap_or(i64::MAX);
    let since = |from: Option<i64>, fate: &Fate| Some(fate.seen_us? - from?);
    let from_commit: Vec<i64> = fates.iter().filter_map(|fate| since(fate.committed_us, fate)).collect();
    let from_answer: Vec<i64> = fates.iter().filter_map(|fate| since(fate.returned_us, fate)).collect();
    let due_us = |due: &Due| Some(due.updated_at_ms * 1000);
    let from_due: Vec<i64> = dues.iter().zip(fates).filter_map(|(due, fate)| since(due_us(due), fate)).collect();
    let late = dues.iter().zip(fates).filter_map(|(due, fate)| Some(fate.returned_us? - due_us(due)?)).max();
    Outcome {
        changes: dues.len(),
        unseen: dues.len() - from_answer.iter().filter(|&&latency| latency <= patience_us).count(),
        overtaken: fates.iter().filter(|fate| fate.seen_us.is_some() && fate.committed_us.is_none()).count(),
        behind_schedule_ms_max: late.unwrap_or_default() as f64 / 1000.0,
        histogram: histogram(&from_commit),
        from_commit: Summary::of(&from_commit),
        from_answer: Summary::of(&from_answer),
        from_due: Summary::of(&from_due),
    }
}

impl Outcome {
    /// Whether every change was seen in time.
    pub fn is_complete(&self) -> bool {
        self.unseen == 0
    }

    pub fn write(&self, plan: &Plan, paper: &mut Paper) {
        paper.line(format!(
            "{} single changes at {} a second, seen in the sink by a select (at most 1 ms between two)",
            self.changes, plan.rate
        ));
        let mut table = Table::new(&[&["measured until seen, from"][..], &Summary::HEADINGS].concat());
        let rows = [
            ("commit at the source (its log)", &self.from_commit),
            ("answer to the client's COMMIT", &self.from_answer),
            ("time the change was due", &self.from_due),
        ];
        for (name, summary) in rows {
            if let Some(summary) = summary {
                table.row(&[&[name.to_owned()][..], &summary.cells()].concat());
            }
        }
        paper.table(&table);
        self.write_histogram(paper);
        paper
            .note("  commit times are the source's clock, the others this machine's: right where both are one machine");
        paper.note(format!("  latest answer after the due time: {:.2} ms", self.behind_schedule_ms_max));
        if self.overtaken > 0 {
            paper.note(format!("  {} changes were replaced by later ones before a select saw them", self.overtaken));
        }
        let limit = plan.patience.as_secs();
        paper.check(
            self.is_complete(),
            format!("{} of {} changes not seen within {limit} s", self.unseen, self.changes),
        );
    }

    fn write_histogram(&self, paper: &mut Paper) {
        let most = self.histogram.iter().map(|bucket| bucket.count).max().unwrap_or(0);
        let mut table = Table::new(&["from commit", "n", ""]);
        for bucket in &self.histogram {
            let bound = bucket.below_ms.map_or("longer".to_owned(), |bound| format!("< {bound} ms"));
            table.row(&[bound, bucket.count.to_string(), bar(bucket.count, most, 50)]);
        }
        paper.line("");
        paper.table(&table);
    }
}

/// The command.
pub async fn run(places: &Places, plan: &Plan, json: bool, paper: &mut Paper) -> Result<bool, Failure> {
    let outcome = measure(places, plan).await?;
    if json {
        paper.json(&outcome)?;
    } else {
        outcome.write(plan, paper);
    }
    Ok(outcome.is_complete())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(changes: u32, rate: u32) -> Plan {
        Plan { changes, rate, orders: 2, patience: Duration::from_secs(10) }
    }

    fn sighting(order_id: i64, updated_at_ms: i64, seen_us: i64) -> Sighting {
        let updated_at_us = updated_at_ms * 1000;
        Sighting { order_id, updated_at_us, committed_us: Some(updated_at_us + 100), processed_us: 0, seen_us }
    }

    #[test]
    fn changes_are_due_at_the_rate_and_each_has_a_value_of_its_own() {
        let dues = schedule(&plan(1_000, 1_000), &[7, 8], Instant::now(), 0);
        let values: std::collections::HashSet<_> = dues.iter().map(|due| due.updated_at_ms).collect();
        assert_eq!((values.len(), dues[0].order_id, dues[1].order_id, dues[2].order_id), (1_000, 7, 8, 7));
        assert_eq!(dues[999].updated_at_ms - dues[0].updated_at_ms, 999);
    }

    #[test]
    fn a_later_change_shows_that_the_earlier_ones_of_its_order_are_through() {
        let plan = plan(4, 1_000);
        let dues = schedule(&plan, &[7, 8], Instant::now(), 0);
        let mut watched = Watched::of(&dues);
        watched.see(&dues, &sighting(7, dues[2].updated_at_ms, 60_000));
        assert_eq!(watched.next(&dues), Some(&dues[1]));
        watched.see(&dues, &sighting(7, 99, 70_000));
        watched.see(&dues, &sighting(8, dues[3].updated_at_ms, 80_000));
        assert_eq!(watched.next(&dues), None);
        assert_eq!(watched.fates[0], Fate { seen_us: Some(60_000), ..Fate::default() });
        assert_eq!(watched.fates[2].committed_us, Some(52_100));
        let outcome = outcome(&plan, &dues, &watched.fates);
        assert_eq!((outcome.overtaken, outcome.from_commit.unwrap().count), (2, 2));
    }

    #[test]
    fn what_was_not_seen_in_time_is_unseen() {
        let plan = plan(2, 1);
        let dues = schedule(&plan, &[7], Instant::now(), 0);
        let returned_us = Some(1_000_000);
        let late = Fate { returned_us, seen_us: Some(11_000_001), committed_us: None };
        let never = Fate { returned_us, ..Fate::default() };
        assert_eq!(outcome(&plan, &dues, &[late, never]).unseen, 2);
    }
}
