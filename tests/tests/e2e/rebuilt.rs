//! A table is built anew beside itself while it is read and written, and takes the old one's place in one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use shared::kafka::partitioner::partition;

use crate::backfilled::until_last_job;
use crate::cleaning::TOKEN;
use crate::database::{run, value};
use crate::process::Ended;
use crate::random_results::RandomResults;
use crate::rolled_up::{assert_equal, assert_table_is, assert_values_are_counted, handled};
use crate::stack::{PG_SINKER, Stack};
use crate::sunk::{PARTITIONS, Sunk};
use crate::topics;
use crate::until::{until, until_equal};

async fn rebuild(stack: &mut Stack, arguments: &[&str]) -> Ended {
    let url = stack.url(PG_SINKER);
    let arguments = [&["rebuild", "--at", &url, "--table"], arguments].concat();
    stack.command(PG_SINKER, &arguments, &[("HTTP__CONTROL_TOKEN", TOKEN)]).await
}

/// Carries out what a refused command says is to be done.
async fn do_what_it_says(stack: &Stack, refused: &Ended) {
    for part in refused.output.split("To do: ").skip(1) {
        let statement = part.split("; result.").next().unwrap().split(". To do").next().unwrap();
        if statement.starts_with("ALTER ") || statement.starts_with("GRANT ") {
            let statement = statement.replace("\\\"", "\"");
            run(&mut stack.sink().await, statement.split("\",\"instance\"").next().unwrap()).await;
        }
    }
}

/// Everything about a table but its rows, and what the views over it read.
const LIKENESS: &str = "SELECT concat_ws(E'\\n', pg_get_userbyid(relowner), reloptions::text, relpersistence, obj_description(c.oid, 'pg_class'),
    (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(relacl) a),
    (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, attacl::text, col_description(c.oid, attnum)), ',' ORDER BY attname)
        FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
    (SELECT string_agg(pg_get_indexdef(indexrelid), ',' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = c.oid),
    (SELECT string_agg(conname || pg_get_constraintdef(oid), ',' ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid AND contype <> 'n'),
    (SELECT string_agg(concat_ws(' ', v.oid::regclass, v.relacl, v.reloptions, pg_get_userbyid(v.relowner)), ',' ORDER BY v.oid::regclass::text)
        FROM pg_class v WHERE v.oid IN (SELECT ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = objid WHERE refobjid = c.oid)))
    FROM pg_class c WHERE c.oid = 'TABLE'::regclass";

async fn likeness(stack: &Stack, table: &str) -> String {
    value(&mut stack.sink().await, &LIKENESS.replace("TABLE", table)).await
}

#[tokio::test]
async fn the_latest_orders_with_roll_ups_and_views_under_a_random_history() {
    const STEPS: u32 = 3_000;
    let mut stack = Stack::new().await;
    stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    let mut results = RandomResults::new(&stack, 400).await;
    results.write_steps(STEPS);
    stack.start(PG_SINKER);
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the first half is there", i64::from(results.records), async || handled(&mut sink).await).await;
    run(
        &mut sink,
        "COMMENT ON TABLE result.orders_latest IS 'each order''s state'; COMMENT ON COLUMN result.orders_latest.city IS 'of the user';
         ALTER TABLE result.orders_latest SET (fillfactor = 70); GRANT SELECT ON result.orders_latest TO pg_monitor WITH GRANT OPTION;
         GRANT UPDATE (city) ON result.orders_latest TO PUBLIC; GRANT SELECT ON ads.top_users TO pg_monitor;
         ALTER VIEW ads.top_users SET (security_barrier = true)",
    )
    .await;
    // The role of pg-sinker owns nothing yet.
    let refused = rebuild(&mut stack, &["result.orders_latest"]).await;
    assert!(refused.code != Some(0) && refused.output.contains("does not own it"), "{}", refused.output);
    do_what_it_says(&stack, &refused).await;
    let before = likeness(&stack, "result.orders_latest").await;
    assert!(before.contains("fillfactor=70") && before.contains("ads.top_users"), "{before}");
    // Rows are lost, others are not what they were.
    run(
        &mut sink,
        "DELETE FROM result.orders_latest WHERE order_id % 3 = 0; UPDATE result.orders_latest SET username = 'by hand' WHERE order_id % 3 = 1;
         INSERT INTO result.orders_latest (order_id, order_status, record_version, processed_time) VALUES (-1, 'PAID', 'x', now())",
    )
    .await;
    let writing = std::thread::spawn(move || {
        for _ in 0..STEPS / 20 {
            results.write_steps(20);
        }
        results
    });
    let oid = "SELECT 'result.orders_latest'::regclass::oid::int8";
    let old = value::<i64>(&mut sink, oid).await;
    let done = rebuild(&mut stack, &["latest", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    let results = writing.join().unwrap();
    until_equal("all of it is in the sink", i64::from(results.records), async || handled(&mut sink).await).await;
    assert_ne!(value::<i64>(&mut sink, oid).await, old);
    assert_eq!(likeness(&stack, "result.orders_latest").await, before);
    assert_table_is(&mut sink, &results).await;
    assert!(assert_equal(&mut sink).await, "the job ends when the roll-ups are filled anew");
    assert_values_are_counted(&mut sink).await;
    let by_hand = "SELECT count(*) FROM result.orders_latest WHERE username = 'by hand'";
    assert_eq!(value::<i64>(&mut sink, by_hand).await, 0);
    let read = "SELECT sum(orders)::int8 FROM ads.unknown_users";
    let rows = value::<i64>(&mut sink, "SELECT count(*) FROM result.orders_latest").await;
    assert_eq!(value::<i64>(&mut sink, read).await, rows, "the views read the new table");
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_\\_re%'";
    assert_eq!(value::<i64>(&mut sink, left).await, 0);
    let left = "SELECT count(*) FROM tidemill.deleted_keys WHERE sink_table LIKE '%rebuild'";
    assert_eq!(value::<i64>(&mut sink, left).await, 0);
}

const OWNED: &str = "CREATE TABLE result.t (id bigint PRIMARY KEY, a text, processed_time timestamp, source_commit_time timestamptz, record_version bytea NOT NULL);
    ALTER TABLE result.t OWNER TO tidemill_writer; GRANT CREATE ON SCHEMA result TO tidemill_writer;";
const ROWS: &str = "SELECT id, a, record_version FROM result.t ORDER BY id";
/// Rows that stay as they are.
const STILL: u64 = 600;

fn settings(on_tombstone: &str, records_per_s: u32) -> String {
    format!(
        "[tables.t]\ntable = \"result.t\"\nkey = \"id\"\non_tombstone = \"{on_tombstone}\"\n\
         [backfill]\nrecords_per_s = {records_per_s}\nchunk_records = 50\n[writer]\nevolve_lock_timeout_ms = 100\n"
    )
}

fn put(sunk: &mut Sunk, version: u64, id: u64, a: &str) {
    sunk.put(version, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id},\"a\":\"{a}\"}}"));
}

/// A table with rows, and pg-sinker that takes commands.
async fn filled(on_tombstone: &str, records_per_s: u32, further: &str) -> Sunk {
    let mut sunk = Sunk::new(&format!("{OWNED}{further}")).await;
    sunk.stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    for id in 1..=STILL {
        put(&mut sunk, 1, id, "still");
    }
    sunk.start(&settings(on_tombstone, records_per_s)).await;
    sunk.settled().await;
    sunk
}

#[tokio::test]
async fn no_reader_sees_a_gap_and_a_kill_and_a_reader_that_stays_only_delay_it() {
    let mut sunk = filled(
        "delete",
        400,
        "CREATE VIEW result.v AS SELECT * FROM result.t; ALTER VIEW result.v OWNER TO tidemill_writer;",
    )
    .await;
    let until_read = Arc::new(AtomicBool::new(false));
    let look = |of: &'static str| {
        let (done, places) = (Arc::clone(&until_read), sunk.stack.places.sink.clone());
        tokio::spawn(async move {
            let mut reader = crate::database::connect(&places).await;
            let query = format!("SELECT count(*) FROM result.{of} WHERE id <= {STILL} AND a = 'still'");
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) {
                assert_eq!(
                    value::<i64>(&mut reader, &query).await,
                    i64::try_from(STILL).unwrap(),
                    "look {looks} at {of}"
                );
                looks += 1;
            }
            looks
        })
    };
    let looks = [look("t"), look("v")];
    let taken = rebuild(&mut sunk.stack, &["result.t"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    let mut version = 1;
    let mut live = |sunk: &mut Sunk, count: u64| {
        for _ in 0..count {
            version += 1;
            match version % 4 {
                0 => sunk.delete(version, &format!("{{\"id\":{}}}", STILL + 1 + version % 60)),
                _ => put(sunk, version, STILL + 1 + version % 90, &format!("v{version}")),
            }
        }
    };
    // Somebody reads the old table for long: the swap waits, and neither other readers nor live rows wait for it.
    let mut reader = sunk.stack.sink().await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM result.t").await;
    let old = sunk.rows("SELECT 'result.t'::regclass::oid AS o").await;
    live(&mut sunk, 200);
    until_last_job(&sunk.stack, PG_SINKER, "is on its way", |job| job["records"].as_u64() > Some(100)).await;
    sunk.stack.process(PG_SINKER).kill();
    live(&mut sunk, 50);
    sunk.stack.process(PG_SINKER).restart();
    sunk.stack.ready().await;
    until_last_job(&sunk.stack, PG_SINKER, "goes on where it was", |job| {
        job["state"] == "open" && job["records"].as_u64() > Some(100)
    })
    .await;
    until("the swap is tried", async || {
        let log = sunk.stack.process(PG_SINKER).log_text();
        if log.contains("read again later") && log.contains("lock timeout") {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    live(&mut sunk, 50);
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT 'result.t'::regclass::oid AS o").await, old);
    run(&mut reader, "COMMIT").await;
    live(&mut sunk, 50);
    until_last_job(&sunk.stack, PG_SINKER, "is done", |job| job["state"] == "done").await;
    assert_ne!(sunk.rows("SELECT 'result.t'::regclass::oid AS o").await, old);
    live(&mut sunk, 50);
    sunk.settled().await;
    until_read.store(true, Ordering::SeqCst);
    for looks in looks {
        let looks = looks.await.unwrap();
        assert!(looks > 100, "{looks} looks");
    }
    // What a sink that never knew another table has.
    let rebuilt = sunk.rows(ROWS).await;
    sunk.stack.process(PG_SINKER).kill();
    sunk.run("TRUNCATE result.t, tidemill.sink_offsets, tidemill.deleted_keys").await;
    sunk.stack.process(PG_SINKER).restart();
    sunk.settled().await;
    assert_eq!(rebuilt, sunk.rows(ROWS).await);
    sunk.letters(0).await;
}

#[tokio::test]
async fn what_ends_a_rebuild_leaves_the_table_as_it_is() {
    let room = "CREATE TABLE result.full_disk (); GRANT SELECT ON result.full_disk TO PUBLIC;
        CREATE FUNCTION result.has_room(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            IF id = 13 AND to_regclass('result.full_disk') IS NOT NULL AND to_regclass('result.t__rebuild') IS NOT NULL THEN
                RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100';
            END IF;
            RETURN true; END $$;
        ALTER TABLE result.t ADD CONSTRAINT room CHECK (result.has_room(id));";
    let mut sunk = filled("delete", 200, room).await;
    let (before, rows) = (likeness(&sunk.stack, "result.t").await, sunk.rows(ROWS).await);
    let untouched = async |sunk: &Sunk| {
        until("the table beside is gone", async || {
            let beside = sunk.rows("SELECT to_regclass('result.t__rebuild') IS NULL AS gone").await;
            if beside == "true" { Ok(()) } else { Err(beside) }
        })
        .await;
        assert_eq!(likeness(&sunk.stack, "result.t").await, before);
        assert_eq!(sunk.rows(ROWS).await, rows);
    };
    let failed = rebuild(&mut sunk.stack, &["result.t", "--wait"]).await;
    assert!(
        failed.code == Some(1) && failed.output.contains("no room for result.t beside itself"),
        "{}",
        failed.output
    );
    untouched(&sunk).await;
    sunk.run("DROP TABLE result.full_disk").await;

    // Somebody's table has the name.
    let mut turn = sunk.stack.sink().await;
    let take_turn = "SELECT pg_advisory_lock(hashtextextended('tidemill: backfill: ' || (SELECT min(consumer_group) FROM tidemill.sink_offsets), 0))";
    run(&mut turn, take_turn).await;
    let taken = rebuild(&mut sunk.stack, &["result.t"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    sunk.run("CREATE TABLE result.t__rebuild AS SELECT 7 AS mine").await;
    run(&mut turn, "SELECT pg_advisory_unlock_all()").await;
    let is_refused = |why: &str| why.contains("a table result.t__rebuild already");
    until_last_job(&sunk.stack, PG_SINKER, "has failed", |job| job["failure"].as_str().is_some_and(is_refused)).await;
    assert_eq!(sunk.rows("SELECT mine FROM result.t__rebuild").await, "7");
    sunk.run("DROP TABLE result.t__rebuild").await;

    // Stopped on its way.
    let begin = async |sunk: &mut Sunk| {
        let taken = rebuild(&mut sunk.stack, &["result.t"]).await;
        assert_eq!(taken.code, Some(0), "{}", taken.output);
        until_last_job(&sunk.stack, PG_SINKER, "is on its way", |job| {
            job["state"] == "open" && job["records"].as_u64() > Some(50)
        })
        .await;
    };
    begin(&mut sunk).await;
    // Somebody reads the table beside for long: other jobs do not wait for that.
    let mut reader = sunk.stack.sink().await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM result.t__rebuild").await;
    let stopped = rebuild(&mut sunk.stack, &["result.t", "--stop"]).await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.output);
    until_last_job(&sunk.stack, PG_SINKER, "is stopped", |job| job["state"] == "stopped").await;
    let url = sunk.stack.url(PG_SINKER);
    let arguments = ["backfill", "--at", &url, "--table", "result.t", "--wait"];
    let done = sunk.stack.command(PG_SINKER, &arguments, &[("HTTP__CONTROL_TOKEN", TOKEN)]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    run(&mut reader, "COMMIT").await;
    untouched(&sunk).await;

    // Something comes to the table meanwhile, which the new one would not have.
    let changed = "result.t was changed while it was built anew";
    for (make, take, words) in [
        ("ALTER TABLE result.t ADD COLUMN b text", "ALTER TABLE result.t DROP COLUMN b", changed),
        ("CREATE INDEX late ON result.t (a)", "DROP INDEX result.late", changed),
        (
            "ALTER TABLE result.t ADD CONSTRAINT late CHECK (id > 0)",
            "ALTER TABLE result.t DROP CONSTRAINT late",
            changed,
        ),
        (
            "CREATE TRIGGER late BEFORE INSERT ON result.t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER late ON result.t",
            "it has the trigger late",
        ),
    ] {
        begin(&mut sunk).await;
        sunk.run(make).await;
        let failed = until_last_job(&sunk.stack, PG_SINKER, "has failed", |job| job["state"] == "failed").await;
        assert!(failed["failure"].as_str().unwrap().contains(words), "{make}: {failed}");
        sunk.run(take).await;
        untouched(&sunk).await;
    }

    // What would be lost in silence, and what the old table cannot be dropped for.
    for (make, take, words) in [
        (
            "CREATE TRIGGER x BEFORE INSERT ON result.t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER x ON result.t",
            "it has the trigger x",
        ),
        ("CREATE TABLE result.child () INHERITS (result.t)", "DROP TABLE result.child", "is inherited from"),
        (
            "CREATE MATERIALIZED VIEW result.m AS SELECT * FROM result.t",
            "DROP MATERIALIZED VIEW result.m",
            "result.m holds rows of it",
        ),
        ("CREATE TABLE result.other (id bigint REFERENCES result.t)", "DROP TABLE result.other", "other_id_fkey"),
        ("CREATE VIEW result.v AS SELECT * FROM result.t", "DROP VIEW result.v", "may not let the view result.v read"),
        (
            "ALTER TABLE result.t ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY",
            "ALTER TABLE result.t DROP COLUMN n",
            "numbers of its own",
        ),
        (
            "ALTER TABLE result.t OWNER TO CURRENT_USER; GRANT ALL ON result.t TO tidemill_writer",
            "ALTER TABLE result.t OWNER TO tidemill_writer",
            "does not own it",
        ),
    ] {
        sunk.run(make).await;
        let refused = rebuild(&mut sunk.stack, &["result.t"]).await;
        assert!(refused.code != Some(0) && refused.output.contains(words), "{make}: {}", refused.output);
        sunk.run(take).await;
    }
    sunk.letters(0).await;
}

#[tokio::test]
async fn the_new_table_waits_for_the_sink_to_come_where_it_is() {
    let mut sunk = filled("delete", 10_000, "").await;
    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&(settings("delete", 10_000) + "batch_wait_ms = 4000\n")).await;
    // A row that came and went: the new table would never have it, and the sink would bring it back there for a moment.
    put(&mut sunk, 10, STILL + 1, "short");
    sunk.delete(11, &format!("{{\"id\":{}}}", STILL + 1));
    sunk.flush();
    let done = rebuild(&mut sunk.stack, &["result.t", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    let is_behind =
        "SELECT (SELECT moved_at FROM tidemill.backfills) > (SELECT max(updated_at) FROM tidemill.sink_offsets) AS b";
    assert_eq!(sunk.rows(is_behind).await, "true", "the swap is behind the batch");
    assert_eq!(sunk.rows("SELECT DISTINCT sink_table FROM tidemill.deleted_keys").await, "result.t");
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.t").await, STILL.to_string());
}

#[tokio::test]
async fn roll_ups_are_filled_though_somebody_stops_it() {
    const KEYS: i64 = 200;
    let mut stack = Stack::new().await;
    stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    let mut results = RandomResults::new(&stack, KEYS).await;
    results.write_all_keys();
    stack.start(PG_SINKER);
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the orders are there", KEYS, async || handled(&mut sink).await).await;
    let refused = rebuild(&mut stack, &["result.orders_latest"]).await;
    do_what_it_says(&stack, &refused).await;
    run(&mut sink, "DELETE FROM result.orders_latest WHERE order_id % 2 = 0").await;
    let mut holder = stack.sink().await;
    // The turn to fill.
    run(&mut holder, "SELECT pg_advisory_lock(8388346167744359533)").await;
    let taken = rebuild(&mut stack, &["result.orders_latest"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    let swapped = "SELECT count(*) FROM tidemill.backfills WHERE step = 'swapped'";
    until_equal("the new table has its place", 1, async || value::<i64>(&mut sink, swapped).await).await;
    let refused = rebuild(&mut stack, &["result.orders_latest", "--stop"]).await;
    assert!(refused.code != Some(0) && refused.output.contains("has been built anew"), "{}", refused.output);
    run(&mut holder, "SELECT pg_advisory_unlock_all()").await;
    until_last_job(&stack, PG_SINKER, "is done", |job| job["state"] == "done").await;
    assert!(assert_equal(&mut sink).await);
    assert_values_are_counted(&mut sink).await;
    assert_table_is(&mut sink, &results).await;
}

#[tokio::test]
async fn columns_that_the_topic_brings_are_in_the_new_table() {
    let mut sunk = Sunk::new(OWNED).await;
    sunk.stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    sunk.start(&settings("delete", 10_000)).await;
    // A field that was passed over when it came.
    sunk.put(1, "{\"id\":1}", "{\"id\":1,\"a\":\"x\",\"b\":7}");
    sunk.settled().await;
    sunk.stack.process(PG_SINKER).kill();
    let growing = settings("delete", 10_000).replace("[backfill]", "evolve = \"add\"\n[backfill]");
    sunk.start(&growing).await;
    let done = rebuild(&mut sunk.stack, &["result.t", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    assert_eq!(sunk.rows("SELECT id, a, b FROM result.t").await, "1|x|7");
    sunk.put(2, "{\"id\":2}", "{\"id\":2,\"a\":\"y\",\"b\":8}");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, a, b FROM result.t ORDER BY id").await, "1|x|7\n2|y|8");
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_topic_that_has_lost_records_builds_only_what_does_not_need_them() {
    let mut sunk = filled("keep", 10_000, "").await;
    topics::write_with_a_gap_behind(&sunk.stack.places.kafka, &sunk.topic, 0, 1);
    let in_first = (1..).find(|id| partition(format!("{{\"id\":{id}}}").as_bytes(), PARTITIONS) == 0).unwrap();
    put(&mut sunk, 2, in_first, "behind the gap");
    sunk.flush();
    until("it is there", async || {
        let found = sunk.rows(&format!("SELECT a FROM result.t WHERE id = {in_first}")).await;
        if found == "behind the gap" { Ok(()) } else { Err(found) }
    })
    .await;
    let rows = sunk.rows(ROWS).await;
    let failed = rebuild(&mut sunk.stack, &["result.t", "--wait"]).await;
    assert!(failed.code == Some(1) && failed.output.contains("compaction has taken records"), "{}", failed.output);
    assert_eq!(sunk.rows(ROWS).await, rows);

    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&settings("delete", 10_000)).await;
    let done = rebuild(&mut sunk.stack, &["result.t", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    assert_eq!(sunk.rows(ROWS).await, rows);

    // Retention has cut off the beginning.
    let admin: AdminClient<DefaultClientContext> = sunk.stack.places.kafka.client("tidemill-e2e").create().unwrap();
    // A topic that is compacted alone keeps its beginning.
    let policy = AlterConfig::new(ResourceSpecifier::Topic(&sunk.topic)).set("cleanup.policy", "compact,delete");
    let altered = admin.alter_configs([&policy], &AdminOptions::new()).await.unwrap();
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    let mut cut = TopicPartitionList::new();
    cut.add_partition_offset(&sunk.topic, 1, Offset::Offset(3)).unwrap();
    let deleted = admin.delete_records(&cut, &AdminOptions::new()).await.unwrap();
    assert!(deleted.elements().iter().all(|partition| partition.error().is_ok()), "{deleted:?}");
    let refused = rebuild(&mut sunk.stack, &["result.t"]).await;
    assert!(
        refused.code != Some(0) && refused.output.contains("cut off the beginning of partition 1"),
        "{}",
        refused.output
    );
}
