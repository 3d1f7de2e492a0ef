//! Faults of the sink: each row of the table in docs/operations.md, by the test that it names.

use crate::database::{run, value};
use crate::further_server::FurtherServer;
use crate::stack::{PG_SINKER, Stack};
use crate::sunk::Sunk;
use crate::until::{until, until_equal};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// Tables with a key, a version and these columns.
fn tables(names: &[&str], columns: &str) -> String {
    let table = |name: &&str| {
        format!(
            "CREATE TABLE result.{name} (id bigint PRIMARY KEY, {columns}, processed_time timestamp, source_commit_time timestamptz,
                record_version bytea NOT NULL);
             GRANT SELECT, INSERT, UPDATE ON result.{name} TO tidemill_writer;"
        )
    };
    names.iter().map(table).collect()
}

fn settings(names: &[&str]) -> String {
    names.iter().map(|name| format!("[tables.{name}]\ntable = \"result.{name}\"\nkey = \"id\"\n")).collect()
}

fn put(sunk: &mut Sunk, version: u64, id: u64, fields: &str) {
    sunk.put(version, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id}{fields}}}"));
}

/// Waits until pg-sinker waits for somebody's lock.
async fn until_locked(sunk: &Sunk) {
    let mut sink = sunk.stack.sink().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg-sinker' AND wait_event_type = 'Lock'";
    until("pg-sinker waits for a lock", async || match value::<i64>(&mut sink, waits).await {
        0 => Err("it does not".to_owned()),
        _ => Ok(()),
    })
    .await;
}

fn assert_said(sunk: &mut Sunk, words: &str) {
    let log = sunk.stack.process(PG_SINKER).log_text();
    assert!(log.contains(words), "{words:?} is not in {log}");
}

#[test]
fn every_row_of_the_table_names_its_test() {
    let table = OPERATIONS.split("### Faults of the sink").nth(1).unwrap().split("\n\n").nth(2).unwrap();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    let tests = [include_str!("sink_faults.rs"), include_str!("sink_topics.rs")];
    assert!(rows.len() >= 10, "{table}");
    for row in rows {
        let test = row.rsplit('`').nth(1).unwrap();
        assert!(tests.iter().any(|file| file.contains(&format!("async fn {test}()"))), "{row}");
    }
}

#[tokio::test]
async fn bad_rows_are_set_aside_alone() {
    let checks = "n smallint UNIQUE CHECK (n > 0), s varchar(3), must text NOT NULL, other int REFERENCES result.others DEFERRABLE INITIALLY DEFERRED, d jsonb";
    let raises = "CREATE FUNCTION result.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.s = '!' THEN RAISE EXCEPTION 'not with me'; END IF; RETURN new; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON result.t FOR EACH ROW EXECUTE FUNCTION result.refuse();";
    let others = "CREATE TABLE result.others (id int PRIMARY KEY); INSERT INTO result.others VALUES (1);";
    let taken = "INSERT INTO result.t (id, n, must, record_version) VALUES (0, 500, '', '');";
    let mut sunk = Sunk::new(&format!("{others} {} {raises} {taken}", tables(&["t"], checks))).await;
    let bad = [
        (",\"n\":500,\"must\":\"\"", "refused_by_the_table", "duplicate key"),
        (",\"n\":-1,\"must\":\"\"", "refused_by_the_table", "check constraint"),
        ("", "missing_value", "not-null constraint"),
        (",\"must\":\"\",\"other\":7", "refused_by_the_table", "foreign key constraint"),
        (",\"must\":\"\",\"s\":\"!\"", "refused_by_the_table", "not with me"),
        (",\"must\":\"\",\"n\":\"many\"", "invalid_value", "invalid input syntax"),
        (",\"must\":\"\",\"n\":40000", "invalid_value", "out of range"),
        (",\"must\":\"\",\"s\":\"long\"", "invalid_value", "too long"),
        (",\"must\":\"\",\"d\":\"\\u0000\"", "invalid_value", "unsupported Unicode escape"),
    ];
    // All of them in one batch, each between good ones.
    for id in 1..=40_u64 {
        let at = usize::try_from(id).unwrap();
        match bad.get(at / 4).filter(|_| at % 4 == 3) {
            Some((fields, ..)) => put(&mut sunk, 1, id, fields),
            None => put(&mut sunk, 1, id, &format!(",\"n\":{id},\"must\":\"\",\"other\":1")),
        }
    }
    sunk.start(&settings(&["t"])).await;
    sunk.settled().await;
    let good = 40 - bad.len();
    assert_eq!(
        sunk.rows("SELECT count(*) AS n, count(other) AS o FROM result.t WHERE id > 0").await,
        format!("{good}|{good}")
    );
    let letters = sunk.letters(bad.len()).await;
    for (_, reason, words) in bad {
        let is_it = |(found, detail): &&(String, String)| found == reason && detail.contains(words);
        assert_eq!(letters.iter().filter(is_it).count(), 1, "{reason} {words}: {letters:#?}");
    }
}

#[tokio::test]
async fn the_victim_of_a_deadlock_tries_again() {
    let mut sunk = Sunk::new(&tables(&["a", "b"], "n int")).await;
    // The sink looks for a deadlock, and finds itself in it.
    let database = sunk.stack.places.sink.database.clone();
    sunk.run(&format!("ALTER DATABASE {database} SET deadlock_timeout = '2s'")).await;
    sunk.start(&format!("{}[writer]\nlock_timeout_ms = 30000\n", settings(&["a", "b"]))).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    let mut user = sunk.stack.sink().await;
    run(&mut user, "SET deadlock_timeout = '1h'; BEGIN; UPDATE result.b SET n = 0 WHERE id = 1").await;
    put(&mut sunk, 2, 1, ",\"n\":2");
    until_locked(&sunk).await;
    run(&mut user, "UPDATE result.a SET n = 0 WHERE id = 1; COMMIT").await;
    sunk.settled().await;
    let both = "SELECT a.n AS a, b.n AS b FROM result.a JOIN result.b USING (id)";
    assert_eq!(sunk.rows(both).await, "2|2");
    assert_said(&mut sunk, "deadlock detected");
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_serialisation_failure_is_tried_again() {
    let mut sunk = Sunk::new(&tables(&["t"], "n int")).await;
    let database = sunk.stack.places.sink.database.clone();
    sunk.run(&format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'")).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    let mut user = sunk.stack.sink().await;
    run(&mut user, "BEGIN; UPDATE result.t SET n = 0 WHERE id = 1").await;
    put(&mut sunk, 2, 1, ",\"n\":2");
    until_locked(&sunk).await;
    run(&mut user, "COMMIT").await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n FROM result.t").await, "2");
    assert_said(&mut sunk, "could not serialize access");
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_users_lock_is_waited_for_and_nobody_behind_it() {
    let mut sunk = Sunk::new(&tables(&["a", "b"], "n int")).await;
    sunk.start(&format!("{}[writer]\nlock_timeout_ms = 200\n", settings(&["a", "b"]))).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    let mut user = sunk.stack.sink().await;
    run(&mut user, "BEGIN; LOCK TABLE result.b IN ACCESS EXCLUSIVE MODE").await;
    put(&mut sunk, 2, 1, ",\"n\":2");
    sunk.until_waits("lock timeout").await;
    // The sink has locked the row of the other table in each of its tries, and lets it go with them.
    for n in 0..5 {
        sunk.run(&format!("UPDATE result.a SET n = {n} WHERE id = 1")).await;
    }
    run(&mut user, "COMMIT").await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT a.n AS a, b.n AS b FROM result.a JOIN result.b USING (id)").await, "2|2");
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_read_only_server_is_waited_for() {
    let mut sunk = Sunk::new(&tables(&["t"], "n int")).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    let database = sunk.stack.places.sink.database.clone();
    let mut user = sunk.stack.sink().await;
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'tidemill_writer'";
    run(&mut user, &format!("ALTER DATABASE {database} SET default_transaction_read_only = on; {end_sessions}")).await;
    put(&mut sunk, 2, 1, ",\"n\":2");
    sunk.until_waits("read-only transaction").await;
    run(&mut user, &format!("ALTER DATABASE {database} RESET default_transaction_read_only")).await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n FROM result.t").await, "2");
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

/// A sink on a server of its own.
async fn on_a_further_server(settings: &[&str]) -> (Sunk, FurtherServer) {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, settings);
    server.become_sink(&mut stack).await;
    (Sunk::of(stack, &tables(&["t"], "n int")).await, server)
}

#[tokio::test]
async fn a_standby_is_waited_for_until_it_is_promoted() {
    let (mut sunk, server) = on_a_further_server(&["wal_level=replica"]).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    server.stop();
    server.turn_into_standby("sink");
    server.start_again();
    put(&mut sunk, 2, 1, ",\"n\":2");
    sunk.until_waits("read-only transaction").await;
    let mut standby = sunk.stack.sink().await;
    until_equal("it is promoted", true, async || value(&mut standby, "SELECT pg_promote()").await).await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n FROM result.t").await, "2");
    sunk.stack.ready().await;
}

#[tokio::test]
async fn a_commit_that_takes_too_long_is_known_when_it_is_answered() {
    let (mut sunk, server) = on_a_further_server(&[]).await;
    sunk.stack.set(PG_SINKER, "WRITER__TRANSACTION_TIMEOUT_MS", 500);
    sunk.stack.set(PG_SINKER, "WRITER__LOCK_TIMEOUT_MS", 200);
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    // All but the answer to COMMIT is as quick as ever, as on a disk that does not come to its end.
    server.commits_wait_for_standby("nobody").await;
    for id in 2..=40 {
        put(&mut sunk, 1, id, ",\"n\":1");
    }
    sunk.until_waits("did not take the rows within 500 ms").await;
    server.commits_wait_for_none().await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT count(*) AS rows FROM result.t").await, "40");
    sunk.stack.ready().await;
    let log = sunk.stack.process(PG_SINKER).log_text();
    assert!(!log.contains("the chain starts again"), "it was no other writer: {log}");
    sunk.letters(0).await;
}

#[tokio::test]
async fn an_older_sink_is_written_again_from_its_own_offsets() {
    let (mut sunk, server) = on_a_further_server(&[]).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.settled().await;
    server.stop();
    server.save("before");
    server.start_again();
    for id in 1..=20 {
        put(&mut sunk, 2, id, ",\"n\":2");
    }
    sunk.settled().await;
    // A failover to a standby that had not heard of them, while pg-sinker runs.
    server.stop();
    server.restore("before");
    server.start_again();
    put(&mut sunk, 3, 21, ",\"n\":3");
    until("all rows are there again", async || {
        match sunk.rows("SELECT count(*) AS rows, sum(n) AS sum FROM result.t").await.as_str() {
            "21|43" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_waited_for() {
    let (mut sunk, server) = on_a_further_server(&[]).await;
    sunk.stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 5);
    sunk.start(&settings(&["t"])).await;
    for round in 1..=3 {
        for id in 1..=200 {
            put(&mut sunk, round, id, &format!(",\"n\":{round}"));
            if id == 100 {
                // In the midst of transactions, and of COMMITs whose answer never comes.
                server.kill();
            }
        }
        sunk.until_waits("PostgreSQL").await;
        server.start_again();
        sunk.settled().await;
        let rows = sunk.rows("SELECT count(*) AS rows, min(n) AS first, max(n) AS last FROM result.t").await;
        assert_eq!(rows, format!("200|{round}|{round}"));
    }
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

/// A table whose rows take a while each, as on a slow disk.
const SLOW: &str = "CREATE FUNCTION result.slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN new; END $$;
    CREATE TRIGGER slowly BEFORE INSERT ON result.t FOR EACH ROW EXECUTE FUNCTION result.slowly();";

#[tokio::test]
async fn a_slow_server_gets_smaller_transactions() {
    let mut sunk = Sunk::new(&(tables(&["t"], "n int") + SLOW)).await;
    for id in 1..=16 {
        put(&mut sunk, 1, id, ",\"n\":1");
    }
    // All of it takes three seconds, and may take one.
    sunk.start(&format!("{}[writer]\ntransaction_timeout_ms = 1000\n", settings(&["t"]))).await;
    sunk.settled().await;
    assert_eq!(
        sunk.rows("SELECT count(*) AS rows, count(DISTINCT xmin::text) > 1 AS in_parts FROM result.t").await,
        "16|true"
    );
    assert_said(&mut sunk, "did not take the rows within 1000 ms");
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_full_server_is_waited_for() {
    let full = "CREATE TABLE result.full_disk (); GRANT SELECT ON result.full_disk TO tidemill_writer;
        CREATE FUNCTION result.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF to_regclass('result.full_disk') IS NOT NULL THEN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END IF;
            RETURN new; END $$;
        CREATE TRIGGER is_full BEFORE INSERT ON result.t FOR EACH ROW EXECUTE FUNCTION result.full();";
    let mut sunk = Sunk::new(&(tables(&["t"], "n int") + full)).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1");
    sunk.until_waits("no space left on device").await;
    sunk.run("DROP TABLE result.full_disk").await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n FROM result.t").await, "1");
    sunk.stack.ready().await;
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_table_that_was_changed_is_looked_at_anew() {
    let mut sunk = Sunk::new(&tables(&["t"], "n int, m int")).await;
    sunk.start(&settings(&["t"])).await;
    put(&mut sunk, 1, 1, ",\"n\":1,\"m\":1");
    sunk.settled().await;
    sunk.run("ALTER TABLE result.t DROP COLUMN m; ALTER TABLE result.t ADD COLUMN o int; ALTER TABLE result.t ALTER COLUMN n TYPE text").await;
    put(&mut sunk, 2, 1, ",\"n\":2,\"m\":2,\"o\":2");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n, o FROM result.t").await, "2|2");

    sunk.run("ALTER TABLE result.t RENAME TO elsewhere").await;
    put(&mut sunk, 3, 1, ",\"n\":3");
    let status = sunk.stack.process(PG_SINKER).ended().await;
    assert_eq!(status.code(), Some(1));
    assert_said(&mut sunk, "table result.t does not exist in the sink");
    sunk.run("ALTER TABLE result.elsewhere RENAME TO t").await;
    sunk.stack.process(PG_SINKER).restart();
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT n FROM result.t").await, "3");
    sunk.letters(0).await;
}
