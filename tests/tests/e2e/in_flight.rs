//! What a service has taken in and nobody has acknowledged yet is not lost with it.

use lab::changes::touch;
use serde_json::Value;
use shared::record::time;

use crate::database::{run, value};
use crate::service_page::{get, metric, state};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, Stack};
use crate::until::until;
use crate::whole_sink::until_sink_is_the_source;

/// The producer holds records back for so long: far longer than the waits between two confirmations of positions.
const LINGER_MS: u32 = 3_000;

/// Has the service hold back what it sends, and confirm often.
fn restart_with_linger(stack: &mut Stack, service: &'static str, linger_ms: u32) {
    stack.process(service).kill();
    stack.set(service, "KAFKA__LINGER_MS", linger_ms);
    stack.set(service, "KAFKA__COMMIT_INTERVAL_MS", 50);
    stack.start(service);
}

async fn change_an_order(stack: &Stack) {
    touch(&mut stack.source().await, &stack.places.names, 2001, time::now().as_millisecond()).await.unwrap();
}

async fn updates_taken_in(stack: &Stack, service: &str) -> f64 {
    metric(&get(stack, service, "/metrics").await.body, "tidemill_records_in_total", "operation=\"u\"")
        .unwrap_or_default()
}

async fn until_taken_in(stack: &Stack, service: &str) {
    until(&format!("{service} has taken the change in"), async || match updates_taken_in(stack, service).await {
        taken if taken > 0.0 => Ok(()),
        taken => Err(format!("{taken}")),
    })
    .await;
}

/// Waits until the source has heard again from cdc-ingest: a careless one would have confirmed the change by now.
async fn until_the_source_has_heard(stack: &Stack) {
    let mut source = stack.source().await;
    let now: String = value(&mut source, "SELECT clock_timestamp()::text").await;
    let heard = format!(
        "SELECT coalesce(bool_or(reply_time > '{now}'), false) FROM pg_stat_replication r
         JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = '{}'",
        stack.name
    );
    until("cdc-ingest has sent its position", async || match value::<bool>(&mut source, &heard).await {
        true => Ok(()),
        false => Err("nothing yet".to_owned()),
    })
    .await;
}

/// Waits until the stage has looked at its positions with a change in flight, which is when it commits them. There is always one: a further
/// change comes before each look.
async fn until_it_lags(stack: &Stack, service: &str) {
    until(&format!("{service} shows a lag"), async || {
        change_an_order(stack).await;
        let state = state(stack, service).await;
        let partitions = state["details"]["input"]["partitions"].as_array().cloned().unwrap_or_default();
        let lags = |partition: &Value| partition["lag"].as_i64().is_some_and(|lag| lag > 0);
        if partitions.iter().any(lags) { Ok(()) } else { Err(state["details"]["input"].to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_change_that_is_on_its_way_when_a_service_is_killed_comes_through() {
    let mut stack = Stack::new().await;
    stack.set(CDC_INGEST, "SLOT__STATUS_INTERVAL_MS", 50);
    stack.start_all().await;
    until_sink_is_the_source(&stack).await;
    for service in [CDC_INGEST, DWD_CLEANER, DIM_JOINER] {
        restart_with_linger(&mut stack, service, LINGER_MS);
        stack.ready().await;
        change_an_order(&stack).await;
        until_taken_in(&stack, service).await;
        if service == CDC_INGEST {
            until_the_source_has_heard(&stack).await;
        } else {
            until_it_lags(&stack, service).await;
        }
        restart_with_linger(&mut stack, service, 0);
        until_sink_is_the_source(&stack).await;
    }
}

#[tokio::test]
async fn a_restarted_joiner_knows_every_user_before_it_joins_the_first_order() {
    const USERS: u32 = 30_000;
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let users = format!(
        "INSERT INTO business.users (user_id, username, city) SELECT n, '用户' || n, '北京' FROM generate_series(10001, 10000 + {USERS}) n"
    );
    run(&mut source, &users).await;
    stack.start_all().await;
    until_sink_is_the_source(&stack).await;

    stack.process(DIM_JOINER).kill();
    let result = stack.places.names.result_topic.clone();
    let killed_at = stack.layers().end(&result).unwrap();
    let orders = "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
                  SELECT n, n, '书', 1, 1, 1, 'PENDING' FROM generate_series(10001, 10000 + 30000, 10) n";
    run(&mut source, orders).await;
    stack.process(DIM_JOINER).restart();
    until_sink_is_the_source(&stack).await;
    let sent = stack.layers().read(&result, &killed_at, |_| true).unwrap();
    assert!(sent.len() >= 3_000, "{}", sent.len());
    let unknown = sent.iter().find(|record| record.value.as_deref().unwrap().contains("Unknown User"));
    assert!(unknown.is_none(), "{unknown:?}");
}
