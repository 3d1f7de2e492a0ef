//! The pages of a service, and the values on them.

use lab::page::{self, Page};
use serde_json::Value;

use crate::stack::Stack;
use crate::until::until;

/// A page, good or bad. Where the machine is busy, or the process has just been started, the first try may have no answer.
pub async fn get(stack: &Stack, instance: &str, path: &str) -> Page {
    until(&format!("{instance} answers {path}"), async || {
        page::get(&stack.url(instance), path).await.map_err(|failure| failure.chain())
    })
    .await
}

/// The values of the series of a metric whose labels hold this text.
fn series<'a>(page: &'a str, name: &'a str, labels: &'a str) -> impl Iterator<Item = f64> + 'a {
    let lines = page.lines().filter(move |line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(labels)
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok())
}

/// The first of them.
pub fn metric(page: &str, name: &str, labels: &str) -> Option<f64> {
    series(page, name, labels).next()
}

/// All of them together.
pub fn sum(page: &str, name: &str, labels: &str) -> f64 {
    series(page, name, labels).sum()
}

pub async fn state(stack: &Stack, instance: &str) -> Value {
    serde_json::from_str(&get(stack, instance, "/api/v1/state").await.body).unwrap()
}

/// How many partitions of its input an instance owns, by its state.
pub fn owned_partitions(state: &Value) -> usize {
    state["details"]["input"]["partitions"].as_array().map_or(0, Vec::len)
}

/// Waits until an instance that owns all of its input has handled it to the end.
pub async fn until_all_is_handled(stack: &Stack, instance: &str, topic: &str) {
    let layers = stack.layers();
    until(&format!("{instance} has handled all of {topic}"), async || {
        let state = state(stack, instance).await;
        let ends = layers.end(topic).unwrap();
        let partitions = state["details"]["input"]["partitions"].as_array().cloned().unwrap_or_default();
        let at_end = |(partition, end): &(i32, i64)| {
            partitions.iter().any(|found| found["partition"] == *partition && found["next_offset"] == *end)
        };
        if ends.iter().all(at_end) { Ok(()) } else { Err(state["details"]["input"].to_string()) }
    })
    .await;
}
