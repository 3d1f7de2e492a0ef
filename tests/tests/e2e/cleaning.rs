//! dwd-cleaner with rules of a test's own.

use std::path::Path;

use crate::process::Ended;
use crate::stack::{DWD_CLEANER, Stack};

/// What commands have to say to be obeyed.
pub const TOKEN: &str = "open-sesame";

/// A file of the checkout's folder of settings.
pub fn config(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)).unwrap()
}

/// The rules of the documented file, and further ones behind them.
pub fn rules_and(further: &str) -> String {
    let text = config("dwd-cleaner.toml");
    let (rules, _) = text.split_once("# One of each further kind.").unwrap();
    let rules = &rules[rules.find("[[rules]]").unwrap()..];
    format!("{rules}\n{further}")
}

/// `dwd-cleaner replay` of all dead letters from `from` on, at the running instance.
pub async fn replay(stack: &mut Stack, from: i64) -> Ended {
    replay_at(stack, from, &[DWD_CLEANER]).await
}

/// The same at each of these instances.
pub async fn replay_at(stack: &mut Stack, from: i64, instances: &[&str]) -> Ended {
    let from = from.to_string();
    let urls: Vec<String> = instances.iter().map(|instance| stack.url(instance)).collect();
    let mut arguments = vec!["replay", "--from", &from];
    arguments.extend(urls.iter().flat_map(|url| ["--at", url.as_str()]));
    stack.command(DWD_CLEANER, &arguments, &[("HTTP__CONTROL_TOKEN", TOKEN)]).await
}

/// The count before these words of a report, of all instances; 0 where they are not in it.
pub fn count(ended: &Ended, words: &str) -> u64 {
    let lines = ended.output.lines().filter(|line| line.contains(words));
    lines.map(|line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}
