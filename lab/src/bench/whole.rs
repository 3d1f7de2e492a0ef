//! The four services together, from the source's commit to the sink's row.
//!
//! ```text
//!  source: orders and users that are there ──▶ start ──▶ copy ──▶ inserts ──▶ updates ──▶ user changes ──▶ single changes ──▶ rest
//!                                                └ first row    └ rows a second, processor time, memory   └ latency       └ idle
//! ```

mod goals;
mod hops;
mod loads;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use sqlx::postgres::PgConnection;

use self::hops::{Hop, Said};
use self::loads::{Load, Used};
use crate::bench::fresh::{Fresh, Until};
use crate::bench::orders;
use crate::bench::questions::{execute, single, until_count};
use crate::bench::recovery::pipeline::{Name, Pipeline};
use crate::bench::report::Report;
use crate::latency;
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::places::Places;
use crate::processes::{Memory, Stat, load_average, memory_megabytes};
use crate::table::Table;

/// How much of everything.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders that are copied at the start
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    copied: u32,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Orders that are placed then, 5,000 in a transaction
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..))]
    inserts: u32,
    /// Orders that are placed before those, in the same way, and do not count: the broker's compiler is at work till then
    #[arg(long, default_value_t = 0)]
    warm_inserts: u32,
    /// Orders whose status changes
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    updates: u32,
    /// Users whose city changes, and with it all of their orders in the sink; 0: none
    #[arg(long, default_value_t = 1_000)]
    user_changes: u32,
    /// Single changes a second
    #[arg(long, value_delimiter = ',', default_value = "5,100,1000,5000")]
    rates: Vec<u32>,
    /// Seconds of each rate
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    rate_s: u64,
    /// Seconds of a rate above 100 that pass before they count: the broker's compiler is at work till then
    #[arg(long, default_value_t = 40)]
    warm_s: u32,
    /// The sink keeps one table, the latest state of each order, and no more, as Flink's job does
    #[arg(long)]
    one_table: bool,
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
    /// The sink kept the latest state alone.
    one_table: bool,
    load_average: Option<f64>,
    /// From the start of the four processes until the sink had a row.
    first_row_seconds: f64,
    loads: Vec<Load>,
    latencies: Vec<Latency>,
    memory: Vec<Megabytes>,
    /// Share of one processor that the four services used while nothing changed.
    idle: f64,
    /// Orders at the source that the sink does not show as they are.
    differing: i64,
}

/// Of single changes at a rate.
#[derive(Debug, Clone, Serialize)]
struct Latency {
    rate: u32,
    /// What the time ends with.
    until: &'static str,
    #[serde(flatten)]
    summary: Summary,
    /// Where the time goes.
    hops: Vec<Hop>,
}

/// Of one service.
#[derive(Debug, Clone, Serialize)]
struct Megabytes {
    service: &'static str,
    at_rest: f64,
    peak: f64,
}

/// Time in which nothing changes.
const REST: Duration = Duration::from_secs(10);
/// The highest rate at which a reader can look for each change by itself.
const SEEN_RATE_MAX: u32 = 100;

async fn prepare(places: &Places, source: &mut PgConnection, plan: &Plan, progress: &mut Paper) -> Result<(), Failure> {
    let users = places.names.users.sql();
    let made = format!(
        "INSERT INTO {users} (user_id, username, city) SELECT id, 'user ' || id, (ARRAY['北京', '上海', '杭州', '西安'])[1 + id % 4] \
         FROM generate_series({0}::bigint, {0} + {1} - 1) AS id",
        loads::FIRST_USER,
        plan.users
    );
    execute(source, &made).await?;
    loads::place(source, places, plan.users, plan.copied, progress).await?;
    orders::settle(source, &places.names).await
}

/// Of pg-sinker: the latest state alone.
const ONE_TABLE: &str = r#"[tables.latest]
table = "result.orders_latest"
key = ["order_id"]
on_tombstone = "delete"

[rollups]
"#;

fn start(places: &Places, plan: &Plan) -> Result<Pipeline, Failure> {
    if !plan.one_table {
        return Pipeline::start(places, &plan.programs, &plan.logs);
    }
    let settings = plan.logs.join("one-table.toml");
    std::fs::write(&settings, ONE_TABLE).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("{} cannot be written", settings.display())).caused_by(error)
    })?;
    let settings = settings.display().to_string();
    Pipeline::start_with(places, &plan.programs, &plan.logs, |name| match name {
        Name::PgSinker => vec!["--config".to_owned(), settings.clone()],
        _ => Vec::new(),
    })
}

/// Runs all of it.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let (mut source, mut sink) = (places.connect_source().await?, places.connect_sink().await?);
    progress.line("  orders are placed, to be copied");
    prepare(places, &mut source, plan, progress).await?;
    let mut pipeline = start(places, plan)?;
    let used = Used::new(&pipeline);
    let at_rest = memory(&pipeline, Memory::Resident);
    let (first_row_seconds, copy) = loads::copy(places, &mut sink, plan.copied, &used).await?;
    progress.line(format!("  {}", copy.text()));
    pipeline.ready().await?;
    let mut measured = vec![copy];
    if let Some(warm) = loads::warm(plan.users, plan.warm_inserts) {
        warm.run(places, (&mut source, &mut sink), &used, progress).await?;
    }
    for load in loads::all(plan.users, plan.inserts, plan.updates, plan.user_changes) {
        let done = load.run(places, (&mut source, &mut sink), &used, progress).await?;
        progress.line(format!("  {}", done.text()));
        measured.push(done);
    }
    let mut latencies = Vec::new();
    for &rate in &plan.rates {
        progress.line(format!("  single changes at {rate} a second"));
        latencies.extend(latency_at(places, (&mut source, &mut sink), &pipeline, plan, rate).await?);
    }
    tokio::time::sleep(REST / 2).await;
    let before = used.cpu_seconds();
    tokio::time::sleep(REST).await;
    let idle = (used.cpu_seconds() - before) / REST.as_secs_f64();
    let peaks = memory(&pipeline, Memory::Peak);
    let differing = loads::differing(places, &mut source, &mut sink).await?;
    pipeline.stop().await?;
    let megabytes = |(rest, peak): (&(Name, f64), &(Name, f64))| Megabytes {
        service: rest.0.as_str(),
        at_rest: rest.1,
        peak: peak.1,
    };
    Ok(Outcome {
        one_table: plan.one_table,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        load_average: load_average(),
        first_row_seconds,
        loads: measured,
        latencies,
        memory: at_rest.iter().zip(&peaks).map(megabytes).collect(),
        idle,
        differing,
    })
}

fn memory(pipeline: &Pipeline, which: Memory) -> Vec<(Name, f64)> {
    pipeline.processes().filter_map(|(name, process)| Some((name, memory_megabytes(process, which)?))).collect()
}

/// At low rates a reader looks for each change; at high ones the sink says when it wrote each.
async fn latency_at(
    places: &Places,
    (source, sink): (&mut PgConnection, &mut PgConnection),
    pipeline: &Pipeline,
    plan: &Plan,
    rate: u32,
) -> Result<Option<Latency>, Failure> {
    if rate <= SEEN_RATE_MAX {
        let before = Said::now(pipeline).await?;
        let changes = u32::try_from(plan.rate_s).unwrap_or(u32::MAX).saturating_mul(rate);
        let plan = latency::Plan { changes, rate, orders: 5, patience: Duration::from_secs(10) };
        let summary = latency::measure(places, &plan).await?.from_due;
        let hops = Said::now(pipeline).await?.since(&before);
        return Ok(summary.map(|summary| Latency { rate, until: "seen by a select", summary, hops }));
    }
    let first = orders::next_id(source, &places.names).await?;
    let mut fresh = Fresh::start(places, rate, first);
    tokio::time::sleep(Duration::from_secs(u64::from(plan.warm_s))).await;
    let before = Said::now(pipeline).await?;
    tokio::time::sleep(Duration::from_secs(plan.rate_s)).await;
    let hops = Said::now(pipeline).await?.since(&before);
    fresh.stop().await;
    let latest = places.names.latest.sql();
    let all = format!("SELECT count(*) FROM {latest} WHERE order_id >= {first}");
    until_count(sink, &all, i64::from(fresh.count()), Duration::from_millis(200)).await?;
    let (warm_s, all_s) = (u64::from(plan.warm_s), u64::from(plan.warm_s) + plan.rate_s);
    let warm = u32::try_from(u64::from(fresh.count()) * warm_s / all_s.max(1)).unwrap_or_default();
    let times = fresh.latencies(sink, &latest, Until::Written, warm..fresh.count()).await?;
    Ok(Summary::of(&times).map(|summary| Latency { rate, until: "written by the sink", summary, hops }))
}

impl Report for Outcome {
    fn write(&self, paper: &mut Paper) {
        paper.headline(format!(
            "the four services together, {} ({} processors, load average {:.1})",
            if self.one_table { "one table" } else { "trail, latest state and roll-ups" },
            self.processors,
            self.load_average.unwrap_or_default()
        ));
        let mut table = Table::new(&["", "rows", "s", "rows/s", "CPU µs a row"]);
        for load in &self.loads {
            table.row(&load.cells());
        }
        paper.table(&table);
        paper.note("  From the first row or commit until the sink had all. CPU: of the four services.");
        paper.line("");
        let mut table = Table::new(&[&["changes a second", "until"][..], &Summary::HEADINGS].concat());
        for Latency { rate, until, summary, .. } in &self.latencies {
            let own = [rate.to_string(), (*until).to_owned()];
            table.row(&[&own[..], &summary.cells()].concat());
        }
        paper.table(&table);
        paper.note("  From when a change was due.");
        paper.line("");
        paper.table(&hops::table(self.latencies.iter().map(|Latency { rate, hops, .. }| (*rate, hops.as_slice()))));
        paper.note("  From the commit until the stage's output is acknowledged by the broker, or committed in the sink; averages.");
        paper.line("");
        let mut table = Table::new(&["memory, MB", "at the start", "peak"]);
        for Megabytes { service, at_rest, peak } in &self.memory {
            table.row(&[(*service).to_owned(), format!("{at_rest:.0}"), format!("{peak:.0}")]);
        }
        paper.table(&table);
        paper.line("");
        goals::write(self, paper);
        paper.check(self.is_good(), format!("{} orders differ between source and sink", self.differing));
    }

    fn is_good(&self) -> bool {
        self.differing == 0
    }
}
