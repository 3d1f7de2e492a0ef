//! Two dim-joiners, each with its share of the orders. One is killed, and the other has all; no change of a user is lost or sent twice.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::database::run;
use crate::history::History;
use crate::replicas::until_owned;
use crate::service_page::state;
use crate::stack::{DIM_JOINER, Stack};
use crate::until::until;
use crate::whole_sink::until_sink_is_the_source;

const SECOND: &str = "dim-joiner-second";

const MANY: i64 = 600;

/// The orders that are there, by partition.
fn orders_by_partition(stack: &Stack) -> BTreeMap<i64, u64> {
    let history = History::read(&stack.layers(), &stack.places.names.dwd_topic);
    let mut counts = BTreeMap::new();
    for last in history.by_key.values().filter_map(|records| records.last()).filter(|last| last.value.is_some()) {
        *counts.entry(i64::from(last.partition)).or_default() += 1;
    }
    counts
}

/// Waits until each of the instances holds the orders of its partitions and no others, and each partition is one instance's.
async fn until_shared(stack: &Stack, instances: &[&str]) {
    let orders = orders_by_partition(stack);
    until("each instance holds its share", async || {
        let mut owned: Vec<i64> = Vec::new();
        for instance in instances {
            let state = state(stack, instance).await;
            let partitions = state["details"]["input"]["partitions"].as_array().cloned().unwrap_or_default();
            let own: Vec<i64> = partitions.iter().filter_map(|of| of["partition"].as_i64()).collect();
            let wanted: u64 = own.iter().filter_map(|partition| orders.get(partition)).sum();
            let join: &Value = &state["details"]["join"];
            if join["facts"] != wanted || join["partitions_to_read_back"] != 0 {
                return Err(format!("{instance} with {own:?} of {orders:?}: {join}"));
            }
            owned.extend(own);
        }
        owned.sort_unstable();
        if owned == orders.keys().copied().collect::<Vec<_>>() { Ok(()) } else { Err(format!("{owned:?}")) }
    })
    .await;
}

/// Waits until all is as in the source, and each order of the user was sent so often, with a higher version each time.
async fn until_sent(stack: &Stack, times: usize) {
    until_sink_is_the_source(stack).await;
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    history.assert_records_of_orders(10_001..=10_000 + MANY, times);
    history.assert_nothing_twice();
}

#[tokio::test]
async fn each_holds_its_share_of_the_orders_and_a_change_reaches_each_order_once_also_when_one_is_killed() {
    let mut stack = Stack::new().await;
    stack.set(DIM_JOINER, "KAFKA__SESSION_TIMEOUT_MS", 6_000);
    stack.set(DIM_JOINER, "REEMISSION__BATCH_RECORDS_MAX", 10);
    stack.start_all().await;
    stack.start_replica(DIM_JOINER, SECOND);
    stack.ready().await;
    until_owned(&stack, &[(DIM_JOINER, 2), (SECOND, 2)]).await;
    until_sink_is_the_source(&stack).await;
    let mut source = stack.source().await;
    run(
        &mut source,
        &format!(
            "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
             SELECT 10000 + n, 1005, '大单 ' || n, 1, 2.50, 2.50, 'PENDING' FROM generate_series(1, {MANY}) n"
        ),
    )
    .await;
    until_sent(&stack, 1).await;
    until_shared(&stack, &[DIM_JOINER, SECOND]).await;
    let moves = |city: &str| format!("UPDATE business.users SET city = '{city}' WHERE user_id = 1005");
    run(&mut source, &moves("成都")).await;
    until_sent(&stack, 2).await;

    // Killed while it sends, or before: the one that takes over sends the rest, and no order again that has it.
    run(&mut source, &moves("武汉")).await;
    stack.process(SECOND).kill();
    until_owned(&stack, &[(DIM_JOINER, 4)]).await;
    until_sent(&stack, 3).await;
    until_shared(&stack, &[DIM_JOINER]).await;

    // It comes back in the middle of a change, and has its share again.
    run(&mut source, &moves("长沙")).await;
    stack.process(SECOND).restart();
    until_owned(&stack, &[(DIM_JOINER, 2), (SECOND, 2)]).await;
    until_sent(&stack, 4).await;
    until_shared(&stack, &[DIM_JOINER, SECOND]).await;
    run(&mut source, &moves("天津")).await;
    until_sent(&stack, 5).await;
}
