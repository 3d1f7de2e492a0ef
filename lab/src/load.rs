//! Many orders through all their statuses, and then every row that came of them held against the source.
//!
//! ```text
//!  goods (orders, users) ──▶ drive (commits) ──▶ arrival (rows in the sink) ──▶ compare
//! ```

mod arrival;
mod drive;
mod goods;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::Failure;
use shared::record::time;

use crate::changes::{self, STATUSES};
use crate::compare::{Comparison, Part, compare};
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::places::Places;
use crate::table::Table;

/// How much, and how fast.
#[derive(Debug, Clone)]
pub struct Plan {
    pub orders: u32,
    /// Changes a second, each a commit of its own; 0 is as fast as the source takes them, up to 100 orders in a commit.
    pub rate: u32,
    pub users: u32,
    /// The load is given up when nothing new reached the sink for this long.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub first_order_id: i64,
    pub orders: u32,
    pub users_made: u64,
    pub changes: u64,
    /// Until the last commit at the source.
    pub committed_seconds: f64,
    /// Until the last row was seen in the sink.
    pub arrived_seconds: f64,
    pub changes_per_second: f64,
    pub trail: Comparison,
    pub latest: Comparison,
    /// From the commit at the source until the sink's writer made the row, as the sink's rows say.
    pub latency: Option<Summary>,
}

impl Outcome {
    /// Whether every row is there and right.
    pub fn is_complete(&self) -> bool {
        self.trail.is_equal() && self.latest.is_equal()
    }

    pub fn write(&self, paper: &mut Paper) {
        paper.headline("load");
        paper.line(format!(
            "  {} changes: committed in {:.1} s, in the sink after {:.1} s: {:.0} changes a second",
            self.changes, self.committed_seconds, self.arrived_seconds, self.changes_per_second
        ));
        if let Some(latency) = &self.latency {
            let mut table = Table::new(&[&["from"][..], &Summary::HEADINGS].concat());
            table.row(&[&["commit at the source until written to the sink".to_owned()][..], &latency.cells()].concat());
            paper.table(&table);
        }
        self.trail.write("trail", paper);
        self.latest.write("latest", paper);
        let last = self.first_order_id + i64::from(self.orders) - 1;
        let orders = format!("orders {} to {last}", self.first_order_id);
        if self.is_complete() {
            paper.verdict(true, format!("{orders}: nothing missing, nothing wrong"));
        } else {
            paper.verdict(false, format!("{orders}: the sink is not as the source"));
        }
    }
}

/// Makes the load and judges it.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let mut source = places.connect_source().await?;
    let mut sink = places.connect_sink().await?;
    let names = &places.names;
    let first_order_id = changes::fresh_order_id(&mut source, &mut sink, names).await?;
    let users = goods::users(plan.users.max(1));
    let users_made = changes::make_users(&mut source, names, &users).await?;
    let orders = goods::orders(first_order_id, plan.orders, plan.users.max(1), time::now().as_millisecond());
    let ids = first_order_id..=first_order_id + i64::from(plan.orders) - 1;
    let begin = Instant::now();

    let (introduction, rest) = orders.split_at(orders.len().min(users.len()));
    let pace = drive::Pace::of(plan.rate, begin);
    drive::place_introduction(&mut source, names, introduction, &pace).await?;
    arrival::wait_for_users(&mut sink, names, introduction, plan.timeout).await?;

    let counted = drive::Counted::default();
    let (committed, arrived) = tokio::try_join!(
        drive::run(places, introduction, rest, &pace, &counted),
        arrival::watch(&mut sink, names, &ids, u64::from(plan.orders), plan.timeout, &counted, progress)
    )?;
    let verdict = judge(places, ids).await?;
    let changes = u64::from(plan.orders) * STATUSES.len() as u64;
    let arrived_seconds = arrived.duration_since(begin).as_secs_f64();
    Ok(Outcome {
        first_order_id,
        orders: plan.orders,
        users_made,
        changes,
        committed_seconds: committed.duration_since(begin).as_secs_f64(),
        arrived_seconds,
        changes_per_second: changes as f64 / arrived_seconds.max(0.001),
        trail: verdict.trail,
        latest: verdict.latest,
        latency: verdict.latency,
    })
}

struct Verdict {
    trail: Comparison,
    latest: Comparison,
    latency: Option<Summary>,
}

async fn judge(places: &Places, ids: RangeInclusive<i64>) -> Result<Verdict, Failure> {
    let mut source = places.connect_source().await?;
    let mut sink = places.connect_sink().await?;
    let names = &places.names;
    Ok(Verdict {
        trail: compare(&mut source, &mut sink, names, Part::TrailOfLife, ids.clone()).await?,
        latest: compare(&mut source, &mut sink, names, Part::Latest, ids.clone()).await?,
        latency: Summary::of(&arrival::latencies_us(&mut sink, names, &ids).await?),
    })
}

/// The command.
pub async fn run(
    places: &Places,
    plan: &Plan,
    json: bool,
    paper: &mut Paper,
    progress: &mut Paper,
) -> Result<bool, Failure> {
    let outcome = measure(places, plan, progress).await?;
    if json {
        paper.json(&outcome)?;
    } else {
        outcome.write(paper);
    }
    Ok(outcome.is_complete())
}
