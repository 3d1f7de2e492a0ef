//! Re-emission: one user owns very many orders and changes, while others place orders at a steady rate. What do those wait for?
//!
//! ```text
//!  fresh (an order when it is due) ──▶ source ═══ pipeline (four services) ═══▶ sink: when each was written
//!  the owner changes, and once more ──▶   │                                      ▲
//!                                         └── all of its orders, again ──────────┘
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;
use sqlx::postgres::PgConnection;

use crate::bench::fresh::Fresh;
use crate::bench::orders;
use crate::bench::orders::Owners;
use crate::bench::questions::{execute, single, until_count};
use crate::bench::recovery::pipeline::Pipeline;
use crate::bench::report::Report;
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::places::Places;
use crate::processes::load_average;
use crate::table::Table;

/// How many orders are sent again, and what goes on beside.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders of the user who changes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    owned: u32,
    /// Orders that others place in a second, each a commit of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Seconds before the change, to compare with
    #[arg(long, default_value_t = 20)]
    calm_s: u64,
    /// Seconds after which the user changes a second time
    #[arg(long, default_value_t = 20)]
    second_change_s: u64,
    /// Folder of the four services
    #[arg(long)]
    programs: PathBuf,
    /// Folder for what the services say
    #[arg(long)]
    logs: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    owned: u32,
    rate: u32,
    /// From when an order was due until the sink wrote it, before the change and while the owner's orders were sent again.
    before: Option<Summary>,
    meanwhile: Option<Summary>,
    /// From the second change until all of the owner's orders showed it.
    sent_again_seconds: f64,
    /// Results that were sent for the owner's orders after the first change.
    sent_again_records: i64,
    fresh_placed: u32,
    fresh_at_sink: i64,
    owned_with_last_change: i64,
    load_average: Option<f64>,
}

/// The user who owns them.
const OWNER: i64 = 990_001;

/// Orders placed in a transaction before it all begins.
const PLACED_AT_ONCE: u32 = 5_000;

const CITIES: [&str; 2] = ["成都", "武汉"];

async fn place_owned(
    places: &Places,
    source: &mut PgConnection,
    plan: &Plan,
    progress: &mut Paper,
) -> Result<i64, Failure> {
    let users = places.names.users.sql();
    execute(source, &format!("INSERT INTO {users} (user_id, username, city) VALUES ({OWNER}, '大户', '北京')")).await?;
    let owners = Owners { first: OWNER, count: 1 };
    orders::place_in_transactions(source, &places.names, (plan.owned, PLACED_AT_ONCE), owners, progress).await?;
    Ok(orders::next_id(source, &places.names).await? - 1)
}

/// Starts the pipeline and the load, changes the user twice, and waits until all have the second change.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let (mut source, mut sink) = (places.connect_source().await?, places.connect_sink().await?);
    let last_owned = place_owned(places, &mut source, plan, progress).await?;
    let mut pipeline = Pipeline::start(places, &plan.programs, &plan.logs)?;
    pipeline.ready().await?;
    let latest = places.names.latest.sql();
    let with_owner = format!("SELECT count(*) FROM {latest} WHERE user_id = {OWNER}");
    progress.line("  the orders go to the sink");
    until_count(&mut sink, &with_owner, i64::from(plan.owned), Duration::from_secs(2)).await?;
    execute(&mut sink, &format!("ANALYZE {latest}")).await?;

    let mut fresh = Fresh::start(places, plan.rate, last_owned + 1);
    tokio::time::sleep(Duration::from_secs(plan.calm_s)).await;
    let changed = fresh.count();
    let users = places.names.users.sql();
    let change = |city: &str| format!("UPDATE {users} SET city = '{city}' WHERE user_id = {OWNER}");
    let [first, second] = CITIES;
    progress.line("  the user changes");
    execute(&mut source, &change(first)).await?;
    tokio::time::sleep(Duration::from_secs(plan.second_change_s)).await;
    progress.line("  the user changes a second time");
    let since = Instant::now();
    execute(&mut source, &change(second)).await?;
    let with_change = format!("{with_owner} AND city = '{second}'");
    until_count(&mut sink, &with_change, i64::from(plan.owned), Duration::from_secs(5)).await?;
    let (sent_again_seconds, sent) = (since.elapsed().as_secs_f64(), fresh.count());
    fresh.stop().await;
    let all_fresh = format!("SELECT count(*) FROM {latest} WHERE order_id > {last_owned}");
    until_count(&mut sink, &all_fresh, i64::from(fresh.count()), Duration::from_millis(200)).await?;
    let before = fresh.latencies(&mut sink, &latest, 0..changed).await?;
    let meanwhile = fresh.latencies(&mut sink, &latest, changed..sent).await?;
    let layers = crate::layers::Layers::connect(&places.kafka)?;
    let results: i64 = layers.end(&places.names.result_topic)?.iter().map(|(_, end)| end).sum();
    pipeline.stop().await?;
    Ok(Outcome {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        owned: plan.owned,
        rate: plan.rate,
        before: Summary::of(&before),
        meanwhile: Summary::of(&meanwhile),
        sent_again_seconds,
        sent_again_records: results - i64::from(plan.owned) - i64::from(fresh.count()),
        fresh_placed: fresh.count(),
        fresh_at_sink: single(&mut sink, &all_fresh).await?,
        owned_with_last_change: single(&mut sink, &with_change).await?,
        load_average: load_average(),
    })
}

impl Report for Outcome {
    fn is_good(&self) -> bool {
        self.owned_with_last_change == i64::from(self.owned) && self.fresh_at_sink == i64::from(self.fresh_placed)
    }

    fn write(&self, paper: &mut Paper) {
        paper.headline(format!(
            "one user's {} orders sent again, beside {} fresh ones a second ({} processors, load average {:.1})",
            self.owned,
            self.rate,
            self.processors,
            self.load_average.unwrap_or_default()
        ));
        let mut table = Table::new(&["fresh orders", "n", "average ms", "p50 ms", "p95 ms", "p99 ms", "max ms"]);
        for (name, summary) in [("before the change", &self.before), ("meanwhile", &self.meanwhile)] {
            if let Some(summary) = summary {
                let cells = summary.cells();
                let row: Vec<String> = std::iter::once(name.to_owned()).chain(cells).collect();
                table.row(&row);
            }
        }
        paper.table(&table);
        paper.note("  From when an order was due until the sink wrote it.");
        paper.note(format!(
            "  All of the user's orders showed the second change after {:.1} s; {} results were sent for both.",
            self.sent_again_seconds, self.sent_again_records
        ));
        let mark = if self.is_good() { "✓" } else { "✗" };
        paper.note(format!(
            "  {mark} {} of {} orders show it; {} of {} fresh orders are there",
            self.owned_with_last_change, self.owned, self.fresh_at_sink, self.fresh_placed
        ));
    }
}
