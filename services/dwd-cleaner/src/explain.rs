//! `dwd-cleaner explain < row.json`: what each rule does to a row, in words.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use shared::failure::{Failure, FailureKind};

use crate::action::{Done, Fault, View};
use crate::plan::{Plan, Rule};
use crate::rule::OnFail;
use crate::rules::{Desk, Watch};

/// Explains each row of the text, one JSON object after the other.
pub fn explain(plan: &Plan, text: &str, now: &str) -> Result<String, Failure> {
    let rows = serde_json::Deserializer::from_str(text).into_iter::<Box<RawValue>>();
    let mut out = String::new();
    for row in rows {
        let row = row.map_err(|error| not_json().caused_by(error))?;
        if !out.is_empty() {
            out.push('\n');
        }
        explain_row(plan, row.get(), now, &mut out);
    }
    if out.is_empty() { Err(not_json()) } else { Ok(out) }
}

fn not_json() -> Failure {
    Failure::new(FailureKind::Data, "the input is not a row")
        .cure("give a JSON object, as it stands in the topic: dwd-cleaner explain < row.json")
}

/// Writes down what each rule saw and did.
struct Minutes<'a> {
    plan: &'a Plan,
    out: &'a mut String,
}

impl Watch for Minutes<'_> {
    fn before(&mut self, rule: &Rule, view: &View<'_>) {
        let _ = writeln!(self.out, "{} ({})", rule.name, rule.kind);
        for &slot in &rule.reads {
            let value = view.get(slot).map_or("missing", |field| field.raw());
            let _ = writeln!(self.out, "     {} = {value}", self.plan.column(slot));
        }
    }

    fn after(&mut self, rule: &Rule, outcome: &Result<Done, Fault>, made: Option<&[u8]>) {
        let made = made.map(|json| format!("{} = {}", self.plan.column(rule.target), String::from_utf8_lossy(json)));
        let line = match (outcome, made) {
            (Ok(_), None) => "passed".to_owned(),
            (Ok(_), Some(made)) => made,
            (Err(fault), made) => {
                let wrong = format!("failed ({}): `{}` {}", fault.reason, self.plan.column(fault.slot), fault.words);
                match (made, rule.on_fail) {
                    (Some(made), OnFail::Default) => format!("{wrong}; by default {made}"),
                    (Some(made), _) => format!("{wrong}; marked, {made}"),
                    (None, OnFail::Mark) => format!("{wrong}; marked"),
                    (None, _) => format!("{wrong}; rejected"),
                }
            }
        };
        let _ = writeln!(self.out, "  -> {line}");
    }
}

fn explain_row(plan: &Plan, row: &str, now: &str, out: &mut String) {
    let mut desk = Desk::new(plan);
    let mut minutes = Minutes { plan, out };
    let cleaned = plan.clean(row.as_bytes(), now, &mut desk, &mut minutes);
    match cleaned {
        Ok(cleaned) => {
            let mut bytes = Vec::new();
            cleaned.write(&mut bytes);
            let _ = writeln!(out, "the row goes on:\n{}", String::from_utf8_lossy(&bytes));
        }
        Err(rejection) => {
            let _ = writeln!(out, "the row is rejected ({}): {}", rejection.reason, rejection.detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn explained(text: &str) -> String {
        explain(&Settings::default().plan().unwrap(), text, "now").unwrap()
    }

    const ROW: &str = r#"{"product_category":" 图书音像","total_amount":12.5,"order_status":"GONE","order_time":null}"#;

    #[test]
    fn each_rule_shows_input_and_output() {
        let text = explained(ROW);
        for lines in [
            "category (map)\n     product_category = \" 图书音像\"\n  -> product_category_normalized = \"BOOKS\"\n",
            "amount_text (amount)\n     total_amount = 12.5\n  -> total_amount_yuan = \"¥12.50\"\n",
            "status_given (required)\n     order_status = \"GONE\"\n  -> passed\n",
            "  -> failed (not_in_map): `order_status` is none of the values that the rule names; by default order_status_desc = \"未知状态\"\n",
            "etl_time (now)\n  -> etl_time = \"now\"\nthe row goes on:\n{\"product_category\":",
        ] {
            assert!(text.contains(lines), "{lines} is not in:\n{text}");
        }
    }

    #[test]
    fn a_rejected_row_ends_at_its_rule() {
        let text = explained(&format!("{}\n{ROW}", ROW.replace("12.5", "\"NaN\"")));
        assert!(text.contains("  -> failed (wrong_type): `total_amount` is not a decimal number; rejected\nthe row is rejected (wrong_type): rule `amount_text`"), "{text}");
        assert_eq!(text.matches("status_given").count(), 1, "of the second row alone: {text}");
        assert!(explained("[1]").contains("rejected (not_an_object)"));
        for nothing in ["", " ", "{\"a\":"] {
            assert!(explain(&Settings::default().plan().unwrap(), nothing, "").is_err(), "{nothing:?}");
        }
    }
}
