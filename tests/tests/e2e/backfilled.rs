//! Records that are read again: what is missing comes back, nothing goes back, and a table that is new to its topic gets every record.

use serde_json::{Value, json};

use crate::cleaning::TOKEN;
use crate::database::{run, value};
use crate::process::Ended;
use crate::random_results::RandomResults;
use crate::rolled_up::{
    INSTANCES, assert_equal, assert_table_is, assert_values_are_counted, start_both, two_instances,
};
use crate::service_page::{get, metric};
use crate::stack::{PG_SINKER, Stack};
use crate::sunk::Sunk;
use crate::until::{until, until_equal};

/// `pg-sinker backfill` at the first instance.
pub async fn backfill(stack: &mut Stack, arguments: &[&str]) -> Ended {
    let url = stack.url(PG_SINKER);
    let arguments = [&["backfill", "--at", &url], arguments].concat();
    stack.command(PG_SINKER, &arguments, &[("HTTP__CONTROL_TOKEN", TOKEN)]).await
}

/// The last job, as the page has it.
async fn last_job(stack: &Stack, instance: &str) -> Value {
    let page: Value = serde_json::from_str(&get(stack, instance, "/api/v1/backfills").await.body).unwrap();
    page["jobs"][0].clone()
}

pub async fn until_last_job(stack: &Stack, instance: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until(&format!("the job {what}"), async || {
        let job = last_job(stack, instance).await;
        if wanted(&job) { Ok(job) } else { Err(job.to_string()) }
    })
    .await
}

const TABLE: &str = "(id bigint PRIMARY KEY, a text, processed_time timestamp, source_commit_time timestamptz, record_version bytea NOT NULL)";

/// Tables of the writer with a column beside the key.
fn tables(names: &[&str]) -> String {
    let one = |name: &&str| {
        format!(
            "CREATE TABLE result.{name} {TABLE}; GRANT SELECT, INSERT, UPDATE, DELETE ON result.{name} TO tidemill_writer;"
        )
    };
    names.iter().map(one).collect()
}

fn settings(names: &[&str], on_tombstone: &str) -> String {
    let one = |name: &&str| {
        format!("[tables.{name}]\ntable = \"result.{name}\"\nkey = \"id\"\non_tombstone = \"{on_tombstone}\"\n")
    };
    names.iter().map(one).collect()
}

fn put(sunk: &mut Sunk, version: u64, id: u64, a: &str) {
    sunk.put(version, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id},\"a\":\"{a}\"}}"));
}

/// A sink with the table `t`, and pg-sinker that takes commands.
async fn sunk(on_tombstone: &str, further: &str) -> Sunk {
    let mut sunk = Sunk::new(&tables(&["t"])).await;
    sunk.stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    sunk.start(&(settings(&["t"], on_tombstone) + further)).await;
    sunk
}

const ROWS: &str = "SELECT id, a FROM result.t ORDER BY id";

#[tokio::test]
async fn a_random_history_is_read_again_while_it_goes_on() {
    const STEPS: u32 = 3_000;
    let mut stack = two_instances(None).await;
    stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.set(PG_SINKER, "BACKFILL__CHUNK_RECORDS", 70);
    // Slow enough that both kills fall into it.
    stack.set(PG_SINKER, "BACKFILL__RECORDS_PER_S", 1_500);
    let mut results = RandomResults::new(&stack, 400).await;
    results.write_steps(STEPS);
    start_both(&mut stack).await;
    let mut sink = stack.sink().await;
    until("the first half is there", async || {
        let complete = assert_equal(&mut sink).await;
        match crate::rolled_up::handled(&mut sink).await {
            handled if handled == i64::from(results.records) && complete => Ok(()),
            handled => Err(format!("{handled}")),
        }
    })
    .await;
    for instance in INSTANCES {
        assert!(stack.process(instance).terminate().await.success());
    }
    // A third of all rows is lost, some are older than they were, and the roll-ups know of it.
    run(
        &mut sink,
        "CREATE TABLE result.kept AS SELECT order_id, order_status, record_version FROM result.orders_with_user_info;
         DELETE FROM result.orders_latest WHERE order_id % 3 = 0;
         UPDATE result.orders_latest SET record_version = '', city = 'elsewhere' WHERE order_id % 3 = 1;
         UPDATE result.orders_latest SET city = 'by hand' WHERE order_id % 12 = 2;
         DELETE FROM result.orders_with_user_info WHERE order_id % 5 = 0;
         DELETE FROM tidemill.rollups; DELETE FROM tidemill.rollup_values; DELETE FROM tidemill.deleted_keys;
         TRUNCATE dws.orders_by_minute, dws.orders_by_hour, dws.orders_by_day",
    )
    .await;
    start_both(&mut stack).await;
    for table in ["result.orders_latest", "trail"] {
        let taken = backfill(&mut stack, &["--table", table]).await;
        assert_eq!(taken.code, Some(0), "{}", taken.output);
    }
    let writing = std::thread::spawn(move || {
        for _ in 0..STEPS / 20 {
            results.write_steps(20);
        }
        results
    });
    let (mut looks, mut kills) = (0, 0);
    let done = "SELECT count(*) FROM tidemill.backfills WHERE state = 'done'";
    until("all of it is in the sink", async || {
        assert_equal(&mut sink).await;
        looks += 1;
        let moved = "SELECT coalesce(max(records), 0) FROM tidemill.backfills WHERE state = 'open' AND step = 'rows'";
        if kills < 2 && value::<i64>(&mut sink, moved).await > 0 {
            for instance in INSTANCES {
                stack.process(instance).kill();
                stack.process(instance).restart();
            }
            kills += 1;
        }
        let ends = stack.layers().end(&stack.places.names.result_topic).unwrap();
        let written: i64 = ends.iter().map(|(_, end)| end).sum();
        let (come, done) = (crate::rolled_up::handled(&mut sink).await, value::<i64>(&mut sink, done).await);
        if writing.is_finished() && come == written && done == 2 {
            Ok(())
        } else {
            Err(format!("{come} of {written}, {done} done"))
        }
    })
    .await;
    let results = writing.join().unwrap();
    eprintln!("{looks} looks, {kills} kills, {} records", results.records);
    assert_eq!(kills, 2);
    until(
        "the roll-ups are complete",
        async || if assert_equal(&mut sink).await { Ok(()) } else { Err("not yet".into()) },
    )
    .await;
    assert_table_is(&mut sink, &results).await;
    assert_values_are_counted(&mut sink).await;
    let elsewhere = "SELECT count(*) FROM result.orders_latest WHERE city IN ('elsewhere', 'by hand')";
    assert_eq!(value::<i64>(&mut sink, elsewhere).await, 0);
    let behind = "SELECT count(*) FROM result.kept k WHERE NOT EXISTS (SELECT FROM result.orders_with_user_info t
        WHERE t.order_id = k.order_id AND t.order_status = k.order_status AND t.record_version >= k.record_version)";
    assert_eq!(value::<i64>(&mut sink, behind).await, 0, "no row of the trail is lost, none went back");
}

#[tokio::test]
async fn a_forgotten_deletion_is_not_undone() {
    let mut sunk = sunk("delete", "").await;
    // All that ever stood in the table.
    sunk.run(
        "CREATE TABLE result.seen (id bigint, a text); GRANT INSERT ON result.seen TO tidemill_writer;
         CREATE FUNCTION result.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO result.seen VALUES (new.id, new.a); RETURN new; END $$;
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON result.t FOR EACH ROW EXECUTE FUNCTION result.see();",
    )
    .await;
    for id in 1..=6 {
        put(&mut sunk, id, id, "first");
    }
    sunk.settled().await;
    // The clock of the database is the producer's.
    let mut sink = sunk.stack.sink().await;
    let soon = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '50 ms', 'YYYY-MM-DD HH24:MI:SS.MS')";
    let then: String = value(&mut sink, soon).await;
    let is_past = format!("SELECT clock_timestamp() AT TIME ZONE 'UTC' > '{then}'");
    until_equal("that moment is past", true, async || value::<bool>(&mut sink, &is_past).await).await;
    sunk.delete(11, "{\"id\":1}");
    put(&mut sunk, 13, 3, "second");
    put(&mut sunk, 15, 5, "second");
    put(&mut sunk, 17, 7, "late");
    sunk.settled().await;
    sunk.run(
        "DELETE FROM tidemill.deleted_keys; DELETE FROM result.t WHERE id IN (2, 3, 7); TRUNCATE result.seen;
         UPDATE result.t SET a = 'by hand' WHERE id = 4; UPDATE result.t SET a = 'by hand' WHERE id = 6; TRUNCATE result.seen",
    )
    .await;
    let done = backfill(&mut sunk.stack, &["--table", "result.t", "--until", &then, "--to", "5", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    // 1 was deleted since; 2 is back; 3 is back as the topic has it; 4 is put right; 5 is as it was; 6 and 7 were not asked for.
    assert_eq!(sunk.rows(ROWS).await, "2|first\n3|second\n4|first\n5|second\n6|by hand");
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.seen WHERE id IN (1, 6, 7)").await, "0");
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.seen WHERE id = 5 AND a <> 'second'").await, "0");
    let whole = backfill(&mut sunk.stack, &["--table", "t", "--wait"]).await;
    assert_eq!(whole.code, Some(0), "{}", whole.output);
    assert_eq!(sunk.rows(ROWS).await, "2|first\n3|second\n4|first\n5|second\n6|first\n7|late");
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_kill_costs_one_chunk_and_a_stop_is_a_stop() {
    const ROWS: u64 = 2_000;
    let mut sunk = sunk("keep", "[backfill]\nrecords_per_s = 1000\nchunk_records = 50\n").await;
    for id in 1..=ROWS {
        put(&mut sunk, 1, id, "x");
    }
    sunk.settled().await;
    sunk.run("TRUNCATE result.t").await;
    let taken = backfill(&mut sunk.stack, &["--table", "result.t"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    until_last_job(&sunk.stack, PG_SINKER, "is on its way", |job| job["records"].as_u64() > Some(200)).await;
    sunk.stack.process(PG_SINKER).kill();
    sunk.stack.process(PG_SINKER).restart();
    sunk.stack.ready().await;
    let job = until_last_job(&sunk.stack, PG_SINKER, "is done", |job| job["state"] == "done").await;
    assert_eq!((job["records"].as_u64(), job["rows"].as_u64()), (Some(ROWS), Some(ROWS)), "each once: {job}");
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.t").await, ROWS.to_string());
    let page = get(&sunk.stack, PG_SINKER, "/metrics").await.body;
    assert_eq!(metric(&page, "tidemill_backfill_remaining_offsets", "table=\"result.t\""), Some(0.0));

    // The same once more, so slowly that it is on its way when it is stopped; live rows go on.
    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&(settings(&["t"], "keep") + "[backfill]\nrecords_per_s = 100\nchunk_records = 20\n")).await;
    sunk.run("TRUNCATE result.t").await;
    let taken = backfill(&mut sunk.stack, &["--table", "result.t"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    until_last_job(&sunk.stack, PG_SINKER, "is on its way", |job| {
        job["state"] == "open" && job["records"].as_u64() > Some(0)
    })
    .await;
    let again = backfill(&mut sunk.stack, &["--table", "result.t"]).await;
    assert!(again.code != Some(0) && again.output.contains("wait for it, or stop it"), "{}", again.output);
    let stopped = backfill(&mut sunk.stack, &["--table", "result.t", "--stop"]).await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.output);
    let rows = sunk.rows("SELECT count(*) AS n FROM result.t").await;
    put(&mut sunk, 2, ROWS + 1, "live");
    sunk.settled().await;
    until_last_job(&sunk.stack, PG_SINKER, "is stopped", |job| job["state"] == "stopped").await;
    let with_live = (rows.parse::<u64>().unwrap() + 1).to_string();
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.t").await, with_live);
    let nothing = backfill(&mut sunk.stack, &["--table", "result.t", "--stop"]).await;
    assert!(nothing.code != Some(0) && nothing.output.contains("nothing of result.t"), "{}", nothing.output);
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_new_table_gets_every_record() {
    const KEYS: u64 = 300;
    let mut sunk = Sunk::new(&(tables(&["t", "b"]) + "GRANT CREATE ON SCHEMA result TO tidemill_writer;")).await;
    sunk.stack.set(PG_SINKER, "KAFKA__SESSION_TIMEOUT_MS", 6_000);
    sunk.stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 20);
    sunk.start(&settings(&["t"], "delete")).await;
    sunk.stack.start_replica(PG_SINKER, "second");
    sunk.stack.ready().await;
    for id in 1..=KEYS {
        put(&mut sunk, id, id, "old");
    }
    sunk.settled().await;
    // One of them gets two more tables, of which one does not exist; the other one goes on without.
    let made = settings(&["c"], "delete") + "create = true\ntypes = { id = \"bigint\" }\n";
    let three = settings(&["t", "b"], "delete") + &made;
    assert!(sunk.stack.process("second").terminate().await.success());
    sunk.stack.configure("second", &three);
    sunk.stack.start_replica(PG_SINKER, "second");
    let mut version = KEYS;
    let mut change = |sunk: &mut Sunk| {
        for _ in 0..100 {
            version += 1;
            match version % 5 {
                0 => sunk.delete(version, &format!("{{\"id\":{}}}", 1 + version * 7 % KEYS)),
                _ => put(sunk, version, 1 + version * 7 % KEYS, &format!("v{version}")),
            }
        }
        sunk.flush();
    };
    change(&mut sunk);
    sunk.stack.ready().await;
    change(&mut sunk);
    assert!(sunk.stack.process(PG_SINKER).terminate().await.success());
    change(&mut sunk);
    sunk.stack.configure(PG_SINKER, &three);
    sunk.stack.start(PG_SINKER);
    change(&mut sunk);
    sunk.stack.ready().await;
    change(&mut sunk);
    sunk.settled().await;
    let open = "SELECT count(*) FROM tidemill.backfills WHERE state = 'open'";
    let mut sink = sunk.stack.sink().await;
    until_equal("the tables are filled", 0, async || value::<i64>(&mut sink, open).await).await;
    let rows = |name: &str| format!("SELECT id, a, record_version FROM result.{name} ORDER BY id");
    let wanted = sunk.rows(&rows("t")).await;
    assert!(wanted.lines().count() > 100);
    assert_eq!(sunk.rows(&rows("b")).await, wanted);
    assert_eq!(sunk.rows(&rows("c")).await, wanted);
    let ended = sunk.rows("SELECT DISTINCT sink_table, kind, state FROM tidemill.backfills ORDER BY 1").await;
    assert_eq!(ended, "result.b|new|done\nresult.c|new|done");
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_table_that_lacks_rows_is_named_with_what_to_do() {
    let mut sunk = Sunk::new(&tables(&["t", "b"])).await;
    sunk.stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    sunk.start(&settings(&["t"], "delete")).await;
    for id in 1..=200 {
        put(&mut sunk, id, id, "old");
    }
    sunk.settled().await;
    sunk.stack.process(PG_SINKER).kill();
    let both = settings(&["t", "b"], "delete");
    sunk.start(&(both.clone() + "[backfill]\nrecords_per_s = 20\nchunk_records = 10\n")).await;
    until_last_job(&sunk.stack, PG_SINKER, "reads rows", |job| job["step"] == "rows" && job["rows"].as_u64() > Some(0))
        .await;
    let stopped = backfill(&mut sunk.stack, &["--table", "b", "--stop"]).await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.output);
    let cure = "pg-sinker backfill --table result.b";
    let checked = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(checked.code == Some(1) && checked.output.contains(cure), "{}", checked.output);
    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&both).await;
    let done = backfill(&mut sunk.stack, &["--table", "result.b", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.b").await, "200");
    let checked = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.output);
}

#[tokio::test]
async fn what_a_new_table_lacks_is_tried_until_it_is_there_and_others_come_before() {
    let mut sunk = Sunk::new(&tables(&["t", "b"])).await;
    sunk.stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    sunk.start(&settings(&["t"], "delete")).await;
    for id in 1..=20 {
        put(&mut sunk, id, id, "old");
    }
    sunk.put(1, "{\"id\":1000}", "no JSON");
    sunk.settled().await;
    sunk.letters(1).await;
    sunk.stack.process(PG_SINKER).kill();
    // What a look at the catalog could mend, but does not.
    sunk.run(
        "CREATE FUNCTION result.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.a = 'old' THEN RAISE EXCEPTION 'not yet' USING ERRCODE = '42P01'; END IF; RETURN new; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON result.b FOR EACH ROW EXECUTE FUNCTION result.refuse()",
    )
    .await;
    sunk.start(&(settings(&["t", "b"], "delete") + "[backfill]\nretry_first_ms = 20\nretry_longest_ms = 100\n")).await;
    let job = until_last_job(&sunk.stack, PG_SINKER, "is tried often", |job| job["tries"].as_u64() > Some(7)).await;
    assert!(job["state"] == "open" && job["failure"].as_str().unwrap().contains("not yet"), "{job}");
    let page = get(&sunk.stack, PG_SINKER, "/metrics").await.body;
    assert_eq!(metric(&page, "tidemill_backfill_failed", "table=\"result.b\""), Some(1.0));
    let checked = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(checked.code == Some(1) && checked.output.contains("result.b lacks"), "{}", checked.output);
    sunk.run("DELETE FROM result.t WHERE id < 10").await;
    let done = backfill(&mut sunk.stack, &["--table", "result.t", "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}", done.output);
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.t").await, "20");
    sunk.run("DROP TRIGGER refuse ON result.b").await;
    let open = "SELECT count(*) AS n FROM tidemill.backfills WHERE state = 'open'";
    until("the table is filled", async || match sunk.rows(open).await {
        open if open == "0" => Ok(()),
        open => Err(open),
    })
    .await;
    assert_eq!(sunk.rows(&ROWS.replace("result.t", "result.b")).await, sunk.rows(ROWS).await);
    // As it came, of the job that was tried so often, and of the one of the other table: once each.
    sunk.letters(3).await;
    until("the metric says that nothing rests", async || {
        let page = get(&sunk.stack, PG_SINKER, "/metrics").await.body;
        match metric(&page, "tidemill_backfill_failed", "table=\"result.b\"") {
            Some(0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn offsets_from_before_count_as_those_of_all_tables() {
    let mut sunk = Sunk::new(&tables(&["t", "b", "c"])).await;
    sunk.start(&settings(&["t"], "delete")).await;
    for id in 1..=20 {
        put(&mut sunk, id, id, "old");
    }
    sunk.settled().await;
    sunk.stack.process(PG_SINKER).kill();
    // The sink as an earlier version has it.
    sunk.run(
        "DROP TABLE tidemill.backfill_parts, tidemill.backfills; ALTER TABLE tidemill.sink_offsets DROP COLUMN tables",
    )
    .await;
    sunk.stack.configure(PG_SINKER, &settings(&["t", "b"], "delete"));
    let refused = sunk.stack.command(PG_SINKER, &[], &[]).await;
    assert!(refused.code != Some(0) && refused.output.contains("07_backfill.sql"), "{}", refused.output);
    sunk.run(include_str!("../../../postgres_sink/init/07_backfill.sql")).await;
    sunk.start(&settings(&["t", "b"], "delete")).await;
    put(&mut sunk, 30, 30, "new");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id FROM result.b").await, "30", "that it is new was never known");
    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&settings(&["t", "b", "c"], "delete")).await;
    let done = "SELECT sink_table, state FROM tidemill.backfills";
    until("the third one is filled", async || match sunk.rows(done).await {
        done if done == "result.c|done" => Ok(()),
        done => Err(done),
    })
    .await;
    assert_eq!(sunk.rows(&ROWS.replace("result.t", "result.c")).await, sunk.rows(ROWS).await);
}

#[tokio::test]
async fn what_cannot_be_read_again_is_refused_at_once() {
    let sunk = sunk("delete", "").await;
    let url = sunk.stack.url(PG_SINKER);
    let give = async |name: &str, token: Option<&str>, body: &Value| {
        let path = format!("/api/v1/{name}");
        let page = lab::page::post(&url, &path, token, &body.to_string()).await.unwrap().page;
        (page.status, page.body)
    };
    for (status, name, body) in [
        (404, "backfill", json!({ "table": "result.other" })),
        (404, "snapshot", json!({ "table": "result.t" })),
        (400, "backfill", json!({ "table": "result.t", "since": "yesterday" })),
        (400, "backfill", json!({ "table": "result.t", "from": ["x"] })),
        (400, "backfill", json!({ "table": "result.t", "from": [1, 2] })),
        (400, "backfill", json!({ "table": "result.t", "other": 1 })),
        (409, "backfill/stop", json!({ "table": "result.t" })),
    ] {
        let answer = give(name, Some(TOKEN), &body).await;
        assert_eq!(answer.0, status, "{name} {body}: {}", answer.1);
    }
    assert_eq!(give("backfill", None, &json!({ "table": "result.t" })).await.0, 401);
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM tidemill.backfills").await, "0");
}
