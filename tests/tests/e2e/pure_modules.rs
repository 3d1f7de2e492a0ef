//! The modules that ARCHITECTURE.md calls pure know no actor, client or clock, nor do the modules in them.

use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["cdc-ingest", "dwd-cleaner", "dim-joiner", "pg-sinker", "shared"];

/// What is not pure has one of these in it.
const FOREIGN: [&str; 13] = [
    "actix",
    "rdkafka",
    "sqlx",
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "time::now",
    ".elapsed()",
];

/// The files of the modules that the invariant names: `cdc-ingest: `decode`, `row`;`.
fn named(architecture: &str) -> Vec<PathBuf> {
    let (_, rest) = architecture.split_once("**Pure modules, with").unwrap();
    let (invariant, _) = rest.split_once("\n\n").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for owner in CRATES {
        let (_, modules) =
            invariant.split_once(&format!("{owner}: ")).unwrap_or_else(|| panic!("{owner} is not named"));
        let modules = modules.split([';', '.']).next().unwrap();
        let source =
            if owner == "shared" { root.join("shared/src") } else { root.join("services").join(owner).join("src") };
        let of_crate: Vec<_> =
            modules.split('`').skip(1).step_by(2).map(|module| source.join(format!("{module}.rs"))).collect();
        assert!(of_crate.len() >= 10, "{owner} has only {of_crate:?}");
        files.extend(of_crate);
    }
    files
}

/// The code that is no test and no comment. Tests stand at the end.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let text = text.split("#[cfg(test)]\npub").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What a module, and those in it, have that is not pure.
fn foreign(file: &Path, found: &mut Vec<String>) {
    let code = code(file);
    found.extend(
        FOREIGN.iter().filter(|what| code.contains(**what)).map(|what| format!("{what} in {}", file.display())),
    );
    for line in code.lines() {
        let inner =
            line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        if let Some(inner) = inner {
            foreign(&file.with_extension("").join(format!("{inner}.rs")), found);
        }
    }
}

#[test]
fn pure_modules_know_nothing_of_the_world() {
    let architecture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let mut found = Vec::new();
    for file in named(&std::fs::read_to_string(architecture).unwrap()) {
        foreign(&file, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}
