//! Scale: two instances of a stage against one, each with its own partitions of the same topic, and two forwarders against one beside them.
//!
//! Where the broker shares the processors with them, two plain forwarders gain less than twice as well: what a stage gains is to be held
//! against that.

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;

use crate::bench::hop::{self, Entrant, Hop, Load, Results, Task, orders, ratio, users};
use crate::bench::report::Report;
use crate::bench::spread::Spread;
use crate::bench::stages::Means;
use crate::bench::variant::Variant;
use crate::paper::Paper;
use crate::places::Places;
use crate::processes::load_average;

/// What is to be measured, and with what.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders in the first topic
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: u32,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// How often each takes its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    means: Means,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    load_average_before: Option<f64>,
    rows: u32,
    stages: Vec<Scale>,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct Scale {
    results: Results,
    /// Rows a second of two forwarders divided by those of one, round by round.
    forwarders: Option<Spread>,
    /// The same of the service.
    instances: Option<Spread>,
}

/// Measures both Kafka to Kafka stages.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let load_average_before = load_average();
    let load = Load::new(plan.rows, plan.users);
    let mut course = plan.means.course(places, progress)?;
    users(places, "ods_users", load, course.progress).await?;
    orders(places, Hop::CLEANER.input, load, course.progress).await?;
    let mut stages = Vec::new();
    for hop in [Hop::CLEANER, Hop::JOINER] {
        let entrants = entrants();
        let runs = course.rounds(&hop, &entrants, plan.rounds).await?;
        let gain = |one: &Entrant, two: &Entrant| ratio(&runs, &two.title(hop.service), &one.title(hop.service)).0;
        let [forward, forwards, service, services] = &entrants;
        let (forwarders, instances) = (gain(forward, forwards), gain(service, services));
        let results = Results::new(format!("{}: {} records of {}", hop.service, plan.rows, hop.input), runs);
        stages.push(Scale { results, forwarders, instances });
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome { processors, load_average_before, rows: plan.rows, stages })
}

fn entrants() -> [Entrant; 4] {
    let service = |instances| Entrant::Service { variant: Variant::default(), instances };
    [Entrant::FORWARD, Entrant::raw(Task::Forward, 2), service(1), service(2)]
}

impl Report for Outcome {
    fn write(&self, paper: &mut Paper) {
        let load = self.load_average_before.unwrap_or_default();
        paper.headline(format!("scale ({} processors, load average {load:.1} before)", self.processors));
        let text = |spread: Option<Spread>| spread.map_or("none".to_owned(), |spread| spread.text(2));
        for Scale { results, forwarders, instances } in &self.stages {
            results.write(paper);
            paper.line(format!("  two for one: forwarders {}, instances {}", text(*forwarders), text(*instances)));
        }
        paper.line("");
        hop::LEGEND.iter().for_each(|line| paper.note(line));
    }
}
