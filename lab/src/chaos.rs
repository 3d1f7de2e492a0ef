//! Chaos: the whole system under a random workload, with something broken every few seconds, and the proof that nothing was lost, doubled
//! or changed.
//!
//! ```text
//!  workload ──▶ source ═══ services, each with a second replica ═══▶ sink
//!      │           │ triggers                                          │
//!      │           ▼                                                   │
//!      │        witness ────────────▶ verdict ◀── topics ◀─────────────┘
//!  plan ──▶ strike ──▶ processes, servers, connections, disk, clocks, topics
//! ```

pub mod witness;
pub mod workload;

pub mod servers;
pub mod supervisor;
pub mod system;

pub mod fault;
pub mod plan;

pub mod clock;
pub mod disk;
pub mod poison;
pub mod strike;

pub mod report;
pub mod round;
pub mod verdict;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use shared::failure::{Failure, FailureKind};

use self::report::Report;
use self::round::Setup;
use self::servers::Servers;
use self::system::{Blueprint, read_behind};
use crate::paper::Paper;
use crate::places::Places;

/// What is run; `scripts/chaos.sh` says where everything is.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// Seeds, a round for each; without any, one by the clock
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// How long things are broken in each round
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Changes a second at the source
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Orders of the user whose changes are re-emitted
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    owned_orders: u32,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    partitions: u32,
    /// Longest wait for the sink to be the source, when all is mended
    #[arg(long, default_value_t = 180)]
    rest_s: u64,
    /// Write the report as Markdown to this file
    #[arg(long)]
    report: Option<PathBuf>,
    /// Write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// scripts/servers.sh
    #[arg(long)]
    servers_script: PathBuf,
    /// Folder of the services' programs
    #[arg(long)]
    programs: PathBuf,
    /// Folder for what they say
    #[arg(long)]
    logs: PathBuf,
    /// A small file system for the sink's tables, to be filled
    #[arg(long)]
    small_disk: Option<PathBuf>,
    /// Step the machine's clock by half a minute, now and then; wants root
    #[arg(long)]
    step_clock: bool,
    #[arg(long, env = "TIDEMILL_KAFKA_BEHIND", hide = true)]
    kafka_behind: String,
    /// The command that the report names
    #[arg(long, default_value = "scripts/chaos.sh", hide = true)]
    command: String,
}

fn seed_by_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs())
}

fn setup(order: &Order) -> Result<Setup, Failure> {
    let blueprint = Blueprint {
        programs: order.programs.clone(),
        logs: order.logs.clone(),
        behind: read_behind(&order.kafka_behind)?,
        partitions: order.partitions,
    };
    Ok(Setup {
        servers: Servers { script: order.servers_script.clone() },
        blueprint,
        small_disk: order.small_disk.clone(),
        may_step_clock: order.step_clock,
        time: Duration::from_secs(order.seconds),
        rate: order.rate,
        owned_orders: order.owned_orders,
        rest: Duration::from_secs(order.rest_s),
    })
}

/// Runs a round for each seed; true when nothing was lost, doubled or wrong. A round that fails ends the run, with its seed and the whole
/// way of the first key that is wrong.
pub async fn run(places: &Places, order: &Order, paper: &mut Paper, progress: &mut Paper) -> Result<bool, Failure> {
    let setup = setup(order)?;
    let seeds = if order.seeds.is_empty() { vec![seed_by_clock()] } else { order.seeds.clone() };
    let mut report = Report {
        command: order.command.clone(),
        partitions: order.partitions,
        rate: order.rate,
        abilities: setup.abilities(),
        rounds: Vec::new(),
    };
    for seed in seeds {
        progress.headline(format!("seed {seed}: {} s", order.seconds));
        let outcome = round::run(places, &setup, seed, progress).await?;
        outcome.verdict.write(progress);
        let is_whole = outcome.verdict.is_clean();
        report.rounds.push(outcome);
        if !is_whole {
            progress.line(format!("the same again: scripts/chaos.sh --seeds {seed} --seconds {}", order.seconds));
            break;
        }
    }
    paper.line(report.markdown());
    write(order.report.as_ref(), &report.markdown())?;
    let json = serde_json::to_string_pretty(&report)
        .map_err(|error| Failure::new(FailureKind::Broken, "the report cannot be written as JSON").caused_by(error))?;
    write(order.json.as_ref(), &json)?;
    Ok(report.is_whole())
}

fn write(path: Option<&PathBuf>, text: &str) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("{} cannot be written", path.display())).caused_by(error)
    })
}
