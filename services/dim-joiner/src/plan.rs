//! The settings, held against each other and made ready: what is read of a fact, and what each dimension gives to it.

use jiff::tz::TimeZone;
use shared::failure::{Failure, FailureKind};

use crate::fact::FactReader;
use crate::settings::{DimensionConfig, Mode, Settings};
use crate::taken::TakenColumns;

/// What is done to facts and to the rows of the dimensions.
#[derive(Debug, Clone)]
pub struct Plan {
    pub reader: FactReader,
    pub dimensions: Vec<DimensionPlan>,
}

/// One dimension.
#[derive(Debug, Clone)]
pub struct DimensionPlan {
    pub config: DimensionConfig,
    pub columns: TakenColumns,
}

/// The most dimensions of one joiner: a fact's record carries a version of each.
pub const DIMENSIONS_MAX: usize = 16;

impl Plan {
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let dimensions = &settings.dimensions;
        if dimensions.is_empty() || dimensions.len() > DIMENSIONS_MAX {
            let what = format!("there are {} dimensions, not 1 to {DIMENSIONS_MAX}", dimensions.len());
            return Err(problem(what, "each of [[dimensions]] is one; another dim-joiner can join the rest"));
        }
        unique("topics", topics(settings), "name another under [facts], [[dimensions]] or [output]")?;
        let names = dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
        unique("dimensions", names, "give each of [[dimensions]] a name of its own")?;
        let zone = zone(&settings.facts.time_zone)?;
        let planned: Vec<DimensionPlan> =
            dimensions.iter().map(|config| DimensionPlan::new(config, &zone)).collect::<Result<_, _>>()?;
        let columns = planned.iter().flat_map(|dimension| dimension.columns.names());
        let added: Vec<&str> = columns.chain([settings.output.time.as_str()]).collect();
        unique("columns of a result", added.clone(), "set `name` or `prefix` in [[dimensions]], or output.time")?;
        if settings.facts.time.is_empty() && dimensions.iter().any(|dimension| dimension.mode == Mode::AsOf) {
            return Err(problem(
                "a dimension has mode \"as-of\", and facts have no time",
                "set facts.time to a column",
            ));
        }
        let expiry = &settings.facts.expiry;
        if expiry.after_hours > 0 && expiry.time.is_empty() {
            return Err(problem(
                "facts.expiry has no time",
                "set facts.expiry.time to the column that the hours count from",
            ));
        }
        if expiry.status.is_empty() != expiry.statuses.is_empty() {
            return Err(problem(
                "facts.expiry names a status without statuses, or statuses without their column",
                "set both facts.expiry.status and facts.expiry.statuses, or neither",
            ));
        }
        Ok(Plan { reader: FactReader::new(settings, &added, zone), dimensions: planned })
    }
}

impl DimensionPlan {
    fn new(config: &DimensionConfig, zone: &TimeZone) -> Result<Self, Failure> {
        let name = &config.name;
        if name.is_empty() {
            return Err(problem("a dimension has no name", "give each of [[dimensions]] a name"));
        }
        if config.on.is_empty() {
            let cure = "set `on`: the columns of its key, and the columns of a fact that name them";
            return Err(problem(format!("dimension `{name}` has no columns to join on"), cure));
        }
        one_source(config)?;
        let least = [
            ("wait_ms", config.wait_ms),
            ("versions_max", config.versions_max as u64),
            ("memory_megabytes_max", config.memory_megabytes_max),
            ("load_timeout_ms", config.load_timeout_ms),
        ];
        if let Some((key, _)) = least.into_iter().find(|(_, set)| *set == 0) {
            return Err(problem(format!("dimension `{name}`: {key} is 0"), "set at least 1"));
        }
        Ok(DimensionPlan { columns: TakenColumns::new(config, zone)?, config: config.clone() })
    }
}

/// A dimension is read from one place, and this program knows how.
fn one_source(config: &DimensionConfig) -> Result<(), Failure> {
    let name = &config.name;
    let Some(fluss) = &config.fluss else {
        return match config.topic.is_empty() {
            false => Ok(()),
            true => Err(problem(
                format!("dimension `{name}` is read from nowhere"),
                "set `topic`, or [dimensions.fluss]: docs/joining.md",
            )),
        };
    };
    if !config.topic.is_empty() {
        let what = format!("dimension `{name}` has a topic and a table of Fluss");
        return Err(problem(what, "take out `topic` or [dimensions.fluss]"));
    }
    if !cfg!(feature = "fluss") {
        let what = format!("dimension `{name}` is a table of Fluss, and this dim-joiner was built without it");
        return Err(problem(what, "build it with: cargo build --release -p dim-joiner --features fluss"));
    }
    let least = [
        ("request_timeout_ms", fluss.request_timeout_ms, 1000),
        ("look_interval_ms", fluss.look_interval_ms, 1),
        ("settle_ms", fluss.settle_ms, 1),
        ("bucket_rows_max", u64::from(fluss.bucket_rows_max), 1),
    ];
    match least.into_iter().find(|(_, set, least)| set < least) {
        Some((key, set, least)) => {
            Err(problem(format!("dimension `{name}`: fluss.{key} is {set}"), format!("set at least {least}")))
        }
        None => Ok(()),
    }
}

fn topics(settings: &Settings) -> Vec<&str> {
    let dimensions = settings.dimensions.iter().map(|dimension| &dimension.topic).filter(|topic| !topic.is_empty());
    let all = [&settings.facts.topic, &settings.output.topic, &settings.output.dead_letter_topic];
    all.into_iter().chain(dimensions).map(String::as_str).collect()
}

fn unique(what: &str, mut names: Vec<&str>, cure: &str) -> Result<(), Failure> {
    names.sort_unstable();
    let twice = names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    });
    match twice {
        Some(name) => Err(problem(format!("two {what} have the name `{name}`"), cure)),
        None => Ok(()),
    }
}

fn zone(name: &str) -> Result<TimeZone, Failure> {
    TimeZone::get(name).map_err(|error| {
        problem(format!("facts.time_zone = \"{name}\" is no time zone"), "give a name such as Asia/Shanghai or UTC")
            .caused_by(error)
    })
}

pub(crate) fn problem(what: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::FlussConfig;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        Plan::new(&settings).unwrap_err().chain()
    }

    fn fluss() -> FlussConfig {
        let json = r#"{"servers":"fluss:9123","database":"shop","table":"users"}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_table_of_fluss_is_for_builds_that_can_read_it() {
        let mut settings = Settings::default();
        settings.dimensions[0].topic.clear();
        settings.dimensions[0].fluss = Some(fluss());
        match cfg!(feature = "fluss") {
            true => drop(Plan::new(&settings).unwrap()),
            false => assert!(Plan::new(&settings).unwrap_err().chain().contains("--features fluss")),
        }
    }

    #[cfg(feature = "fluss")]
    #[test]
    fn bounds_of_reading_from_fluss_are_held() {
        let refused = refused(|s| {
            s.dimensions[0].topic.clear();
            s.dimensions[0].fluss = Some(FlussConfig { request_timeout_ms: 999, ..fluss() });
        });
        assert!(refused.contains("fluss.request_timeout_ms is 999") && refused.contains("at least 1000"), "{refused}");
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused_with_a_cure() {
        let users = Settings::default().dimensions.remove(0);
        let cases = [
            (refused(|s| s.dimensions.clear()), "0 dimensions"),
            (refused(|s| s.output.topic = "ods_users".into()), "two topics have the name `ods_users`"),
            (refused(|s| s.dimensions.push(DimensionConfig { topic: "t".into(), ..users.clone() })), "two dimensions"),
            (
                refused(|s| {
                    s.dimensions.push(DimensionConfig { name: "n".into(), topic: "t".into(), ..users.clone() })
                }),
                "two columns of a result have the name `city`",
            ),
            (refused(|s| s.output.time = "city".into()), "`city`"),
            (refused(|s| s.facts.time_zone = "Mars".into()), "Mars"),
            (
                refused(|s| {
                    s.facts.time.clear();
                    s.dimensions[0].mode = Mode::AsOf;
                }),
                "facts.time",
            ),
            (refused(|s| s.facts.expiry.after_hours = 1), "facts.expiry.time"),
            (refused(|s| s.facts.expiry.status = "x".into()), "statuses"),
            (refused(|s| s.dimensions[0].on.clear()), "`on`"),
            (refused(|s| s.dimensions[0].wait_ms = 0), "wait_ms is 0"),
            (refused(|s| s.dimensions[0].topic.clear()), "dimension `users` is read from nowhere"),
            (refused(|s| s.dimensions[0].fluss = Some(fluss())), "a topic and a table of Fluss"),
            (refused(|s| s.dimensions[0].columns.clear()), "gives no columns"),
            (refused(|s| s.dimensions[0].columns[5].otherwise = None), "otherwise"),
        ];
        for (said, wanted) in cases {
            assert!(said.contains(wanted), "{wanted:?} is not in: {said}");
        }
    }
}
