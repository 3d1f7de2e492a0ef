//! A second dimension, whose rows have two columns for a key: goods by category and name, beside the users.

use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::cleaning::config;
use crate::database::{run, value};
use crate::history::{History, assert_nothing_twice};
use crate::service_page::{get, state};
use crate::stack::{DIM_JOINER, Stack};
use crate::until::{until, until_equal};
use crate::user_changes::until_latest;

/// More goods than are read in a moment.
const GOODS: u32 = 30_000;

/// Two of them differ in one column only, and the names of two more are the same letters, cut elsewhere.
const TABLE: &str = "CREATE TABLE business.goods (name varchar(200), brand varchar(50), category varchar(50), PRIMARY KEY (category, name));
    GRANT SELECT ON business.goods TO tidemill_capture;
    ALTER PUBLICATION tidemill ADD TABLE business.goods;
    INSERT INTO business.goods (category, name, brand) VALUES ('电子产品', 'iPhone 15', 'Apple'), ('服装鞋帽', 'iPhone 15', '山寨'),
        ('服装鞋帽', '羽绒服', '波司登'), (E'a\\x1fb', 'c', '前'), ('a', E'b\\x1fc', '后'), ('a', '', '空')";

/// Joined on its columns in another order than the key's.
const DIMENSION: &str = r#"
[[dimensions]]
name = "goods"
topic = "TOPIC"
on = { name = "product_name", category = "product_category" }
prefix = "goods_"

[[dimensions.columns]]
from = "brand"
default = "未知品牌"
"#;

const COLUMN: &str = "ALTER TABLE result.orders_latest ADD goods_brand text";

const BRAND: &str = "username, goods_brand";

fn configure(stack: &mut Stack) {
    let text =
        config("dim-joiner.toml").replace("topic = \"ods_users\"", &format!("topic = \"{}\"", stack.users_topic()));
    let (before, after) = text.split_once("\n[output]\n").unwrap();
    let dimension = DIMENSION.replace("TOPIC", &stack.other_topic("business", "goods"));
    stack.configure(DIM_JOINER, &format!("{before}\n{dimension}\n[output]\n{after}"));
}

/// How many records of the result topic each of the orders has.
fn sent(stack: &Stack, order_ids: [i64; 2]) -> [usize; 2] {
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    order_ids.map(|order_id| history.of_order(order_id).len())
}

async fn order(source: &mut PgConnection, id: i64, category: &str, name: &str) {
    run(
        source,
        &format!(
            "INSERT INTO business.orders (order_id, user_id, product_category, product_name, quantity, unit_price, total_amount, order_status)
             VALUES ({id}, 1001, {category}, {name}, 1, 1, 1, 'PAID')"
        ),
    )
    .await;
}

#[tokio::test]
async fn a_row_is_named_by_both_columns_and_its_changes_reach_the_orders_that_name_it() {
    let mut stack = Stack::new().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    run(&mut source, TABLE).await;
    run(&mut sink, COLUMN).await;
    configure(&mut stack);
    stack.start_all().await;
    for (order_id, brand) in [(2001, "张三|Apple"), (2002, "李四|未知品牌"), (2003, "王五|波司登")] {
        until_latest(&mut sink, order_id, BRAND, brand).await;
    }
    order(&mut source, 3001, "'服装鞋帽'", "'iPhone 15'").await;
    until_latest(&mut sink, 3001, BRAND, "张三|山寨").await;
    order(&mut source, 3002, "E'a\\x1fb'", "'c'").await;
    order(&mut source, 3003, "'a'", "E'b\\x1fc'").await;
    order(&mut source, 3004, "'a'", "''").await;
    for (order_id, brand) in [(3002, "张三|前"), (3003, "张三|后"), (3004, "张三|空")] {
        until_latest(&mut sink, order_id, BRAND, brand).await;
    }

    // A change is for the orders that name this row, not for those that name another of the same name.
    let before = sent(&stack, [2001, 3001]);
    run(&mut source, "UPDATE business.goods SET brand = '苹果' WHERE category = '电子产品' AND name = 'iPhone 15'")
        .await;
    until_latest(&mut sink, 2001, BRAND, "张三|苹果").await;
    assert_eq!(sent(&stack, [2001, 3001]), [before[0] + 1, before[1]]);

    // An order with NULL in one of the columns names no row, and misses none; one that names a row that is not there does.
    run(&mut source, "UPDATE business.orders SET product_category = NULL WHERE order_id = 3001").await;
    until_latest(&mut sink, 3001, BRAND, "张三|未知品牌").await;
    until("the goods that no row is of are listed", async || {
        let page = get(&stack, DIM_JOINER, "/api/v1/missing").await.body;
        let goods = serde_json::from_str::<Value>(&page).map_err(|error| error.to_string())?["goods"].clone();
        let mut names: Vec<_> =
            goods["oldest"].as_array().into_iter().flatten().map(|row| row["name"].clone()).collect();
        names.sort_by_key(Value::to_string);
        if names == ["服装鞋帽, 运动鞋", "电子产品, AirPods Pro", "电子产品, MacBook Pro"] {
            Ok(())
        } else {
            Err(page)
        }
    })
    .await;

    // A row under another key leaves the orders of the one and comes to those of the other; one that is deleted leaves them.
    run(&mut source, "UPDATE business.goods SET category = '电子产品', name = 'MacBook Pro' WHERE name = '羽绒服'")
        .await;
    until_latest(&mut sink, 2003, BRAND, "王五|未知品牌").await;
    until_latest(&mut sink, 2002, BRAND, "李四|波司登").await;
    run(&mut source, "DELETE FROM business.goods WHERE category = '电子产品'").await;
    for (order_id, brand) in [(2001, "张三|未知品牌"), (2002, "李四|未知品牌")] {
        until_latest(&mut sink, order_id, BRAND, brand).await;
    }
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn no_order_is_joined_before_the_rows_of_every_dimension_are_known() {
    let mut stack = Stack::new().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    run(&mut source, TABLE).await;
    run(
        &mut source,
        &format!("INSERT INTO business.goods SELECT 'g' || n, '品牌', 'c' || n % 7 FROM generate_series(1, {GOODS}) n"),
    )
    .await;
    run(&mut sink, COLUMN).await;
    configure(&mut stack);
    stack.start_all().await;
    until_latest(&mut sink, 2001, BRAND, "张三|Apple").await;
    until("all goods are read", async || {
        let goods = state(&stack, DIM_JOINER).await["details"]["join"]["dimensions"]["goods"].clone();
        if goods["rows"] == GOODS + 6 { Ok(()) } else { Err(goods.to_string()) }
    })
    .await;
    stack.process(DIM_JOINER).kill();
    run(
        &mut source,
        &format!(
            "INSERT INTO business.orders (order_id, user_id, product_category, product_name, quantity, unit_price, total_amount, order_status)
             SELECT 10000 + n, 1001 + n % 5, 'c' || n % 7, 'g' || n, 1, 1, 1, 'PAID' FROM generate_series(1, {GOODS}, 30) n"
        ),
    )
    .await;
    // The last row of the one, and the last of the other, while nobody joins.
    run(&mut source, "INSERT INTO business.goods VALUES ('last', '末', 'c'); INSERT INTO business.users (user_id, username) VALUES (9001, '末')").await;
    run(&mut source, "INSERT INTO business.orders (order_id, user_id, product_category, product_name, quantity, unit_price, total_amount, order_status) VALUES (10000, 9001, 'c', 'last', 1, 1, 1, 'PAID')").await;
    until("the last order is there to be joined", async || {
        let history = History::read(&stack.layers(), &stack.places.names.dwd_topic);
        if history.of_order(10_000).is_empty() { Err("it is not".to_owned()) } else { Ok(()) }
    })
    .await;
    stack.process(DIM_JOINER).restart();
    let joined = "SELECT count(*) FROM result.orders_latest WHERE order_id >= 10000 AND goods_brand IN ('品牌', '末')";
    until_equal("all have their brand", i64::from(GOODS / 30 + 1), async || value(&mut sink, joined).await).await;
    until_latest(&mut sink, 10_000, BRAND, "末|末").await;
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    for id in (1..=i64::from(GOODS)).step_by(30).chain([0]) {
        assert_eq!(history.of_order(10_000 + id).len(), 1, "{:?}", history.of_order(10_000 + id));
    }
    assert_nothing_twice(&stack);
}
