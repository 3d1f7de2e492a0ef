//! Restore: dim-joiner begins with nothing but its topics, which hold many users and orders.
//!
//! ```text
//!  fill ──▶ ods_users · dwd_orders · results ──▶ dim-joiner ──▶ ready: seconds, memory
//!      └──▶ one order that was never joined ────────▲ └──▶ its result: seconds
//! ```

mod fill;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;

use self::fill::{Fill, Topics};
use crate::bench::child::{Child, Program, variable};
use crate::bench::report::Report;
use crate::layers::{Layers, Mark};
use crate::page;
use crate::paper::Paper;
use crate::places::{Places, ServicePlace};
use crate::ports::free_port;
use crate::processes::{Memory, Stat, load_average, memory_megabytes};
use crate::ready;
use crate::table::Table;

/// How much there is to read back.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    orders: u32,
    /// How often it is started
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The dim-joiner that is measured
    #[arg(long)]
    program: PathBuf,
    /// Folder for what it says
    #[arg(long)]
    logs: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    users: u32,
    orders: u32,
    fill_seconds: f64,
    starts: Vec<Start>,
}

/// One start. Seconds from the start of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// Until an order that came while it was away was joined.
    first_result_seconds: f64,
    /// Until it was ready: all orders read back.
    ready_seconds: f64,
    cpu_seconds: f64,
    peak_megabytes: Option<f64>,
    users_held: u64,
    orders_held: u64,
    load_average: Option<f64>,
}

/// Longest wait until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(600);

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Fills the topics, and starts dim-joiner on them.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let topics = Topics::default();
    let begin = Instant::now();
    let mut fill = Fill::make(places, &topics, progress).await?;
    fill.users(plan.users)?;
    fill.orders(plan.orders, plan.users)?;
    let fill_seconds = begin.elapsed().as_secs_f64();
    let mut starts = Vec::new();
    for round in 1..=plan.rounds {
        fill.unjoined_order(plan.orders + round, plan.users)?;
        let start = start(places, plan, &topics).await?;
        let (ready, peak) = (start.ready_seconds, start.peak_megabytes.unwrap_or_default());
        fill.progress.line(format!("  start {round}: ready after {ready:.1} s, {peak:.0} MB"));
        starts.push(start);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome { processors, users: plan.users, orders: plan.orders, fill_seconds, starts })
}

async fn start(places: &Places, plan: &Plan, topics: &Topics) -> Result<Start, Failure> {
    let layers = Layers::connect(&places.kafka)?;
    let end = layers.end(&topics.results)?;
    let port = free_port()?;
    let place = ServicePlace { name: "dim-joiner", url: format!("http://127.0.0.1:{port}") };
    let child = Child::start(Program {
        path: &plan.program,
        arguments: Vec::new(),
        variables: variables(places, topics, port),
        log: plan.logs.join("dim-joiner.log"),
    })?;
    let first_result_seconds = first_result(&child, &layers, topics, &end).await?;
    ready(&child, &place).await?;
    let ready_seconds = child.started.elapsed().as_secs_f64();
    let held = page::get(&place.url, "/api/v1/state").await?;
    let start = Start {
        first_result_seconds,
        ready_seconds,
        cpu_seconds: Stat::of(child.id()).map(|stat| stat.cpu_seconds).unwrap_or_default(),
        peak_megabytes: memory_megabytes(child.id(), Memory::Peak),
        users_held: held_of(&held.body, "/dimensions/users/rows"),
        orders_held: held_of(&held.body, "/facts"),
        load_average: load_average(),
    };
    child.stop().await?;
    Ok(start)
}

fn variables(places: &Places, topics: &Topics, port: u16) -> Vec<(String, String)> {
    let settings = [
        ("kafka.brokers", places.kafka.brokers.clone()),
        ("http.port", port.to_string()),
        ("facts.topic", topics.orders.clone()),
        ("facts.group", topics.group.clone()),
        ("output.topic", topics.results.clone()),
        ("output.dead_letter_topic", topics.dead_letters.clone()),
    ];
    settings.into_iter().map(|(key, value)| (variable("dim-joiner", key), value)).collect()
}

/// Waits until the results have grown: by the one order that was not joined before.
async fn first_result(child: &Child, layers: &Layers, topics: &Topics, end: &Mark) -> Result<f64, Failure> {
    while layers.end(&topics.results)? == *end {
        alive(child, "the order that was not joined has no result")?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(child.started.elapsed().as_secs_f64())
}

async fn ready(child: &Child, place: &ServicePlace) -> Result<(), Failure> {
    while let Err(reason) = ready::look(place).await {
        alive(child, &reason)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // The page tells what is held a second behind at most.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    Ok(())
}

fn alive(child: &Child, waiting_for: &str) -> Result<(), Failure> {
    if child.has_ended() {
        return Err(child.failure("has ended by itself"));
    }
    if child.started.elapsed() > READY_PATIENCE {
        return Err(child.failure(&format!("is not ready: {waiting_for}")));
    }
    Ok(())
}

fn held_of(state: &str, what: &str) -> u64 {
    let state: serde_json::Value = serde_json::from_str(state).unwrap_or_default();
    state.pointer(&format!("/details/join{what}")).and_then(serde_json::Value::as_u64).unwrap_or_default()
}

impl Report for Outcome {
    /// Whether each start found all that is there.
    fn is_good(&self) -> bool {
        let found = |(start, joined): (&Start, u64)| {
            (start.users_held, start.orders_held) == (u64::from(self.users), u64::from(self.orders) + joined)
        };
        self.starts.iter().zip(1..).all(found)
    }

    fn write(&self, paper: &mut Paper) {
        let Outcome { processors, users, orders, fill_seconds, .. } = self;
        paper.headline(format!("restore of {users} users and {orders} orders ({processors} processors)"));
        let headings = ["start", "first result s", "ready s", "CPU s", "peak MB", "load"];
        let mut table = Table::new(&headings);
        for (start, number) in self.starts.iter().zip(1..) {
            table.row(&[
                number.to_string(),
                format!("{:.2}", start.first_result_seconds),
                format!("{:.2}", start.ready_seconds),
                format!("{:.1}", start.cpu_seconds),
                format!("{:.0}", start.peak_megabytes.unwrap_or_default()),
                format!("{:.1}", start.load_average.unwrap_or_default()),
            ]);
        }
        paper.table(&table);
        for line in LEGEND {
            paper.note(line);
        }
        paper.note(format!("  The topics were filled in {fill_seconds:.0} s."));
        let held: Vec<_> = self.starts.iter().map(|start| (start.users_held, start.orders_held)).collect();
        paper.check(self.is_good(), format!("users and orders held after each start: {held:?}"));
    }
}

const LEGEND: [&str; 2] = [
    "  From the start of the process. First result: an order that came while it was away is joined. Ready: all orders are",
    "  read back. Peak MB: the most that was resident (VmHWM).",
];
