//! Growth: what a row costs dwd-cleaner and dim-joiner with more partitions, more users, wider rows, each beside a process that copies the
//! same records unchanged.

use clap::Args;
use serde::Serialize;
use shared::failure::Failure;

use crate::bench::hop::{Course, Entrant, Hop, Load, Results, orders, users};
use crate::bench::report::Report;
use crate::bench::stages::Means;
use crate::bench::variant::Variant;
use crate::paper::Paper;
use crate::places::Places;
use crate::processes::load_average;
use crate::table::Table;

/// What is to be measured, and with what.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Orders in the first topic
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: u32,
    /// Partitions of each topic, one measurement for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    partitions: Vec<i32>,
    /// Users who own the orders
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 500_000, 2_000_000])]
    users: Vec<u32>,
    /// Bytes of a further column, which no rule names
    #[arg(long, value_delimiter = ',', default_values_t = [0, 500, 2_000, 8_000])]
    note_bytes: Vec<usize>,
    /// How often each takes its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    means: Means,
}

/// Of the loads that do not grow.
const USERS: u32 = 100_000;

/// A load, and what grows with it.
#[derive(Debug, Clone, Copy)]
struct Step {
    grows: &'static str,
    size: u64,
    load: Load,
}

/// What a step came to.
#[derive(Debug, Clone, Serialize)]
struct Point {
    grows: &'static str,
    size: u64,
    stages: Vec<Results>,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    load_average_before: Option<f64>,
    rows: u32,
    points: Vec<Point>,
}

impl Plan {
    fn steps(&self) -> Vec<Step> {
        let base = Load::new(self.rows, USERS);
        let step = |grows, size: usize, load| Step { grows, size: size as u64, load };
        let partitions = self.partitions.iter().map(|&partitions| {
            step("partitions", usize::try_from(partitions).unwrap_or_default(), Load { partitions, ..base })
        });
        let users = self.users.iter().map(|&users| step("users", users as usize, Load { users, ..base }));
        let notes = self.note_bytes.iter().map(|&bytes| step("bytes more", bytes, Load { note_bytes: bytes, ..base }));
        partitions.chain(users).chain(notes).collect()
    }
}

/// Measures each step, on topics that are filled anew.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    let load_average_before = load_average();
    let mut course = plan.means.course(places, progress)?;
    let mut points = Vec::new();
    for Step { grows, size, load } in plan.steps() {
        course.progress.line(format!("  {grows}: {size}"));
        points.push(Point { grows, size, stages: stages(&mut course, load, plan.rounds).await? });
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome { processors, load_average_before, rows: plan.rows, points })
}

async fn stages(course: &mut Course<'_>, load: Load, rounds: u32) -> Result<Vec<Results>, Failure> {
    const USERS_TOPIC: &str = "ods_users";
    for topic in [USERS_TOPIC, Hop::CLEANER.input, Hop::JOINER.input, Hop::JOINER.output] {
        course.broker.forget_topic(topic).await?;
    }
    users(course.places, USERS_TOPIC, load, course.progress).await?;
    orders(course.places, Hop::CLEANER.input, load, course.progress).await?;
    let entrants = [Entrant::FORWARD, Entrant::Service { variant: Variant::default(), instances: 1 }];
    let mut stages = Vec::new();
    for hop in [Hop::CLEANER, Hop::JOINER] {
        stages.push(Results::new(hop.service, course.rounds(&hop, &entrants, rounds).await?));
    }
    Ok(stages)
}

const HEADINGS: [&str; 9] =
    ["", "", "copy, rows/s", "cleaner, rows/s", "share", "CPU", "joiner, rows/s", "share", "CPU"];

impl Report for Outcome {
    fn write(&self, paper: &mut Paper) {
        let load = self.load_average_before.unwrap_or_default();
        let Outcome { processors, rows, .. } = self;
        paper.headline(format!("growth ({processors} processors, load average {load:.1} before, {rows} orders)"));
        let mut table = Table::new(&HEADINGS);
        for point in &self.points {
            table.row(&point.cells());
        }
        paper.table(&table);
        paper.note("  Medians. share: of the rows a second that the copying process reached in the same round. CPU: seconds of the process");
        paper.note("  for a million rows. What does not grow: 4 partitions, 100,000 users, rows of some 300 bytes.");
    }
}

impl Point {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.grows.to_owned(), self.size.to_string()];
        for (number, stage) in self.stages.iter().enumerate() {
            let [copy, service] = &stage.summaries[..] else { continue };
            let text = |spread: Option<crate::bench::spread::Spread>, digits: usize| {
                spread.map_or(String::new(), |spread| format!("{:.digits$}", spread.median))
            };
            if number == 0 {
                cells.push(text(copy.rows_a_second, 0));
            }
            cells.extend([text(service.rows_a_second, 0), text(service.share, 2), text(service.cpu_seconds, 1)]);
        }
        cells
    }
}
