//! Users in a table of Apache Fluss in the place of a topic: joined, followed, and read again at each start with nothing sent twice.

use lab::page;
use lab::random::Random;
use sqlx::postgres::PgConnection;

use crate::busy::rows;
use crate::cleaning::config;
use crate::database::run;
use crate::history::{History, assert_nothing_twice};
use crate::late_server::LateServer;
use crate::refused_settings::assert_refused;
use crate::stack::{DIM_JOINER, SERVICES, Stack};
use crate::table_of_fluss::{BUCKETS, Fluss, User, Users, section_at, servers};
use crate::until::{until, until_equal};
use crate::user_changes::until_latest;

/// dim-joiner with the documented settings, its users from Fluss, and one column more.
fn configure(stack: &mut Stack, section: &str) {
    let text = config("dim-joiner.toml");
    let (before, after) = text.split_once("# [dimensions.fluss]\n").unwrap();
    let topic = "topic = \"ods_users\"";
    assert_eq!(before.matches(topic).count(), 1);
    let before = before.replace(topic, "#");
    let credit = "[[dimensions.columns]]\nfrom = \"credit\"\nname = \"user_credit\"\n";
    stack.configure(DIM_JOINER, &format!("{before}{section}\n{credit}{after}"));
}

const USERS: [User<'static>; 4] = [
    User { id: 1001, name: "张福", city: "北京", credit: 599_900 },
    User { id: 1002, name: "李福", city: "上海", credit: 0 },
    User { id: 1003, name: "王福", city: "广州", credit: -5 },
    User { id: 1004, name: "赵福", city: "深圳", credit: 1 },
];

fn of(id: i64, city: &str) -> User<'_> {
    User { city, ..USERS[usize::try_from(id - 1001).unwrap()] }
}

async fn pipeline(fluss: &Fluss, settings: &[(&str, &str)]) -> (Stack, Users) {
    let mut stack = Stack::new().await;
    let table = format!("{}_users", stack.name);
    let users = fluss.make(&table, settings).await;
    users.put_all(&USERS).await;
    configure(&mut stack, &fluss.section(&table));
    stack.start_all().await;
    (stack, users)
}

/// Records of the result topic.
fn results(stack: &Stack) -> i64 {
    stack.layers().end(&stack.places.names.result_topic).unwrap().iter().map(|(_, end)| end).sum()
}

/// Waits until every order of the example is there: nothing more is sent by itself.
async fn until_sink_has_all(sink: &mut PgConnection) {
    until_equal("the sink has five rows", 5, async || rows(sink).await).await;
}

/// Starts dim-joiner again. A further change goes behind all that it would send again by itself: how many records that was.
async fn restart(stack: &mut Stack, users: &Users, city: &str) -> i64 {
    let before = results(stack);
    stack.process(DIM_JOINER).restart();
    stack.ready().await;
    users.put(of(1004, city)).await;
    until_latest(&mut stack.sink().await, 2005, "username, city", &format!("赵福|{city}")).await;
    results(stack) - before - 1
}

#[tokio::test]
async fn users_of_a_fluss_table_are_joined_followed_and_read_again_with_nothing_sent_twice() {
    let fluss = Fluss::take().await;
    let (mut stack, users) = pipeline(&fluss, &[]).await;
    let mut sink = stack.sink().await;
    let columns = "username, city, user_city_tier, user_register_time";
    until_latest(&mut sink, 2001, columns, "张福|北京|一线城市|2025-07-11 17:25:55.143").await;
    until_latest(&mut sink, 2005, columns, "赵福|深圳|一线城市|2025-07-11 17:25:55.143").await;
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    let result = history.of_order(2001).last().unwrap().value.clone().unwrap();
    until_sink_has_all(&mut sink).await;
    assert!(result.contains("\"user_credit\":5999.00,") && result.contains("\"phone\":null,"), "{result}");

    // A change is in all orders of the user, and in no other.
    let before = results(&stack);
    users.put(of(1001, "成都")).await;
    for order in [2001, 2004] {
        until_latest(&mut sink, order, "city, user_city_tier", "成都|新一线城市").await;
    }
    assert_eq!(results(&stack), before + 2);

    // A user that is not known yet; then it is there; then it is gone.
    run(&mut stack.source().await, "UPDATE business.orders SET user_id = 9001 WHERE order_id = 2003").await;
    until_latest(&mut sink, 2003, "username, city", "Unknown User").await;
    users.put(User { id: 9001, name: "周福", city: "上海", credit: 7 }).await;
    until_latest(&mut sink, 2003, "username, city", "周福|上海").await;
    users.delete(9001).await;
    until_latest(&mut sink, 2003, "username, city", "Unknown User").await;

    // Read again, from a log whose end has no record: nothing is sent.
    users.delete(9999).await;
    stack.process(DIM_JOINER).kill();
    assert_eq!(restart(&mut stack, &users, "苏州").await, 0);
    until_latest(&mut sink, 2003, "username, city", "Unknown User").await;

    // What changes while it is away is sent when it comes back, and nothing else.
    stack.process(DIM_JOINER).kill();
    users.put(of(1001, "杭州")).await;
    users.delete(1002).await;
    assert_eq!(restart(&mut stack, &users, "无锡").await, 3);
    for order in [2001, 2004] {
        until_latest(&mut sink, order, "username, city", "张福|杭州").await;
    }
    until_latest(&mut sink, 2002, "username, city", "Unknown User").await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn servers_that_are_away_are_waited_for_and_read_anew() {
    let fluss = Fluss::take().await;
    let mut stack = Stack::new().await;
    let table = format!("{}_users", stack.name);
    let users = fluss.make(&table, &[]).await;
    users.put_all(&USERS).await;
    // Away at the start.
    let late = LateServer::of(&fluss.servers);
    configure(&mut stack, &section_at(&late.address(), &table));
    let words = format!("Fluss at {} does not answer", late.address());
    let checked = stack.command(DIM_JOINER, &["check"], &[]).await;
    assert_refused(&checked, &[&words, "start its servers, or correct servers"]);
    for service in SERVICES {
        stack.start(service);
    }
    until_says(&stack, &words).await;
    late.open();
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_latest(&mut sink, 2001, "username, city", "张福|北京").await;

    // Away later.
    until_sink_has_all(&mut sink).await;
    let before = results(&stack);
    servers("kill");
    until_says(&stack, &words).await;
    servers("start");
    stack.ready().await;
    users.put(of(1001, "成都")).await;
    for order in [2001, 2004] {
        until_latest(&mut sink, order, "username, city", "张福|成都").await;
    }
    assert_eq!(results(&stack), before + 2);
    assert_nothing_twice(&stack);
}

/// Waits until dim-joiner is not ready, for a reason with these words.
async fn until_says(stack: &Stack, words: &str) {
    until(&format!("dim-joiner says {words:?}"), async || {
        let page = page::get(&stack.url(DIM_JOINER), "/health/ready").await.map_err(|failure| failure.chain())?;
        if page.status == 503 && page.body.contains(words) { Ok(()) } else { Err(page.body) }
    })
    .await;
}

/// The log of a table that forgets after a second, filled until it has forgotten its beginning.
async fn until_the_log_has_forgotten(fluss: &Fluss, users: &Users) {
    let mut round = 0;
    until("the logs do not go back to their beginning", async || {
        let starts = fluss.log_starts(users).await?;
        if starts.iter().all(|start| *start > 0) {
            return Ok(());
        }
        round += 1;
        // Text that does not get shorter when it is compressed.
        let mut random = Random::seeded(round);
        let mut name = || (0..24).map(|_| format!("{:08x}", random.below(usize::MAX))).collect::<String>();
        let names: Vec<String> = (0..1000).map(|_| name()).collect();
        let fill = |(n, name): (i64, _)| User { id: 50_000 + n, name, city: "", credit: 0 };
        users.put_all(&(0..).zip(names.iter().map(String::as_str)).map(fill).collect::<Vec<_>>()).await;
        Err(format!("{starts:?} after {round} rounds"))
    })
    .await;
}

#[tokio::test]
async fn rows_whose_change_the_log_has_no_more_are_read_from_the_table() {
    let fluss = Fluss::take().await;
    let short = [("table.log.ttl", "1s"), ("table.log.tiered.local-segments", "1")];
    let (mut stack, users) = pipeline(&fluss, &short).await;
    let mut sink = stack.sink().await;
    until_latest(&mut sink, 2001, "username, city", "张福|北京").await;
    assert_eq!(fluss.log_starts(&users).await.unwrap().len(), BUCKETS as usize);
    until_the_log_has_forgotten(&fluss, &users).await;
    // One of them has a change in the log, one was changed while nobody looked.
    stack.process(DIM_JOINER).kill();
    users.put(of(1002, "成都")).await;
    stack.process(DIM_JOINER).restart();
    stack.ready().await;
    until_latest(&mut sink, 2001, "username, city", "张福|北京").await;
    until_latest(&mut sink, 2002, "username, city", "李福|成都").await;
    users.put(of(1001, "武汉")).await;
    for order in [2001, 2004] {
        until_latest(&mut sink, order, "username, city", "张福|武汉").await;
    }
    users.delete(1004).await;
    until_latest(&mut sink, 2005, "username, city", "Unknown User").await;
    assert!(stack.process(DIM_JOINER).log_text().contains("rows whose change the log has no more"));
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn a_table_that_is_made_anew_is_read_anew() {
    let fluss = Fluss::take().await;
    let (mut stack, users) = pipeline(&fluss, &[]).await;
    let mut sink = stack.sink().await;
    users.put(of(1001, "成都")).await;
    until_latest(&mut sink, 2001, "username, city", "张福|成都").await;
    stack.process(DIM_JOINER).kill();
    fluss.drop_table(&users).await;
    let users = fluss.make(&format!("{}_users", stack.name), &[]).await;
    users.put_all(&USERS).await;
    stack.process(DIM_JOINER).restart();
    stack.ready().await;
    // Its offsets are lower than those of the table before, its versions are not.
    until_latest(&mut sink, 2001, "username, city", "张福|北京").await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn check_says_whether_the_table_can_be_read() {
    let fluss = Fluss::take().await;
    let mut stack = Stack::new().await;
    let table = format!("{}_users", stack.name);
    configure(&mut stack, &fluss.section(&table));
    let missing = stack.command(DIM_JOINER, &["check"], &[]).await;
    assert_refused(&missing, &[&format!("there is no table `tidemill.{table}`"), "make it, with a primary key"]);
    let _users = fluss.make(&table, &[]).await;
    let found = stack.command(DIM_JOINER, &["check"], &[]).await;
    assert!(
        found.output.contains(&format!("dimension users: Fluss table tidemill.{table} is there")),
        "{}",
        found.output
    );
    let column = |name: &str| format!("{}\n[[dimensions.columns]]\nfrom = \"{name}\"\n", fluss.section(&table));
    for (name, words) in [("tags", "column `tags`"), ("shoe_size", "has no column `shoe_size`")] {
        configure(&mut stack, &column(name));
        let ended = stack.command(DIM_JOINER, &["check"], &[]).await;
        assert_refused(&ended, &[words, "[[dimensions.columns]]"]);
    }
}
