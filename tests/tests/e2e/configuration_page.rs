//! docs/configuration.md is made of the files in config/, which are held against the code: by the test `the_documented_file_holds_the_defaults`
//! of each service, and by `documented_settings`.
//!
//! `TIDEMILL_WRITE_DOCS=yes cargo test -p e2e --test e2e configuration_page` writes it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::documented_settings::in_force;
use crate::stack::SERVICES;

/// Sections that hold data of one's own, which other pages explain.
const DATA: [&str; 3] = ["[rules]", "rules.values", "dimensions.columns.map"];

const HEAD: &str = "# Configuration\n\n\
    Made from `config/*.toml` by a test, which fails where this page is not what they say (`configuration_page`). Every key with its default, but\n\
    for what is data of one's own: the keys of `[[rules]]` ([cleaning.md](cleaning.md)), `[[dimensions.columns]]` and their maps ([joining.md](joining.md)), of which the defaults are those of the demo. The environment wins over the file given by\n\
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
    let (mut found, mut comment) = (Vec::<Section>::new(), Vec::<&str>::new());
    let (mut at, mut is_head) = (0, true);
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            if is_head {
                comment.clear();
            }
            is_head = false;
        } else if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
        } else if let (Some(name), words) = section_and_words(line) {
            at = found.iter().position(|section| section.name == name).unwrap_or(found.len());
            if at == found.len() {
                comment.push(words);
                found.push(Section {
                    name: name.to_owned(),
                    words: comment.join(" ").trim().to_owned(),
                    keys: Vec::new(),
                });
            }
            comment.clear();
        } else if let (Some((name, rest)), Some(section)) = (line.split_once(" = "), found.get_mut(at)) {
            let (value, words) = value_and_words(rest);
            let words = if words.is_empty() { comment.join(" ") } else { words.to_owned() };
            comment.clear();
            if section.keys.iter().all(|[known, ..]| known != name) {
                section.keys.push([name.to_owned(), value.to_owned(), words]);
            }
        }
    }
    found.retain(|section| !section.keys.is_empty() && !DATA.contains(&section.name.as_str()));
    found
}

/// `[name]`, or `[[name]]` as `[name]`, and the words behind it. A section that is given several times is one.
fn section_and_words(line: &str) -> (Option<&str>, &str) {
    let (head, words) = value_and_words(line);
    (head.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')), words)
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

/// The section that a place among the settings is written in, and its keys, as another reader sees them.
fn keys_of(value: &serde_json::Value, section: &str, sections: &[Section], missing: &mut Vec<String>) {
    if DATA.iter().any(|data| data.trim_matches(['[', ']']) == section) {
        return;
    }
    match value {
        serde_json::Value::Object(all) => {
            for (key, value) in all {
                let here = sections.iter().find(|found| found.name.trim_matches(['[', ']']) == section);
                if here.is_some_and(|found| found.keys.iter().any(|[known, ..]| known == key)) {
                    continue;
                }
                let inner = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
                keys_of(value, &inner, sections, missing);
            }
        }
        serde_json::Value::Array(all) if all.iter().any(serde_json::Value::is_object) => {
            all.iter().for_each(|value| keys_of(value, section, sections, missing));
        }
        _ => missing.push(section.to_owned()),
    }
}

#[test]
fn the_page_has_every_key() {
    for service in SERVICES {
        let text = in_force(service);
        let file = config::File::from_str(&text, config::FileFormat::Toml);
        let all = config::Config::builder().add_source(file).build().unwrap();
        let (all, mut missing) = (all.try_deserialize::<serde_json::Value>().unwrap(), Vec::new());
        keys_of(&all, "", &sections(&text), &mut missing);
        assert!(missing.is_empty(), "{service}: {missing:?}");
    }
}

#[test]
fn the_page_is_what_the_files_say() {
    let page = page();
    for key in [
        "| `sslmode` | `\"disable\"` | disable, prefer,",
        "| `deleted_keys_keep_days` | `8` |",
        "[reconcile.source]",
        "### dim-joiner `[facts]`\n\nthe table that is joined\n",
    ] {
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
