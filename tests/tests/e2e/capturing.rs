//! cdc-ingest alone, on one table beside those of the pipeline, and what it says of itself.

use lab::paper::Paper;
use serde_json::Value;
use shared::pg::TableName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::captured_table::CapturedTable;
use crate::database::{run, value};
use crate::patient_writer::COLUMNS;
use crate::service_page::{get, metric, state};
use crate::stack::{CDC_INGEST, Stack};
use crate::until::{PATIENCE, until};

/// Rows that the table has at first.
const ROWS: i64 = 1_000;

/// A table with rows, for cdc-ingest to capture from its next start on. They have negative keys, out of a writer's way.
pub async fn table_with_rows(stack: &mut Stack) -> CapturedTable {
    let table = CapturedTable::make(stack, "things", COLUMNS).await;
    let rows = format!("INSERT INTO {} SELECT -n, 'at first' FROM generate_series(1, {ROWS}) n", table.table);
    run(&mut stack.source().await, &rows).await;
    table
}

/// From its next start on cdc-ingest copies in chunks of so many rows, of which each takes so long at the least: a test is quick enough to do
/// something in the middle of a copy.
pub fn copy_slowly(stack: &mut Stack, chunk_rows: u64, chunk_ms: u64) {
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", chunk_rows);
    // A chunk comes to its end when the broker has it.
    stack.set(CDC_INGEST, "KAFKA__LINGER_MS", chunk_ms);
}

/// Starts cdc-ingest, and waits until the topic is the table.
pub async fn start(stack: &mut Stack, table: &CapturedTable) {
    stack.start(CDC_INGEST);
    stack.ready_alone(CDC_INGEST).await;
    table.until_whole(stack).await;
}

impl CapturedTable {
    /// Waits until PostgreSQL itself finds the topic to be the table; nothing came twice on the way.
    pub async fn until_whole(&self, stack: &Stack) {
        let (places, table) = (&stack.places, TableName::parse(&self.table));
        let mut nobody = Paper::plain(std::io::sink());
        let compared =
            lab::captured::until_equal(&places.source, &places.kafka, &table, &self.topic, PATIENCE, &mut nobody);
        let compared = compared.await.unwrap_or_else(|failure| panic!("{}", failure.chain()));
        assert!(compared.is_equal(), "{compared:#?}");
        self.history(stack).assert_nothing_twice();
    }

    /// How many records the topic has had so far.
    pub fn records(&self, stack: &Stack) -> i64 {
        let end = stack.layers().end(&self.topic).unwrap_or_else(|failure| panic!("{}", failure.chain()));
        end.iter().map(|(_, offset)| offset).sum()
    }

    /// Waits until the topic has so many more.
    pub async fn until_further_records(&self, stack: &Stack, further: i64) {
        let wanted = self.records(stack) + further;
        until(&format!("{} has {wanted} records", self.topic), async || {
            let records = self.records(stack);
            if records >= wanted { Ok(()) } else { Err(format!("{records}")) }
        })
        .await;
    }
}

/// Changes of all kinds; each call touches other rows.
pub async fn change(stack: &Stack, table: &CapturedTable) {
    let name = &table.table;
    let changes = format!(
        "INSERT INTO {name} SELECT coalesce(max(id), 0) + n, 'came' FROM {name}, generate_series(1, 50) n GROUP BY n;
         UPDATE {name} SET text = 'changed' WHERE id IN (SELECT id FROM {name} WHERE text = 'at first' ORDER BY id LIMIT 50);
         DELETE FROM {name} WHERE id IN (SELECT id FROM {name} WHERE text = 'at first' ORDER BY id LIMIT 50)"
    );
    run(&mut stack.source().await, &changes).await;
}

/// Which history of the source is captured, as cdc-ingest says.
pub async fn epoch(stack: &Stack) -> u64 {
    state(stack, CDC_INGEST).await["details"]["epoch"].as_u64().unwrap()
}

pub async fn metric_of(stack: &Stack, name: &str) -> f64 {
    let page = get(stack, CDC_INGEST, "/metrics").await.body;
    metric(&page, name, "").unwrap_or_else(|| panic!("{name} is not in: {page}"))
}

/// How often the process has found that changes were missed.
pub async fn interruptions(stack: &Stack) -> f64 {
    metric_of(stack, "tidemill_slot_interruptions_total").await
}

/// Waits until it has found so many. The process may just have been started.
pub async fn until_interrupted(stack: &Stack, times: f64) {
    until(&format!("{times} interruptions are found"), async || {
        let page = lab::page::get(&stack.url(CDC_INGEST), "/metrics").await.map_err(|failure| failure.chain())?;
        match metric(&page.body, "tidemill_slot_interruptions_total", "") {
            Some(found) if found == times => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

/// A column of pg_replication_slots, as text; `None` while there is no such slot.
pub async fn slot(stack: &Stack, column: &str) -> Option<String> {
    let sql = format!(
        "SELECT (SELECT coalesce({column}::text, '') FROM pg_replication_slots WHERE slot_name = '{}')",
        stack.places.names.slot
    );
    value(&mut stack.source().await, &sql).await
}

/// Waits until nobody uses the slot: the server hears a little later that a process is gone.
pub async fn until_slot_is_free(stack: &Stack) {
    until("the slot is free", async || match slot(stack, "active_pid").await {
        Some(pid) if !pid.is_empty() => Err(pid),
        _ => Ok(()),
    })
    .await;
}

/// Waits until the state of cdc-ingest is as wanted.
pub async fn until_state(stack: &Stack, what: &str, is_wanted: impl Fn(&Value) -> bool) {
    until(&format!("cdc-ingest's state: {what}"), async || {
        let state = state(stack, CDC_INGEST).await;
        if is_wanted(&state) { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
}

/// Waits until a page of the instance, good or bad, has all of these words.
pub async fn until_says(stack: &Stack, instance: &str, words: &[&str]) {
    until(&format!("{instance} says {words:?}"), async || {
        let page = lab::page::get(&stack.url(instance), "/health/ready").await.map_err(|failure| failure.chain())?;
        if words.iter().all(|word| page.body.contains(word)) { Ok(()) } else { Err(page.body) }
    })
    .await;
}

/// What commands have to say to be obeyed; cdc-ingest must be started with it.
pub const TOKEN: &str = "open-sesame";

/// Has cdc-ingest copy the table again.
pub async fn copy_again(stack: &Stack, table: &CapturedTable) {
    command_copy(stack, &serde_json::json!({ "table": table.table })).await;
    until_state(stack, "the copy is done", |state| state["details"]["snapshot"][&table.table]["done"] == true).await;
}

/// Commands a copy; returns when cdc-ingest has taken the command.
pub async fn command_copy(stack: &Stack, body: &Value) {
    let body = body.to_string();
    let url = stack.url(CDC_INGEST);
    let address = url.trim_start_matches("http://");
    let request = format!(
        "POST /api/v1/snapshot HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}
