//! Watches processes from the first row that is through to the last.
//!
//! The time runs from the look that shows the first rows to the look that shows all; the rows that the first look showed are not
//! counted. So no start of a process is in the figures, nor how long it takes to look.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

use crate::bench::child::Child;
use crate::bench::meter::{Cost, Meter, Parts};
use crate::processes::{Memory, memory_megabytes};

/// Shows how many rows are through: acknowledged by the broker, or committed.
pub(crate) trait Through {
    async fn rows(&mut self) -> Result<u64, Failure>;
    /// The process of PostgreSQL that serves what is watched, if any.
    async fn postgres(&mut self) -> Result<Option<u32>, Failure>;
}

/// What was seen.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Those that came after the first look that showed any.
    pub rows: u64,
    pub seconds: f64,
    pub cpu_seconds: Cost,
    /// The most that was resident in all processes that are measured.
    pub peak_megabytes: Option<f64>,
}

/// Processors that others may use before a figure is marked.
pub const CALM_PROCESSORS: f64 = crate::bench::calm::CALM_PROCESSORS;

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn count(&self) -> f64 {
        self.rows.max(1) as f64
    }

    pub fn rows_a_second(&self) -> f64 {
        self.count() / self.seconds
    }

    /// The same seconds for a million rows.
    pub fn for_a_million(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.count()
    }

    /// Others on the machine took more than a little meanwhile.
    pub fn is_disturbed(&self) -> bool {
        self.cpu_seconds.others.is_some_and(|others| others / self.seconds > CALM_PROCESSORS)
    }
}

/// A process that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// Time between two looks: short where the moment counts, long between, where the looks would cost something.
fn pause(rows: u64, wanted: u64) -> Duration {
    Duration::from_millis(if rows == 0 || rows >= wanted / 20 * 19 { 5 } else { 50 })
}

/// Watches until `wanted` rows are through. A process may end once they are.
pub(crate) async fn watch(
    children: &[Child],
    through: &mut impl Through,
    wanted: u64,
    broker: Option<u32>,
) -> Result<Figures, Failure> {
    let mut first = 0;
    while first == 0 {
        tokio::time::sleep(pause(0, wanted)).await;
        check(children, false)?;
        first = through.rows().await?;
    }
    let begin = Instant::now();
    let processes: Vec<u32> = children.iter().map(Child::id).collect();
    let postgres = through.postgres().await?;
    let mut meter = Meter::start(Parts { measured: &processes, postgres, broker });
    let mut peaks: Vec<Option<f64>> = vec![None; processes.len()];
    let mut rows = first;
    while rows < wanted {
        tokio::time::sleep(pause(rows, wanted)).await;
        check(children, true)?;
        for (peak, process) in peaks.iter_mut().zip(&processes) {
            *peak = memory_megabytes(*process, Memory::Peak).or(*peak);
        }
        meter.look();
        rows = through.rows().await?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let figures =
        Figures { rows: rows - first, seconds, cpu_seconds: meter.cost(), peak_megabytes: peaks.into_iter().sum() };
    match (figures.rows, rows == wanted) {
        (_, false) => Err(Failure::new(FailureKind::Data, format!("{rows} rows are through, {wanted} are right"))),
        (0, _) => Err(Failure::new(FailureKind::Settings, "all rows were through before it could be seen")
            .cure("have it handle more rows")),
        _ => Ok(figures),
    }
}

/// `may_end`: that one has handled its share and ended well is no surprise.
fn check(children: &[Child], may_end: bool) -> Result<(), Failure> {
    for child in children {
        if child.has_ended() && !may_end {
            return Err(child.failure("has ended before any row was through"));
        }
        if child.started.elapsed() > PATIENCE {
            return Err(child.failure(&format!("has not handled all within {} s", PATIENCE.as_secs())));
        }
    }
    Ok(())
}
