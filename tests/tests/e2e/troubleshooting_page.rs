//! Every message that docs/troubleshooting.md quotes is one that the programs print.

use std::path::Path;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines of the programs that have a text, one that is broken in the code put together.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for folder in [
        "shared/src",
        "services/cdc-ingest/src",
        "services/dwd-cleaner/src",
        "services/dim-joiner/src",
        "services/pg-sinker/src",
    ] {
        collect(&root().join(folder), &mut lines);
    }
    lines
}

fn collect(folder: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, lines);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let code = std::fs::read_to_string(&path).unwrap();
            // What tests say is not what the programs say.
            let code = code.split("mod tests {").next().unwrap_or_default();
            let whole = code.split("\\\n").map(str::trim_start).collect::<Vec<_>>().join("");
            lines.extend(whole.lines().filter(|line| line.contains('"')).map(str::to_owned));
        }
    }
}

/// Whether the line has the parts of the message, in its order; `…` stands for what changes.
fn says(line: &str, message: &str) -> bool {
    let mut rest = line;
    message.split('…').map(str::trim).filter(|part| !part.is_empty()).all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

fn quoted_messages() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let headings = page.lines().filter_map(|line| line.strip_prefix("### ``").and_then(|rest| rest.strip_suffix("``")));
    headings.map(|message| message.trim().to_owned()).collect()
}

#[test]
fn every_quoted_message_is_printed_by_a_program() {
    let (lines, messages) = (lines(), quoted_messages());
    assert!(messages.len() > 20 && lines.len() > 1_000, "{} messages, {} lines", messages.len(), lines.len());
    let unknown: Vec<_> = messages.iter().filter(|message| !lines.iter().any(|line| says(line, message))).collect();
    assert!(unknown.is_empty(), "no program prints {unknown:#?}");
}

#[test]
fn a_message_that_nobody_prints_is_found() {
    assert!(says(
        "topic `{topic}` has {partitions} partitions, but {} are needed",
        "topic … has … partitions, but … are needed"
    ));
    assert!(!says("topic `{topic}` has {partitions} partitions", "topic … has … partitions, but … are needed"));
    assert!(!says("are needed, topic", "topic … are needed"));
}
