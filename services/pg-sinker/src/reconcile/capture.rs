//! cdc-ingest over HTTP: is a table carried whole, and have rows of it read again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::failure::{Failure, FailureKind};
use shared::page;

use super::parts::Key;
use super::settings::CaptureConfig;

/// Keys of one command, so that its body stays far below what the service takes.
const KEYS_MAX: usize = 200;

/// Time between two looks whether a copy is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What cdc-ingest says of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Every row is in the topic.
    Whole,
    /// Rows are missing that will come.
    Copied,
    /// Changes are passed over, for this reason.
    Stopped(String),
    /// It does not know the table.
    Unknown,
}

fn standing(state: &Value, table: &str) -> Standing {
    let found = state.get("details").and_then(|details| details.get("snapshot")).and_then(|tables| tables.get(table));
    let Some(found) = found else { return Standing::Unknown };
    if let Some(why) = found.get("stopped").and_then(Value::as_str) {
        return Standing::Stopped(why.to_owned());
    }
    match found.get("done").and_then(Value::as_bool) {
        Some(true) => Standing::Whole,
        _ => Standing::Copied,
    }
}

async fn ask(config: &CaptureConfig, table: &str) -> Result<Standing, Failure> {
    let page = page::get(&config.address, "/api/v1/state").await?;
    let state: Value = serde_json::from_str(&page.body).map_err(|error| {
        Failure::new(FailureKind::Refused, format!("{} does not say how it is", config.address))
            .caused_by(error)
            .cure("set reconcile.capture.address to the address of cdc-ingest")
    })?;
    Ok(standing(&state, table))
}

/// Refuses where rows are missing that nobody lost. Where cdc-ingest cannot be asked, the slot tells soon enough whether it is there.
pub async fn whole(config: &CaptureConfig, table: &str) -> Result<(), Failure> {
    if config.address.is_empty() {
        return Ok(());
    }
    let cannot = |what: String| Failure::new(FailureKind::Unreachable, format!("{table} cannot be compared: {what}"));
    match ask(config, table).await {
        Ok(Standing::Copied) => Err(cannot("cdc-ingest is copying it".into())
            .cure("wait until the copy is done; /api/v1/state of cdc-ingest shows it")),
        Ok(Standing::Stopped(why)) => Err(cannot(format!("cdc-ingest does not carry it: {why}"))
            .cure("mend that first; its rows are read again then")),
        Ok(Standing::Whole | Standing::Unknown) | Err(_) => Ok(()),
    }
}

/// Orders the rows of these keys, and waits until they are in the topic.
pub async fn read_again(config: &CaptureConfig, table: &str, keys: &[Key]) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_millis(config.timeout_ms);
    for part in keys.chunks(KEYS_MAX) {
        order(config, table, part, deadline).await?;
        while ask(config, table).await? != Standing::Whole {
            in_time(config, deadline, table)?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn in_time(config: &CaptureConfig, deadline: Instant, table: &str) -> Result<(), Failure> {
    if Instant::now() < deadline {
        return Ok(());
    }
    let late = format!("cdc-ingest did not read rows of {table} again within {} ms", config.timeout_ms);
    Err(Failure::new(FailureKind::Unreachable, late)
        .cure("look at /api/v1/state of cdc-ingest; a copy of the table that is under way comes first"))
}

/// A copy of the table that is under way is waited for: the command would take its place. So is a chain that does not run: a standby has none, and where
/// several instances have one address the next try comes to another.
async fn order(config: &CaptureConfig, table: &str, keys: &[Key], deadline: Instant) -> Result<(), Failure> {
    const ACCEPTED: u16 = 202;
    const CONFLICT: u16 = 409;
    const UNAVAILABLE: u16 = 503;
    let body = json!({ "table": table, "keys": keys }).to_string();
    loop {
        let token = Some(config.token.reveal());
        let answer = page::post(&config.address, "/api/v1/snapshot", token, &body).await?.page;
        match answer.status {
            ACCEPTED => return Ok(()),
            CONFLICT | UNAVAILABLE => in_time(config, deadline, table)?,
            _ => {
                let refused =
                    format!("cdc-ingest at {} does not read rows of {table} again: {}", config.address, answer.body);
                return Err(Failure::new(FailureKind::Refused, refused).cure(
                    "set reconcile.capture.address, and reconcile.capture.token to the http.control_token of cdc-ingest",
                ));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_not_whole_is_known_by_the_state() {
        let state = json!({ "details": { "snapshot": {
            "a.whole": { "done": true },
            "a.copied": { "done": false },
            "a.stopped": { "done": true, "stopped": "no key" },
        } } });
        assert_eq!(standing(&state, "a.whole"), Standing::Whole);
        assert_eq!(standing(&state, "a.copied"), Standing::Copied);
        assert_eq!(standing(&state, "a.stopped"), Standing::Stopped("no key".into()));
        assert_eq!(standing(&state, "a.other"), Standing::Unknown);
        assert_eq!(standing(&Value::Null, "a.whole"), Standing::Unknown);
    }
}
