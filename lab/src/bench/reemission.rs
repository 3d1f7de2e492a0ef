//! Re-emission: one user owns very many orders and changes, while others place orders at a steady rate. What do those wait for?
//!
//! ```text
//!  fresh (an order when it is due) ──▶ source ═══ pipeline (four services) ═══▶ sink: when each was written
//!  the owner changes, and once more ──▶   │                                      ▲
//!                                         └── all of its orders, again ──────────┘
//! ```
//!
//! The second change comes while the orders are sent again for the first: that must stop. dim-joiner can be killed in the middle of what is
//! sent for the second.

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;
use sqlx::postgres::PgConnection;

use crate::bench::fresh::{Fresh, Until};
use crate::bench::orders;
use crate::bench::orders::Owners;
use crate::bench::questions::{execute, single, until, until_count};
use crate::bench::recovery::pipeline::{Name, Pipeline};
use crate::bench::report::Report;
use crate::layers::Layers;
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
    /// Seconds after the second change when dim-joiner is killed and started again; 0: never
    #[arg(long, default_value_t = 0)]
    kill_s: u64,
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
    /// From when an order was due until it was joined, and until the sink wrote it: before the change and while the owner's orders were
    /// sent again.
    before: Waits,
    meanwhile: Waits,
    /// From the second change until all of the owner's orders showed it.
    sent_again_seconds: f64,
    /// Results that were sent for the owner's orders after the first change: when the second came, and in all.
    sent_for_first: i64,
    sent_again_records: i64,
    /// Results that were sent for the second change when dim-joiner was killed.
    sent_when_killed: Option<i64>,
    fresh_placed: u32,
    fresh_at_sink: i64,
    owned_with_last_change: i64,
    load_average: Option<f64>,
}

/// How long fresh orders took, from when each was due.
#[derive(Debug, Clone, Serialize)]
struct Waits {
    joined: Option<Summary>,
    written: Option<Summary>,
}

impl Waits {
    async fn read(fresh: &Fresh, sink: &mut PgConnection, latest: &str, numbers: Range<u32>) -> Result<Self, Failure> {
        let joined = fresh.latencies(sink, latest, Until::Joined, numbers.clone()).await?;
        let written = fresh.latencies(sink, latest, Until::Written, numbers).await?;
        Ok(Waits { joined: Summary::of(&joined), written: Summary::of(&written) })
    }
}

/// The user who owns them.
const OWNER: i64 = 990_001;

/// Orders placed in a transaction before it all begins.
const PLACED_AT_ONCE: u32 = 5_000;

const CITIES: [&str; 2] = ["成都", "武汉"];

/// Results that may count too much or too little: for the first change until dim-joiner has heard of the second, and fresh orders that were
/// on their way.
const ON_THEIR_WAY: i64 = 5_000;

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
    let results = Results::since(places, changed)?;
    let [first, second] = CITIES;
    progress.line("  the user changes");
    execute(&mut source, &change(first)).await?;
    tokio::time::sleep(Duration::from_secs(plan.second_change_s)).await;
    progress.line("  the user changes a second time");
    let sent_for_first = results.sent_again(fresh.count())?;
    let since = Instant::now();
    execute(&mut source, &change(second)).await?;
    let mut sent_when_killed = None;
    if plan.kill_s > 0 {
        tokio::time::sleep(Duration::from_secs(plan.kill_s)).await;
        progress.line("  dim-joiner is killed");
        pipeline.kill_and_start(Name::DimJoiner)?;
        sent_when_killed = Some(results.sent_again(fresh.count())? - sent_for_first);
    }
    // Nobody asks the sink before nearly all were sent: to count a million rows takes it half a second, for which fresh orders would wait.
    let nearly_all = sent_for_first + i64::from(plan.owned) - ON_THEIR_WAY;
    until(nearly_all, Duration::from_secs(1), async || results.sent_again(fresh.count())).await?;
    let with_change = format!("{with_owner} AND city = '{second}'");
    until_count(&mut sink, &with_change, i64::from(plan.owned), Duration::from_secs(5)).await?;
    let (sent_again_seconds, sent) = (since.elapsed().as_secs_f64(), fresh.count());
    fresh.stop().await;
    let all_fresh = format!("SELECT count(*) FROM {latest} WHERE order_id > {last_owned}");
    until_count(&mut sink, &all_fresh, i64::from(fresh.count()), Duration::from_millis(200)).await?;
    let before = Waits::read(&fresh, &mut sink, &latest, 0..changed).await?;
    let meanwhile = Waits::read(&fresh, &mut sink, &latest, changed..sent).await?;
    let sent_again_records = results.sent_again(fresh.count())?;
    pipeline.stop().await?;
    Ok(Outcome {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        owned: plan.owned,
        rate: plan.rate,
        before,
        meanwhile,
        sent_again_seconds,
        sent_for_first,
        sent_again_records,
        sent_when_killed,
        fresh_placed: fresh.count(),
        fresh_at_sink: single(&mut sink, &all_fresh).await?,
        owned_with_last_change: single(&mut sink, &with_change).await?,
        load_average: load_average(),
    })
}

/// The topic of the results since the first change.
struct Results {
    layers: Layers,
    topic: String,
    before: i64,
    fresh_before: u32,
}

impl Results {
    fn since(places: &Places, fresh_before: u32) -> Result<Self, Failure> {
        let (layers, topic) = (Layers::connect(&places.kafka)?, places.names.result_topic.clone());
        let results = Results { layers, topic, before: 0, fresh_before };
        Ok(Results { before: results.all()?, ..results })
    }

    fn all(&self) -> Result<i64, Failure> {
        Ok(self.layers.end(&self.topic)?.iter().map(|(_, end)| end).sum())
    }

    /// Those of orders that were there before: all but one for each fresh order.
    fn sent_again(&self, fresh: u32) -> Result<i64, Failure> {
        Ok(self.all()? - self.before - i64::from(fresh - self.fresh_before))
    }
}

impl Outcome {
    /// Every order was sent for the second change, and no more for the first than when the second came. Where an order is sent twice for one
    /// change, or all of them for both, there are more.
    fn is_stopped(&self) -> bool {
        let owned = i64::from(self.owned);
        (owned..=owned + self.sent_for_first + ON_THEIR_WAY).contains(&self.sent_again_records)
    }

    fn all_arrived(&self) -> bool {
        self.owned_with_last_change == i64::from(self.owned) && self.fresh_at_sink == i64::from(self.fresh_placed)
    }
}

impl Report for Outcome {
    fn is_good(&self) -> bool {
        self.all_arrived() && self.is_stopped()
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
        let rows = [
            ("before the change, until joined", &self.before.joined),
            ("meanwhile, until joined", &self.meanwhile.joined),
            ("before the change, until written", &self.before.written),
            ("meanwhile, until written", &self.meanwhile.written),
        ];
        for (name, summary) in rows {
            if let Some(summary) = summary {
                let cells = summary.cells();
                let row: Vec<String> = std::iter::once(name.to_owned()).chain(cells).collect();
                table.row(&row);
            }
        }
        paper.table(&table);
        paper.note("  From when an order was due until dim-joiner joined it, and until the sink wrote it.");
        paper.note(format!(
            "  All of the user's orders showed the second change after {:.1} s.",
            self.sent_again_seconds
        ));
        if let Some(sent) = self.sent_when_killed {
            paper.note(format!("  dim-joiner was killed when {sent} results were sent for it."));
        }
        let mark = |is_good| if is_good { "✓" } else { "✗" };
        paper.note(format!(
            "  {} {} of {} orders show it; {} of {} fresh orders are there",
            mark(self.all_arrived()),
            self.owned_with_last_change,
            self.owned,
            self.fresh_at_sink,
            self.fresh_placed
        ));
        paper.note(format!(
            "  {} {} results were sent for both changes, {} of them before the second: the first has stopped",
            mark(self.is_stopped()),
            self.sent_again_records,
            self.sent_for_first
        ));
    }
}
