//! Recovery: how soon a new change reaches the sink after something broke, at a steady rate of changes.
//!
//! ```text
//!  load (a change when it is due) ──▶ source ═══ pipeline (four services) ═══▶ sink ──▶ lookout
//!                                        ▲              ▲                       ▲
//!                                        └── fault ─────┴───────────────────────┘
//!  round: fault, until a change made since is at the sink, until none lags behind    verdict: all there, nothing twice
//! ```

mod fault;
mod load;
mod lookout;
pub mod pipeline;
mod servers;

mod round;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;

pub use self::fault::Fault;
use self::load::{Load, Schedule};
use self::pipeline::Pipeline;
use self::round::Round;
use self::servers::Servers;
use self::verdict::Verdict;
use crate::bench::orders;
use crate::bench::report::Report;
use crate::bench::spread::Spread;
use crate::paper::Paper;
use crate::places::Places;
use crate::processes::load_average;
use crate::table::Table;

/// What is to be broken, how often, and under which load.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// What is broken, names with commas; all, where none is named
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// How often each is broken
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Changes a second, each a commit of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Orders that are changed in turn
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(100..))]
    orders: u32,
    /// Time between the end of a round and the next fault
    #[arg(long, default_value_t = 2_000)]
    pause_ms: u64,
    /// Folder of the four services
    #[arg(long)]
    programs: PathBuf,
    /// The script that ends and starts the servers: scripts/servers.sh
    #[arg(long)]
    servers: PathBuf,
    /// Folder for what the services say
    #[arg(long)]
    logs: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    load_average_before: Option<f64>,
    rate: u32,
    orders: u32,
    faults: Vec<Finish>,
    load_average_after: Option<f64>,
    verdict: Verdict,
}

/// What a fault came to.
#[derive(Debug, Clone, Serialize)]
pub struct Finish {
    fault: Fault,
    /// Seconds from the end of the fault until a change that was made since is at the sink.
    first_change: Option<Spread>,
    /// Seconds from the end of the fault until no change lags behind any more.
    no_backlog: Option<Spread>,
    /// Seconds for which the server, or the service that was asked to stop, was away before.
    away: Option<Spread>,
    rounds: Vec<Round>,
}

/// What is open meanwhile.
struct Session<'a> {
    places: &'a Places,
    plan: &'a Plan,
    pipeline: Pipeline,
    servers: Servers,
    load: Load,
    progress: &'a mut Paper,
}

/// Starts the pipeline and the load, breaks what is to be broken, and looks at what came out.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let load_average_before = load_average();
    let mut source = places.connect_source().await?;
    let first_order = orders::next_id(&mut source, &places.names).await?;
    orders::place(
        &mut source,
        &places.names,
        first_order..=first_order + i64::from(plan.orders) - 1,
        orders::OF_THE_EXAMPLE,
    )
    .await?;
    let mut pipeline = Pipeline::start(places, &plan.programs, &plan.logs)?;
    pipeline.ready().await?;
    let load = Load::start(places, Schedule::new(plan.rate, first_order, plan.orders));
    let servers = Servers { script: plan.servers.clone(), places: places.clone() };
    let mut session = Session { places, plan, pipeline, servers, load, progress };
    let faults = rounds(&mut session).await?;
    session.load.stop().await;
    let load_average_after = load_average();
    let verdict = verdict::of(places, &session.load).await?;
    session.pipeline.stop().await?;
    Ok(Outcome {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        load_average_before,
        rate: plan.rate,
        orders: plan.orders,
        faults,
        load_average_after,
        verdict,
    })
}

/// Every fault in turn, so that each meets the same hours of the machine.
async fn rounds(session: &mut Session<'_>) -> Result<Vec<Finish>, Failure> {
    let faults = if session.plan.faults.is_empty() { Fault::ALL.to_vec() } else { session.plan.faults.clone() };
    let mut results: Vec<(Fault, Vec<Round>)> = faults.into_iter().map(|fault| (fault, Vec::new())).collect();
    for number in 1..=session.plan.rounds {
        for (fault, rounds) in &mut results {
            round::settle(session, Duration::from_millis(session.plan.pause_ms)).await?;
            let round = round::run(session, *fault).await?;
            session.progress.line(format!(
                "  round {number}: {fault}, {:.3} s, no backlog after {:.3} s",
                round.first_change_seconds, round.no_backlog_seconds
            ));
            rounds.push(round);
        }
    }
    round::settle(session, Duration::ZERO).await?;
    Ok(results.into_iter().map(|(fault, rounds)| Finish::of(fault, rounds)).collect())
}

impl Finish {
    fn of(fault: Fault, rounds: Vec<Round>) -> Self {
        let spread = |pick: fn(&Round) -> Option<f64>| Spread::of(rounds.iter().filter_map(pick));
        Finish {
            fault,
            first_change: spread(|round| Some(round.first_change_seconds)),
            no_backlog: spread(|round| Some(round.no_backlog_seconds)),
            away: spread(|round| round.away_seconds),
            rounds,
        }
    }

    fn cells(&self) -> [String; 8] {
        let figure = |spread: Option<Spread>, pick: fn(&Spread) -> f64| {
            spread.map_or(String::new(), |spread| format!("{:.2}", pick(&spread)))
        };
        [
            self.fault.to_string(),
            self.rounds.len().to_string(),
            figure(self.first_change, |spread| spread.median),
            figure(self.first_change, |spread| spread.least),
            figure(self.first_change, |spread| spread.most),
            figure(self.no_backlog, |spread| spread.median),
            figure(self.no_backlog, |spread| spread.most),
            figure(self.away, |spread| spread.median),
        ]
    }
}

const HEADINGS: [&str; 8] = ["fault", "rounds", "first change s", "least", "most", "no backlog s", "most", "away s"];

const LEGEND: [&str; 4] = [
    "  First change: until a change that was made since is seen in the sink. No backlog: until all changes that are",
    "  older than 0.2 s are seen there. Both from the kill (the service is started again at once), from the request to",
    "  stop (started again as soon as it has ended), or from the moment at which the server answers again. Away: for",
    "  how long the service was stopping or the server did not answer. Medians, the least and the most of the rounds.",
];

impl Report for Outcome {
    fn write(&self, paper: &mut Paper) {
        let (before, after) =
            (self.load_average_before.unwrap_or_default(), self.load_average_after.unwrap_or_default());
        paper.headline(format!(
            "recovery at {} changes a second ({} processors, load average {before:.1} before, {after:.1} after)",
            self.rate, self.processors
        ));
        let mut table = Table::new(&HEADINGS);
        for result in &self.faults {
            table.row(&result.cells());
        }
        paper.table(&table);
        for line in LEGEND {
            paper.note(line);
        }
        self.verdict.write(paper);
    }

    fn is_good(&self) -> bool {
        self.verdict.is_good()
    }
}
