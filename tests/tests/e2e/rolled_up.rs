//! Roll-ups are what GROUP BY over their table says, at every moment, to the last digit.

use sqlx::postgres::PgConnection;

use crate::database::{run, value};
use crate::random_results::RandomResults;
use crate::service_page::{get, state};
use crate::stack::{PG_SINKER, Stack};
use crate::until::{until, until_equal};

const SECOND: &str = "pg-sinker-second";
pub const INSTANCES: [&str; 2] = [PG_SINKER, SECOND];

/// The default roll-ups: table, grain, groups, and whether users are counted.
const ROLLUPS: [(&str, &str, &str, bool); 3] = [
    ("dws.orders_by_minute", "minute", "product_category_normalized, order_status", false),
    (
        "dws.orders_by_hour",
        "hour",
        "city, user_city_tier, product_category_normalized, price_band, order_status",
        false,
    ),
    ("dws.orders_by_day", "day", "city, user_city_tier, product_category_normalized, price_band, order_status", true),
];

/// Groups that differ, and whether the roll-up is complete: in one statement, which sees one moment. Rows count up to the position of the
/// fill.
fn comparison((table, grain, groups, users): (&str, &str, &str, bool)) -> String {
    let (counted, kept) = if users { (", count(DISTINCT user_id)", ", users") } else { ("", "") };
    format!(
        "WITH fill AS (SELECT is_complete, filled_to[1]::bigint AS upto FROM tidemill.rollups WHERE rollup = '{table}'),
         wanted AS (
            SELECT date_trunc('{grain}', order_time), {groups}, count(*),
                coalesce(sum(total_amount) FILTER (WHERE total_amount <> 'NaN'), 0), coalesce(sum(quantity), 0){counted}
            FROM result.orders_latest, fill WHERE is_complete OR order_id <= upto GROUP BY date_trunc('{grain}', order_time), {groups}),
         kept AS (SELECT bucket, {groups}, orders, amount, quantity{kept} FROM {table})
         SELECT (SELECT count(*) FROM (TABLE wanted EXCEPT ALL TABLE kept) AS lacking)
            + (SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE wanted) AS too_many),
            (SELECT is_complete FROM fill)"
    )
}

/// Looks at one moment of each roll-up. Answers whether all of them are complete.
pub async fn assert_equal(sink: &mut PgConnection) -> bool {
    let mut all_complete = true;
    for rollup in ROLLUPS {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(comparison(rollup)));
        let (differing, complete): (i64, Option<bool>) = query.fetch_one(&mut *sink).await.unwrap();
        assert_eq!(differing, 0, "{} is not what GROUP BY says (complete: {complete:?})", rollup.0);
        all_complete &= complete == Some(true);
    }
    all_complete
}

/// Values are counted as often as they stand in their group, and none is left over.
pub async fn assert_values_are_counted(sink: &mut PgConnection) {
    let rows =
        "SELECT coalesce((SELECT sum(rows) FROM tidemill.rollup_values WHERE rollup = 'dws.orders_by_day'), 0)::bigint
        - (SELECT count(*) FROM result.orders_latest WHERE user_id IS NOT NULL)";
    assert_eq!(value::<i64>(sink, rows).await, 0, "rows with a user, and rows counted for one");
    assert_eq!(value::<i64>(sink, "SELECT count(*) FROM tidemill.rollup_values WHERE rows <= 0").await, 0);
}

/// Records of the topic that the sink has.
pub async fn handled(sink: &mut PgConnection) -> i64 {
    value(sink, "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidemill.sink_offsets").await
}

pub async fn assert_table_is(sink: &mut PgConnection, results: &RandomResults) {
    let rows = "SELECT coalesce(string_agg(order_id || ' ' || order_status, ',' ORDER BY order_id), '') FROM result.orders_latest";
    assert_eq!(value::<String>(sink, rows).await, results.at_rest());
}

/// Two instances in small batches; each is gone for good only after its session.
pub async fn two_instances(rollups: Option<&str>) -> Stack {
    let mut stack = Stack::new().await;
    stack.set(PG_SINKER, "KAFKA__SESSION_TIMEOUT_MS", 6_000);
    stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 60);
    // Most batches go over several connections, which meet in the groups.
    stack.set(PG_SINKER, "WRITER__CONNECTIONS", 3);
    stack.set(PG_SINKER, "WRITER__CONNECTION_RECORDS_MIN", 5);
    if let Some(rollups) = rollups {
        stack.configure(PG_SINKER, rollups);
    }
    stack
}

pub async fn start_both(stack: &mut Stack) {
    for instance in INSTANCES {
        stack.start_replica(PG_SINKER, instance);
    }
    stack.ready().await;
}

#[tokio::test]
async fn at_every_moment_of_a_random_history_with_kills_and_two_instances() {
    const STEPS: u32 = 6_000;
    let mut stack = two_instances(None).await;
    let mut results = RandomResults::new(&stack, 400).await;
    start_both(&mut stack).await;
    let mut sink = stack.sink().await;
    let writing = std::thread::spawn(move || {
        for _ in 0..STEPS / 20 {
            results.write_steps(20);
        }
        results
    });
    let (mut looks, mut kills) = (0, 0);
    until("all of it is in the sink", async || {
        assert_equal(&mut sink).await;
        looks += 1;
        let come = handled(&mut sink).await;
        if come > (kills + 1) * i64::from(STEPS) / 6 {
            let killed = INSTANCES[usize::try_from(kills).unwrap() % 2];
            stack.process(killed).kill();
            stack.process(killed).restart();
            kills += 1;
        }
        let written = written_of(&stack);
        if writing.is_finished() && come == written { Ok(()) } else { Err(format!("{come} of {written}")) }
    })
    .await;
    let results = writing.join().unwrap();
    eprintln!("{looks} looks, {kills} kills, {} records", results.records);
    assert!(kills >= 3 && looks > 20, "{looks} looks, {kills} kills");
    assert!(assert_equal(&mut sink).await, "they are complete");
    assert_table_is(&mut sink, &results).await;
    assert_values_are_counted(&mut sink).await;
    assert_ne!(value::<i64>(&mut sink, "SELECT count(*) FROM dws.orders_by_day WHERE bucket IS NULL").await, 0);
}

#[tokio::test]
async fn a_new_one_is_filled_while_rows_change_and_instances_are_killed() {
    const KEYS: i64 = 3_000;
    let mut stack = two_instances(Some("[rollups]\n")).await;
    let mut results = RandomResults::new(&stack, KEYS).await;
    results.write_all_keys();
    start_both(&mut stack).await;
    let mut sink = stack.sink().await;
    until_equal("the orders are there", KEYS, async || handled(&mut sink).await).await;
    assert_eq!(value::<i64>(&mut sink, "SELECT count(*) FROM tidemill.rollups").await, 0);
    for instance in INSTANCES {
        assert!(stack.process(instance).terminate().await.success());
    }

    stack.configure(PG_SINKER, "[fill]\nchunk_rows = 40\npause_ms = 15\n");
    let writing = std::thread::spawn(move || {
        for _ in 0..200 {
            results.write_steps(20);
        }
        results
    });
    for instance in INSTANCES {
        stack.start_replica(PG_SINKER, instance);
    }
    let (mut partial, mut moved, mut killed) = (0, 0, false);
    until("all of it is filled and in the sink", async || {
        let before = handled(&mut sink).await;
        let complete = assert_equal(&mut sink).await;
        let position = "SELECT count(*) FROM tidemill.rollups WHERE NOT is_complete AND filled_to IS NOT NULL";
        if value::<i64>(&mut sink, position).await > 0 {
            partial += 1;
            moved += i64::from(handled(&mut sink).await > before);
            if partial == 5 && !killed {
                for instance in INSTANCES {
                    stack.process(instance).kill();
                    stack.process(instance).restart();
                }
                killed = true;
            }
        }
        let written = written_of(&stack);
        let come = handled(&mut sink).await;
        if complete && writing.is_finished() && come == written { Ok(()) } else { Err(format!("{come} of {written}")) }
    })
    .await;
    let results = writing.join().unwrap();
    eprintln!("{partial} looks while a roll-up was filled; the stream went on between {moved} of them");
    assert!(killed && partial > 5 && moved > 0, "{partial} looks, {moved} with rows between");
    assert!(assert_equal(&mut sink).await);
    assert_table_is(&mut sink, &results).await;
    assert_values_are_counted(&mut sink).await;
    let shown = state(&stack, PG_SINKER).await;
    assert_eq!(shown["details"]["rollups"]["dws.orders_by_day"], "complete", "{shown}");
}

#[tokio::test]
async fn a_new_one_comes_to_instances_that_are_restarted_one_after_the_other() {
    const KEYS: i64 = 300;
    let mut stack = two_instances(Some("[rollups]\n")).await;
    let mut results = RandomResults::new(&stack, KEYS).await;
    results.write_all_keys();
    start_both(&mut stack).await;
    let mut sink = stack.sink().await;
    until_equal("the orders are there", KEYS, async || handled(&mut sink).await).await;

    stack.configure(PG_SINKER, "[fill]\nchunk_rows = 40\n");
    assert!(stack.process(SECOND).terminate().await.success());
    stack.process(SECOND).restart();
    // The other one does not know them: it has to leave all to the first that does.
    until("it ends", async || {
        results.write_steps(20);
        if stack.process(PG_SINKER).is_running() { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(stack.process(PG_SINKER).ended().await.code(), Some(1));
    let log = stack.process(PG_SINKER).log_text();
    assert!(log.contains("is kept over a table that these settings write"), "{log}");
    results.write_steps(200);
    until_equal("the other one writes all", written_of(&stack), async || handled(&mut sink).await).await;
    stack.process(PG_SINKER).restart();
    stack.ready().await;
    results.write_steps(200);
    until_equal("both write", written_of(&stack), async || handled(&mut sink).await).await;
    until_equal("they are filled", true, async || assert_equal(&mut sink).await).await;
    assert_table_is(&mut sink, &results).await;
}

/// Records of the topic of results.
fn written_of(stack: &Stack) -> i64 {
    stack.layers().end(&stack.places.names.result_topic).unwrap().iter().map(|(_, end)| end).sum()
}

/// The lock of the results' batches, shared: as long as it is held no chunk of a fill is added.
fn hold_up_chunks(stack: &Stack) -> String {
    let topic = &stack.places.names.result_topic;
    format!("BEGIN; SELECT pg_advisory_xact_lock_shared(hashtextextended('tidemill: topic: {topic}', 0))")
}

#[tokio::test]
async fn a_fill_that_is_sent_back_while_it_waits_begins_anew() {
    const KEYS: i64 = 400;
    let mut stack = Stack::new().await;
    stack.configure(PG_SINKER, "[rollups]\n");
    let mut results = RandomResults::new(&stack, KEYS).await;
    results.write_all_keys();
    stack.start(PG_SINKER);
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the orders are there", KEYS, async || handled(&mut sink).await).await;
    assert!(stack.process(PG_SINKER).terminate().await.success());
    stack.configure(PG_SINKER, "[fill]\nchunk_rows = 10\npause_ms = 50\n");
    stack.start(PG_SINKER);
    let filling = "SELECT count(*) FROM tidemill.rollups WHERE NOT is_complete AND filled_to IS NOT NULL";
    until_equal("one is being filled", 1, async || value::<i64>(&mut sink, filling).await).await;
    let mut holder = stack.sink().await;
    run(&mut holder, &hold_up_chunks(&stack)).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until_equal("a chunk waits", 1, async || value::<i64>(&mut sink, waiting).await).await;
    // As the swap of a table that was built anew does.
    run(
        &mut holder,
        "UPDATE tidemill.rollups SET is_complete = false, filled_to = NULL; DELETE FROM result.orders_latest WHERE order_id % 2 = 0; COMMIT",
    )
    .await;
    let complete = "SELECT count(*) FROM tidemill.rollups WHERE is_complete";
    until_equal("they are complete", 3, async || value::<i64>(&mut sink, complete).await).await;
    assert!(assert_equal(&mut sink).await);
    assert_values_are_counted(&mut sink).await;
}

#[tokio::test]
async fn one_that_is_taken_out_of_the_register_is_filled_anew_while_it_runs() {
    let mut stack = Stack::new().await;
    let mut results = RandomResults::new(&stack, 200).await;
    results.write_all_keys();
    stack.start(PG_SINKER);
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the orders are there", 200, async || handled(&mut sink).await).await;
    until("it is complete", async || if assert_equal(&mut sink).await { Ok(()) } else { Err("not yet".into()) }).await;

    run(&mut sink, "UPDATE dws.orders_by_day SET orders = orders + 7; INSERT INTO dws.orders_by_day VALUES ('x')")
        .await;
    run(&mut sink, "UPDATE tidemill.rollup_values SET rows = rows + 1").await;
    run(&mut sink, "DELETE FROM tidemill.rollups WHERE rollup = 'dws.orders_by_day'").await;
    results.write_steps(300);
    let registered = "SELECT count(*) FROM tidemill.rollups WHERE is_complete";
    until_equal("it is complete again", 3, async || value::<i64>(&mut sink, registered).await).await;
    let ends = stack.layers().end(&stack.places.names.result_topic).unwrap();
    let written: i64 = ends.iter().map(|(_, end)| end).sum();
    until_equal("the changes are there", written, async || handled(&mut sink).await).await;
    assert!(assert_equal(&mut sink).await);
    assert_table_is(&mut sink, &results).await;
    assert_values_are_counted(&mut sink).await;
    assert!(get(&stack, PG_SINKER, "/health/ready").await.body.contains("ready"));
}
