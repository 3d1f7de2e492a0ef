//! `dim-joiner check`: the columns that the settings name, held against the last rows of the topics.

use shared::batch::Batch;
use shared::check::{Finding, columns_of};
use shared::failure::Failure;
use shared::kafka::tail::last_records;
use shared::kafka::topics::Topics;
use shared::run::Service as _;

use crate::dimension::Dimension;
use crate::hashes::Hashes;
use crate::pipeline::DimJoiner;
use crate::plan::{DimensionPlan, Plan, problem};
use crate::settings::{Mode, Settings};

/// Tries the settings on the last rows of the facts and of each dimension that is read from a topic.
pub async fn try_columns(config: &Settings, topics: &Topics<'_>) -> Vec<Finding> {
    let plan = match Plan::new(config) {
        Ok(plan) => plan,
        Err(failure) => return vec![Finding::problem(&failure)],
    };
    let mut findings = match last_rows(config, topics, &config.facts.topic).await {
        Ok(last) => of_facts(config, &plan, &last),
        Err(failure) => vec![Finding::problem(&failure)],
    };
    for dimension in plan.dimensions.into_iter().filter(|dimension| dimension.config.fluss.is_none()) {
        findings.extend(match last_rows(config, topics, &dimension.config.topic).await {
            Ok(last) => of_dimension(dimension, &last),
            Err(failure) => vec![Finding::problem(&failure)],
        });
    }
    findings
}

async fn last_rows(config: &Settings, topics: &Topics<'_>, topic: &str) -> Result<Batch, Failure> {
    let partitions = topics.required(topic, "the stage before")?;
    last_records(&config.kafka, DimJoiner::NAME, (topic, partitions), config.check.rows_max).await
}

/// A column that the settings name, and where they do.
type Wanted<'a> = (&'a str, String);

fn of_facts(config: &Settings, plan: &Plan, last: &Batch) -> Vec<Finding> {
    let topic = &config.facts.topic;
    let rows: Vec<&[u8]> = last.records().filter_map(|record| record.value).collect();
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for dimension in &config.dimensions {
        wanted.extend(dimension.on.values().map(|column| (column.as_str(), format!("`on` of `{}`", dimension.name))));
    }
    if config.dimensions.iter().any(|dimension| dimension.mode == Mode::AsOf) {
        wanted.push((&config.facts.time, "facts.time".into()));
    }
    let expiry = &config.facts.expiry;
    if expiry.after_hours > 0 {
        let named = [(&expiry.time, "facts.expiry.time"), (&expiry.status, "facts.expiry.status")];
        let set = named.into_iter().filter(|(column, _)| !column.is_empty());
        wanted.extend(set.map(|(column, key)| (column.as_str(), key.to_owned())));
    }
    let lacking = lacking(&format!("row of topic {topic}"), &rows, &wanted);
    let mut reader = plan.reader.clone();
    let set_aside =
        rows.iter().filter_map(|row| reader.read(row, &mut Vec::new()).err()).map(|error| error.to_string());
    verdict(&format!("facts: topic {topic}"), rows.len(), lacking, set_aside.collect())
}

fn of_dimension(plan: DimensionPlan, last: &Batch) -> Vec<Finding> {
    let (name, topic) = (plan.config.name.clone(), plan.config.topic.clone());
    let keys: Vec<&[u8]> = last.records().filter_map(|record| record.key).collect();
    let rows: Vec<&[u8]> = last.records().filter_map(|record| record.value).collect();
    let on = plan.config.on.keys().map(|column| (column.as_str(), format!("`on` of `{name}`"))).collect::<Vec<_>>();
    let from = plan.config.columns.iter().map(|column| (column.from.as_str(), format!("`from` of `{name}`")));
    let has_time = plan.config.mode == Mode::AsOf && !plan.config.time.is_empty();
    let time = has_time.then(|| (plan.config.time.as_str(), format!("`time` of `{name}`")));
    let mut lacks = lacking(&format!("key of topic {topic}"), &keys, &on);
    lacks.extend(lacking(&format!("row of topic {topic}"), &rows, &from.chain(time).collect::<Vec<_>>()));
    let mut table = Dimension::new(plan, Hashes::default());
    let set_aside = last.records().filter_map(|record| table.apply(&record).err()).map(|rejection| rejection.detail);
    verdict(&format!("dimension {name}: topic {topic}"), last.len(), lacks, set_aside.collect())
}

/// Columns that none of some rows has.
fn lacking(what: &str, rows: &[&[u8]], wanted: &[Wanted<'_>]) -> Vec<Finding> {
    let there = columns_of(rows.iter().copied());
    let lacking = wanted.iter().filter(|(column, _)| !rows.is_empty() && there.iter().all(|known| known != column));
    let finding = |(column, named_by): &Wanted<'_>| {
        let text = format!("no {what} has the column `{column}` that {named_by} names; there are {}", there.join(", "));
        Finding::problem(&problem(text, "correct the name"))
    };
    lacking.map(finding).collect()
}

fn verdict(subject: &str, came: usize, lacking: Vec<Finding>, set_aside: Vec<String>) -> Vec<Finding> {
    if !lacking.is_empty() {
        return lacking;
    }
    let said =
        |count: &str, why: &str| format!("{subject}: of the last {came} records {count} would be set aside ({why})");
    let finding = match set_aside.first() {
        None if came == 0 => Finding::warning(format!("{subject} has no rows yet: the settings are not tried on any")),
        None => Finding::ok(format!("{subject}: the last {came} records have the columns that the settings name")),
        Some(why) if set_aside.len() == came => {
            Finding::problem(&problem(said("all", why), "correct the settings, or look for who writes into the topic"))
        }
        Some(why) => Finding::warning(said(&set_aside.len().to_string(), why)),
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::version;
    use crate::taken::tests::ZHANG;
    use shared::batch::Record;
    use shared::record::header::{Header, Operation};

    const ORDER: &str = r#"{"order_id":1,"user_id":1001,"order_time":"2025-07-11 17:25:55.143"}"#;
    const USER: &str = r#"{"user_id":1001}"#;

    fn batch(records: &[(&str, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (offset, (key, value)) in records.iter().enumerate() {
            let text = Header::new(Operation::Update, version(offset as u64 + 1)).text();
            let (key, value, header) = (Some(key.as_bytes()), Some(value.as_bytes()), Some(text.as_bytes()));
            batch.push(Record { partition: 0, offset: offset as i64, key, value, header });
        }
        batch
    }

    /// The findings for one order and one user.
    fn found(change: impl FnOnce(&mut Settings)) -> Vec<(bool, String)> {
        let mut settings = Settings::default();
        change(&mut settings);
        let mut plan = Plan::new(&settings).unwrap();
        let mut findings = of_facts(&settings, &plan, &batch(&[("{}", ORDER)]));
        findings.extend(of_dimension(plan.dimensions.remove(0), &batch(&[(USER, ZHANG)])));
        findings.into_iter().map(|finding| (finding.ok, finding.text)).collect()
    }

    #[test]
    fn a_column_that_is_not_there_is_a_problem_that_names_those_that_are() {
        let on = |key: &str, column: &str| std::iter::once((key.to_owned(), column.to_owned())).collect();
        let right = found(|_| {});
        assert!(
            right.len() == 2 && right.iter().all(|(ok, text)| *ok && text.contains("the last 1 records")),
            "{right:?}"
        );
        let cases = [
            (
                found(|s| s.dimensions[0].on = on("user_id", "buyer")),
                "no row of topic dwd_orders has the column `buyer` that `on` of `users` names; there are order_id, user_id, order_time. To do: correct the name",
            ),
            (
                found(|s| s.dimensions[0].on = on("id", "user_id")),
                "no key of topic ods_users has the column `id` that `on` of `users` names; there are user_id",
            ),
            (
                found(|s| s.dimensions[0].columns[0].from = "nick".into()),
                "no row of topic ods_users has the column `nick` that `from` of `users` names; there are user_id, username,",
            ),
            (
                found(|s| (s.dimensions[0].mode, s.facts.time) = (Mode::AsOf, "ordered".into())),
                "the column `ordered` that facts.time names",
            ),
            (
                found(|s| (s.dimensions[0].mode, s.dimensions[0].time) = (Mode::AsOf, "since".into())),
                "the column `since` that `time` of `users` names",
            ),
            (
                found(|s| (s.dimensions[0].mode, s.dimensions[0].time) = (Mode::AsOf, "city".into())),
                "of the last 1 records all would be set aside (column `city` is a text that is none, not a time)",
            ),
        ];
        for (findings, words) in cases {
            assert!(findings.iter().any(|(ok, text)| !ok && text.contains(words)), "{words} is not in {findings:?}");
        }
    }

    #[test]
    fn without_rows_nothing_is_tried_and_some_bad_ones_are_a_warning() {
        let plan = || Plan::new(&Settings::default()).unwrap().dimensions.remove(0);
        let none = of_dimension(plan(), &Batch::default());
        assert!(none[0].ok && none[0].is_warning && none[0].text.contains("not tried"), "{none:?}");
        let some = of_dimension(plan(), &batch(&[(USER, ZHANG), ("{\"user_id\":null}", ZHANG)]));
        assert!(some[0].ok && some[0].is_warning && some[0].text.contains("1 would be set aside"), "{some:?}");
    }
}
