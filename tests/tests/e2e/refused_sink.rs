//! A sink that cannot be written: `pg-sinker check` says so with the statement, and the statement is the right one.

use crate::busy::rows;
use crate::database::run;
use crate::refused_settings::assert_refused;
use crate::stack::{PG_SINKER, SERVICES, Stack};
use crate::until::until_equal;

#[tokio::test]
async fn check_finds_nothing_wrong_where_everything_is_in_place() {
    let mut stack = Stack::started().await;
    // A topic without a row is worth a warning.
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    for service in SERVICES {
        let ended = stack.command(service, &["check"], &[]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        assert!(ended.output.lines().all(|line| line.starts_with("ok ")), "{}", ended.output);
    }
}

/// What is done to the sink, and the words and the statement of the finding.
const DAMAGES: [(&str, &str, &str); 4] = [
    (
        "ALTER TABLE result.orders_latest DROP COLUMN record_version",
        "result.orders_latest has no column record_version",
        r#"ALTER TABLE "result"."orders_latest" ADD COLUMN record_version bytea NOT NULL DEFAULT ''"#,
    ),
    (
        "ALTER TABLE result.orders_with_user_info DROP COLUMN processed_time",
        "result.orders_with_user_info has no column processed_time",
        r#"ALTER TABLE "result"."orders_with_user_info" ADD COLUMN processed_time timestamp(3)"#,
    ),
    (
        "ALTER TABLE result.orders_latest DROP CONSTRAINT orders_latest_pkey",
        "result.orders_latest has no unique index on exactly (order_id)",
        r#"CREATE UNIQUE INDEX ON "result"."orders_latest" ("order_id")"#,
    ),
    (
        "REVOKE UPDATE ON result.orders_latest FROM tidemill_writer",
        "role tidemill_writer lacks UPDATE on result.orders_latest",
        r#"GRANT UPDATE ON "result"."orders_latest" TO "tidemill_writer""#,
    ),
];

#[tokio::test]
async fn what_the_sink_lacks_is_named_with_the_statement_that_mends_it() {
    let mut stack = Stack::started().await;
    let mut sink = stack.sink().await;
    stack.process(PG_SINKER).kill();
    for (damage, words, cure) in DAMAGES {
        run(&mut sink, damage).await;
        for arguments in [&[][..], &["check"]] {
            assert_refused(&stack.command(PG_SINKER, arguments, &[]).await, &[words, cure]);
        }
        run(&mut sink, cure).await;
        let mended = stack.command(PG_SINKER, &["check"], &[]).await;
        assert_eq!(mended.code, Some(0), "{damage}, then {cure}: {}", mended.output);
    }
}
