//! `tidemill-lab`: looks at a running pipeline, checks it, measures it, loads it. See `--help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lab::bench::report::tell;
use lab::paper::Paper;
use lab::places::{Addresses, Places};
use lab::{bench, captured, chaos, compare, latency, load, pages, ready, report, show, validate};
use shared::failure::{Failure, FailureKind};
use shared::pg::TableName;

/// Drives a running Tidemill pipeline from outside, as a user would. The exit code says whether all went well.
#[derive(Parser)]
#[command(name = "tidemill-lab", version, about)]
struct Line {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    addresses: Addresses,
}

#[derive(Subcommand)]
enum Command {
    /// Wait until all four services are ready
    Ready {
        #[arg(long, default_value_t = 60)]
        timeout_s: u64,
    },
    /// Lead who comes to a port to an instance of a service that runs several times
    Pages(pages::Order),
    /// Show the first orders of the source and their rows in the sink
    Show,
    /// Print the order analysis report: sales, statuses, products, users, freshness
    Report {
        /// Write it to this file as well, as one page of HTML with plots
        #[arg(long)]
        html: Option<PathBuf>,
    },
    /// Send an order through the pipeline and look into every layer
    Validate {
        /// Longest wait for one change to reach the sink
        #[arg(long, default_value_t = 30)]
        timeout_s: u64,
    },
    /// Measure single changes: commit at the source until seen in the sink
    Latency {
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
        changes: u32,
        /// Changes a second, made when they are due, whatever became of those before
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rate: u32,
        /// Orders that are changed in turn
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5))]
        orders: u32,
        /// A change that is not seen for so long is lost
        #[arg(long, default_value_t = 10)]
        timeout_s: u64,
        /// One line of JSON instead of the report
        #[arg(long)]
        json: bool,
    },
    /// Send many orders through three statuses each, and compare all of them with the source
    Load {
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
        orders: u32,
        /// Changes a second, each its own commit; 0: as fast as possible, up to 100 orders in a commit
        #[arg(long, default_value_t = 0)]
        rate: u32,
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        users: u32,
        /// Give up when nothing new reached the sink for so long
        #[arg(long, default_value_t = 120)]
        timeout_s: u64,
        /// One line of JSON instead of the report
        #[arg(long)]
        json: bool,
    },
    /// Compare the whole sink with the source, value by value
    Compare {
        /// How long a difference may last: changes may be on their way
        #[arg(long, default_value_t = 10)]
        timeout_s: u64,
    },
    /// Compare a topic of cdc-ingest with its table, column by column, for any table
    Captured {
        /// SCHEMA.TABLE, in upper and lower case as the catalog has it
        #[arg(long)]
        table: String,
        #[arg(long)]
        topic: String,
        /// How long a difference may last: changes may be on their way
        #[arg(long, default_value_t = 10)]
        timeout_s: u64,
    },
    /// Break the whole system again and again under load, and prove that nothing is lost or twice; scripts/chaos.sh starts what this needs
    Chaos(chaos::Order),
    /// Measure a stage, or how the pipeline gets over faults; scripts/bench.sh starts what this needs
    Bench {
        #[command(subcommand)]
        stage: Stage,
        /// Write the figures as JSON to this file as well
        #[arg(long, global = true)]
        json: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Stage {
    /// cdc-ingest against pg_recvlogical
    Capture(bench::capture::Plan),
    /// How soon a new change is at the sink after something broke
    Recovery(bench::recovery::Plan),
    /// How long dim-joiner takes to read its state back, and how much memory
    Restore(bench::restore::Plan),
    /// What fresh orders wait for while a user's very many orders are sent again
    Reemission(bench::reemission::Plan),
    /// Each stage on a topic that is full, against what its way costs at least
    Stages(bench::stages::Plan),
    /// The four services together: copy, stream, latency, memory, start
    Whole(bench::whole::Plan),
    /// What a row costs dwd-cleaner and dim-joiner with more partitions, more users, wider rows
    Growth(bench::growth::Plan),
    /// Two instances of a stage against one
    Scale(bench::scale::Plan),
    /// How long pg-sinker takes to compare the sink with the source
    Reconcile(bench::reconciliation::Plan),
    /// Read or write a topic with nothing but the client; the other stages start it
    #[command(hide = true)]
    Raw(bench::raw::Order),
}

fn main() -> ExitCode {
    let line = Line::parse();
    match run(line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            Paper::stderr().line(format!("tidemill-lab: {}", failure.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run(line: Line) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Broken, "the runtime cannot be started").caused_by(error))?;
    runtime.block_on(carry_out(line.command, &Places::try_from(line.addresses)?))
}

async fn carry_out(command: Command, places: &Places) -> Result<bool, Failure> {
    let (mut paper, mut progress) = (Paper::stdout(), Paper::stderr());
    match command {
        Command::Ready { timeout_s } => ready::run(places, seconds(timeout_s), &mut progress).await,
        Command::Pages(order) => pages::run(&order, &mut progress).await,
        Command::Show => show::run(places, &mut paper).await.map(|()| true),
        Command::Report { html } => report::run(places, html.as_deref(), &mut paper).await.map(|()| true),
        Command::Validate { timeout_s } => validate::run(places, seconds(timeout_s), &mut paper).await,
        Command::Latency { changes, rate, orders, timeout_s, json } => {
            let plan = latency::Plan { changes, rate, orders, patience: seconds(timeout_s) };
            latency::run(places, &plan, json, &mut paper).await
        }
        Command::Load { orders, rate, users, timeout_s, json } => {
            let plan = load::Plan { orders, rate, users, timeout: seconds(timeout_s) };
            load::run(places, &plan, json, &mut paper, &mut progress).await
        }
        Command::Compare { timeout_s } => compare::run(places, seconds(timeout_s), &mut paper).await,
        Command::Captured { table, topic, timeout_s } => {
            let table = TableName::parse(&table);
            captured::run(places, &table, &topic, seconds(timeout_s), &mut paper, &mut progress).await
        }
        Command::Chaos(order) => chaos::run(places, &order, &mut paper, &mut progress).await,
        Command::Bench { stage, json } => measure(places, stage, json.as_deref(), (&mut paper, &mut progress)).await,
    }
}

async fn measure(
    places: &Places,
    stage: Stage,
    json: Option<&Path>,
    (paper, progress): (&mut Paper, &mut Paper),
) -> Result<bool, Failure> {
    match stage {
        Stage::Capture(plan) => tell(&bench::capture::measure(places, &plan, progress).await?, json, paper),
        Stage::Recovery(plan) => tell(&bench::recovery::measure(places, &plan, progress).await?, json, paper),
        Stage::Restore(plan) => tell(&bench::restore::measure(places, &plan, progress).await?, json, paper),
        Stage::Reemission(plan) => tell(&bench::reemission::measure(places, &plan, progress).await?, json, paper),
        Stage::Stages(plan) => tell(&bench::stages::measure(places, &plan, progress).await?, json, paper),
        Stage::Whole(plan) => tell(&bench::whole::measure(places, &plan, progress).await?, json, paper),
        Stage::Growth(plan) => tell(&bench::growth::measure(places, &plan, progress).await?, json, paper),
        Stage::Scale(plan) => tell(&bench::scale::measure(places, &plan, progress).await?, json, paper),
        Stage::Reconcile(plan) => tell(&bench::reconciliation::measure(places, &plan, progress).await?, json, paper),
        Stage::Raw(order) => bench::raw::run(places, &order),
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
