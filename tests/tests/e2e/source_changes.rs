//! What can happen to rows at the source, besides being inserted and updated.

use lab::compare::{EVERYTHING, Part, compare};

use crate::captured_table::CapturedTable;
use crate::database::{run, value};
use crate::history::{History, assert_nothing_twice, header};
use crate::stack::{CDC_INGEST, Stack};
use crate::until::{until, until_equal};

async fn until_latest_has(stack: &Stack, order_ids: &str) {
    let mut sink = stack.sink().await;
    let sql = "SELECT coalesce(string_agg(order_id::text, ' ' ORDER BY order_id), '') FROM result.orders_latest";
    until_equal("the orders in the sink", order_ids.to_owned(), async || value::<String>(&mut sink, sql).await).await;
}

const ORDER: &str =
    "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)";

#[tokio::test]
async fn an_order_with_a_new_key_is_under_the_new_key_only() {
    let stack = Stack::started_behind_the_copy().await;
    until_latest_has(&stack, "2001 2002 2003 2004 2005").await;
    run(&mut stack.source().await, "UPDATE business.orders SET order_id = 3001 WHERE order_id = 2001").await;
    until_latest_has(&stack, "2002 2003 2004 2005 3001").await;

    let layers = stack.layers();
    for topic in stack.order_topics() {
        let history = History::read(&layers, topic);
        let gone = history.of_order(2001).last().unwrap();
        let [come] = history.of_order(3001) else { panic!("{topic}: {:?}", history.of_order(3001)) };
        assert!(gone.value.is_none() && come.value.is_some(), "{topic}: {gone:?} {come:?}");
        assert!(header(gone).version < header(come).version, "{topic}");
    }
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let compared = compare(&mut source, &mut sink, &stack.places.names, Part::Latest, EVERYTHING).await.unwrap();
    assert!(compared.is_equal(), "{compared:#?}");
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn a_truncated_table_leaves_no_order_but_those_that_came_afterwards() {
    let stack = Stack::started().await;
    let mut source = stack.source().await;
    until_latest_has(&stack, "2001 2002 2003 2004 2005").await;
    run(&mut source, "TRUNCATE business.orders").await;
    until_latest_has(&stack, "").await;
    // In one transaction: the rows behind the TRUNCATE stay, one of them under a key that was there before.
    run(
        &mut source,
        &format!("{ORDER} VALUES (2001, 1001, '甲', 1, 1, 1, 'PENDING'), (2006, 1001, '乙', 1, 1, 1, 'PENDING')"),
    )
    .await;
    until_latest_has(&stack, "2001 2006").await;
    run(
        &mut source,
        &format!("BEGIN; TRUNCATE business.orders; {ORDER} VALUES (2001, 1002, '丙', 1, 1, 1, 'PAID'), (2007, 1001, '丁', 1, 1, 1, 'PENDING'); COMMIT"),
    )
    .await;
    until_latest_has(&stack, "2001 2007").await;
    let trail = "SELECT count(DISTINCT order_id) FROM result.orders_with_user_info";
    assert_eq!(value::<i64>(&mut stack.sink().await, trail).await, 7, "the trail keeps all");
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn what_was_rolled_back_is_in_no_topic() {
    let stack = Stack::started().await;
    let mut source = stack.source().await;
    run(
        &mut source,
        &format!(
            "BEGIN; {ORDER} VALUES (7001, 1001, '无', 1, 1, 1, 'PENDING'); UPDATE business.orders SET quantity = 99; ROLLBACK;
             BEGIN; SAVEPOINT s; {ORDER} VALUES (7002, 1001, '无', 1, 1, 1, 'PENDING'); ROLLBACK TO s;
             {ORDER} VALUES (7003, 1001, '有', 1, 1, 1, 'PENDING'); COMMIT"
        ),
    )
    .await;
    until_latest_has(&stack, "2001 2002 2003 2004 2005 7003").await;
    let layers = stack.layers();
    for topic in stack.order_topics() {
        let history = History::read(&layers, topic);
        assert!(history.of_order(7001).is_empty() && history.of_order(7002).is_empty(), "{topic}");
        assert!(history.rows().values().all(|row| !row.contains(r#""quantity":99"#)), "{topic}");
    }
}

#[tokio::test]
async fn a_transaction_over_both_tables_keeps_its_order() {
    let stack = Stack::started().await;
    run(
        &mut stack.source().await,
        &format!(
            "BEGIN; {ORDER} VALUES (8001, 8001, '先', 1, 1, 1, 'PENDING');
             INSERT INTO business.users (user_id, username, city) VALUES (8001, '吴十', '北京');
             UPDATE business.orders SET order_status = 'PAID' WHERE order_id = 8001;
             UPDATE business.users SET city = '上海' WHERE user_id = 8001; COMMIT"
        ),
    )
    .await;
    let mut sink = stack.sink().await;
    let shown = "SELECT count(*) FROM result.orders_latest WHERE order_id = 8001 AND order_status = 'PAID' AND username = '吴十' AND city = '上海'";
    until_equal("the order shows the user", 1, async || value::<i64>(&mut sink, shown).await).await;

    let layers = stack.layers();
    let orders = History::read(&layers, &stack.places.names.ods_topic);
    let users = History::read(&layers, &stack.users_topic());
    let (orders, users) = (orders.of_order(8001), users.of("{\"user_id\":8001}"));
    let steps: Vec<_> = [&orders[0], &users[0], &orders[1], &users[1]].into_iter().map(header).collect();
    assert!(steps.is_sorted_by(|before, next| before.version < next.version), "{steps:?}");
    assert!(steps.iter().all(|step| step.version.lsn == steps[0].version.lsn), "one commit: {steps:?}");
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn a_new_column_travels_to_the_results_without_a_restart() {
    let stack = Stack::started().await;
    until_latest_has(&stack, "2001 2002 2003 2004 2005").await;
    let alter = "ALTER TABLE business.orders ADD COLUMN gift_note text; UPDATE business.orders SET gift_note = '生日快乐' WHERE order_id = 2001";
    run(&mut stack.source().await, alter).await;
    until("the new column is in a result", async || {
        let history = History::read(&stack.layers(), &stack.places.names.result_topic);
        let row = history.of_order(2001).last().unwrap().value.clone().unwrap();
        if row.contains(r#""gift_note":"生日快乐""#) && row.contains(r#""unit_price":5999.00"#) {
            Ok(())
        } else {
            Err(row)
        }
    })
    .await;
    run(
        &mut stack.source().await,
        "ALTER TABLE business.orders DROP COLUMN gift_note; DELETE FROM business.orders WHERE order_id = 2001",
    )
    .await;
    until_latest_has(&stack, "2002 2003 2004 2005").await;
    assert_nothing_twice(&stack);
}

/// A text too large to stand in its row, so that an update of another column does not write it to the log.
const LARGE: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)";

#[tokio::test]
async fn a_large_value_that_an_update_leaves_alone_is_not_lost() {
    let mut stack = Stack::new().await;
    let notes = CapturedTable::make(&mut stack, "notes", "body text, mark int").await;
    let mut source = stack.source().await;
    run(&mut source, "ALTER TABLE business.notes ALTER COLUMN body SET STORAGE EXTERNAL").await;
    run(&mut source, &format!("INSERT INTO business.notes VALUES (1, {LARGE}, 0), (2, {LARGE}, 0), (3, {LARGE}, 0)"))
        .await;
    stack.start(CDC_INGEST);
    stack.ready().await;

    run(&mut source, "UPDATE business.notes SET mark = 1 WHERE id = 1").await;
    run(&mut source, "UPDATE business.notes SET id = 20 WHERE id = 2").await;
    notes.until_topic_is_the_table(&stack).await;
    // By the time the stream is read again, the row is gone, or its large value is another one.
    stack.process(CDC_INGEST).kill();
    run(&mut source, "UPDATE business.notes SET mark = 2 WHERE id = 3").await;
    run(&mut source, "DELETE FROM business.notes WHERE id = 3").await;
    run(&mut source, "UPDATE business.notes SET mark = 2 WHERE id = 1").await;
    run(&mut source, "UPDATE business.notes SET body = body || '末' WHERE id = 1").await;
    stack.process(CDC_INGEST).restart();
    notes.until_topic_is_the_table(&stack).await;

    let history = notes.history(&stack);
    history.assert_nothing_twice();
    for record in history.by_key.values().flatten().filter_map(|record| record.value.as_deref()) {
        assert!(record.len() > 32_000, "the large value is not in {record}");
    }
}
