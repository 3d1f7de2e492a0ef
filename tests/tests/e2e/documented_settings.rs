//! The files in config/ are the documentation of the settings: every key that they show is one that the service takes.

use std::path::Path;

use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, SERVICES, Stack};

/// The file with its commented keys and sections put in force.
pub fn in_force(service: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../config/{service}.toml"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| uncommented(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// `# key = value` and `# [section]`; sentences are neither.
fn uncommented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# ")?;
    let is_section = rest.starts_with('[') && rest.ends_with(']');
    let is_value = |text: &str| text.starts_with(['"', '[']) || text.starts_with(|c: char| c.is_ascii_digit());
    let is_key = rest.split_once(" = ").is_some_and(|(key, value)| !key.contains(' ') && is_value(value));
    (is_section || is_key).then_some(rest)
}

/// Keys that must be among them, or the reading above has missed the point.
fn some_keys(service: &str) -> &'static [&'static str] {
    match service {
        CDC_INGEST => &["\n[tables.orders]", "\nchunk_rows = 5000", "\nport = 8081"],
        DWD_CLEANER => &["\n[[rules]]\nname = \"price_tier\"", "\n\"电子产品\" = \"ELECTRONICS\"", "\nPENDING = "],
        DIM_JOINER => &["\n[dimensions.columns.map]", "\n\"北京\" = ", "\nregistered_max = 100000"],
        _ => &[
            "\n[tables.trail]",
            "\non_tombstone = \"keep\"",
            "\ndeleted_keys_keep_days = 8",
            "\n[reconcile.source]\nhost = ",
        ],
    }
}

#[tokio::test]
async fn every_documented_key_is_taken() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        let text = in_force(service);
        for key in some_keys(service) {
            assert!(text.contains(key), "{key:?} is not in force in: {text}");
        }
        let file = stack.environment.logs.join(format!("{}-{service}-documented.toml", stack.name));
        std::fs::write(&file, text).unwrap();
        let arguments = ["check", "--config", file.to_str().unwrap()];
        // The example of a hash needs a key.
        let key = [("PERSONAL__HASH_KEY", "of sixteen bytes or more")];
        let key = if service == DWD_CLEANER { &key[..] } else { &[] };
        let ended = stack.command(service, &arguments, key).await;
        assert!(!ended.output.contains("the configuration of"), "{}", ended.output);
        assert!(!ended.output.contains("problem rule"), "{}", ended.output);
        assert!(ended.output.starts_with("ok ") || ended.output.starts_with("problem "), "{}", ended.output);
    }
}

#[tokio::test]
async fn a_key_that_no_file_documents_is_refused() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        let file = stack.environment.logs.join(format!("{}-{service}-invented.toml", stack.name));
        std::fs::write(&file, in_force(service) + "\ninvented_key = 1\n").unwrap();
        let arguments = ["check", "--config", file.to_str().unwrap()];
        let ended = stack.command(service, &arguments, &[]).await;
        assert_eq!(ended.code, Some(1));
        assert!(ended.output.contains("invented_key"), "{}", ended.output);
    }
}
