//! docs/configuration.md is made of the files in config/, which are held against the code: by the test `the_documented_file_holds_the_defaults`
//! of each service, and by `documented_settings`.
//!
//! `TIDEMILL_WRITE_DOCS=yes cargo test -p e2e --test e2e configuration_page` writes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::documented_settings::in_force;
use crate::stack::SERVICES;

/// Sections that hold data of one's own, which other pages explain.
const DATA: [&str; 3] = ["[rules]", "dimensions.columns.map", "rules.map"];

const HEAD: &str = "# Configuration\n\n\
    Made from `config/*.toml` by a test, which fails where this page is not what they say (`configuration_page`). Every key with its default. The environment wins over the file given by\n\
    `--config` or `CDC_INGEST_CONFIG`, and the file over the default: `[kafka]` `brokers` of cdc-ingest is `CDC_INGEST__KAFKA__BROKERS`. A secret may stand in a file of its own, which its key with `_file` names.\n\
    Unknown keys are refused. `check` of each service says what is wrong.\n";

/// A section with its keys: name, default, meaning.
#[derive(Default)]
struct Section {
    name: String,
    words: String,
    keys: Vec<[String; 3]>,
}

fn sections(text: &str) -> Vec<Section> {
    let (mut found, mut comment, mut seen) = (Vec::<Section>::new(), Vec::<&str>::new(), BTreeSet::new());
    let mut is_head = true;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            if is_head {
                comment.clear();
            }
            is_head = false;
        } else if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push(Section { name: name.to_owned(), words: comment.join(" "), keys: Vec::new() });
            comment.clear();
        } else if let (Some((name, rest)), Some(section)) = (line.split_once(" = "), found.last_mut()) {
            let (value, words) = value_and_words(rest);
            let words = if words.is_empty() { comment.join(" ") } else { words.to_owned() };
            comment.clear();
            if seen.insert((section.name.clone(), name.to_owned())) {
                section.keys.push([name.to_owned(), value.to_owned(), words]);
            }
        }
    }
    found.retain(|section| !section.keys.is_empty() && !DATA.contains(&section.name.as_str()));
    found
}

/// The value ends at the first `#` that stands outside of quotes.
fn value_and_words(rest: &str) -> (&str, &str) {
    let mut in_quotes = false;
    let hash = rest.char_indices().find(|&(_, character)| {
        in_quotes ^= character == '"';
        character == '#' && !in_quotes
    });
    hash.map_or((rest.trim(), ""), |(at, _)| (rest[..at].trim(), rest[at + 1..].trim()))
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for service in SERVICES {
        let _ = write!(page, "\n## {service}\n");
        for section in sections(&in_force(service)) {
            let _ = write!(page, "\n### {service} `[{}]`\n\n", section.name);
            if !section.words.is_empty() {
                let _ = write!(page, "{}\n\n", section.words);
            }
            page.push_str("| key | default | |\n|---|---|---|\n");
            for [name, value, words] in &section.keys {
                let _ =
                    writeln!(page, "| `{name}` | `{}` | {} |", value.replace('|', "\\|"), words.replace('|', "\\|"));
            }
        }
    }
    page
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

#[test]
fn the_page_is_what_the_files_say() {
    let page = page();
    for key in
        ["| `sslmode` | `\"disable\"` | disable, prefer,", "| `deleted_keys_keep_days` | `8` |", "[reconcile.source]"]
    {
        assert!(page.contains(key), "{key} is not in: {page}");
    }
    if std::env::var_os("TIDEMILL_WRITE_DOCS").is_some() {
        std::fs::write(path(), &page).unwrap();
    }
    let written = std::fs::read_to_string(path()).unwrap_or_default();
    let other = page.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        page == written,
        "docs/configuration.md is not what config/ says, first at {other:?}. Write it: TIDEMILL_WRITE_DOCS=yes cargo test -p e2e --test e2e configuration_page"
    );
}
