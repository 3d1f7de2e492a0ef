//! A second dwd-cleaner cleans the users on their way to the join: nothing behind it has the whole phone number or address.

use crate::cleaning::config;
use crate::database::{run, value};
use crate::guide::changed;
use crate::history::History;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::table_page::{command, take_commands};
use crate::until::until_equal;

pub const USERS_CLEANER: &str = "dwd-cleaner-users";
const DOCUMENTED_TOPIC: &str = "topic = \"dwd_users\"";
const PAGE: &str = include_str!("../../../docs/cleaning.md");

/// What docs/cleaning.md changes in the settings of dim-joiner.
fn difference_of_the_page() -> &'static str {
    let (_, part) = PAGE.split_once("\n## Personal fields of users\n").unwrap();
    let (_, block) = part.split_once("```diff config/dim-joiner.toml\n").unwrap();
    block.split_once("\n```").unwrap().0
}

/// Settings of the instance that cleans the users, by the documented file, and of dim-joiner; the topic between them.
fn clean_users(stack: &mut Stack) -> String {
    let (users, clean) = (stack.users_topic(), format!("{}_dwd_users", stack.name));
    let (group, letters) = (format!("{}_users", stack.name), stack.dead_letter_topic("users"));
    let cleaner = config("dwd-cleaner-users.toml");
    assert!(cleaner.contains(DOCUMENTED_TOPIC), "the cleaner writes what the joiner reads");
    stack.configure(USERS_CLEANER, &cleaner);
    for (key, value) in [
        ("INPUT__TOPIC", users.as_str()),
        ("INPUT__GROUP", &group),
        ("OUTPUT__TOPIC", &clean),
        ("OUTPUT__DEAD_LETTER_TOPIC", &letters),
    ] {
        stack.set_of(USERS_CLEANER, DWD_CLEANER, key, value);
    }
    let joiner = changed(&config("dim-joiner.toml"), difference_of_the_page());
    stack.configure(DIM_JOINER, &joiner.replace(DOCUMENTED_TOPIC, &format!("topic = \"{clean}\"")));
    clean
}

/// Starts the pipeline with the users cleaned, and further settings. The topic of the clean users.
pub async fn start_with_clean_users(stack: &mut Stack, configure: impl FnOnce(&mut Stack, &str)) -> String {
    let clean = clean_users(stack);
    configure(stack, &clean);
    for service in SERVICES {
        stack.start(service);
    }
    stack.start_replica(DWD_CLEANER, USERS_CLEANER);
    stack.ready().await;
    clean
}

async fn until_user(stack: &Stack, order_id: i64, wanted: &str) {
    let columns = "concat_ws('|', username, phone, email, city)";
    let sql =
        format!("SELECT coalesce((SELECT {columns} FROM result.orders_latest WHERE order_id = {order_id}), 'no row')");
    let mut sink = stack.sink().await;
    let what = format!("order {order_id} shows {wanted}");
    until_equal(&what, wanted.to_owned(), async || value(&mut sink, &sql).await).await;
}

#[tokio::test]
async fn phone_and_address_are_masked_before_the_join_whatever_happens_to_the_user() {
    let mut stack = Stack::new().await;
    let clean = start_with_clean_users(&mut stack, |_, _| {}).await;
    until_user(&stack, 2001, "张三|138****5678|z***@example.com|北京").await;
    let mut source = stack.source().await;
    run(&mut source, "UPDATE business.users SET phone = '15987654321', city = '成都' WHERE user_id = 1001").await;
    until_user(&stack, 2001, "张三|159****4321|z***@example.com|成都").await;
    stack.process(USERS_CLEANER).kill();
    run(&mut source, "UPDATE business.users SET email = NULL WHERE user_id = 1001").await;
    stack.process(USERS_CLEANER).restart();
    until_user(&stack, 2001, "张三|159****4321|成都").await;
    for service in [DIM_JOINER, PG_SINKER, CDC_INGEST] {
        stack.process(service).kill();
        stack.process(service).restart();
    }
    run(&mut source, "UPDATE business.users SET city = '武汉' WHERE user_id = 1001").await;
    until_user(&stack, 2001, "张三|159****4321|武汉").await;
    run(&mut source, "DELETE FROM business.users WHERE user_id = 1001").await;
    until_user(&stack, 2001, "Unknown User|unknown@example.com").await;

    let layers = stack.layers();
    for topic in [clean.as_str(), &stack.places.names.result_topic] {
        let history = History::read(&layers, topic);
        history.assert_nothing_twice();
        let rows: Vec<&str> = history.by_key.values().flatten().filter_map(|record| record.value.as_deref()).collect();
        assert!(!rows.is_empty());
        for hidden in ["13812345678", "15987654321", "zhangsan@", "lisi@"] {
            assert!(rows.iter().all(|row| !row.contains(hidden)), "{hidden} is in {topic}");
        }
    }
}

#[tokio::test]
async fn a_pipeline_that_ran_without_it_is_masked_by_a_snapshot_of_the_users() {
    let mut stack = Stack::new().await;
    take_commands(&mut stack);
    stack.start_all().await;
    until_user(&stack, 2001, "张三|13812345678|zhangsan@example.com|北京").await;
    clean_users(&mut stack);
    stack.start_replica(DWD_CLEANER, USERS_CLEANER);
    stack.process(DIM_JOINER).kill();
    stack.start(DIM_JOINER);
    stack.ready().await;
    command(&stack, "snapshot", "business.users").await;
    until_user(&stack, 2001, "张三|138****5678|z***@example.com|北京").await;
    until_user(&stack, 2003, "王五|137****5678|w***@example.com|广州").await;
}
