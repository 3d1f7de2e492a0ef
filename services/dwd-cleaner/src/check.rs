//! `dwd-cleaner check`: the rules held against the rows that the input topic has.

use std::collections::BTreeMap;

use shared::check::{Finding, columns_of};
use shared::failure::{Failure, FailureKind};
use shared::kafka::tail::last_records;
use shared::record::dead_letter::Rejection;

use crate::action::{Done, Fault, View};
use crate::plan::{Plan, Rule};
use crate::rule::OnFail;
use crate::rules::{Desk, Watch};
use crate::settings::Settings;

/// Tries the rules on the last rows of the topic.
pub async fn try_rules(config: &Settings, service: &'static str, partitions: i32) -> Vec<Finding> {
    let topic = &config.input.topic;
    let last = last_records(&config.kafka, service, (topic, partitions), config.check.rows_max).await;
    match (config.plan(), last) {
        (Ok(plan), Ok(last)) => {
            let rows: Vec<&[u8]> = last.records().filter_map(|record| record.value).collect();
            findings(&plan, &rows, topic)
        }
        (Err(failure), _) | (_, Err(failure)) => vec![Finding::problem(&failure)],
    }
}

/// What became of the rows at one rule.
#[derive(Default)]
struct Tried {
    came: usize,
    failed: usize,
    /// Why, and of which column, for the first that failed.
    why: Option<String>,
}

#[derive(Default)]
struct Trial {
    rules: BTreeMap<String, Tried>,
}

impl Watch for Trial {
    fn before(&mut self, rule: &Rule, _: &View<'_>) {
        self.rules.entry(rule.name.clone()).or_default().came += 1;
    }

    fn after(&mut self, rule: &Rule, outcome: &Result<Done, Fault>, _: Option<&[u8]>) {
        if let (Err(fault), Some(tried)) = (outcome, self.rules.get_mut(&rule.name)) {
            tried.failed += 1;
            tried.why.get_or_insert_with(|| format!("{}: it {}", fault.reason, fault.words));
        }
    }
}

/// One finding for each rule, and one for what stands in the way of all.
fn findings(plan: &Plan, rows: &[&[u8]], topic: &str) -> Vec<Finding> {
    if rows.is_empty() {
        return vec![Finding::warning(format!("topic {topic} has no rows yet: the rules are not tried on any"))];
    }
    let (mut trial, mut desk, mut refused) = (Trial::default(), Desk::new(plan), None);
    for row in rows {
        let cleaned = plan.clean(row, "", &mut desk, &mut trial).err();
        // What is no matter of a rule.
        refused = refused.or(cleaned.filter(|rejection: &Rejection| rejection.rule.is_none()));
    }
    let mut findings: Vec<Finding> =
        refused.map(|rejection| Finding::problem(&unfit(topic, &rejection))).into_iter().collect();
    findings.extend(plan.rules.iter().map(|rule| finding(plan, rule, &trial, rows)));
    findings
}

fn unfit(topic: &str, rejection: &Rejection) -> Failure {
    let cure = match rejection.reason {
        "column_taken" => "give the rule another `to`",
        _ => "look for who writes into the topic beside cdc-ingest",
    };
    Failure::new(FailureKind::Settings, format!("a row of topic {topic} is rejected by no rule: {}", rejection.detail))
        .cure(cure)
}

fn finding(plan: &Plan, rule: &Rule, trial: &Trial, rows: &[&[u8]]) -> Finding {
    let title = title(plan, rule);
    let there = columns_of(rows.iter().copied());
    let lacks = |column: &str| there.iter().all(|known| known != column);
    let of_the_row = rule.reads.iter().filter(|slot| !plan.added.contains(slot)).map(|slot| plan.column(*slot));
    if let Some(column) = of_the_row.into_iter().find(|column| lacks(column)) {
        let what = format!("{title}: no row has the column `{column}`; there are {}", there.join(", "));
        let cure = "correct the name, or set absent = \"null\" if the column is still to come";
        return Finding::problem(&Failure::new(FailureKind::Settings, what).cure(cure));
    }
    match trial.rules.get(&rule.name) {
        None => Finding::ok(format!("{title}: no row came to it, for rules before reject all")),
        Some(Tried { came, failed: 0, .. }) => Finding::ok(format!("{title}: all of the last {came} rows pass")),
        Some(Tried { came, failed, why }) => {
            let (why, fate) = (why.clone().unwrap_or_default(), fate(rule));
            let what = format!("{title}: of the last {came} rows {failed} fail ({why}) and are {fate}");
            match came == failed && rule.on_fail == OnFail::Reject {
                true => Finding::problem(
                    &Failure::new(FailureKind::Settings, what).cure("correct the rule, or leave it out"),
                ),
                false => Finding::ok(what),
            }
        }
    }
}

fn fate(rule: &Rule) -> &'static str {
    match rule.on_fail {
        OnFail::Reject => "rejected",
        OnFail::Mark => "marked",
        OnFail::Default => "given the default",
    }
}

/// `rule category (map): product_category -> product_category_normalized`.
fn title(plan: &Plan, rule: &Rule) -> String {
    let reads: Vec<&str> = rule.reads.iter().map(|slot| plan.column(*slot)).collect();
    let target = if rule.makes { format!(" -> {}", plan.column(rule.target)) } else { String::new() };
    format!("rule {} ({}): {}{target}", rule.name, rule.kind, reads.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: &[&str]) -> Vec<(bool, String)> {
        let rows: Vec<&[u8]> = rows.iter().map(|row| row.as_bytes()).collect();
        let plan = Settings::default().plan().unwrap();
        findings(&plan, &rows, "ods_orders").into_iter().map(|finding| (finding.ok, finding.text)).collect()
    }

    const ROW: &str = r#"{"product_category":"图书音像","total_amount":12.5,"order_status":"PAID","order_time":"2025-01-01 00:00:00.000"}"#;

    #[test]
    fn each_rule_is_tried_on_the_rows() {
        let all = found(&[ROW, &ROW.replace("图书音像", "古董")]);
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|(ok, _)| *ok), "{all:?}");
        assert!(
            all[0].1.contains(
                "category (map): product_category -> product_category_normalized: of the last 2 rows 1 fail (not_in_map"
            ),
            "{all:?}"
        );
        assert!(all[6].1.contains("all of the last 2 rows pass"), "{all:?}");
        let none = findings(&Settings::default().plan().unwrap(), &[], "ods_orders");
        assert_eq!((none.len(), none[0].ok, none[0].is_warning), (1, true, true));
        assert!(none[0].text.contains("no rows yet: the rules are not tried"), "{none:?}");
    }

    #[test]
    fn what_does_not_fit_is_a_problem_with_a_cure() {
        for (row, words) in [
            (
                ROW.replace("order_time", "ordered_at"),
                "no row has the column `order_time`; there are product_category, total_amount, order_status, ordered_at. To do: correct the name",
            ),
            (
                ROW.replace("12.5", "\"12.5\""),
                "of the last 1 rows 1 fail (wrong_type: it is not a decimal number) and are rejected. To do: correct the rule",
            ),
            (
                ROW.replace('}', ",\"etl_time\":1}"),
                "already has a column `etl_time`, which this stage would add. To do: give the rule another `to`",
            ),
            ("no row".to_owned(), "look for who writes into the topic"),
        ] {
            let all = found(&[&row]);
            assert!(all.iter().any(|(ok, text)| !ok && text.contains(words)), "{words} is not in {all:?}");
        }
    }
}
