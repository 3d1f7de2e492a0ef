//! `health`: asks the service of this machine or container how it is. For images without a shell.

use std::io::Write as _;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};

use crate::config::HttpConfig;
use crate::failure::Failure;
use crate::page;

pub const NAME: &str = "health";
const QUESTION: &str = "question";

pub fn command() -> Command {
    let question = Arg::new(QUESTION)
        .value_parser(PossibleValuesParser::new(["live", "ready", "useful"]))
        .default_value("ready")
        .help("live: all parts give signs of life; ready: it does its work; useful: ready, or a standby");
    Command::new(NAME)
        .about("Ask the service that runs with these settings how it is; exit code 0 if all is well")
        .arg(question)
}

/// Prints what it says of itself.
pub async fn ask(config: &HttpConfig, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let question = arguments.get_one::<String>(QUESTION).map_or("ready", String::as_str);
    let url = format!("http://{}:{}", address(&config.host), config.port);
    let page = page::get(&url, &format!("/health/{question}")).await?;
    let _ = writeln!(std::io::stdout(), "{}", page.body);
    Ok(if page.status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who listens on every address answers at home.
fn address(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" | "[::]" => "[::1]",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_at_home() {
        assert_eq!(["0.0.0.0", "[::]", "10.0.0.7"].map(address), ["127.0.0.1", "[::1]", "10.0.0.7"]);
    }
}
