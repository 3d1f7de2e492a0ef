//! The commands of the command line: `explain`, and `replay`, which asks the running instances.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use shared::failure::{Failure, FailureKind};
use shared::page;
use shared::record::time;

use crate::explain::explain;
use crate::replay::{Answer, Body};
use crate::settings::Settings;

pub fn all() -> Vec<Command> {
    let offset = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("OFFSET")
            .value_parser(value_parser!(i64).range(0..))
            .action(ArgAction::Set)
    };
    vec![
        Command::new("explain").about("Show what each rule does to the rows on standard input, one JSON object after the other"),
        Command::new("replay")
            .about("Have the running service put dead letters back in, by the rules that it runs with now")
            .arg(offset("from").required(true).help("First dead letter: an offset of the dead-letter topic"))
            .arg(offset("to").help("Last dead letter; all that there are, where it is left out"))
            .arg(
                Arg::new("partition")
                    .long("partition")
                    .value_name("PARTITION")
                    .value_parser(value_parser!(i32).range(0..))
                    .help("Only those of records of this partition of the input"),
            )
            .arg(
                Arg::new("at")
                    .long("at")
                    .value_name("URL")
                    .action(ArgAction::Append)
                    .help("Address of a running instance; name each of the replicas. http.host and http.port where it is left out"),
            ),
    ]
}

pub async fn run(config: &Settings, name: &str, arguments: &ArgMatches) -> Result<(), Failure> {
    match name {
        "explain" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| no_text("standard input", error))?;
            print(&explain(&config.plan()?, &text, &time::milliseconds(time::now()))?)
        }
        _ => replay(config, arguments).await,
    }
}

fn no_text(what: &str, error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Broken, format!("{what} cannot be read or written")).caused_by(error)
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| no_text("standard output", error))
}

async fn replay(config: &Settings, arguments: &ArgMatches) -> Result<(), Failure> {
    let given = |name: &str| arguments.get_one::<i64>(name).copied();
    let partition = arguments.get_one::<i32>("partition").copied();
    let mut instances: Vec<String> = arguments.get_many("at").into_iter().flatten().cloned().collect();
    if instances.is_empty() {
        let (host, port) = config.http.control_address().unwrap_or((&config.http.host, config.http.port));
        let host = if host == "0.0.0.0" { "127.0.0.1" } else { host };
        instances.push(format!("http://{host}:{port}"));
    }
    for instance in &instances {
        let mut body = Body { from: given("from").unwrap_or_default(), to: given("to"), partition };
        let mut total = Answer::default();
        loop {
            let answer = ask(config, instance, &body).await?;
            let next = answer.next;
            total.add(answer);
            match next {
                Some(next) => body.from = next,
                None => break,
            }
        }
        print(&told(instance, &total))?;
    }
    Ok(())
}

async fn ask(config: &Settings, instance: &str, body: &Body) -> Result<Answer, Failure> {
    let refused = |why: String| {
        Failure::new(FailureKind::Refused, format!("{instance} did not replay: {why}"))
            .cure("start the service with http.control_token set, and give this command the same settings")
    };
    let body = serde_json::to_string(body).map_err(|error| refused(error.to_string()))?;
    let patience = Duration::from_millis(config.replay.answer_timeout_ms);
    let token = Some(config.http.control_token.reveal());
    let page = page::post_within(patience, instance, "/api/v1/replay", token, &body).await?.page;
    match page.status {
        202 => serde_json::from_str(&page.body).map_err(|error| refused(error.to_string())),
        _ => Err(refused(page.body)),
    }
}

/// The report for a person.
fn told(instance: &str, answer: &Answer) -> String {
    let report = &answer.report;
    let lines = [
        ("put back in", report.put_back, ""),
        ("superseded", report.superseded, "a newer version of the key is in the output"),
        ("back already", report.back_already, "this version is in the output"),
        ("still rejected", report.still_rejected, "by the rules that the service runs with"),
        ("of other instances", report.of_other_instances, "ask these as well: --at URL"),
        ("not handled yet", report.not_handled_yet, "the record comes by itself"),
        ("too old", report.too_old, "the key may have been deleted since: have cdc-ingest read it again (snapshot)"),
        ("unfit", answer.unfit, "without key or header, or of another topic"),
    ];
    let mut text = format!("{instance}: {} dead letters\n", answer.looked_at);
    for (name, count, remark) in lines.into_iter().filter(|(name, count, _)| *count > 0 || *name == "put back in") {
        let line = format!("{count:>9}  {name:<20}{remark}");
        text.push_str(line.trim_end());
        text.push('\n');
        if name == "still rejected" {
            text.extend(report.still_rejected_by.iter().map(|(why, count)| format!("{count:>13}  {why}\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::put_back::Report;

    #[test]
    fn the_report_says_what_there_is() {
        let report = Report {
            put_back: 2,
            still_rejected: 1,
            still_rejected_by: [("rule `a`: not_in_set".to_owned(), 1)].into(),
            ..Report::default()
        };
        let text = told("http://here", &Answer { looked_at: 3, report, ..Answer::default() });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "http://here: 3 dead letters");
        assert_eq!(lines[1], "        2  put back in");
        assert!(lines[2].starts_with("        1  still rejected      by the rules"), "{text}");
        assert_eq!(lines[3], "            1  rule `a`: not_in_set");
        assert_eq!(lines.len(), 4);
    }
}
