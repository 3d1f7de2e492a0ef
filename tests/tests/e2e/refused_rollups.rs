//! Roll-ups that cannot be kept: `pg-sinker check` says so with the statement, and the statement is the right one.

use sqlx::postgres::PgConnection;

use crate::cleaning::config;
use crate::database::{run, value};
use crate::random_results::RandomResults;
use crate::refused_settings::assert_refused;
use crate::stack::{PG_SINKER, Stack};
use crate::until::until_equal;

/// What is done to the sink, and the words and the statement of the finding.
const DAMAGES: [(&str, &str, &str); 6] = [
    (
        "ALTER TABLE dws.orders_by_day DROP COLUMN users",
        "dws.orders_by_day has no column users",
        r#"ALTER TABLE "dws"."orders_by_day" ADD COLUMN "users" bigint NOT NULL DEFAULT 0"#,
    ),
    (
        // No view stands on this one.
        "ALTER TABLE dws.orders_by_minute ALTER COLUMN amount TYPE numeric(10,2)",
        "column amount of dws.orders_by_minute is numeric(10,2), not numeric",
        r#"ALTER TABLE "dws"."orders_by_minute" ALTER COLUMN "amount" TYPE numeric"#,
    ),
    (
        "ALTER TABLE dws.orders_by_hour DROP CONSTRAINT orders_by_hour_pkey",
        "dws.orders_by_hour has no unique index on exactly (group_key)",
        r#"ALTER TABLE "dws"."orders_by_hour" ADD PRIMARY KEY (group_key)"#,
    ),
    (
        "ALTER TABLE dws.orders_by_hour ALTER COLUMN city SET NOT NULL",
        "column city of dws.orders_by_hour must not be NULL",
        r#"ALTER TABLE "dws"."orders_by_hour" ALTER COLUMN "city" DROP NOT NULL"#,
    ),
    (
        "REVOKE DELETE ON dws.orders_by_minute FROM tidemill_writer",
        "role tidemill_writer lacks DELETE on dws.orders_by_minute",
        r#"GRANT DELETE ON "dws"."orders_by_minute" TO "tidemill_writer""#,
    ),
    (
        "REVOKE INSERT ON tidemill.rollups FROM tidemill_writer",
        "role tidemill_writer lacks INSERT on tidemill.rollups",
        r#"GRANT INSERT ON "tidemill"."rollups" TO "tidemill_writer""#,
    ),
];

async fn stack_with_topic() -> (Stack, PgConnection, RandomResults) {
    let stack = Stack::new().await;
    let sink = stack.sink().await;
    let results = RandomResults::new(&stack, 50).await;
    (stack, sink, results)
}

/// The same words from a start and from `check`.
async fn assert_both_refuse(stack: &mut Stack, words: &[&str]) {
    for arguments in [&[][..], &["check"]] {
        assert_refused(&stack.command(PG_SINKER, arguments, &[]).await, words);
    }
}

async fn assert_right(stack: &mut Stack) {
    let mended = stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(!mended.output.contains("problem"), "{}", mended.output);
}

#[tokio::test]
async fn what_a_roll_up_lacks_is_named_with_the_statement_that_mends_it() {
    let (mut stack, mut sink, _) = stack_with_topic().await;
    for (damage, words, cure) in DAMAGES {
        run(&mut sink, damage).await;
        assert_both_refuse(&mut stack, &[words, cure]).await;
        run(&mut sink, cure).await;
        assert_right(&mut stack).await;
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_comes_with_its_definition() {
    let (mut stack, mut sink, mut results) = stack_with_topic().await;
    run(&mut sink, "DROP SCHEMA dws CASCADE").await;
    for _ in 0..3 {
        let ended = stack.command(PG_SINKER, &[], &[]).await;
        let (_, statements) = ended.output.rsplit_once("To do: CREATE").unwrap();
        let (statements, _) = statements.split_once("; postgres_sink/init").unwrap();
        run(&mut sink, &format!("CREATE{statements}")).await;
    }
    assert_right(&mut stack).await;
    results.write_all_keys();
    stack.start(PG_SINKER);
    stack.ready().await;
    let orders = "SELECT coalesce(sum(orders), 0)::bigint FROM dws.orders_by_hour";
    until_equal("all orders are in it", 50, async || value::<i64>(&mut sink, orders).await).await;
}

#[tokio::test]
async fn a_changed_definition_is_refused_and_filled_anew_when_it_is_taken_out_of_the_register() {
    let (mut stack, mut sink, mut results) = stack_with_topic().await;
    results.write_all_keys();
    stack.start(PG_SINKER);
    stack.ready().await;
    let complete = "SELECT count(*) FROM tidemill.rollups WHERE is_complete";
    until_equal("they are complete", 3, async || value::<i64>(&mut sink, complete).await).await;

    // Its quantity now adds up users. The instance that runs knows nothing of it.
    let changed = config("pg-sinker.toml").replacen("quantity = \"quantity\"", "quantity = \"order_hour\"", 1);
    let taken_out = "DELETE FROM tidemill.rollups WHERE rollup = 'dws.orders_by_minute'";
    stack.configure(PG_SINKER, &changed);
    assert_both_refuse(&mut stack, &["dws.orders_by_minute is kept by another definition", taken_out]).await;
    assert!(stack.process(PG_SINKER).terminate().await.success());
    run(&mut sink, taken_out).await;
    stack.start(PG_SINKER);
    until_equal("it is complete", 3, async || value::<i64>(&mut sink, complete).await).await;
    let rest = "SELECT coalesce(sum(quantity), 0)::bigint FROM dws.orders_by_minute";
    assert_eq!(value::<i64>(&mut sink, rest).await, 0, "no order has an hour");
}

#[tokio::test]
async fn settings_that_do_not_know_a_registered_one_do_not_write() {
    let (mut stack, mut sink, mut results) = stack_with_topic().await;
    stack.configure(PG_SINKER, "[rollups]\n");
    stack.start(PG_SINKER);
    stack.ready().await;
    let registered =
        "INSERT INTO tidemill.rollups (rollup, of_table, definition) VALUES ('dws.other', 'result.orders_latest', 'x')";
    run(&mut sink, registered).await;
    results.write_all_keys();
    let ended = stack.process(PG_SINKER).ended().await;
    assert_eq!(ended.code(), Some(1));
    let give_up = "DELETE FROM tidemill.rollups WHERE rollup = 'dws.other'";
    assert!(stack.process(PG_SINKER).log_text().contains(give_up));
    assert_eq!(value::<i64>(&mut sink, "SELECT count(*) FROM result.orders_latest").await, 0, "nothing was written");
    assert_both_refuse(&mut stack, &["dws.other is kept over a table that these settings write", give_up]).await;
    run(&mut sink, give_up).await;
    stack.start(PG_SINKER);
    let orders = "SELECT count(*) FROM result.orders_latest";
    until_equal("the orders are there", 50, async || value::<i64>(&mut sink, orders).await).await;
}
