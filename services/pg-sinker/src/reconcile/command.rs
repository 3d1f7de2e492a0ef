//! `pg-sinker reconcile`: compares now, shows how far it is, and says what it found.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;

use super::compare::{Comparison, Progress};
use super::open;
use super::pair::Pair;
use super::report::Report;
use super::sides::close;
use crate::settings::Settings;

pub const NAME: &str = "reconcile";

/// Rows differ.
const DIFFER: u8 = 1;
/// It could not be told.
pub const FAILED: u8 = 2;

pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new(NAME)
        .about("Compare the sink with the source while both are written to; exit code 0: equal, 1: rows differ, 2: it could not be told")
        .arg(
            Arg::new("pair")
                .long("pair")
                .value_name("NAME")
                .action(ArgAction::Append)
                .help("Only this pair of [reconcile.pairs]; can be repeated"),
        )
        .arg(flag("repair", "Have cdc-ingest read the rows that differ again, and compare them once more"))
        .arg(flag("json", "Answer in JSON: an array with a report for each pair"))
}

pub async fn run(config: &Settings, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let named: Vec<String> = arguments.get_many("pair").into_iter().flatten().cloned().collect();
    let names = if named.is_empty() { config.reconcile.pairs.keys().cloned().collect() } else { named };
    let (heal, json) = (arguments.get_flag("repair"), arguments.get_flag("json"));
    let mut reports = Vec::new();
    for name in &names {
        let report = compare(config, name, heal).await?;
        if !json {
            print(&report.text())?;
        }
        reports.push(report);
    }
    if json {
        let text = serde_json::to_string_pretty(&reports)
            .map_err(|error| Failure::new(FailureKind::Broken, "the report cannot be written").caused_by(error))?;
        print(&format!("{text}\n"))?;
    }
    Ok(if reports.iter().all(Report::is_equal) { ExitCode::SUCCESS } else { ExitCode::from(DIFFER) })
}

async fn compare(config: &Settings, name: &str, heal: bool) -> Result<Report, Failure> {
    let (mut source, mut sink) = open::both(config).await?;
    let pair = open::pair(config, name, &mut source, &mut sink).await?;
    let (fate, mut watch) = (Fate::default(), show);
    let mut comparison = Comparison {
        settings: config,
        pair: &pair,
        source,
        sink,
        fate: &fate,
        progress: Progress::default(),
        watch: &mut watch,
    };
    let report = comparison.run(heal).await;
    close(comparison.source).await;
    close(comparison.sink).await;
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    report
}

/// One line that is written over, where somebody looks at it.
fn show(pair: &Pair, progress: &Progress) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let Progress { rows, ranges, candidates, differences } = progress;
        let _ = write!(
            terminal,
            "\r\x1b[K{}: {rows} rows, {ranges} ranges, {candidates} looked at again, {differences} differ",
            pair.name
        );
    }
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(FailureKind::Broken, "standard output cannot be written").caused_by(error))
}
