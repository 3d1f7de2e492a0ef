//! Follows docs/cleaning.md: each rule on the page is loaded, each change is made to the configuration, and each row comes out as the page
//! says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use shared::run::ServiceConfig as _;

use crate::plan::Plan;
use crate::rules::{Desk, Unwatched};
use crate::settings::Settings;

const NOW: &str = "NOW";

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// Settings as a user would write them into a file; the key for hashes comes from elsewhere.
fn settings(text: &str) -> Settings {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path: PathBuf = std::env::temp_dir().join(format!("tidemill-documented-{}-{number}.toml", std::process::id()));
    let text = text.replace("hash_key = \"\"", "");
    let key = "hash_key = \"a key of sixteen bytes or more\"";
    let text = match text.contains("[personal]") {
        true => text.replace("[personal]", &format!("[personal]\n{key}")),
        false => format!("{text}\n[personal]\n{key}\n"),
    };
    std::fs::write(&path, &text).unwrap();
    let loaded = shared::config::load::<Settings>("dwd-cleaner", Some(&path), Settings::MAPS);
    std::fs::remove_file(&path).unwrap();
    let settings = loaded.unwrap_or_else(|failure| panic!("{}\n{text}", failure.chain()));
    settings.validate().unwrap_or_else(|failure| panic!("{}\n{text}", failure.chain()));
    settings
}

/// Makes the change to the file, as `patch` would: the lines that stay and go are found in it once.
fn changed(text: &str, diff: &str) -> String {
    let lines = |signs: [char; 2]| {
        let kept = diff.lines().filter(|line| line.starts_with(signs)).filter_map(|line| line.get(1..));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    let (before, after) = (lines([' ', '-']), lines([' ', '+']));
    assert_eq!(text.matches(&before).count(), 1, "{before:?} is not once in the file");
    text.replace(&before, &after)
}

fn becomes(plan: &Plan, row: &str) -> String {
    let mut desk = Desk::new(plan);
    match plan.clean(row.as_bytes(), NOW, &mut desk, &mut Unwatched) {
        Ok(cleaned) => {
            let mut out = Vec::new();
            cleaned.write(&mut out);
            String::from_utf8(out).unwrap()
        }
        Err(rejection) => {
            let [rule, column] = [rejection.rule, rejection.column].map(Option::unwrap_or_default);
            format!("rejected: rule {rule}, column {column}, {}", rejection.reason)
        }
    }
}

/// The fenced blocks of a page: language, and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => {
                open = !open;
                if open {
                    blocks.push((language.to_owned(), String::new()));
                }
            }
            None if open => {
                let (_, text) = blocks.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[test]
fn every_example_does_what_the_page_says() {
    let (page, config) = (file("docs/cleaning.md"), file("config/dwd-cleaner.toml"));
    let mut plan = Settings::default().plan().unwrap();
    let (mut kinds, mut rows) = (BTreeSet::from(["now"]), 0);
    for (language, text) in blocks(&page) {
        match language.as_str() {
            "toml" => plan = settings(&text).plan().unwrap(),
            "diff" => plan = settings(&changed(&config, &text)).plan().unwrap(),
            "json" => {
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.chunks(2) {
                    let [row, wanted] = pair else { panic!("a row without what becomes of it: {text}") };
                    assert_eq!(becomes(&plan, row), *wanted);
                    rows += 1;
                }
            }
            _ => {}
        }
        kinds.extend(plan.rules.iter().map(|rule| rule.kind));
    }
    assert_eq!((kinds.len(), rows), (16, 24), "every kind has an example: {kinds:?}");
}

#[test]
fn the_users_lose_their_phone_and_address() {
    let users = settings(&file("config/dwd-cleaner-users.toml"));
    assert_eq!((users.input.topic.as_str(), users.output.topic.as_str()), ("ods_users", "dwd_users"));
    let row =
        r#"{"user_id":1001,"username":"张三","email":"zhangsan@example.com","phone":"13812345678","city":"北京"}"#;
    let masked = row.replace("zhangsan@", "z***@").replace("13812345678", "138****5678");
    assert_eq!(becomes(&users.plan().unwrap(), row), masked);
}
