//! Tables that are made from the first record, and columns that come when the topic brings new ones.

use shared::kafka::partitioner::partition;

use crate::database::run;
use crate::refused_settings::assert_refused;
use crate::service_page::{owned_partitions, state};
use crate::stack::PG_SINKER;
use crate::sunk::{PARTITIONS, Sunk};
use crate::until::{until, until_equal};

const MAY_CREATE: &str = "GRANT CREATE ON SCHEMA result TO tidemill_writer";
/// A table of the writer's own, with one column beside the key.
const OWNED: &str =
    "CREATE TABLE result.t (id bigint PRIMARY KEY, a int, processed_time timestamp, source_commit_time timestamptz,
        record_version bytea NOT NULL);
    ALTER TABLE result.t OWNER TO tidemill_writer;";
const COLUMNS: &str = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS c
    FROM pg_attribute WHERE attrelid = 'result.t'::regclass AND attnum > 0 AND attname NOT IN ('processed_time', 'source_commit_time', 'record_version')";

fn table(further: &str) -> String {
    format!("[tables.t]\ntable = \"result.t\"\nkey = \"id\"\n{further}\n")
}

fn put(sunk: &mut Sunk, version: u64, id: u64, fields: &str) {
    sunk.put(version, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id}{fields}}}"));
}

#[tokio::test]
async fn a_table_is_made_from_the_first_record() {
    let mut sunk = Sunk::new(MAY_CREATE).await;
    let settings = table(
        "create = true\non_tombstone = \"soft\"\nleave_out = \"phone\"\ntypes = { id = \"bigint\", at = \"timestamp(3)\" }",
    );
    sunk.start(&settings).await;
    // What has no key makes no table, and does not vanish.
    sunk.put(1, "{\"id\":0}", "{\"other\":1}");
    sunk.delete(2, "{\"id\":9}");
    sunk.settled().await;
    assert_eq!(sunk.letters(1).await[0].0, "missing_key_column");
    put(
        &mut sunk,
        3,
        1,
        r#","n":-12345678901234567890.10,"s":"订单","b":true,"o":{"x":1.0},"at":"2025-07-11 17:25:55.143","z":null,"phone":"1""#,
    );
    sunk.settled().await;
    put(&mut sunk, 4, 2, r#","n":1e3,"s":"x","b":null,"o":"text","at":null,"z":"late","new":1"#);
    sunk.settled().await;
    sunk.delete(5, "{\"id\":1}");
    sunk.settled().await;
    let columns = "id bigint, n numeric, s text, b boolean, o jsonb, at timestamp(3) without time zone, z text, deleted_at timestamp with time zone";
    assert_eq!(sunk.rows(COLUMNS).await, columns);
    let rows = "SELECT id, n::text AS n, s, b::text AS b, o::text AS o, at, z, deleted_at IS NULL AS there FROM result.t ORDER BY id";
    let wanted = "1|-12345678901234567890.10|订单|true|{\"x\": 1.0}|2025-07-11T17:25:55.143|NULL|false\n2|1000|x|NULL|\"text\"|NULL|late|true";
    assert_eq!(sunk.rows(rows).await, wanted);
    until_equal("columns that are shown", 7.into(), async || {
        state(&sunk.stack, PG_SINKER).await["details"]["tables"][0]["columns"].clone()
    })
    .await;
    // The next start finds it as any other.
    sunk.stack.process(PG_SINKER).kill();
    sunk.start(&settings).await;
    put(&mut sunk, 6, 1, ",\"s\":\"again\"");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT s, deleted_at FROM result.t WHERE id = 1").await, "again|NULL");
    sunk.letters(1).await;
}

#[tokio::test]
async fn two_instances_add_what_the_topic_brings_and_lose_no_value() {
    let mut sunk = Sunk::new(OWNED).await;
    let settings = table("evolve = \"add\"\nleave_out = \"phone\"");
    sunk.stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 7);
    sunk.start(&settings).await;
    sunk.stack.start_replica(PG_SINKER, "second");
    sunk.stack.ready().await;
    for id in 1..=20 {
        put(&mut sunk, 1, id, &format!(",\"a\":{id},\"b\":null"));
    }
    sunk.settled().await;
    assert_eq!(sunk.rows(COLUMNS).await, "id bigint, a integer", "of a null nothing is known");
    // Many records at a time, in all partitions: both instances want the same columns at once.
    for id in 1..=400 {
        put(&mut sunk, 2, id, &format!(",\"b\":\"b{id}\",\"phone\":\"1\",\"c{}\":{id}", id % 5));
    }
    sunk.settled().await;
    let sums = "SELECT count(b) AS b, count(DISTINCT b) AS d, (sum(c0) + sum(c1) + sum(c2) + sum(c3) + sum(c4))::text AS c, count(*) AS n FROM result.t";
    assert_eq!(sunk.rows(sums).await, "400|400|80200|400");
    let phone = "SELECT count(*) AS n FROM pg_attribute WHERE attrelid = 'result.t'::regclass AND attname = 'phone'";
    assert_eq!(sunk.rows(phone).await, "0");
    sunk.letters(0).await;
    let restarts: usize = [PG_SINKER, "second"]
        .iter()
        .map(|&instance| sunk.stack.process(instance).log_text().matches("starts again").count())
        .sum();
    assert_eq!(restarts, 0, "a column is no reason to begin anew");
}

/// Two instances, of which the second one's partitions have no record: it never sees what the first makes for this row, and takes over.
async fn taken_over(statements: &str, settings: &str) -> (Sunk, u64) {
    let mut sunk = Sunk::new(statements).await;
    sunk.stack.set(PG_SINKER, "KAFKA__SESSION_TIMEOUT_MS", 6_000);
    sunk.start(settings).await;
    sunk.stack.start_replica(PG_SINKER, "second");
    sunk.stack.ready().await;
    until("each instance has its share", async || {
        let (first, second) = (state(&sunk.stack, PG_SINKER).await, state(&sunk.stack, "second").await);
        match (owned_partitions(&first), owned_partitions(&second)) {
            (2, 2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let shown = state(&sunk.stack, PG_SINKER).await;
    let partitions = shown["details"]["input"]["partitions"].as_array().unwrap();
    let owned: Vec<i64> = partitions.iter().filter_map(|partition| partition["partition"].as_i64()).collect();
    let is_owned = |id: &u64| owned.contains(&partition(format!("{{\"id\":{id}}}").as_bytes(), PARTITIONS).into());
    let id = (1..).find(is_owned).unwrap();
    put(&mut sunk, 1, id, ",\"x\":1");
    sunk.settled().await;
    sunk.stack.process(PG_SINKER).kill();
    (sunk, id)
}

fn assert_never_began_anew(sunk: &mut Sunk) {
    assert_eq!(sunk.stack.process("second").log_text().matches("starts again").count(), 0);
}

#[tokio::test]
async fn a_null_finds_the_column_that_another_instance_added() {
    let (mut sunk, id) = taken_over(OWNED, &table("evolve = \"add\"")).await;
    put(&mut sunk, 2, id, ",\"x\":null");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, x FROM result.t").await, format!("{id}|NULL"));
    assert_never_began_anew(&mut sunk);
}

#[tokio::test]
async fn a_deletion_finds_the_table_that_another_instance_made() {
    let settings = table("create = true\non_tombstone = \"delete\"");
    let (mut sunk, id) = taken_over(MAY_CREATE, &settings).await;
    sunk.delete(2, &format!("{{\"id\":{id}}}"));
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id FROM result.t").await, "");
    assert_never_began_anew(&mut sunk);
}

#[tokio::test]
async fn a_reader_of_the_table_is_waited_for_and_holds_up_no_other_reader() {
    let mut sunk = Sunk::new(OWNED).await;
    sunk.start(&format!("{}[writer]\nevolve_lock_timeout_ms = 50\n", table("evolve = \"add\""))).await;
    let mut reader = sunk.stack.sink().await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM result.t").await;
    put(&mut sunk, 1, 1, ",\"b\":\"not lost\"");
    sunk.until_waits("lock timeout").await;
    assert_eq!(sunk.rows("SELECT count(*) AS n FROM result.t").await, "0", "another reader comes through");
    run(&mut reader, "COMMIT").await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, b FROM result.t").await, "1|not lost");
}

#[tokio::test]
async fn what_can_get_no_column_is_set_aside() {
    let mut sunk = Sunk::new(OWNED).await;
    sunk.start(&format!("{}[writer]\nevolve_columns_max = 8\n", table("evolve = \"add\""))).await;
    put(&mut sunk, 1, 1, ",\"ctid\":1");
    put(&mut sunk, 1, 2, ",\"x\":\"first\"");
    put(&mut sunk, 1, 3, ",\"ctid\":null,\"x\":\"second\"");
    sunk.settled().await;
    put(&mut sunk, 1, 4, ",\"y\":1,\"z\":1");
    put(&mut sunk, 1, 5, ",\"x\":\"third\",\"processed_time\":\"2001-01-01\",\"source_commit_time\":\"now\"");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, x FROM result.t ORDER BY id").await, "2|first\n3|second\n5|third");
    let letters = sunk.letters(2).await;
    assert!(letters.iter().all(|(reason, _)| reason == "no_column"), "{letters:?}");
    assert!(letters[0].1.contains("\"ctid\"") && letters[1].1.contains("result.t gets no column for"), "{letters:?}");
}

#[tokio::test]
async fn what_may_not_be_made_is_refused_before_the_first_row() {
    let mut sunk = Sunk::new("").await;
    let refused = async |sunk: &mut Sunk, settings: &str, words: &[&str]| {
        sunk.stack.configure(PG_SINKER, settings);
        for arguments in [&[][..], &["check"]] {
            assert_refused(&sunk.stack.command(PG_SINKER, arguments, &[]).await, words);
        }
    };
    let created = table("create = true");
    refused(&mut sunk, &table(""), &["result.t does not exist", "create = true"]).await;
    let grant = r#"CREATE SCHEMA IF NOT EXISTS "result"; GRANT USAGE, CREATE ON SCHEMA "result" TO "tidemill_writer""#;
    refused(&mut sunk, &created, &["cannot make result.t", grant]).await;
    sunk.run(grant).await;
    refused(&mut sunk, &table("create = true\ntypes = { a = \"intt\" }"), &["no type intt"]).await;
    let rollup = "[rollups.r]\ntable = \"dws.r\"\nof = \"result.t\"\ncount = \"n\"\n";
    refused(&mut sunk, &format!("{created}{rollup}"), &["dws.r is kept over result.t, which is made from the first"])
        .await;
    sunk.stack.configure(PG_SINKER, &created);
    let check = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(check.code == Some(0) && check.output.contains("result.t will be made"), "{}", check.output);

    sunk.run(&OWNED.replace("ALTER TABLE result.t OWNER TO", "GRANT SELECT, INSERT, UPDATE ON result.t TO")).await;
    let owner = r#"ALTER TABLE "result"."t" OWNER TO "tidemill_writer""#;
    refused(&mut sunk, &table("evolve = \"add\""), &["does not own result.t", owner]).await;
    sunk.run(owner).await;
    let mended = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.output);
}

#[tokio::test]
async fn roll_ups_over_a_table_that_gets_columns_stay_right() {
    let mut sunk = Sunk::new("ALTER TABLE result.orders_latest OWNER TO tidemill_writer").await;
    let latest = "[tables.latest]\ntable = \"result.orders_latest\"\nkey = \"order_id\"\non_tombstone = \"delete\"\n";
    sunk.start(&format!("{latest}evolve = \"add\"\ntypes = {{ weight = \"numeric(10,3)\" }}\n")).await;
    let order = |id: u64, amount: u64, further: &str| {
        format!(
            "{{\"order_id\":{id},\"user_id\":{},\"city\":\"北京\",\"order_status\":\"PAID\",\"order_time\":\"2025-07-11 17:25:55.143\",\"total_amount\":{amount}.50{further}}}",
            id % 3
        )
    };
    for id in 1..=20 {
        sunk.put(1, &format!("{{\"order_id\":{id}}}"), &order(id, id, ""));
    }
    sunk.settled().await;
    for id in 1..=10 {
        sunk.put(2, &format!("{{\"order_id\":{id}}}"), &order(id, 100 + id, ",\"weight\":1.250,\"note\":\"x\""));
    }
    sunk.delete(2, "{\"order_id\":20}");
    sunk.settled().await;
    let rows = "SELECT count(*) AS orders, sum(total_amount)::text AS amount, count(DISTINCT user_id) AS users FROM result.orders_latest";
    let sums =
        "SELECT sum(orders)::bigint AS orders, sum(amount)::text AS amount, max(users) AS users FROM dws.orders_by_day";
    let found = sunk.rows(rows).await;
    assert!(found.starts_with("19|") && sunk.rows(sums).await == found, "{found}");
    let new = "SELECT count(*) AS n, sum(weight)::text AS w, min(note) AS note FROM result.orders_latest WHERE weight IS NOT NULL";
    assert_eq!(sunk.rows(new).await, "10|12.500|x");
    sunk.letters(0).await;
}
