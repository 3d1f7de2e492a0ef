//! Capture: cdc-ingest against pg_recvlogical, which reads the same WAL and drops it: held against the least that any reader of the same
//! input must do, in the same run and on the same machine.
//!
//! Both sides read the same bytes in turn, so that their ratio says something where the figures alone say little. What else the
//! machine did stands beside each figure, since it does not weigh on both alike.
//!
//! ```text
//!  orders ──▶ source ══WAL══▶ recvlogical (to /dev/null)
//!  marks  ──▶            ╚══▶ ingest ──▶ Kafka
//!               │ reading: seconds, processor time, memory   watchers: when a mark is seen
//!               ▼
//!  rounds (rows a second)   low_load (one change)   big (one large transaction)
//! ```

mod ingest;
mod marks;
mod recvlogical;

mod reading;
mod watchers;

mod big;
mod low_load;
mod rounds;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;
use sqlx::postgres::PgConnection;

use self::ingest::Identity;
use self::recvlogical::RecvLogical;
use crate::bench::calm;
use crate::bench::report::Report;
use crate::bench::variant::Variant;
use crate::layers::Layers;
use crate::paper::Paper;
use crate::places::Places;
use crate::processes::load_average;

/// What is to be measured, and with what.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders that every reader reads
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: u32,
    /// Orders in a transaction
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    transaction: u32,
    /// How often every reader reads them; 0 leaves this part out
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=10))]
    rounds: u32,
    /// Another cdc-ingest in every round: "NAME SECTION.KEY=VALUE...", or "NAME program=PATH"; can be repeated
    #[arg(long)]
    variant: Vec<Variant>,
    /// Single changes for the latency; 0 leaves this part out
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// Single changes a second
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Rows of the big transaction; 0 leaves this part out
    #[arg(long, default_value_t = 2_000_000)]
    big: u32,
    /// Longest wait, before each reading, for others on the machine to become quiet
    #[arg(long, default_value_t = 30)]
    calm_s: u64,
    /// The cdc-ingest that is measured
    #[arg(long)]
    program: PathBuf,
    /// PostgreSQL's pg_recvlogical
    #[arg(long)]
    pg_recvlogical: PathBuf,
    /// The process of the broker, for its processor time
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Folder for what the programs say
    #[arg(long)]
    logs: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    load_average_before: Option<f64>,
    rows: u32,
    rows_a_transaction: u32,
    variants: Vec<Variant>,
    throughput: Option<rounds::Outcome>,
    low_load: Option<low_load::Outcome>,
    big: Option<big::Outcome>,
}

/// What is open during the benchmark.
struct Session<'a> {
    places: &'a Places,
    plan: &'a Plan,
    recv_logical: RecvLogical,
    source: PgConnection,
    layers: Layers,
    progress: &'a mut Paper,
}

impl Session<'_> {
    /// cdc-ingest as it is, and with what is changed.
    fn variants(&self) -> Vec<Variant> {
        [&[Variant::default()], self.plan.variant.as_slice()].concat()
    }

    fn identity(&self, which: &str, variant: Variant) -> Identity {
        let slot = format!("bench_{which}_{}", if variant.name.is_empty() { "plain" } else { &variant.name });
        Identity {
            program: variant.program.clone().unwrap_or_else(|| self.plan.program.clone()),
            log: self.plan.logs.join(format!("{slot}.log")),
            slot,
            variant,
        }
    }

    /// Waits for others on the machine to become quiet.
    async fn calm(&self) {
        calm::wait(Duration::from_secs(self.plan.calm_s)).await;
    }

    /// Records that a topic has got so far.
    fn records(&self, topic: &str) -> Result<i64, Failure> {
        Ok(self.layers.end(topic)?.iter().map(|(_, end)| end).sum())
    }
}

/// Measures all parts. The servers must have nothing else to do.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let mut session = Session {
        places,
        plan,
        recv_logical: RecvLogical { program: plan.pg_recvlogical.clone(), log: plan.logs.join("pg_recvlogical.log") },
        source: places.connect_source().await?,
        layers: Layers::connect(&places.kafka)?,
        progress,
    };
    let mut outcome = Outcome {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        load_average_before: load_average(),
        rows: plan.rows,
        rows_a_transaction: plan.transaction,
        variants: plan.variant.clone(),
        throughput: None,
        low_load: None,
        big: None,
    };
    // It reads the load first, which warms the broker and the caches, and is then at the end of the WAL for the other parts.
    let warm = session.identity("warm", Variant::default());
    warm.prepare(places).await?;
    if plan.rounds > 0 {
        outcome.throughput = Some(rounds::measure(&mut session, &warm).await?);
    }
    let ingest = warm.start(places)?;
    ingest.ready().await?;
    if plan.changes > 0 {
        session.calm().await;
        session.progress.line("  single changes");
        outcome.low_load = Some(low_load::measure(&mut session, &warm).await?);
    }
    if plan.big > 0 {
        outcome.big = Some(big::measure(&mut session, &warm, ingest).await?);
    }
    Ok(outcome)
}

impl Report for Outcome {
    fn is_good(&self) -> bool {
        self.low_load.as_ref().is_none_or(|low_load| low_load.unseen == 0)
    }

    fn write(&self, paper: &mut Paper) {
        let Outcome { processors, rows, rows_a_transaction, .. } = self;
        let load = self.load_average_before.unwrap_or_default();
        paper.headline(format!("capture ({processors} processors, load average {load:.1} before)"));
        if let Some(throughput) = &self.throughput {
            paper.headline(format!("{rows} inserted orders, {rows_a_transaction} in a transaction"));
            throughput.write(paper);
        }
        if let Some(low_load) = &self.low_load {
            paper.headline("commit to record");
            low_load.write(paper);
        }
        if let Some(big) = &self.big {
            paper.headline("a large transaction");
            big.write(paper);
        }
    }
}
