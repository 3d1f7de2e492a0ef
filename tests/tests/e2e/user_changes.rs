//! A user changes, comes late, or is another one: the user's orders follow.

use lab::layers::Layers;
use sqlx::postgres::PgConnection;

use crate::database::{run, value};
use crate::history::{History, assert_nothing_twice};
use crate::stack::{DIM_JOINER, Stack};
use crate::until::{until, until_equal};
use crate::whole_sink::until_sink_is_the_source;

pub async fn latest(sink: &mut PgConnection, order_id: i64, columns: &str) -> String {
    let row = format!("(SELECT concat_ws('|', {columns}) FROM result.orders_latest WHERE order_id = {order_id})");
    value(sink, &format!("SELECT coalesce({row}, 'no row')")).await
}

pub async fn until_latest(sink: &mut PgConnection, order_id: i64, columns: &str, wanted: &str) {
    let what = format!("order {order_id} shows {wanted}");
    until_equal(&what, wanted.to_owned(), async || latest(sink, order_id, columns).await).await;
}

const MOVE_ORDER: &str = "UPDATE business.orders SET order_status";

#[tokio::test]
async fn a_changed_city_is_in_all_of_the_users_orders_and_earlier_statuses_keep_the_old_one() {
    let stack = Stack::started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    // A status that was over before its user was known keeps the defaults.
    until_latest(&mut sink, 2003, "order_status, city", "PENDING|广州").await;
    run(&mut source, &format!("{MOVE_ORDER} = 'SHIPPED' WHERE order_id = 2003")).await;
    until_latest(&mut sink, 2003, "order_status, city", "SHIPPED|广州").await;

    run(&mut source, "UPDATE business.users SET city = '成都' WHERE user_id IN (1001, 1003)").await;
    until_sink_is_the_source(&stack).await;
    for order_id in [2001, 2003, 2004] {
        assert_eq!(latest(&mut sink, order_id, "city, user_city_tier").await, "成都|新一线城市", "order {order_id}");
    }
    let trail = "SELECT string_agg(order_status || ' ' || city, ', ' ORDER BY order_status) \
                 FROM result.orders_with_user_info WHERE order_id = 2003";
    assert_eq!(value::<String>(&mut sink, trail).await, "PENDING 广州, SHIPPED 成都");
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn a_deleted_order_leaves_the_latest_and_stays_in_the_trail_until_it_is_placed_again() {
    let stack = Stack::started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until_latest(&mut sink, 2002, "order_status", "SHIPPED").await;
    run(&mut source, "DELETE FROM business.orders WHERE order_id = 2002").await;
    until_latest(&mut sink, 2002, "order_status", "no row").await;
    // The user's change must not bring the deleted order back.
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1002").await;
    run(&mut source, "UPDATE business.orders SET user_id = 1002 WHERE order_id = 2003").await;
    until_latest(&mut sink, 2003, "city", "武汉").await;
    assert_eq!(latest(&mut sink, 2002, "order_status").await, "no row");
    let trail = "SELECT string_agg(order_status, ' ') FROM result.orders_with_user_info WHERE order_id = 2002";
    assert_eq!(value::<String>(&mut sink, trail).await, "SHIPPED");

    run(
        &mut source,
        "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
         VALUES (2002, 1002, '再次下单', 1, 1.50, 1.50, 'PENDING')",
    )
    .await;
    until_latest(&mut sink, 2002, "product_name, order_status, city", "再次下单|PENDING|武汉").await;
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn an_order_of_an_unknown_user_shows_the_defaults_and_the_user_once_it_exists() {
    let stack = Stack::started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    run(&mut source, "UPDATE business.orders SET user_id = 9001 WHERE order_id = 2005").await;
    let columns = "username, email, phone, city, user_city_tier";
    until_latest(&mut sink, 2005, columns, "Unknown User|unknown@example.com").await;
    run(
        &mut source,
        "INSERT INTO business.users (user_id, username, email, phone, city) VALUES (9001, '周九', 'zhou@example.com', '1', '上海')",
    )
    .await;
    until_latest(&mut sink, 2005, columns, "周九|zhou@example.com|1|上海|一线城市").await;
    run(&mut source, "DELETE FROM business.users WHERE user_id = 9001").await;
    until_latest(&mut sink, 2005, columns, "Unknown User|unknown@example.com").await;
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn an_order_that_moves_to_another_user_follows_that_one_and_no_longer_the_first() {
    let stack = Stack::started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    // The new user's last change is older than the first user's.
    run(&mut source, "UPDATE business.users SET city = '苏州' WHERE user_id = 1001").await;
    until_latest(&mut sink, 2001, "username, city", "张三|苏州").await;
    run(&mut source, "UPDATE business.orders SET user_id = 1002 WHERE order_id = 2001").await;
    until_latest(&mut sink, 2001, "username, city", "李四|上海").await;
    run(&mut source, "UPDATE business.users SET city = '西安' WHERE user_id = 1001").await;
    run(&mut source, "UPDATE business.users SET city = '南京' WHERE user_id = 1002").await;
    until_latest(&mut sink, 2001, "username, city", "李四|南京").await;
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

const MANY: i64 = 3_000;

async fn place_many(source: &mut PgConnection) {
    run(
        source,
        &format!(
            "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
             SELECT 10000 + n, 1005, '大单 ' || n, 1, 2.50, 2.50, 'PENDING' FROM generate_series(1, {MANY}) n"
        ),
    )
    .await;
}

/// Records of the result topic.
fn results(layers: &Layers, stack: &Stack) -> i64 {
    layers.end(&stack.places.names.result_topic).unwrap().iter().map(|(_, end)| end).sum()
}

/// Changes the city and kills the joiner while it sends the orders again. How many it had sent.
async fn change_city_and_kill(stack: &mut Stack, layers: &Layers, city: &str) -> i64 {
    let before = results(layers, stack);
    let change = format!("UPDATE business.users SET city = '{city}' WHERE user_id = 1005");
    run(&mut stack.source().await, &change).await;
    until("some orders are sent again", async || match results(layers, stack) - before {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    stack.process(DIM_JOINER).kill();
    let sent = results(layers, stack) - before;
    stack.process(DIM_JOINER).restart();
    sent
}

#[tokio::test]
async fn a_user_with_many_orders_changes_and_the_joiner_is_killed_while_it_sends_them_again() {
    let mut stack = Stack::new().await;
    stack.set(DIM_JOINER, "REEMISSION__BATCH_RECORDS_MAX", 1);
    stack.start_all().await;
    let (mut source, mut sink, layers) = (stack.source().await, stack.sink().await, stack.layers());
    place_many(&mut source).await;
    until_sink_is_the_source(&stack).await;

    // A kill that comes behind the last order proves nothing: then another city.
    let mut rounds = 0;
    let mut cut_off = false;
    for city in ["长沙", "天津", "郑州", "东莞", "无锡"] {
        let sent = change_city_and_kill(&mut stack, &layers, city).await;
        eprintln!("killed after {sent} of {MANY} orders");
        until_sink_is_the_source(&stack).await;
        let shown = format!("SELECT count(*) FROM result.orders_latest WHERE user_id = 1005 AND city = '{city}'");
        assert_eq!(value::<i64>(&mut sink, &shown).await, MANY);
        rounds += 1;
        cut_off = sent < MANY;
        if cut_off {
            break;
        }
    }
    assert!(cut_off, "no kill came between two orders");
    let history = History::read(&layers, &stack.places.names.result_topic);
    history.assert_nothing_twice();
    history.assert_records_of_orders(10_001..=10_000 + MANY, 1 + rounds);
}
