//! Tables that no setting names: found in the publication while all runs, each with a topic by the pattern.

use crate::captured_table::until_judged_equal;
use crate::database::run;
use crate::history::History;
use crate::service_page::state;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{generation, orders_go_on, until_goes_on};
use crate::until::until;
use crate::writer::{Writer, amid_writes, changes_of};

async fn make(stack: &Stack, table: &str, key: &str) {
    let sql = format!(
        "CREATE TABLE {table} (id bigint {key}, mark int); GRANT SELECT ON {table} TO tidemill_capture;
         INSERT INTO {table} SELECT n, 0 FROM generate_series(1, 300) n"
    );
    run(&mut stack.source().await, &sql).await;
}

/// Waits until the table is not captured, and the reason has this in it.
async fn until_not_captured(stack: &Stack, table: &str, why: &str) {
    until(&format!("{table} is not captured"), async || {
        let shown = state(stack, CDC_INGEST).await["details"]["not_captured"].clone();
        if shown[table].as_str().is_some_and(|found| found.contains(why)) { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn a_table_that_comes_into_the_publication_is_copied_while_all_others_go_on() {
    let mut stack = Stack::new().await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    let before = generation(&stack).await;
    let orders = Writer::start(&stack, |dice| {
        format!("UPDATE business.orders SET quantity = quantity + 1 WHERE order_id = {}", 2001 + dice.below(5))
    })
    .await;
    make(&stack, "business.extras", "PRIMARY KEY").await;
    let publish = "ALTER PUBLICATION tidemill ADD TABLE business.extras";
    amid_writes(&stack, changes_of("business.extras"), publish).await;
    let topic = stack.other_topic("business", "extras");
    until_judged_equal(&stack, "business.extras", &topic).await;
    until_goes_on(&stack, "business.extras").await;
    orders.further(20).await;
    orders.stop().await;
    orders_go_on(&stack).await;
    assert_eq!(generation(&stack).await, before, "nothing was started again");

    stack.process(CDC_INGEST).kill();
    amid_writes(&stack, changes_of("business.extras"), "").await;
    stack.process(CDC_INGEST).restart();
    until_judged_equal(&stack, "business.extras", &topic).await;
    let extras = History::read(&stack.layers(), &topic);
    extras.assert_nothing_twice();
    assert_eq!(extras.repeated_copies(), 0, "it was not copied anew");
    let orders = History::read(&stack.layers(), &stack.places.names.ods_topic);
    orders.assert_nothing_twice();
    assert_eq!(orders.repeated_copies(), 0);
}

#[tokio::test]
async fn a_publication_of_all_tables_brings_each_with_a_key_and_says_what_keeps_the_others_out() {
    let mut stack = Stack::new().await;
    make(&stack, "business.extras", "PRIMARY KEY").await;
    make(&stack, "business.keyless", "").await;
    let sql = "CREATE PUBLICATION everything FOR ALL TABLES; CREATE TABLE business.hidden (id bigint PRIMARY KEY)";
    run(&mut stack.source().await, sql).await;
    stack.set(CDC_INGEST, "SLOT__PUBLICATION", "everything");
    stack.start(CDC_INGEST);
    stack.ready().await;
    let topic = |table| stack.other_topic("business", table);
    until_judged_equal(&stack, "business.extras", &topic("extras")).await;
    until_judged_equal(&stack, "business.users", &stack.users_topic()).await;
    orders_go_on(&stack).await;
    until_not_captured(&stack, "business.keyless", r#"ALTER TABLE "business"."keyless" ADD PRIMARY KEY"#).await;
    until_not_captured(&stack, "business.hidden", r#"GRANT SELECT ON "business"."hidden" TO "tidemill_capture""#).await;

    let key = "ALTER TABLE business.keyless ADD PRIMARY KEY (id)";
    let inserts = |dice: &mut crate::writer::Dice| {
        format!("INSERT INTO business.keyless VALUES ({}, 1) ON CONFLICT DO NOTHING", 1_000_000 + dice.below(1_000_000))
    };
    amid_writes(&stack, inserts, key).await;
    until_judged_equal(&stack, "business.keyless", &topic("keyless")).await;
    run(
        &mut stack.source().await,
        "GRANT SELECT ON business.hidden TO tidemill_capture; INSERT INTO business.hidden VALUES (1)",
    )
    .await;
    until_judged_equal(&stack, "business.hidden", &topic("hidden")).await;
    // A table is made and written to at once.
    make(&stack, "business.later", "PRIMARY KEY").await;
    amid_writes(&stack, changes_of("business.later"), "").await;
    until_judged_equal(&stack, "business.later", &topic("later")).await;
}

#[tokio::test]
async fn two_tables_with_one_topic_by_the_pattern_are_not_mixed() {
    let mut stack = Stack::new().await;
    run(&mut stack.source().await, "CREATE SCHEMA business_x; GRANT USAGE ON SCHEMA business_x TO tidemill_capture")
        .await;
    make(&stack, "business.x_y", "PRIMARY KEY").await;
    make(&stack, "business_x.y", "PRIMARY KEY").await;
    run(&mut stack.source().await, "ALTER PUBLICATION tidemill ADD TABLE business.x_y, business_x.y").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    let topic = stack.other_topic("business", "x_y");
    until_judged_equal(&stack, "business.x_y", &topic).await;
    until_not_captured(&stack, "business_x.y", &format!("its topic {topic} is that of table business.x_y")).await;
    stack.set(CDC_INGEST, "TABLES__Y__TABLE", "business_x.y");
    stack.set(CDC_INGEST, "TABLES__Y__TOPIC", format!("{topic}_other"));
    stack.process(CDC_INGEST).kill();
    stack.start(CDC_INGEST);
    until_judged_equal(&stack, "business_x.y", &format!("{topic}_other")).await;
    until_judged_equal(&stack, "business.x_y", &topic).await;
}
