//! Rules of a file of one's own: in force up to the sink, and check, explain, metrics and state agree with what they do.

use serde_json::Value;

use crate::cleaning::rules_and;
use crate::database::{run, value};
use crate::history::History;
use crate::service_page::{get, metric, state};
use crate::stack::{DWD_CLEANER, Stack};
use crate::topics;
use crate::until::{until, until_equal};

const FURTHER: &str = r#"
[[rules]]
name = "price_tier"
kind = "band"
column = "unit_price"
to = "price_tier"
bands = [{ below = "1000", value = "中价" }, { value = "高价" }]

[[rules]]
name = "total_is_product"
kind = "product"
column = "total_amount"
factors = ["quantity", "unit_price"]
on_fail = "mark"

[[rules]]
name = "quantity_in_range"
kind = "range"
column = "quantity"
max = 1000
"#;

const COLUMNS: &str = "ALTER TABLE result.orders_latest ADD price_tier text, ADD quality_marks text;
    ALTER TABLE result.orders_with_user_info ADD price_tier text, ADD quality_marks text";

/// The pipeline with these rules, and the sink with their columns.
async fn started() -> Stack {
    let mut stack = Stack::new().await;
    run(&mut stack.sink().await, COLUMNS).await;
    stack.configure(DWD_CLEANER, &rules_and(FURTHER));
    stack.start_all().await;
    stack
}

async fn until_latest(stack: &Stack, order_id: i64, columns: &str, wanted: &str) {
    let sql = format!(
        "SELECT coalesce((SELECT concat_ws('|', {columns}) FROM result.orders_latest WHERE order_id = {order_id}), 'no row')"
    );
    let mut sink = stack.sink().await;
    let what = format!("order {order_id} shows {wanted}");
    until_equal(&what, wanted.to_owned(), async || value(&mut sink, &sql).await).await;
}

#[tokio::test]
async fn marks_and_new_columns_come_to_the_sink_and_a_rejected_row_to_the_dead_letters() {
    let stack = started().await;
    until_latest(&stack, 2001, "price_tier, quality_marks", "高价|").await;
    let mut source = stack.source().await;
    run(
        &mut source,
        "UPDATE business.orders SET total_amount = 1, product_category = '电子　产品 ' WHERE order_id = 2003",
    )
    .await;
    until_latest(
        &stack,
        2003,
        "price_tier, quality_marks, product_category_normalized",
        "中价|total_is_product|ELECTRONICS",
    )
    .await;
    run(&mut source, "UPDATE business.orders SET quantity = 1001 WHERE order_id = 2003").await;
    run(&mut source, "UPDATE business.orders SET quantity = 2, total_amount = 999 WHERE order_id = 2003").await;
    until_latest(&stack, 2003, "quantity, quality_marks", "2|").await;

    let (layers, topic) = (stack.layers(), stack.dead_letter_topic(DWD_CLEANER));
    let letters = layers.read(&topic, &layers.begin(&topic).unwrap(), |_| true).unwrap();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    let letter: Value = serde_json::from_str(letter.value.as_deref().unwrap()).unwrap();
    assert_eq!((&letter["rule"], &letter["column"]), (&"quantity_in_range".into(), &"quantity".into()), "{letter}");
    assert_eq!(
        (&letter["reason"], &letter["key"]),
        (&"out_of_range".into(), &"{\"order_id\":2003}".into()),
        "{letter}"
    );
    assert!(letter["value"].as_str().unwrap().contains("\"quantity\":1001"), "{letter}");
    assert_eq!(History::read(&layers, &stack.places.names.dwd_topic).of_order(2003).len(), 3);

    // Eight rows came: five copied, three changes.
    let page = get(&stack, DWD_CLEANER, "/metrics").await.body;
    for (rule, outcome, rows) in [
        ("quantity_in_range", "rejected", 1.0),
        ("quantity_in_range", "passed", 7.0),
        ("total_is_product", "marked", 2.0),
        ("total_is_product", "passed", 6.0),
        ("etl_time", "passed", 8.0),
    ] {
        let labels = format!("outcome=\"{outcome}\",rule=\"{rule}\"");
        assert_eq!(metric(&page, "tidemill_rule_rows_total", &labels), Some(rows), "{labels}");
    }
    until("the state shows the quality", async || {
        let state = state(&stack, DWD_CLEANER).await;
        let quality = state["details"]["quality"].as_array().cloned().unwrap_or_default();
        let rule = quality.iter().find(|found| found["rule"] == "quantity_in_range").cloned().unwrap_or_default();
        let shown = rule["rows"] == 8 && rule["rejected"] == 1 && rule["pass_rate"] == 0.875;
        if shown && rule["intervals"].as_array().is_some_and(|found| !found.is_empty()) {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn check_tries_the_rules_on_the_rows_and_explain_shows_what_each_does() {
    let mut stack = started().await;
    until_latest(&stack, 2001, "price_tier", "高价").await;
    let file = stack.configure(DWD_CLEANER, &rules_and(FURTHER));
    let good = stack.command(DWD_CLEANER, &["check", "--config", file.to_str().unwrap()], &[]).await;
    assert_eq!(good.code, Some(0), "{}", good.output);
    for line in [
        "ok      rule category (map): product_category -> product_category_normalized: all of the last 5 rows pass",
        "ok      rule quantity_in_range (range): quantity: all of the last 5 rows pass",
    ] {
        assert!(good.output.contains(line), "{line} is not in: {}", good.output);
    }

    let wrong = FURTHER
        .replace("column = \"quantity\"", "column = \"amount\"")
        .replace("to = \"price_tier\"", "to = \"user_id\"");
    let wrong_file = stack.configure("wrong", &rules_and(&wrong));
    let bad = stack.command(DWD_CLEANER, &["check", "--config", wrong_file.to_str().unwrap()], &[]).await;
    assert_eq!(bad.code, Some(1), "{}", bad.output);
    for words in ["no row has the column `amount`; there are order_id, user_id", "already has a column `user_id`"] {
        assert!(bad.output.contains(words), "{words} is not in: {}", bad.output);
    }

    let empty = format!("{}_empty", stack.name);
    topics::make(&stack.places.kafka, &empty, 4, "compact").await;
    let untried = stack.command(DWD_CLEANER, &["check"], &[("INPUT__TOPIC", &empty)]).await;
    let words = format!("warning topic {empty} has no rows yet: the rules are not tried on any");
    assert!(untried.code == Some(0) && untried.output.contains(&words), "{}", untried.output);

    let history = History::read(&stack.layers(), &stack.places.names.ods_topic);
    let row = stack.environment.logs.join(format!("{}-row.json", stack.name));
    std::fs::write(&row, history.of_order(2001)[0].value.as_deref().unwrap()).unwrap();
    let arguments = ["explain", "--config", file.to_str().unwrap()];
    let explained = stack.command_on(Some(row), DWD_CLEANER, &arguments, &[]).await;
    assert_eq!(explained.code, Some(0), "{}", explained.output);
    for lines in [
        "price_tier (band)\n     unit_price = 5999.00\n  -> price_tier = \"高价\"\n",
        "total_is_product (product)\n     total_amount = 5999.00\n     quantity = 1\n     unit_price = 5999.00\n  -> passed\n",
        "the row goes on:\n{\"order_id\":2001,",
    ] {
        assert!(explained.output.contains(lines), "{lines} is not in: {}", explained.output);
    }
    let nothing = stack.command(DWD_CLEANER, &arguments, &[]).await;
    assert_eq!(nothing.code, Some(1), "{}", nothing.output);
    assert!(nothing.output.contains("give a JSON object"), "{}", nothing.output);
}

#[tokio::test]
async fn rules_that_cannot_be_right_end_the_process_with_the_cure() {
    let mut stack = Stack::new().await;
    let twice = format!("{FURTHER}{FURTHER}");
    let unknown = FURTHER.replace("max =", "mxa =");
    for (further, words) in [(twice.as_str(), "two rules of this name"), (&unknown, "unknown field `mxa`")] {
        let file = stack.configure("wrong", &rules_and(further));
        for arguments in [&["--config", file.to_str().unwrap()][..], &["check", "--config", file.to_str().unwrap()]] {
            let ended = stack.command(DWD_CLEANER, arguments, &[]).await;
            assert_eq!(ended.code, Some(1), "{}", ended.output);
            assert!(ended.output.contains(words), "{words} is not in: {}", ended.output);
        }
    }
    let ended = stack.command(DWD_CLEANER, &["check"], &[("RULES__STATUS", "x")]).await;
    assert!(ended.code == Some(1) && ended.output.contains("--config"), "{}", ended.output);
}
