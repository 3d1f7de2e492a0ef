//! Has cdc-ingest read rows again: those that are gone get tombstones.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::failure::{Failure, FailureKind};
use shared::page;

use super::halving::Key;
use super::pair::Pair;
use super::settings::RepairConfig;

/// Keys of one command, so that its body stays far below what the service takes.
const KEYS_MAX: usize = 200;

/// Time between two looks whether a copy is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Orders the rows of these keys, and waits until they are in the topic.
pub async fn read_again(config: &RepairConfig, pair: &Pair, keys: &[Key]) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_millis(config.timeout_ms);
    let table = pair.source_table.to_string();
    for part in keys.chunks(KEYS_MAX) {
        order(config, &table, part, deadline).await?;
        while !is_done(config, &table).await? {
            in_time(config, deadline, &table)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn in_time(config: &RepairConfig, deadline: Instant, table: &str) -> Result<(), Failure> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Unreachable, format!("cdc-ingest did not read rows of {table} again within {} ms", config.timeout_ms))
        .cure("look at /api/state of cdc-ingest; a copy of the table that is under way comes first"))
}

/// A copy of the table that is under way is waited for: the command would take its place.
async fn order(config: &RepairConfig, table: &str, keys: &[Key], deadline: Instant) -> Result<(), Failure> {
    const CONFLICT: u16 = 409;
    let body = json!({ "table": table, "keys": keys }).to_string();
    loop {
        let token = Some(config.token.reveal());
        let answer = page::post(&config.address, "/api/v1/snapshot", token, &body).await?.page;
        match answer.status {
            202 => return Ok(()),
            CONFLICT => in_time(config, deadline, table)?,
            _ => {
                return Err(Failure::new(
                    FailureKind::Refused,
                    format!("cdc-ingest at {} does not read rows of {table} again: {}", config.address, answer.body),
                )
                .cure("set reconcile.repair.address, and reconcile.repair.token to the http.control_token of cdc-ingest"));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Of the table's copy, which is that of the keys.
async fn is_done(config: &RepairConfig, table: &str) -> Result<bool, Failure> {
    let state = page::get(&config.address, "/api/state").await?;
    let state: Value = serde_json::from_str(&state.body).unwrap_or_default();
    let copy = state.get("details").and_then(|details| details.get("snapshot")).and_then(|tables| tables.get(table));
    Ok(copy.and_then(|copy| copy.get("done")).and_then(Value::as_bool).unwrap_or_default())
}
