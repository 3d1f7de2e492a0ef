//! A writer that hung and came back sends again what it sent before: every stage drops it, and the sink does not go back.

use lab::layers::LayerRecord;

use crate::busy::{new_change_comes_through, rows};
use crate::database::{run, value};
use crate::history::{History, header};
use crate::service_page::{get, metric, until_all_is_handled};
use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::topics::{Foreign, write};
use crate::until::until_equal;
use crate::whole_sink::until_sink_is_the_source;

/// Writes all rows that the topic has once more, in the same order, but no tombstone: a writer that died again before it came to them.
/// How many records that was.
pub fn send_again(stack: &Stack, topic: &str) -> usize {
    let layers = stack.layers();
    let records: Vec<LayerRecord> = layers.read(topic, &layers.begin(topic).unwrap(), |_| true).unwrap();
    let rows: Vec<_> = records.iter().filter(|record| record.value.is_some()).collect();
    for record in &rows {
        let text = header(record).text();
        let value = record.value.as_deref().map(str::as_bytes);
        let repeat = Foreign { topic, partition: record.partition, key: &record.key, value, header: Some(&text) };
        write(&stack.places.kafka, &repeat);
    }
    rows.len()
}

pub async fn dropped(stack: &Stack, service: &str) -> f64 {
    metric(&get(stack, service, "/metrics").await.body, "tidemill_repeats_dropped_total", "").unwrap_or_default()
}

/// Some history: an order changed twice, one deleted, a user changed.
async fn make_history(stack: &Stack) {
    let mut source = stack.source().await;
    run(&mut source, "UPDATE business.orders SET quantity = 2, order_status = 'SHIPPED' WHERE order_id = 2003").await;
    run(&mut source, "UPDATE business.orders SET quantity = 3 WHERE order_id = 2003").await;
    run(&mut source, "DELETE FROM business.orders WHERE order_id = 2002").await;
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1001").await;
    until_sink_is_the_source(stack).await;
}

/// All that the sink holds, with the times of writing.
async fn sink_rows(stack: &Stack) -> String {
    let table = |name| format!("(SELECT string_agg(t::text, ';' ORDER BY t::text) FROM result.{name} t)");
    let sql = format!("SELECT {} || ' / ' || {}", table("orders_latest"), table("orders_with_user_info"));
    value(&mut stack.sink().await, &sql).await
}

#[tokio::test]
async fn what_is_sent_again_changes_nothing() {
    let stack = Stack::started().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    make_history(&stack).await;
    let [ods, dwd, result] = stack.order_topics();
    let users = stack.users_topic();
    for (service, input) in [(DWD_CLEANER, ods), (DIM_JOINER, dwd), (PG_SINKER, result)] {
        until_all_is_handled(&stack, service, input).await;
    }
    let before = sink_rows(&stack).await;
    let results = stack.layers().end(result).unwrap();

    let orders = send_again(&stack, ods);
    until_all_is_handled(&stack, DWD_CLEANER, ods).await;
    assert_eq!(dropped(&stack, DWD_CLEANER).await, orders as f64);
    let again = send_again(&stack, dwd) + send_again(&stack, &users);
    until_all_is_handled(&stack, DIM_JOINER, dwd).await;
    until_equal("records that the joiner dropped", again as f64, async || dropped(&stack, DIM_JOINER).await).await;
    assert_eq!(stack.layers().end(result).unwrap(), results, "the joiner sent nothing");
    send_again(&stack, result);
    until_all_is_handled(&stack, PG_SINKER, result).await;
    assert_eq!(sink_rows(&stack).await, before);
    assert!(dropped(&stack, PG_SINKER).await > 0.0);

    new_change_comes_through(&stack).await;
    until_sink_is_the_source(&stack).await;
    History::read(&stack.layers(), ods).of_order(2001).last().expect("the change is behind the repeats");
}
