//! What cdc-ingest says of a table, and commands about it.

use lab::page::{self, Answer};
use serde_json::{Value, json};

use crate::captured_table::until_judged_equal;
use crate::database::run;
use crate::service_page::{get, metric, state};
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;

/// The token of commands, where a test sends any.
pub const TOKEN: &str = "s3cret";

/// The table's part of the state.
pub async fn table_state(stack: &Stack, table: &str) -> Value {
    state(stack, CDC_INGEST).await["details"]["snapshot"][table].clone()
}

/// Waits until the table's part of the state is as wanted.
pub async fn until_table(stack: &Stack, table: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{table} {what}"), async || {
        let page = page::get(&stack.url(CDC_INGEST), "/api/v1/state").await.map_err(|failure| failure.chain())?;
        let shown: Value = serde_json::from_str(&page.body).map_err(|error| error.to_string())?;
        let shown = &shown["details"]["snapshot"][table];
        if is_so(shown) { Ok(shown.clone()) } else { Err(shown.to_string()) }
    })
    .await
}

/// Waits until the table is stopped, and the reason has all of these words.
pub async fn until_stopped(stack: &Stack, table: &str, words: &[&str]) {
    until_table(stack, table, &format!("is stopped with {words:?}"), |shown| {
        shown["stopped"].as_str().is_some_and(|why| words.iter().all(|word| why.contains(word)))
    })
    .await;
    assert_eq!(stopped_metric(stack, table).await, Some(1.0));
}

pub async fn until_goes_on(stack: &Stack, table: &str) {
    until_table(stack, table, "goes on", |shown| shown["stopped"].is_null() && shown["done"] == true).await;
    assert_eq!(stopped_metric(stack, table).await, Some(0.0));
}

pub async fn stopped_metric(stack: &Stack, table: &str) -> Option<f64> {
    let page = get(stack, CDC_INGEST, "/metrics").await.body;
    metric(&page, "tidemill_table_stopped", &format!("table=\"{table}\""))
}

/// The number of the chain that runs.
pub async fn generation(stack: &Stack) -> u64 {
    state(stack, CDC_INGEST).await["generation"]["number"].as_u64().unwrap()
}

/// Changes an order, and waits until the topic of orders has it.
pub async fn orders_go_on(stack: &Stack) {
    run(&mut stack.source().await, "UPDATE business.orders SET quantity = quantity + 1 WHERE order_id = 2001").await;
    until_judged_equal(stack, "business.orders", &stack.places.names.ods_topic).await;
}

/// Commands are taken from the next start on.
pub fn take_commands(stack: &mut Stack) {
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
}

/// Sends a command, whatever comes of it.
pub async fn send(stack: &Stack, command: &str, token: Option<&str>, body: &str) -> Answer {
    let answer = page::post(&stack.url(CDC_INGEST), &format!("/api/v1/{command}"), token, body).await;
    answer.unwrap_or_else(|failure| panic!("{}", failure.chain()))
}

/// A command about a table that must be taken.
pub async fn command(stack: &Stack, command: &str, table: &str) {
    command_with(stack, command, &json!({ "table": table })).await;
}

pub async fn command_with(stack: &Stack, command: &str, body: &Value) {
    let answer = send(stack, command, Some(TOKEN), &body.to_string()).await;
    assert_eq!(answer.page.status, 202, "{answer:?}");
}
