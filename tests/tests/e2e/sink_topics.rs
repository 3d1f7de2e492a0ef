//! Any topic of the pipeline goes into any table, beside the results, and what holds up one holds up no other.

use lab::page;
use serde_json::Value;

use crate::backfilled::{backfill, until_last_job};
use crate::busy::new_change_comes_through;
use crate::cleaning::{TOKEN, config};
use crate::database::{run, value};
use crate::foreign_records::until_letters;
use crate::refused_settings::assert_refused;
use crate::rolled_up::assert_equal;
use crate::service_page::state;
use crate::stack::{PG_SINKER, Stack};
use crate::until::{until, until_equal};

/// Users as they are at the source, without their phones, and the cleaned orders.
const TABLES: &str =
    "CREATE TABLE result.users (user_id bigint PRIMARY KEY, username text NOT NULL, phone text, city text,
        processed_time timestamp, source_commit_time timestamptz, record_version bytea NOT NULL);
    CREATE TABLE result.cleaned (order_id bigint PRIMARY KEY, order_status text, product_category_normalized text,
        processed_time timestamp, source_commit_time timestamptz, record_version bytea NOT NULL);
    GRANT SELECT, INSERT, UPDATE, DELETE ON result.users, result.cleaned TO tidemill_writer;";

/// The default tables, and these two.
fn settings(stack: &Stack) -> String {
    let tables = format!(
        "\n[tables.users]\ntable = \"result.users\"\ntopic = \"{}\"\nkey = \"user_id\"\non_tombstone = \"delete\"\nleave_out = \"phone\"\n
         [tables.cleaned]\ntable = \"result.cleaned\"\ntopic = \"{}\"\nkey = \"order_id\"\non_tombstone = \"delete\"\n\n[fill]",
        stack.users_topic(),
        stack.places.names.dwd_topic
    );
    config("pg-sinker.toml").replace("\n[fill]", &tables)
}

async fn prepared() -> Stack {
    let mut stack = Stack::new().await;
    run(&mut stack.sink().await, TABLES).await;
    let text = settings(&stack);
    stack.configure(PG_SINKER, &text);
    stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    stack
}

const USERS: &str = "SELECT string_agg(concat_ws('|', user_id, username, coalesce(phone, '-'), city), ',' ORDER BY user_id) FROM result.users";

async fn until_users(stack: &Stack, wanted: &str) {
    let mut sink = stack.sink().await;
    until_equal("the users", Some(wanted.to_owned()), async || value::<Option<String>>(&mut sink, USERS).await).await;
}

#[tokio::test]
async fn further_topics_are_written_by_name_without_what_is_left_out() {
    let mut stack = prepared().await;
    stack.start_all().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|广州,1004|赵六|-|深圳,1005|钱七|-|杭州").await;
    run(
        &mut source,
        "UPDATE business.users SET city = '成都', phone = '1' WHERE user_id = 1001;
         DELETE FROM business.users WHERE user_id IN (1002, 1005);
         DELETE FROM business.orders WHERE order_id = 2005",
    )
    .await;
    until_users(&stack, "1001|张三|-|成都,1003|王五|-|广州,1004|赵六|-|深圳").await;
    let cleaned = "SELECT string_agg(concat_ws('|', order_id, order_status, product_category_normalized), ',' ORDER BY order_id) FROM result.cleaned";
    let wanted = "2001|COMPLETED|ELECTRONICS,2002|SHIPPED|ELECTRONICS,2003|PENDING|CLOTHING,2004|COMPLETED|ELECTRONICS";
    until_equal("the cleaned orders", wanted.to_owned(), async || value(&mut sink, cleaned).await).await;
    new_change_comes_through(&stack).await;

    // Each topic goes on where its own rows have come to.
    for topic in [stack.users_topic(), stack.places.names.dwd_topic.clone()] {
        until_equal("the partitions of a further topic that are shown", Some(4), async || {
            let shown = state(&stack, PG_SINKER).await;
            shown["details"]["further"][&topic]["input"]["partitions"].as_array().map(Vec::len)
        })
        .await;
    }
    let status = stack.process(PG_SINKER).terminate().await;
    let log = stack.process(PG_SINKER).log_text();
    assert!(status.code() == Some(0) && !log.contains("not drained within"), "{log}");
    run(&mut source, "UPDATE business.users SET city = '西安' WHERE user_id = 1003").await;
    stack.process(PG_SINKER).restart();
    until_users(&stack, "1001|张三|-|成都,1003|王五|-|西安,1004|赵六|-|深圳").await;
    let log = stack.process(PG_SINKER).log_text();
    let starts = log.split("asked to stop").map(|of_start| from_the_beginning(of_start, &stack.users_topic()));
    let starts: Vec<usize> = starts.collect();
    assert!(starts.len() == 2 && starts[1] == 0, "{starts:?}: {log}");
}

/// Partitions with records that were taken over from their beginning.
fn from_the_beginning(log: &str, topic: &str) -> usize {
    let of_topic = log.lines().filter(|line| line.contains(&format!("topic=\"{topic}\" partition=")));
    of_topic.filter(|line| line.contains(" offset=0 ") && !line.contains(" end=0")).count()
}

#[tokio::test]
async fn a_locked_table_holds_up_no_other_topic() {
    let mut stack = prepared().await;
    stack.start_all().await;
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|广州,1004|赵六|-|深圳,1005|钱七|-|杭州").await;
    let mut user = stack.sink().await;
    run(&mut user, "BEGIN; LOCK TABLE result.users IN ACCESS EXCLUSIVE MODE").await;
    run(&mut stack.source().await, "DELETE FROM business.users WHERE user_id = 1005").await;
    let mut sink = stack.sink().await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("the users wait", async || match value::<i64>(&mut sink, waits).await {
        0 => Err("nobody waits".to_owned()),
        _ => Ok(()),
    })
    .await;
    for _ in 0..3 {
        new_change_comes_through(&stack).await;
    }
    run(&mut user, "COMMIT").await;
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|广州,1004|赵六|-|深圳").await;
}

/// Waits until pg-sinker says that a topic rests because of this.
async fn until_rests(stack: &Stack, topic: &str, why: &str) {
    until(&format!("{topic} rests"), async || {
        let shown = page::get(&stack.url(PG_SINKER), "/api/v1/state").await.map_err(|failure| failure.chain())?;
        let shown: Value = serde_json::from_str(&shown.body).map_err(|error| error.to_string())?;
        let waiting_for = shown["waiting_for"].to_string();
        let rests = waiting_for.contains(&format!("the tables of topic {topic}")) && waiting_for.contains(why);
        if rests { Ok(()) } else { Err(waiting_for) }
    })
    .await;
}

#[tokio::test]
async fn a_table_that_is_gone_holds_up_no_other_topic() {
    let mut stack = prepared().await;
    stack.start_all().await;
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|广州,1004|赵六|-|深圳,1005|钱七|-|杭州").await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    run(&mut sink, "ALTER TABLE result.users RENAME TO elsewhere").await;
    run(&mut source, "DELETE FROM business.users WHERE user_id = 1005").await;
    let gone = "table result.users does not exist in the sink";
    until_rests(&stack, &stack.users_topic(), gone).await;
    new_change_comes_through(&stack).await;
    run(&mut sink, "DELETE FROM result.cleaned WHERE order_id = 2001").await;
    let taken = backfill(&mut stack, &["--table", "result.cleaned"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.output);
    until_last_job(&stack, PG_SINKER, "is done", |job| job["state"] == "done").await;
    let back = "SELECT count(*) FROM result.cleaned WHERE order_id = 2001";
    assert_eq!(value::<i64>(&mut sink, back).await, 1);
    // Nor does it where the process begins so.
    stack.process(PG_SINKER).kill();
    stack.process(PG_SINKER).restart();
    until_rests(&stack, &stack.users_topic(), gone).await;
    new_change_comes_through(&stack).await;
    run(&mut sink, "ALTER TABLE result.elsewhere RENAME TO users; REVOKE DELETE ON result.users FROM tidemill_writer")
        .await;
    until_rests(&stack, &stack.users_topic(), "GRANT DELETE").await;
    new_change_comes_through(&stack).await;
    run(&mut sink, "GRANT DELETE ON result.users TO tidemill_writer").await;
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|广州,1004|赵六|-|深圳").await;
    stack.ready_alone(PG_SINKER).await;
    // Where all rest there is nothing to stay for.
    run(
        &mut sink,
        "REVOKE INSERT ON result.users, result.cleaned, result.orders_latest, result.orders_with_user_info FROM tidemill_writer",
    )
    .await;
    stack.process(PG_SINKER).kill();
    stack.process(PG_SINKER).restart();
    let status = stack.process(PG_SINKER).ended().await;
    let log = stack.process(PG_SINKER).log_text();
    assert!(status.code() == Some(1) && log.contains("GRANT INSERT"), "{status}: {log}");
}

#[tokio::test]
async fn a_roll_up_that_refuses_is_waited_for_and_holds_up_no_other_topic() {
    let mut stack = prepared().await;
    stack.set(PG_SINKER, "RESTART__STABLE_AFTER_MS", 500);
    stack.start_all().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until(
        "the roll-ups are complete",
        async || {
            if assert_equal(&mut sink).await { Ok(()) } else { Err("not yet".to_owned()) }
        },
    )
    .await;
    run(&mut sink, "ALTER TABLE dws.orders_by_hour ADD CONSTRAINT of_my_own CHECK (orders < 0) NOT VALID").await;
    run(
        &mut source,
        "INSERT INTO business.orders (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status)
         VALUES (9001, 1001, 'iPhone 15', '电子产品', 1, 5999.00, 5999.00, 'PENDING')",
    )
    .await;
    until_rests(&stack, &stack.places.names.result_topic, "of_my_own").await;
    run(&mut source, "UPDATE business.users SET city = '西安' WHERE user_id = 1003").await;
    until_users(&stack, "1001|张三|-|北京,1002|李四|-|上海,1003|王五|-|西安,1004|赵六|-|深圳,1005|钱七|-|杭州").await;
    let written = "SELECT (SELECT count(*) FROM result.orders_latest WHERE order_id = 9001) + (SELECT count(*) FROM result.orders_with_user_info WHERE order_id = 9001)";
    assert_eq!(value::<i64>(&mut sink, written).await, 0, "what the roll-up refuses is in no table");
    run(&mut sink, "ALTER TABLE dws.orders_by_hour DROP CONSTRAINT of_my_own").await;
    until_equal("both tables have the order", 2, async || value::<i64>(&mut sink, written).await).await;
    assert!(assert_equal(&mut sink).await);
    assert!(until_letters(&stack, PG_SINKER, 0).await.is_empty(), "no record is at fault");
}

#[tokio::test]
async fn what_a_further_topic_lacks_is_said_before_the_first_row() {
    let mut stack = Stack::started().await;
    stack.process(PG_SINKER).kill();
    let mut sink = stack.sink().await;
    run(&mut sink, TABLES).await;
    let text = settings(&stack);
    stack.configure(PG_SINKER, &text.replace(&stack.users_topic(), "no_such_topic"));
    let ended = stack.command(PG_SINKER, &["check"], &[]).await;
    assert_refused(&ended, &["topic `no_such_topic` does not exist yet"]);
    stack.configure(PG_SINKER, &text);
    run(&mut sink, "ALTER TABLE result.users ALTER COLUMN phone SET NOT NULL; REVOKE INSERT ON result.cleaned FROM tidemill_writer").await;
    let cures = [
        r#"ALTER TABLE "result"."users" ALTER COLUMN "phone" DROP NOT NULL"#,
        r#"GRANT INSERT ON "result"."cleaned" TO "tidemill_writer""#,
    ];
    let ended = stack.command(PG_SINKER, &["check"], &[]).await;
    assert_refused(&ended, &cures);
    for cure in cures {
        run(&mut sink, cure).await;
    }
    let mended = stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.output);
}
