//! Stage by stage: each service on a topic that is full, against what its way costs at least, in the same run.
//!
//! dwd-cleaner and dim-joiner are held against a process that copies the same records unchanged with their allocator (see `hop`), with one beside it that
//! only reads them, one that only writes them, and one that copies with the system's allocator; pg-sinker against one
//! connection that writes the same rows from memory (see `sink`). They take turns; what one stage has written is what the next one reads.

mod sink;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::failure::Failure;

use crate::bench::hop;
use crate::bench::hop::{Allocator, Broker, Course, Entrant, Hop, Load, Results, ServiceVariant, Task, orders, users};
use crate::bench::report::Report;
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::places::Places;
use crate::processes::load_average;

/// What is to be measured, and with what.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders in the first topic
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: u32,
    /// Results that are written to the sink, the last ones
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    sink_rows: u32,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// How often each takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The stages that are measured; the others run once, for what they write
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Stage::Cleaner, Stage::Joiner, Stage::Sinker])]
    stages: Vec<Stage>,
    /// Another service in every round: "SERVICE NAME SECTION.KEY=VALUE...", or "SERVICE NAME program=PATH"; can be repeated
    #[arg(long)]
    variant: Vec<ServiceVariant>,
    /// Make profiles of the services with perf, in this folder
    #[arg(long)]
    profiles: Option<PathBuf>,
    #[command(flatten)]
    means: Means,
}

/// With what all stages are measured.
#[derive(Debug, Clone, Args)]
pub struct Means {
    /// Longest wait, before each turn, for others on the machine to become quiet
    #[arg(long, default_value_t = 30)]
    pub calm_s: u64,
    /// Folder of the services' programs
    #[arg(long)]
    pub programs: PathBuf,
    /// The process of the broker, for its processor time
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Folder for what the programs say
    #[arg(long)]
    pub logs: PathBuf,
}

impl Means {
    pub fn course<'a>(&'a self, places: &'a Places, progress: &'a mut Paper) -> Result<Course<'a>, Failure> {
        let broker = Broker::connect(&places.kafka, self.broker_pid)?;
        let calm = Duration::from_secs(self.calm_s);
        Ok(Course { places, broker, programs: &self.programs, logs: &self.logs, calm, profiles: None, progress })
    }
}

/// A stage that can be measured; in the order of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Stage {
    Cleaner,
    Joiner,
    Sinker,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    load_average_before: Option<f64>,
    rows: u32,
    users: u32,
    stages: Vec<Results>,
    /// From the topic of the results until a select sees the row, one row after the other.
    seen: Option<Summary>,
}

/// Measures the stages in the order of the data.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let load_average_before = load_average();
    let load = Load::new(plan.rows, plan.users);
    let mut course = plan.means.course(places, progress)?;
    course.profiles = plan.profiles.as_deref();
    users(places, "ods_users", load, course.progress).await?;
    orders(places, Hop::CLEANER.input, load, course.progress).await?;
    let (mut stages, mut seen) = (Vec::new(), None);
    for (stage, hop) in [(Stage::Cleaner, Hop::CLEANER), (Stage::Joiner, Hop::JOINER)] {
        if plan.stages.contains(&stage) {
            stages.push(way(&mut course, &hop, plan).await?);
        } else if plan.stages.iter().any(|other| *other > stage) {
            course.once(&hop).await?;
        }
    }
    if plan.stages.contains(&Stage::Sinker) {
        let (results, summary) = sink::measure(&mut course, plan.sink_rows, plan.rounds, &plan.variant).await?;
        stages.push(results);
        seen = summary;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome { processors, load_average_before, rows: plan.rows, users: plan.users, stages, seen })
}

/// A service and its variants, and the two halves of the way, against a forwarder with the service's allocator: what it gains by that is no
/// merit of the stage. The service as it is comes last, and what it has written stays.
async fn way(course: &mut Course<'_>, hop: &Hop, plan: &Plan) -> Result<Results, Failure> {
    let services = ServiceVariant::of_service(&plan.variant, hop.service).into_iter();
    let ceilings = [Task::Consume, Task::Produce].map(|task| Entrant::raw(task, 1));
    let jemalloc = Entrant::Raw { task: Task::Forward, allocator: Allocator::Jemalloc, instances: 1 };
    let mut entrants = vec![jemalloc, Entrant::FORWARD];
    entrants.extend(ceilings);
    entrants.extend(services.map(|variant| Entrant::Service { variant, instances: 1 }));
    let runs = course.rounds(hop, &entrants, plan.rounds).await?;
    Ok(Results::new(format!("{}: {} records of {}, 4 partitions", hop.service, plan.rows, hop.input), runs))
}

impl Report for Outcome {
    fn write(&self, paper: &mut Paper) {
        let Outcome { processors, users, .. } = self;
        let load = self.load_average_before.unwrap_or_default();
        paper.headline(format!("stages ({processors} processors, load average {load:.1} before, {users} users)"));
        self.stages.iter().for_each(|stage| stage.write(paper));
        if let Some(Summary { p50_ms, p95_ms, p99_ms, .. }) = self.seen {
            paper.line(format!("  a row at a time, from the topic until it is seen: p50 {p50_ms:.1} ms, p95 {p95_ms:.1} ms, p99 {p99_ms:.1} ms"));
        }
        paper.line("");
        hop::LEGEND.iter().for_each(|line| paper.note(line));
    }
}
