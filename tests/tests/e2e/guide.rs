//! docs/guide.md, step by step: each of its differences, files and statements, as they stand there, on the real pipeline.

use crate::cleaning::config;
use crate::database::{run, value};
use crate::foreign_records::until_letters;
use crate::history::assert_nothing_twice;
use crate::service_page::get;
use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::until::{until, until_equal};

const GUIDE: &str = include_str!("../../../docs/guide.md");

/// The part of the guide under a heading.
fn part(heading: &str) -> &'static str {
    let begin = GUIDE.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("the guide has no part {heading:?}"));
    let rest = &GUIDE[begin + 4..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The blocks of one kind in a part, in their order.
fn blocks(heading: &str, kind: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut rest = part(heading);
    let fence = format!("```{kind}\n");
    while let Some(begin) = rest.find(&fence) {
        rest = &rest[begin + fence.len()..];
        let end = rest.find("\n```").unwrap();
        found.push(&rest[..end]);
        rest = &rest[end..];
    }
    found
}

/// A text with a difference put in: lines with a blank in front stand in it, one after the other; those with + are added between.
pub fn changed(text: &str, difference: &str) -> String {
    let lines = |marks: &[char]| {
        let kept = difference.lines().filter(|line| line.starts_with(marks));
        kept.map(|line| line[1..].to_owned() + "\n").collect::<String>()
    };
    let (before, after) = (lines(&[' ', '-']), lines(&[' ', '+']));
    assert_eq!(text.matches(&before).count(), 1, "the file has not, or more than once: {before}");
    text.replace(&before, &after)
}

/// The text with all differences of a part put in.
fn after(heading: &str, text: &str) -> String {
    blocks(heading, "diff").into_iter().fold(text.to_owned(), |text, difference| changed(&text, difference))
}

/// The statements of a part: those of the source, and those of the sink.
fn statements(heading: &str) -> Vec<&'static str> {
    blocks(heading, "sql")
}

async fn apply(stack: &Stack, heading: &str, in_source: usize) {
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for (at, statements) in statements(heading).into_iter().enumerate() {
        run(if at < in_source { &mut source } else { &mut sink }, statements).await;
    }
}

async fn until_latest(stack: &Stack, order_id: i64, columns: &str, wanted: &str) {
    let sql = format!(
        "SELECT coalesce((SELECT concat_ws('|', {columns}) FROM result.orders_latest WHERE order_id = {order_id}), 'no row')"
    );
    let mut sink = stack.sink().await;
    let what = format!("order {order_id} shows {wanted}");
    until_equal(&what, wanted.to_owned(), async || value(&mut sink, &sql).await).await;
}

async fn order(stack: &Stack, id: i64, category: &str, quantity: i32, price: &str) {
    let sql = format!(
        "INSERT INTO business.orders (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status)
         VALUES ({id}, 1001, 'iPhone 15', '{category}', {quantity}, {price}, {price}, 'PAID')"
    );
    run(&mut stack.source().await, &sql).await;
}

/// Starts a service again, with the file that it was given meanwhile.
async fn restart(stack: &mut Stack, service: &'static str) {
    assert_eq!(stack.process(service).terminate().await.code(), Some(0), "{service}");
    stack.start(service);
    stack.ready_alone(service).await;
}

const CATEGORY: &str = "1. Add a category";
const CHECK: &str = "2. Add a check";
const COLUMN: &str = "3. Add a column";
const DIMENSION: &str = "4. Add a dimension";
const FACTS: &str = "5. Point it at your own fact table";

/// The steps that change what dwd-cleaner does, each with the one before in force.
async fn change_the_rules(stack: &mut Stack) {
    let plain = config("dwd-cleaner.toml");
    order(stack, 3001, "宠物 用品", 10_000, "99.00").await;
    until_latest(stack, 3001, "product_category_normalized", "OTHER").await;
    let with_category = after(CATEGORY, &plain);
    stack.configure(DWD_CLEANER, &with_category);
    restart(stack, DWD_CLEANER).await;
    order(stack, 3002, "宠物 用品", 10_000, "99.00").await;
    until_latest(stack, 3002, "product_category_normalized", "PETS").await;

    let with_check = after(CHECK, &with_category);
    stack.configure(DWD_CLEANER, &with_check);
    restart(stack, DWD_CLEANER).await;
    order(stack, 3003, "宠物 用品", 10_000, "99.00").await;
    order(stack, 3004, "宠物 用品", 9_999, "99.00").await;
    until_latest(stack, 3004, "product_category_normalized", "PETS").await;
    until_latest(stack, 3003, "order_id", "no row").await;
    let letters = until_letters(stack, DWD_CLEANER, 1).await;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&letter["rule"], &letter["key"]), (&"quantity_in_range".into(), &"{\"order_id\":3003}".into()));

    stack.configure(DWD_CLEANER, &after(COLUMN, &with_check));
    apply(stack, COLUMN, 0).await;
    restart(stack, DWD_CLEANER).await;
    restart(stack, PG_SINKER).await;
    order(stack, 3005, "宠物 用品", 1, "99.00").await;
    order(stack, 3006, "电子产品", 1, "5000.00").await;
    until_latest(stack, 3005, "product_category_normalized, price_tier, city", "PETS|低价|北京").await;
    until_latest(stack, 3006, "product_category_normalized, price_tier", "ELECTRONICS|奢侈").await;
    // What went through before stays as it is.
    until_latest(stack, 3001, "product_category_normalized, coalesce(price_tier, 'none')", "OTHER|none").await;
}

async fn add_a_dimension(stack: &mut Stack) {
    apply(stack, DIMENSION, 1).await;
    let products = stack.other_topic("business", "products");
    let users = format!("topic = \"{}\"", stack.users_topic());
    let joiner = after(DIMENSION, &config("dim-joiner.toml"));
    let joiner = joiner.replace("topic = \"ods_users\"", &users).replace("ods_business_products", &products);
    stack.configure(DIM_JOINER, &joiner);
    until("the topic of the products is there", async || {
        let partitions = stack.layers().partitions(&products).map_err(|failure| failure.chain())?;
        if partitions.is_empty() { Err("no partitions".into()) } else { Ok(()) }
    })
    .await;
    restart(stack, PG_SINKER).await;
    restart(stack, DIM_JOINER).await;
    // Orders that were there before, and those that come.
    let columns = "city, product_brand, supplier_city, supplier_region";
    until_latest(stack, 2001, columns, "北京|Apple|郑州|中原").await;
    until_latest(stack, 2003, columns, "广州|波司登|苏州|华东").await;
    until_latest(stack, 2002, columns, "上海|未知品牌").await;
    order(stack, 3007, "电子产品", 1, "1.00").await;
    until_latest(stack, 3007, columns, "北京|Apple|郑州|中原").await;
    let mut source = stack.source().await;
    run(&mut source, "UPDATE business.products SET supplier_city = '苏州' WHERE product_name = 'iPhone 15'").await;
    run(&mut source, "INSERT INTO business.products VALUES ('MacBook Pro', 'Apple', NULL)").await;
    for order_id in [2001, 3001, 3005, 3007] {
        until_latest(stack, order_id, columns, "北京|Apple|苏州|华东").await;
    }
    until_latest(stack, 2002, columns, "上海|Apple").await;
    until("no user is missing, and two products", async || {
        let page = get(stack, DIM_JOINER, "/api/v1/missing").await.body;
        let missing: serde_json::Value = serde_json::from_str(&page).map_err(|error| error.to_string())?;
        let products = ["AirPods Pro", "运动鞋"].iter().all(|name| missing["products"].to_string().contains(name));
        if missing["users"]["missing"] == 0 && missing["products"]["missing"] == 2 && products {
            Ok(())
        } else {
            Err(page)
        }
    })
    .await;
}

async fn add_a_fact_table(stack: &mut Stack) {
    apply(stack, FACTS, 1).await;
    let names = [
        ("ods_business_payments", stack.other_topic("business", "payments")),
        ("ods_users", stack.users_topic()),
        ("dwd_payments", format!("{}_dwd_payments", stack.name)),
        ("result_payments", format!("{}_result_payments", stack.name)),
        ("dlq_dwd_cleaner_payments", format!("{}_dlq_payments_1", stack.name)),
        ("dlq_dim_joiner_payments", format!("{}_dlq_payments_2", stack.name)),
        ("dlq_pg_sinker_payments", format!("{}_dlq_payments_3", stack.name)),
    ];
    let further = [(DWD_CLEANER, "cleaner-payments"), (DIM_JOINER, "joiner-payments"), (PG_SINKER, "sinker-payments")];
    for ((service, instance), file) in further.into_iter().zip(blocks(FACTS, "toml")) {
        let file = names
            .iter()
            .fold(file.to_owned(), |file, (name, own)| file.replace(&format!("\"{name}\""), &format!("\"{own}\"")));
        stack.configure(instance, &file);
        stack.only_by_file(instance);
        stack.start_replica(service, instance);
        stack.ready_alone(instance).await;
    }
    let mut source = stack.source().await;
    run(&mut source, "INSERT INTO business.payments VALUES (1, 1001, 5999.00, 'alipay', '2025-07-12 10:00:00'), (2, 9, 0.10, NULL, now())").await;
    let shown = async |wanted: &str| {
        let sql = "SELECT coalesce(string_agg(concat_ws('|', payment_id, amount, method_text, payer_username, payer_city), ', ' ORDER BY payment_id), '') FROM result.payments";
        let mut sink = stack.sink().await;
        until_equal("the payments", wanted.to_owned(), async || value(&mut sink, sql).await).await;
    };
    shown("1|5999.00|支付宝|张三|北京, 2|0.10|其他|Unknown User").await;
    run(&mut source, "UPDATE business.users SET city = '杭州' WHERE user_id = 1001; DELETE FROM business.payments WHERE payment_id = 2").await;
    run(&mut source, "INSERT INTO business.payments VALUES (3, 1001, 1.00, 'WeChat', now() + interval '1 day')").await;
    shown("1|5999.00|支付宝|张三|北京, 3|1.00|微信|张三|杭州").await;
}

#[tokio::test]
async fn every_step_one_after_the_other_on_a_pipeline_that_runs() {
    let mut stack = Stack::new().await;
    stack.configure(DWD_CLEANER, &config("dwd-cleaner.toml"));
    stack.start_all().await;
    change_the_rules(&mut stack).await;
    add_a_dimension(&mut stack).await;
    add_a_fact_table(&mut stack).await;
    // The orders, which the user's change reached as well, have all that the steps before gave them.
    let columns = "city, product_category_normalized, price_tier, product_brand";
    until_latest(&stack, 3005, columns, "杭州|PETS|低价|Apple").await;
    assert_nothing_twice(&stack);
}
