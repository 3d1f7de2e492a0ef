//! What the entrants came to, round by round, and what one is worth against another.

use serde::Serialize;

use super::watch::Figures;
use crate::bench::spread::Spread;
use crate::paper::Paper;
use crate::table::Table;

/// What an entrant came to in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub round: u32,
    pub title: String,
    /// From one processor to another and back, before it began.
    pub handover_ns: Option<u64>,
    #[serde(flatten)]
    pub figures: Figures,
}

/// All rounds of one way.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    pub way: String,
    pub runs: Vec<Run>,
    pub summaries: Vec<Summary>,
}

/// An entrant over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub title: String,
    pub rows_a_second: Option<Spread>,
    /// Of all its processes, for a million rows.
    pub cpu_seconds: Option<Spread>,
    pub peak_megabytes: Option<Spread>,
    /// Rows a second of the one divided by those of the first, round by round.
    pub share: Option<Spread>,
    /// Rounds in the share in which others were quiet; where there was none, all rounds went in.
    pub calm_rounds: usize,
}

impl Results {
    /// The first title is what the others are held against.
    pub fn new(way: impl Into<String>, runs: Vec<Run>) -> Self {
        let summaries = titles(&runs).into_iter().map(|title| Summary::of(&runs, title)).collect();
        Results { way: way.into(), runs, summaries }
    }
}

/// The entrants, in the order of the first round.
fn titles(runs: &[Run]) -> Vec<&str> {
    let first = runs.first().map_or(0, |run| run.round);
    runs.iter().filter(|run| run.round == first).map(|run| run.title.as_str()).collect()
}

fn of<'r>(runs: &'r [Run], title: &str) -> impl Iterator<Item = &'r Run> {
    runs.iter().filter(move |run| run.title == title)
}

/// Rows a second of `above` divided by those of `below`, round by round, and the number of rounds in which others were quiet. Where there
/// is any, only these count.
pub fn ratio(runs: &[Run], above: &str, below: &str) -> (Option<Spread>, usize) {
    let partner = |round: u32| of(runs, below).find(|run| run.round == round);
    let mut pairs: Vec<(&Run, &Run)> = of(runs, above).filter_map(|run| Some((run, partner(run.round)?))).collect();
    let is_calm = |(above, below): &(&Run, &Run)| !above.figures.is_disturbed() && !below.figures.is_disturbed();
    let calm = pairs.iter().filter(|pair| is_calm(pair)).count();
    if calm > 0 {
        pairs.retain(is_calm);
    }
    let ratio = |(above, below): (&Run, &Run)| above.figures.rows_a_second() / below.figures.rows_a_second();
    (Spread::of(pairs.into_iter().map(ratio)), calm)
}

impl Summary {
    fn of(runs: &[Run], title: &str) -> Self {
        let spread = |figure: &dyn Fn(&Figures) -> Option<f64>| {
            Spread::of(of(runs, title).filter_map(|run| figure(&run.figures)))
        };
        let floor = titles(runs).first().copied().unwrap_or_default();
        let (share, calm_rounds) = if floor == title { (None, 0) } else { ratio(runs, title, floor) };
        Summary {
            title: title.to_owned(),
            rows_a_second: spread(&|found| Some(found.rows_a_second())),
            cpu_seconds: spread(&|found| Some(found.for_a_million(found.cpu_seconds.measured))),
            peak_megabytes: spread(&|found| found.peak_megabytes),
            share,
            calm_rounds,
        }
    }
}

const HEADINGS: [&str; 11] =
    ["round", "", "rows/s", "s", "CPU", "PostgreSQL", "broker", "all else", "peak MB", "load", "hand-over"];

/// What the columns mean.
pub const LEGEND: [&str; 5] = [
    "  rows/s: from the first look that showed rows to the look that showed all, starts of processes left out. CPU: seconds for a",
    "  million rows, of the processes that are measured, PostgreSQL's process that serves them, the broker, and all else on the",
    "  machine. *: all else took more than a quarter of a processor; such a round counts only where there is no other. Median",
    "  (least to most) of all rounds. Hand-over: nanoseconds from one processor to another and back before the turn; a virtual",
    "  machine's processors are moved about, and hold only those turns against each other that found them alike.",
];

impl Results {
    pub fn write(&self, paper: &mut Paper) {
        paper.headline(&self.way);
        let mut table = Table::new(&HEADINGS);
        for run in &self.runs {
            table.row(&cells(run));
        }
        paper.table(&table);
        let floor = self.summaries.first().map_or("", |summary| summary.title.as_str());
        for summary in &self.summaries {
            paper.line(summary.text(floor));
        }
    }
}

impl Summary {
    fn text(&self, floor: &str) -> String {
        let text = |spread: Option<Spread>, digits| spread.map_or("none".to_owned(), |spread| spread.text(digits));
        let figures = format!("{} rows/s, CPU {}", text(self.rows_a_second, 0), text(self.cpu_seconds, 2));
        match self.share {
            None => format!("  {}: {figures}", self.title),
            Some(share) => {
                let rounds = if self.calm_rounds > 0 {
                    format!("{} calm rounds", self.calm_rounds)
                } else {
                    "no calm round".into()
                };
                format!("  {}: {figures}\n    / {floor}: {} ({rounds})", self.title, share.text(2))
            }
        }
    }
}

fn cells(run: &Run) -> [String; 11] {
    let Run { round, title, handover_ns, figures } = run;
    let cost = &figures.cpu_seconds;
    let figure = |figure: Option<f64>, digits: usize| figure.map_or(String::new(), |found| format!("{found:.digits$}"));
    let million = |seconds: Option<f64>| figure(seconds.map(|seconds| figures.for_a_million(seconds)), 2);
    let mark = if figures.is_disturbed() { " *" } else { "" };
    [
        round.to_string(),
        format!("{title}{mark}"),
        figure(Some(figures.rows_a_second()), 0),
        figure(Some(figures.seconds), 2),
        million(Some(cost.measured)),
        million(cost.postgres),
        million(cost.broker),
        million(cost.others),
        figure(figures.peak_megabytes, 1),
        figure(cost.load_average, 1),
        handover_ns.map_or(String::new(), |found| found.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::Cost;

    fn run(round: u32, title: &str, rows: u64, others: f64) -> Run {
        let cpu_seconds =
            Cost { measured: 1.0, postgres: None, broker: None, others: Some(others), load_average: None };
        Run {
            round,
            title: title.to_owned(),
            handover_ns: None,
            figures: Figures { rows, seconds: 1.0, cpu_seconds, peak_megabytes: None },
        }
    }

    #[test]
    fn an_entrant_is_held_against_the_first_of_its_own_round() {
        let runs =
            vec![run(1, "floor", 100, 0.0), run(1, "a", 50, 0.0), run(2, "a", 30, 0.0), run(2, "floor", 40, 0.0)];
        let results = Results::new("way", runs);
        let [floor, a] = &results.summaries[..] else { panic!("{results:?}") };
        assert_eq!((floor.share, a.share), (None, Some(Spread { median: 0.625, least: 0.5, most: 0.75 })));
        assert_eq!(a.calm_rounds, 2);
    }

    #[test]
    fn a_disturbed_round_counts_only_where_there_is_no_other() {
        let mut runs =
            vec![run(1, "floor", 100, 0.0), run(1, "a", 50, 1.0), run(2, "floor", 40, 0.0), run(2, "a", 30, 0.0)];
        assert_eq!(ratio(&runs, "a", "floor"), (Some(Spread { median: 0.75, least: 0.75, most: 0.75 }), 1));
        runs[3].figures.cpu_seconds.others = Some(1.0);
        assert_eq!(ratio(&runs, "a", "floor"), (Some(Spread { median: 0.625, least: 0.5, most: 0.75 }), 0));
    }
}
