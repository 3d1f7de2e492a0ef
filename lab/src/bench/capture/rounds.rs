//! Rows a second: in each round every reader reads the same WAL, one after the other, each from a slot of its own.

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::position::Lsn;

use super::ingest::Identity;
use super::reading::{IngestRun, Reading, RecvLogicalRun, watch};
use super::{Session, recvlogical};
use crate::bench::orders;
use crate::bench::spread::Spread;
use crate::paper::Paper;
use crate::table::Table;

/// A reader in one round.
#[derive(Debug, Clone)]
enum Entrant {
    RecvLogical { slot: String },
    Ingest(Box<Identity>),
}

/// What a reader came to in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Finish {
    pub round: u32,
    pub reader: String,
    pub reading: Reading,
}

/// A cdc-ingest held against pg_recvlogical: rows a second of the one divided by that of the other, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    pub reader: String,
    /// Whether only rounds in which others were quiet went into it. Where there is no such round, all went.
    pub calm: bool,
    pub rounds: usize,
    pub from_first_row: Option<Spread>,
    pub from_start: Option<Spread>,
}

/// All rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub results: Vec<Finish>,
    pub ratios: Vec<Ratio>,
}

const RECV_LOGICAL: &str = "pg_recvlogical";

/// Makes the slots, places the orders, and has everybody read them.
pub async fn measure(session: &mut Session<'_>, warm: &Identity) -> Result<Outcome, Failure> {
    let rounds: Vec<Vec<Entrant>> = (1..=session.plan.rounds).map(|round| entrants(session, round)).collect();
    for entrant in rounds.iter().flatten() {
        prepare(session, entrant).await?;
    }
    let end = load(session).await?;
    session.progress.line("  warm-up");
    read(session, &Entrant::Ingest(Box::new(warm.clone())), end).await?;
    let mut results = Vec::new();
    for (round, entrants) in (1..).zip(rounds) {
        for entrant in entrants {
            let reading = read(session, &entrant, end).await?;
            let reader = entrant.title();
            let pace = reading.rows_a_second_from_first_row();
            session.progress.line(format!("  round {round}: {reader}, {pace:.0} rows a second"));
            results.push(Finish { round, reader, reading });
        }
    }
    Ok(Outcome { ratios: ratios(&results), results })
}

/// The readers of a round; every second round begins at the other end.
fn entrants(session: &Session<'_>, round: u32) -> Vec<Entrant> {
    let mut entrants = vec![Entrant::RecvLogical { slot: format!("bench_{round}_recvlogical") }];
    let identities = session.variants().into_iter().map(|variant| session.identity(&format!("{round}"), variant));
    entrants.extend(identities.map(|identity| Entrant::Ingest(Box::new(identity))));
    if round.is_multiple_of(2) {
        entrants.reverse();
    }
    entrants
}

async fn prepare(session: &mut Session<'_>, entrant: &Entrant) -> Result<(), Failure> {
    match entrant {
        Entrant::RecvLogical { slot } => recvlogical::make_slot(&mut session.source, slot).await,
        Entrant::Ingest(identity) => identity.prepare(session.places).await,
    }
}

/// Places the orders; where the WAL ends with them.
async fn load(session: &mut Session<'_>) -> Result<Lsn, Failure> {
    let (names, plan) = (&session.places.names, session.plan);
    orders::place_in_transactions(
        &mut session.source,
        names,
        (plan.rows, plan.transaction),
        orders::OF_THE_EXAMPLE,
        session.progress,
    )
    .await?;
    let end = orders::wal_end(&mut session.source).await?;
    orders::settle(&mut session.source, names).await?;
    Ok(end)
}

async fn read(session: &mut Session<'_>, entrant: &Entrant, end: Lsn) -> Result<Reading, Failure> {
    session.calm().await;
    let (places, rows) = (session.places, session.plan.rows);
    match entrant {
        Entrant::RecvLogical { slot } => {
            let mut run = RecvLogicalRun(session.recv_logical.read_to(places, slot, end)?);
            let reading = watch(&run, &mut session.source, slot, None, rows).await?;
            run.0.expect_success()?;
            Ok(reading)
        }
        Entrant::Ingest(identity) => {
            let topic = identity.orders_topic();
            let before = session.records(&topic)?;
            let ingest = identity.start(places)?;
            let run = IngestRun { ingest: &ingest, places, rows };
            let broker = session.plan.broker_pid;
            let reading = watch(&run, &mut session.source, &identity.slot, broker, rows).await?;
            ingest.child.stop().await?;
            each_row_once(&topic, session.records(&topic)? - before, rows)?;
            Ok(reading)
        }
    }
}

fn each_row_once(topic: &str, records: i64, rows: u32) -> Result<(), Failure> {
    if records == i64::from(rows) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Data, format!("topic {topic} got {records} records of {rows} rows")))
}

impl Entrant {
    fn title(&self) -> String {
        match self {
            Entrant::RecvLogical { .. } => RECV_LOGICAL.to_owned(),
            Entrant::Ingest(identity) => identity.variant.title("cdc-ingest"),
        }
    }
}

fn ratios(results: &[Finish]) -> Vec<Ratio> {
    readers(results).filter(|reader| *reader != RECV_LOGICAL).map(|reader| ratio(results, reader)).collect()
}

/// The readers, each once.
fn readers(results: &[Finish]) -> impl Iterator<Item = &str> {
    let first = results.first().map_or(0, |result| result.round);
    results.iter().filter(move |result| result.round == first).map(|result| result.reader.as_str())
}

fn ratio(results: &[Finish], reader: &str) -> Ratio {
    let floor = |round: u32| results.iter().find(|other| other.round == round && other.reader == RECV_LOGICAL);
    let mine = results.iter().filter(|result| result.reader == reader);
    let mut pairs: Vec<(&Reading, &Reading)> =
        mine.filter_map(|mine| Some((&mine.reading, &floor(mine.round)?.reading))).collect();
    let is_calm = |(mine, floor): &(&Reading, &Reading)| !mine.is_disturbed() && !floor.is_disturbed();
    let calm = pairs.iter().any(is_calm);
    if calm {
        pairs.retain(is_calm);
    }
    let spread = |pace: fn(&Reading) -> f64| Spread::of(pairs.iter().map(|(mine, floor)| pace(mine) / pace(floor)));
    Ratio {
        reader: reader.to_owned(),
        calm,
        rounds: pairs.len(),
        from_first_row: spread(Reading::rows_a_second_from_first_row),
        from_start: spread(Reading::rows_a_second_from_start),
    }
}

const HEADINGS: [&str; 12] = [
    "round",
    "reader",
    "rows/s",
    "from start",
    "s",
    "CPU reader",
    "walsender",
    "broker",
    "all else",
    "peak MB",
    "load",
    "",
];

impl Outcome {
    pub fn write(&self, paper: &mut Paper) {
        let mut table = Table::new(&HEADINGS);
        for result in &self.results {
            table.row(&cells(result));
        }
        paper.table(&table);
        for line in LEGEND {
            paper.note(line);
        }
        for ratio in &self.ratios {
            paper.line(ratio.text());
        }
    }
}

const LEGEND: [&str; 5] = [
    "  rows/s: from the first row to the last; from start: from the start of the process to the last row.",
    "  First row: the first message written (pg_recvlogical), taken in (cdc-ingest). Last row: the end of the",
    "  process (pg_recvlogical), acknowledged by Kafka (cdc-ingest). CPU: seconds for a million rows, from the",
    "  first row to the last. *: others took more than a quarter of a processor meanwhile.",
    "  The warm-up before the first round is not shown.",
];

impl Ratio {
    fn text(&self) -> String {
        let text = |spread: Option<Spread>| spread.map_or("none".to_owned(), |spread| spread.text(2));
        format!(
            "  {} / {RECV_LOGICAL}: {} from the first row, {} from the start of the process; {} {}",
            self.reader,
            text(self.from_first_row),
            text(self.from_start),
            if self.calm { "calm rounds:" } else { "no calm round, all:" },
            self.rounds
        )
    }
}

fn cells(result: &Finish) -> [String; 12] {
    let (reading, cost) = (&result.reading, &result.reading.cpu_seconds);
    let figure =
        |figure: Option<f64>, digits: usize| figure.map_or(String::new(), |figure| format!("{figure:.digits$}"));
    let million = |seconds: Option<f64>| figure(seconds.map(|seconds| reading.for_a_million(seconds)), 2);
    [
        result.round.to_string(),
        result.reader.clone(),
        figure(Some(reading.rows_a_second_from_first_row()), 0),
        figure(Some(reading.rows_a_second_from_start()), 0),
        figure(Some(reading.seconds_from_first_row), 2),
        million(Some(cost.measured)),
        million(cost.postgres),
        million(cost.broker),
        million(cost.others),
        figure(reading.peak_megabytes, 1),
        figure(cost.load_average, 1),
        if reading.is_disturbed() { "*" } else { "" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::Cost;

    fn result(round: u32, reader: &str, seconds: f64) -> Finish {
        let cpu_seconds = Cost { measured: 1.0, postgres: None, broker: None, others: None, load_average: None };
        let reading = Reading {
            rows: 1000,
            seconds_from_start: seconds + 1.0,
            seconds_from_first_row: seconds,
            cpu_seconds,
            peak_megabytes: None,
        };
        Finish { round, reader: reader.to_owned(), reading }
    }

    #[test]
    fn a_round_is_held_against_itself() {
        let results = [
            result(1, RECV_LOGICAL, 1.0),
            result(1, "cdc-ingest", 2.0),
            result(2, "cdc-ingest", 4.0),
            result(2, RECV_LOGICAL, 3.0),
        ];
        let found = ratios(&results);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].from_first_row, Some(Spread { median: 0.625, least: 0.5, most: 0.75 }));
        assert_eq!((found[0].from_start.unwrap().most, found[0].calm, found[0].rounds), (0.8, true, 2));
    }

    #[test]
    fn a_disturbed_round_counts_only_where_there_is_no_other() {
        let mut results = [
            result(1, RECV_LOGICAL, 1.0),
            result(1, "cdc-ingest", 4.0),
            result(2, "cdc-ingest", 2.0),
            result(2, RECV_LOGICAL, 1.0),
        ];
        results[1].reading.cpu_seconds.others = Some(7.0);
        let found = ratios(&results);
        assert_eq!((found[0].from_first_row.unwrap().median, found[0].calm, found[0].rounds), (0.5, true, 1));
        results[2].reading.cpu_seconds.others = Some(7.0);
        let found = ratios(&results);
        assert_eq!((found[0].from_first_row.unwrap().median, found[0].calm, found[0].rounds), (0.375, false, 2));
    }
}
