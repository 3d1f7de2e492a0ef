//! Every kind of rule that decides over a row, on the real pipeline: the row that passes, and the one that does not; at the sink, in the dead letters, in the metrics.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cleaning::{config, rules_and};
use crate::database::{run, value};
use crate::foreign_records::until_letters;
use crate::service_page::{get, metric};
use crate::stack::{DWD_CLEANER, Stack};
use crate::until::until_equal;

const FURTHER: &str = r#"
[[rules]]
name = "buyer_given"
kind = "required"
column = "buyer"

[[rules]]
name = "channel_given"
kind = "required"
column = "channel"
on_fail = "default"
default = "shop"

[[rules]]
name = "channel_known"
kind = "set"
column = "channel"
values = ["app", "web", "shop"]
fold = ["case", "width", "blank"]
on_fail = "default"
default = "other"

[[rules]]
name = "product_named"
kind = "pattern"
column = "product_name"
pattern = '[^#]{2,20}'

[[rules]]
name = "not_older"
kind = "range"
column = "order_time"
min = "2020-01-01"
on_fail = "mark"

[[rules]]
name = "quantity_in_range"
kind = "range"
column = "quantity"
min = 1
max = 99
on_fail = "default"
default = 1

[[rules]]
name = "total_is_product"
kind = "product"
column = "total_amount"
factors = ["quantity", "unit_price"]
on_fail = "default"

[[rules]]
name = "payable"
kind = "sum"
column = "payable"
terms = ["total_amount", "freight", "-discount"]
tolerance = "0.01"
on_fail = "default"

[[rules]]
name = "discount_is_less"
kind = "compare"
column = "discount"
is = "<="
other = "total_amount"
on_fail = "mark"

[[rules]]
name = "updated_after_order"
kind = "compare"
column = "updated_at"
is = ">="
other = "order_time"

[[rules]]
name = "user_hash"
kind = "hash"
column = "user_id"
to = "user_hash"
hex_digits = 16

[[rules]]
name = "buyer_masked"
kind = "mask"
column = "buyer"
keep_first = 1
mask = "**"
"#;

const HASH_KEY: &str = "a key of sixteen bytes or more";

/// HMAC-SHA256 of "1001" with the key, its first sixteen digits.
const HASH_OF_1001: &str = "7d633b4f36014155";

const SOURCE: &str = "ALTER TABLE business.orders ADD buyer text DEFAULT '张三', ADD channel text DEFAULT 'app', ADD freight numeric(10,2) DEFAULT 0,
    ADD discount numeric(10,2) DEFAULT 0, ADD payable numeric(10,2);
    DELETE FROM business.orders";

const SINK: &str = "ALTER TABLE result.orders_latest ADD buyer text, ADD channel text, ADD freight numeric, ADD discount numeric, ADD payable numeric,
    ADD user_hash text, ADD price_tier text, ADD quality_marks text";

/// A row as it passes all rules, with some columns as they are given.
fn order(id: i64, given: &[(&str, &str)]) -> String {
    let passes = [
        ("user_id", "1001"),
        ("product_name", "'手机'"),
        ("product_category", "'电子产品'"),
        ("quantity", "2"),
        ("unit_price", "499.50"),
        ("total_amount", "999.00"),
        ("order_status", "'PAID'"),
        ("order_time", "'2025-07-11 10:00:00'"),
        ("updated_at", "'2025-07-11 10:00:00'"),
        ("buyer", "'张三'"),
        ("channel", "'app'"),
        ("freight", "10.00"),
        ("discount", "9.00"),
        ("payable", "1000.00"),
    ];
    let given: BTreeMap<&str, &str> = passes.into_iter().chain(given.iter().copied()).collect();
    let columns: Vec<&str> = given.keys().copied().collect();
    let values: Vec<&str> = given.values().copied().collect();
    format!("INSERT INTO business.orders (order_id, {}) VALUES ({id}, {})", columns.join(", "), values.join(", "))
}

/// What becomes of a row: columns of the sink with their values, or rule, column and reason of its dead letter.
enum Becomes {
    Row(&'static str, &'static str),
    Letter([&'static str; 3]),
}

use Becomes::{Letter, Row};

type Given = &'static [(&'static str, &'static str)];

const ROWS: &[(Given, Becomes)] = &[
    (&[], Row("buyer, channel, quantity, total_amount, payable, quality_marks", "张**|app|2|999.00|1000.00|")),
    (&[], Row("user_hash", HASH_OF_1001)),
    (&[("buyer", "NULL")], Letter(["buyer_given", "buyer", "no_value"])),
    (&[("buyer", "' 　'")], Letter(["buyer_given", "buyer", "no_value"])),
    (&[("channel", "NULL")], Row("channel, quality_marks", "shop|")),
    (&[("channel", "'  '")], Row("channel", "shop")),
    (&[("channel", "'Ｗ eb'")], Row("channel", "Ｗ eb")),
    (&[("channel", "'fax'")], Row("channel", "other")),
    (&[("product_name", "'手'")], Letter(["product_named", "product_name", "not_of_pattern"])),
    (&[("product_name", "'手机#1'")], Letter(["product_named", "product_name", "not_of_pattern"])),
    (
        &[("order_time", "'2019-12-31 23:59:59.999'")],
        Row("order_time, quality_marks", "2019-12-31 23:59:59.999|not_older"),
    ),
    (&[("order_time", "'2020-01-01'")], Row("quality_marks", "")),
    (&[("quantity", "99"), ("total_amount", "49450.50"), ("payable", "49451.50")], Row("quantity", "99")),
    // The rules behind see what those before have made.
    (
        &[("quantity", "100"), ("total_amount", "499.50"), ("payable", "500.50")],
        Row("quantity, total_amount", "1|499.50"),
    ),
    (&[("total_amount", "998.99")], Row("total_amount, payable, quality_marks", "999.00|1000.00|")),
    (&[("payable", "999.99")], Row("payable", "999.99")),
    (&[("payable", "999.98")], Row("payable", "1000.00")),
    (&[("payable", "NULL")], Row("coalesce(payable::text, 'none')", "none")),
    (&[("discount", "999.00"), ("payable", "10.00")], Row("discount, quality_marks", "999.00|")),
    (&[("discount", "999.01"), ("payable", "9.99")], Row("discount, quality_marks", "999.01|discount_is_less")),
    (
        &[("order_time", "'2019-01-01'"), ("updated_at", "'2019-01-01'"), ("discount", "1000.00"), ("payable", "9.00")],
        Row("quality_marks", "not_older,discount_is_less"),
    ),
    (&[("updated_at", "'2025-07-11 09:59:59.999'")], Letter(["updated_after_order", "updated_at", "wrong_relation"])),
    // A number that is none: PostgreSQL has it, and no rule reckons with it.
    (&[("payable", "'NaN'")], Letter(["payable", "payable", "wrong_type"])),
];

/// Of each rule the rows that it rejected, marked, and gave a default; all others that came to it passed.
const COUNTS: &[(&str, &str, f64)] = &[
    ("buyer_given", "rejected", 2.0),
    ("buyer_given", "passed", 21.0),
    ("channel_given", "defaulted", 2.0),
    ("channel_known", "defaulted", 1.0),
    ("channel_known", "passed", 20.0),
    ("product_named", "rejected", 2.0),
    ("not_older", "marked", 2.0),
    ("not_older", "passed", 17.0),
    ("quantity_in_range", "defaulted", 1.0),
    ("total_is_product", "defaulted", 1.0),
    ("payable", "defaulted", 1.0),
    ("discount_is_less", "marked", 2.0),
    ("updated_after_order", "rejected", 1.0),
    ("user_hash", "passed", 17.0),
    ("buyer_masked", "passed", 17.0),
];

fn id_of(number: usize) -> i64 {
    3001 + i64::try_from(number).unwrap()
}

async fn started() -> Stack {
    let mut stack = Stack::new().await;
    run(&mut stack.source().await, SOURCE).await;
    run(&mut stack.sink().await, SINK).await;
    stack.configure(DWD_CLEANER, &rules_and(&format!("{FURTHER}\n{}", price_tier())));
    stack.set(DWD_CLEANER, "PERSONAL__HASH_KEY", HASH_KEY);
    stack.start_all().await;
    stack
}

/// The rule of the documented file, as it is in force when the # are taken away.
fn price_tier() -> String {
    let text = config("dwd-cleaner.toml");
    let rule = text.split("\n\n").find(|part| part.contains("# name = \"price_tier\"")).unwrap();
    rule.lines().map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect()
}

#[tokio::test]
async fn a_row_passes_is_mended_is_marked_or_is_set_aside_with_the_reason() {
    let stack = started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for (number, (given, _)) in ROWS.iter().enumerate() {
        run(&mut source, &order(id_of(number), given)).await;
    }
    let mut wanted_letters = Vec::new();
    for (number, (given, becomes)) in ROWS.iter().enumerate() {
        let id = id_of(number);
        match becomes {
            Row(columns, wanted) => {
                let sql = format!(
                    "SELECT coalesce((SELECT concat_ws('|', {columns}) FROM result.orders_latest WHERE order_id = {id}), 'no row')"
                );
                until_equal(&format!("{given:?}"), (*wanted).to_owned(), async || value(&mut sink, &sql).await).await;
            }
            Letter(why) => wanted_letters.push((format!("{{\"order_id\":{id}}}"), why.map(str::to_owned))),
        }
    }
    let letters = until_letters(&stack, DWD_CLEANER, wanted_letters.len()).await;
    let text = |letter: &Value, field: &str| letter[field].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = letters
        .iter()
        .map(|letter| (text(letter, "key"), ["rule", "column", "reason"].map(|field| text(letter, field))))
        .collect();
    found.sort();
    assert_eq!(found, wanted_letters);
    assert!(letters.iter().all(|letter| letter["value"].as_str().unwrap().contains("\"unit_price\":499.50")));

    let page = get(&stack, DWD_CLEANER, "/metrics").await.body;
    for (rule, outcome, rows) in COUNTS {
        let labels = format!("outcome=\"{outcome}\",rule=\"{rule}\"");
        assert_eq!(metric(&page, "tidemill_rule_rows_total", &labels), Some(*rows), "{labels}");
    }
    for (reason, rows) in [("no_value", 2.0), ("not_of_pattern", 2.0), ("wrong_relation", 1.0), ("wrong_type", 1.0)] {
        let labels = format!("reason=\"{reason}\"");
        assert_eq!(metric(&page, "tidemill_rejected_total", &labels), Some(rows), "{labels}");
    }
}

#[tokio::test]
async fn the_price_bands_of_the_sink_are_those_of_the_documented_rule() {
    let stack = started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let prices = ["-0.01", "0", "99.99", "100", "999.99", "1000.00", "4999.99", "5000", "99999999.99"];
    for (number, price) in prices.iter().enumerate() {
        let given = [("unit_price", *price), ("quantity", "1"), ("total_amount", *price)];
        run(&mut source, &order(id_of(number), &given)).await;
    }
    let bands = "SELECT coalesce(string_agg(price_band || CASE WHEN price_tier = price_band THEN '' ELSE ' is not ' || price_tier END, ' '
        ORDER BY order_id), '') FROM result.orders_latest";
    let wanted = "低价 低价 低价 中价 中价 高价 高价 奢侈 奢侈";
    until_equal("bands", wanted.to_owned(), async || value::<String>(&mut sink, bands).await).await;
}
