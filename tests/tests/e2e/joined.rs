//! The modes of the join, and its state beyond memory and past its time, on the real pipeline.

use sqlx::postgres::PgConnection;

use crate::cleaning::config;
use crate::database::{run, value};
use crate::history::assert_nothing_twice;
use crate::service_page::{get, metric, state};
use crate::stack::{DIM_JOINER, Stack};
use crate::until::{until, until_equal};
use crate::whole_sink::until_sink_is_the_source;

/// dim-joiner with some lines of its documented settings changed.
fn configure(stack: &mut Stack, changes: &[(&str, &str)]) {
    let users = format!("topic = \"{}\"", stack.users_topic());
    let text = config("dim-joiner.toml").replace("topic = \"ods_users\"", &users);
    let changed = changes.iter().fold(text, |text, (before, after)| {
        assert_eq!(text.matches(before).count(), 1, "{before}");
        text.replace(before, after)
    });
    stack.configure(DIM_JOINER, &changed);
}

async fn until_value(sink: &mut PgConnection, sql: &str, wanted: &str) {
    until_equal(sql, wanted.to_owned(), async || value(sink, sql).await).await;
}

fn city_of(order_id: i64) -> String {
    format!(
        "SELECT coalesce((SELECT concat_ws('|', order_status, username, city) FROM result.orders_latest WHERE order_id = {order_id}), 'no row')"
    )
}

fn trail_of(order_id: i64) -> String {
    format!(
        "SELECT coalesce(string_agg(concat_ws(' ', order_status, username), ', ' ORDER BY order_status), 'no rows') FROM result.orders_with_user_info WHERE order_id = {order_id}"
    )
}

#[tokio::test]
async fn check_names_a_column_that_the_topics_do_not_have() {
    let mut stack = Stack::new().await;
    configure(&mut stack, &[]);
    stack.start_all().await;
    until_value(&mut stack.sink().await, &city_of(2001), "COMPLETED|张三|北京").await;
    let right = stack.command(DIM_JOINER, &["check"], &[]).await;
    assert_eq!(right.code, Some(0), "{}", right.output);
    assert_eq!(right.output.matches("records have the columns that the settings name").count(), 2, "{}", right.output);
    let on = "\non = { user_id = \"user_id\" }";
    for (before, after, words) in [
        (
            on,
            "\non = { user_id = \"buyer\" }",
            "has the column `buyer` that `on` of `users` names; there are order_id, user_id,",
        ),
        (on, "\non = { id = \"user_id\" }", "has the column `id` that `on` of `users` names; there are user_id"),
        (
            "\nfrom = \"username\"",
            "\nfrom = \"nick\"",
            "has the column `nick` that `from` of `users` names; there are user_id,",
        ),
    ] {
        configure(&mut stack, &[(before, after)]);
        let wrong = stack.command(DIM_JOINER, &["check"], &[]).await;
        assert!(wrong.code == Some(1) && wrong.output.contains(words), "{after}: {}", wrong.output);
    }
}

#[tokio::test]
async fn as_of_an_order_keeps_the_user_as_it_was_and_a_later_one_has_the_change() {
    let mut stack = Stack::new().await;
    configure(&mut stack, &[("\nmode = \"latest\"", "\nmode = \"as-of\"")]);
    stack.start_all().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until_value(&mut sink, &city_of(2001), "COMPLETED|张三|北京").await;
    run(&mut source, "UPDATE business.users SET city = '杭州' WHERE user_id = 1001").await;
    let order = "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status, order_time)";
    run(
        &mut source,
        &format!("{order} VALUES (3001, 1001, 'a', 1, 1, 1, 'PAID', now() AT TIME ZONE 'UTC' + interval '1 day')"),
    )
    .await;
    until_value(&mut sink, &city_of(3001), "PAID|张三|杭州").await;
    // The order of last year moves on, and its time does not.
    run(&mut source, "UPDATE business.orders SET order_status = 'REFUNDED' WHERE order_id = 2001").await;
    until_value(&mut sink, &city_of(2001), "REFUNDED|张三|北京").await;
    stack.process(DIM_JOINER).kill();
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1001").await;
    stack.process(DIM_JOINER).restart();
    run(&mut source, "UPDATE business.orders SET order_status = 'PAID' WHERE order_id = 2001").await;
    run(
        &mut source,
        &format!("{order} VALUES (3002, 1001, 'a', 1, 1, 1, 'PAID', now() AT TIME ZONE 'UTC' + interval '1 day')"),
    )
    .await;
    until_value(&mut sink, &city_of(3002), "PAID|张三|武汉").await;
    until_value(&mut sink, &city_of(2001), "PAID|张三|北京").await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn an_order_that_waits_for_its_user_has_it_in_every_status_also_when_the_joiner_is_killed_meanwhile() {
    let mut stack = Stack::new().await;
    configure(
        &mut stack,
        &[("\nmode = \"latest\"", "\nmode = \"wait\""), ("\nwait_ms = 5000 ", "\nwait_ms = 600000 ")],
    );
    stack.start_all().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let order = "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)";
    run(
        &mut source,
        &format!("{order} VALUES (3001, 9001, 'a', 1, 1, 1, 'PENDING'), (3002, 9002, 'a', 1, 1, 1, 'PENDING')"),
    )
    .await;
    run(&mut source, "UPDATE business.orders SET order_status = 'PAID' WHERE order_id = 3001").await;
    run(&mut source, &format!("{order} VALUES (3003, 1001, 'a', 1, 1, 1, 'PENDING')")).await;
    until_value(&mut sink, &trail_of(3003), "PENDING 张三").await;
    let waiting = async |wanted: u64| {
        until("orders wait", async || {
            let found = state(&stack, DIM_JOINER).await["details"]["join"]["facts_waiting"].clone();
            if found == wanted { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    };
    waiting(3).await;
    stack.process(DIM_JOINER).kill();
    stack.process(DIM_JOINER).restart();
    run(&mut source, &format!("{order} VALUES (3004, 1001, 'a', 1, 1, 1, 'PENDING')")).await;
    until_value(&mut sink, &trail_of(3004), "PENDING 张三").await;
    assert_eq!(value::<String>(&mut sink, &trail_of(3001)).await, "no rows");
    let user = "INSERT INTO business.users (user_id, username)";
    run(&mut source, &format!("{user} VALUES (9001, '周九')")).await;
    until_value(&mut sink, &trail_of(3001), "PAID 周九, PENDING 周九").await;
    run(&mut source, &format!("{user} VALUES (9002, '吴十')")).await;
    until_sink_is_the_source(&stack).await;
    assert_eq!(value::<String>(&mut sink, &trail_of(3002)).await, "PENDING 吴十");
    assert_nothing_twice(&stack);
}

const MANY: i64 = 12_000;

#[tokio::test]
async fn a_change_reaches_all_orders_of_a_user_that_memory_has_no_room_for() {
    let mut stack = Stack::new().await;
    let folder = stack.environment.logs.join(format!("{}-facts", stack.name));
    let folder = format!("\nfolder = \"{}\"", folder.display());
    configure(
        &mut stack,
        &[
            ("\nmemory_megabytes_max = 2048               # facts", "\nmemory_megabytes_max = 1 # facts"),
            ("\nfolder = \"\"", &folder),
        ],
    );
    stack.start_all().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    run(
        &mut source,
        &format!(
            "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
             SELECT n, 1001, 'product ' || n, 1, 1, 1, 'PAID' FROM generate_series(10001, {}) n",
            10_000 + MANY
        ),
    )
    .await;
    let count = |city: &str| {
        format!("SELECT count(*)::text FROM result.orders_latest WHERE order_id > 10000 AND city = '{city}'")
    };
    until_value(&mut sink, &count("北京"), &MANY.to_string()).await;
    until("most of them are on disk, and what is free of it is told", async || {
        let join = state(&stack, DIM_JOINER).await["details"]["join"].clone();
        let page = get(&stack, DIM_JOINER, "/metrics").await.body;
        let of_disk = |name: &str| metric(&page, &format!("tidemill_facts_disk_{name}_bytes"), "folder=\"");
        let is_told = of_disk("free") > Some(0.0) && of_disk("free") <= of_disk("size");
        let is_most = join["facts_on_disk"].as_u64() > Some(MANY as u64 / 2);
        if is_told && is_most { Ok(()) } else { Err(format!("{join}; {page}")) }
    })
    .await;
    run(&mut source, "UPDATE business.users SET city = '成都' WHERE user_id = 1001").await;
    until_value(&mut sink, &count("成都"), &MANY.to_string()).await;
    // Read back into no more memory than before.
    stack.process(DIM_JOINER).kill();
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1001; DELETE FROM business.orders WHERE order_id % 2 = 0 AND order_id > 10000").await;
    stack.process(DIM_JOINER).restart();
    until_value(&mut sink, &count("武汉"), &(MANY / 2).to_string()).await;
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn an_order_past_its_time_keeps_its_user_and_is_counted() {
    let mut stack = Stack::new().await;
    configure(
        &mut stack,
        &[
            ("\nafter_hours = 0 ", "\nafter_hours = 24 "),
            (
                "\ntime = \"\"                                 # the column that the hours",
                "\ntime = \"updated_at\" # the column that the hours",
            ),
            ("\nstatus = \"\" ", "\nstatus = \"order_status\" "),
            ("\nstatuses = [] ", "\nstatuses = [\"COMPLETED\"] "),
        ],
    );
    stack.start_all_behind_the_copy().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    // Of the five orders two are completed, since last year; both are of user 1001, and go out with the user as it is.
    for order_id in [2001, 2004] {
        until_value(&mut sink, &city_of(order_id), "COMPLETED|张三|北京").await;
    }
    run(&mut source, "UPDATE business.users SET city = '成都' WHERE user_id IN (1001, 1002)").await;
    until_value(&mut sink, &city_of(2002), "SHIPPED|李四|成都").await;
    assert_eq!(value::<String>(&mut sink, &city_of(2001)).await, "COMPLETED|张三|北京");
    until("both are counted", async || {
        let page = get(&stack, DIM_JOINER, "/metrics").await.body;
        let counted = ["tidemill_facts_forgotten_total", "tidemill_reemissions_forgotten_total"]
            .map(|name| metric(&page, name, ""));
        // What is read back while it is sent is counted twice.
        if counted.iter().all(|count| *count >= Some(2.0)) { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
    run(&mut source, "UPDATE business.orders SET order_status = 'REFUNDED' WHERE order_id = 2001").await;
    until_value(&mut sink, &city_of(2001), "REFUNDED|张三|成都").await;
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1001").await;
    until_value(&mut sink, &city_of(2001), "REFUNDED|张三|武汉").await;
    // A change while nobody is there passes by the other completed order.
    stack.process(DIM_JOINER).kill();
    run(&mut source, "UPDATE business.users SET city = '北京' WHERE user_id = 1001").await;
    stack.process(DIM_JOINER).restart();
    until_value(&mut sink, &city_of(2001), "REFUNDED|张三|北京").await;
    until("the missed change is counted", async || {
        let page = get(&stack, DIM_JOINER, "/metrics").await.body;
        let counted = metric(&page, "tidemill_reemissions_forgotten_total", "");
        if counted >= Some(1.0) { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
}
