//! A batch finds its rows by their key, however small the tables were when the server made its plans.

use crate::database::value;
use crate::stack::PG_SINKER;
use crate::sunk::Sunk;
use crate::until::{until, until_equal};

/// More than the five executions after which the server keeps a plan.
const BATCHES: u64 = 12;

/// Readings of whole tables, of all tables that pg-sinker writes, and the rows that the server has counted there.
const READINGS: &str = "SELECT coalesce(sum(seq_scan), 0)::bigint || ' ' || coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'orders_latest'), 0) \
     || ' ' || coalesce(sum(n_tup_del) FILTER (WHERE relname = 'orders_latest'), 0) FROM pg_stat_user_tables \
     WHERE relname IN ('orders_latest', 'orders_with_user_info', 'deleted_keys', 'rollup_values') OR schemaname = 'dws'";

#[tokio::test]
async fn no_batch_reads_a_whole_table() {
    let mut sunk = Sunk::new("").await;
    sunk.start("").await;
    let mut sink = sunk.stack.sink().await;
    until("the roll-ups are complete", async || {
        match value::<i64>(&mut sink, "SELECT count(*) FROM tidemill.rollups WHERE is_complete").await {
            3 => Ok(()),
            complete => Err(format!("{complete} are")),
        }
    })
    .await;
    // The server counts what the filling read by the end of its session.
    let filling = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg-sinker-fill'";
    until_equal("the filling is over", 0, async || value::<i64>(&mut sink, filling).await).await;
    let before = value::<String>(&mut sink, READINGS).await;
    let before: u64 = before.split(' ').next().unwrap().parse().unwrap();
    for version in 1..=BATCHES {
        for (key, order) in [("{\"order_id\":1}", 1), ("{\"order_id\":2}", 2)] {
            let row = format!(
                r#"{{"order_id":{order},"user_id":7,"order_time":"2025-07-11 09:22:35","order_status":"{version}","quantity":1,"total_amount":"1.50"}}"#
            );
            sunk.put(version * 10, key, &row);
        }
        // Not in the batch of the row.
        sunk.settled().await;
        sunk.delete(version * 10 + 5, "{\"order_id\":2}");
        sunk.settled().await;
    }
    // The server counts a session's work when it rests, or, before PostgreSQL 15, when it ends.
    sunk.stack.process(PG_SINKER).terminate().await;
    until("the server has counted it all", async || {
        let found = value::<String>(&mut sink, READINGS).await;
        let counted: Vec<u64> = found.split(' ').map(|count| count.parse().unwrap()).collect();
        match counted[..] {
            [readings, inserted, deleted] if (inserted, deleted) == (BATCHES + 1, BATCHES) => {
                assert_eq!(readings, before, "readings of whole tables");
                Ok(())
            }
            _ => Err(format!("{counted:?}")),
        }
    })
    .await;
}

/// Entries of the index of deleted keys that were read.
const DELETED_READ: &str =
    "SELECT idx_scan || ' ' || idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'deleted_keys_pkey'";

/// Rows of orders that are new, each in a batch of its own.
async fn place(sunk: &mut Sunk, orders: std::ops::RangeInclusive<u64>) {
    for order in orders {
        let row =
            format!(r#"{{"order_id":{order},"user_id":7,"order_time":"2025-07-11 09:22:35","order_status":"PAID"}}"#);
        sunk.put(10, &format!("{{\"order_id\":{order}}}"), &row);
        sunk.settled().await;
    }
}

#[tokio::test]
async fn a_row_is_held_against_its_own_deletion_alone() {
    let mut sunk = Sunk::new("").await;
    sunk.start("").await;
    // The server keeps a plan that it made while nothing was deleted.
    place(&mut sunk, 1..=BATCHES).await;
    let deleted = "INSERT INTO tidemill.deleted_keys (sink_table, key, record_version) \
         SELECT 'result.orders_latest', '{\"order_id\":' || id || '}', '\\x00' FROM generate_series(1000001, 1005000) AS id";
    sunk.run(deleted).await;
    place(&mut sunk, BATCHES + 1..=2 * BATCHES).await;
    sunk.stack.process(PG_SINKER).terminate().await;
    let mut sink = sunk.stack.sink().await;
    until("the server has counted it all", async || {
        let found = value::<String>(&mut sink, DELETED_READ).await;
        let counted: Vec<u64> = found.split(' ').map(|count| count.parse().unwrap()).collect();
        match counted[..] {
            [looks, read] if looks >= 2 * BATCHES => {
                assert!(read < 5_000, "{read} entries were read for {} rows", 2 * BATCHES);
                Ok(())
            }
            _ => Err(found),
        }
    })
    .await;
}
