//! A wrong rule rejects rows; when it is mended, they go back in: in order, never over a newer version, and only once.

use std::time::Duration;

use serde_json::Value;

use crate::busy::{further_rows, load_within, make_users_known, new_change_comes_through};
use crate::cleaning::{TOKEN, count, replay, replay_at, rules_and};
use crate::database::{run, value};
use crate::history::{History, assert_nothing_twice, order_key};
use crate::service_page::{get, metric, owned_partitions, state, until_all_is_handled};
use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::until::{until, until_equal};
use crate::whole_sink::until_sink_is_the_source;

/// A rule that knows one status only.
const TOO_STRICT: &str = r#"
[[rules]]
name = "status_known"
kind = "set"
column = "order_status"
values = ["PENDING"]
"#;

fn mended() -> String {
    rules_and(&TOO_STRICT.replace("[\"PENDING\"]", "[\"PENDING\", \"PAID\", \"SHIPPED\", \"COMPLETED\"]"))
}

/// The pipeline with the rule that is too strict.
async fn started() -> Stack {
    let mut stack = Stack::new().await;
    stack.configure(DWD_CLEANER, &rules_and(TOO_STRICT));
    stack.set(DWD_CLEANER, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.start_all().await;
    stack
}

pub async fn mend(stack: &mut Stack) {
    stack.configure(DWD_CLEANER, &mended());
    stack.process(DWD_CLEANER).kill();
    stack.process(DWD_CLEANER).restart();
    stack.ready().await;
}

async fn set_status(stack: &Stack, order_id: i64, status: &str) {
    let sql = format!("UPDATE business.orders SET order_status = '{status}' WHERE order_id = {order_id}");
    run(&mut stack.source().await, &sql).await;
}

fn letters(stack: &Stack) -> usize {
    let (layers, topic) = (stack.layers(), stack.dead_letter_topic(DWD_CLEANER));
    layers.read(&topic, &layers.begin(&topic).unwrap(), |_| true).unwrap().len()
}

async fn trail(stack: &Stack, order_id: i64) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(order_status, ' ' ORDER BY record_version), '') FROM result.orders_with_user_info WHERE order_id = {order_id}"
    );
    value(&mut stack.sink().await, &sql).await
}

async fn until_trail(stack: &Stack, order_id: i64, wanted: &str) {
    until_equal(&format!("the trail of {order_id}"), wanted.to_owned(), async || trail(stack, order_id).await).await;
}

/// Ends of all partitions of the clean topic.
fn clean_ends(stack: &Stack) -> Vec<(i32, i64)> {
    stack.layers().end(&stack.places.names.dwd_topic).unwrap()
}

/// Orders of the example, after the rule has rejected what it does not know: 2003 went through three statuses, of which one passed; 2001
/// has a newer version that passed; 2002 was deleted; 2004 and 2005 never came through.
pub async fn rejected() -> Stack {
    let stack = started().await;
    until_trail(&stack, 2003, "PENDING").await;
    set_status(&stack, 2003, "PAID").await;
    set_status(&stack, 2003, "SHIPPED").await;
    set_status(&stack, 2001, "PENDING").await;
    run(&mut stack.source().await, "DELETE FROM business.orders WHERE order_id = 2002").await;
    until_trail(&stack, 2001, "PENDING").await;
    let [ods, dwd, result] = stack.order_topics();
    for (service, input) in [(DWD_CLEANER, ods), (DIM_JOINER, dwd), (PG_SINKER, result)] {
        until_all_is_handled(&stack, service, input).await;
    }
    assert_eq!(letters(&stack), 6, "four of the first copy, two changes");
    stack
}

#[tokio::test]
async fn what_a_mended_rule_takes_comes_back_in_order_and_never_over_a_newer_version() {
    let mut stack = rejected().await;
    let before = replay(&mut stack, 0).await;
    assert_eq!((count(&before, "still rejected"), count(&before, "put back in")), (4, 0), "{}", before.output);
    assert!(before.output.contains("4  rule `status_known`: not_in_set"), "{}", before.output);

    mend(&mut stack).await;
    let replayed = replay(&mut stack, 0).await;
    let found = ["put back in", "superseded", "back already", "still rejected"].map(|words| count(&replayed, words));
    assert_eq!(found, [4, 2, 0, 0], "{}", replayed.output);
    until_trail(&stack, 2003, "PENDING PAID SHIPPED").await;
    until_trail(&stack, 2004, "COMPLETED").await;
    until_trail(&stack, 2005, "SHIPPED").await;
    until_sink_is_the_source(&stack).await;
    assert_eq!((trail(&stack, 2001).await, trail(&stack, 2002).await), ("PENDING".to_owned(), String::new()));
    assert_nothing_twice(&stack);
    let page = get(&stack, DWD_CLEANER, "/metrics").await.body;
    assert_eq!(metric(&page, "tidemill_replayed_total", "outcome=\"put_back\""), Some(4.0));

    let ends = clean_ends(&stack);
    let again = replay(&mut stack, 0).await;
    let found = ["put back in", "superseded", "back already"].map(|words| count(&again, words));
    // PAID of 2003 is behind SHIPPED by now.
    assert_eq!(found, [0, 3, 3], "{}", again.output);
    assert_eq!(clean_ends(&stack), ends, "a second replay changes nothing");
    new_change_comes_through(&stack).await;
}

#[tokio::test]
async fn after_a_replay_each_service_goes_on_where_it_was() {
    let mut stack = rejected().await;
    mend(&mut stack).await;
    assert_eq!(count(&replay(&mut stack, 0).await, "put back in"), 4);
    until_sink_is_the_source(&stack).await;
    let ends = clean_ends(&stack);
    for service in [DWD_CLEANER, DIM_JOINER, PG_SINKER] {
        stack.process(service).kill();
        stack.process(service).restart();
        stack.ready().await;
        assert_eq!(clean_ends(&stack), ends, "{service} sent nothing again");
    }
    for order_id in [2001, 2003, 2004, 2005] {
        set_status(&stack, order_id, "COMPLETED").await;
    }
    run(&mut stack.source().await, "UPDATE business.users SET city = '武汉' WHERE user_id IN (1001, 1003)").await;
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

#[tokio::test]
async fn of_replicas_each_puts_back_what_it_owns() {
    let mut stack = rejected().await;
    mend(&mut stack).await;
    let second = "dwd-cleaner-second";
    stack.configure(second, &mended());
    stack.start_replica(DWD_CLEANER, second);
    until("both own partitions", async || {
        let owned =
            [state(&stack, DWD_CLEANER).await, lab_state(&stack, second).await?].map(|state| owned_partitions(&state));
        if owned == [2, 2] { Ok(()) } else { Err(format!("{owned:?}")) }
    })
    .await;
    let replayed = replay_at(&mut stack, 0, &[DWD_CLEANER, second]).await;
    let found = ["put back in", "superseded", "of other instances"].map(|words| count(&replayed, words));
    assert_eq!(found, [4, 2, 6], "{}", replayed.output);
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
}

/// The state of an instance that may just have been started.
async fn lab_state(stack: &Stack, instance: &str) -> Result<Value, String> {
    let page = lab::page::get(&stack.url(instance), "/api/v1/state").await.map_err(|failure| failure.chain())?;
    serde_json::from_str(&page.body).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_replay_in_the_middle_of_a_load_with_kills_lets_no_old_version_win() {
    let mut stack = started().await;
    // Users first: orders of the load then go out once a status.
    stack.configure(DWD_CLEANER, &mended());
    stack.process(DWD_CLEANER).kill();
    stack.process(DWD_CLEANER).restart();
    make_users_known(&stack).await;
    stack.configure(DWD_CLEANER, &rules_and(TOO_STRICT));
    stack.process(DWD_CLEANER).kill();
    stack.process(DWD_CLEANER).restart();
    let places = stack.places.clone();
    let replays = async {
        further_rows(&mut stack.sink().await, 60).await;
        until("rows are rejected", async || if letters(&stack) > 100 { Ok(()) } else { Err("few".to_owned()) }).await;
        mend(&mut stack).await;
        for victim in [DWD_CLEANER, DIM_JOINER, DWD_CLEANER] {
            let url = stack.url(DWD_CLEANER);
            let asked =
                tokio::spawn(
                    async move { lab::page::post(&url, "/api/v1/replay", Some(TOKEN), r#"{"from":0}"#).await },
                );
            // In the middle of it, or soon after.
            tokio::time::sleep(Duration::from_millis(150)).await;
            stack.process(victim).kill();
            stack.process(victim).restart();
            let _ = asked.await.unwrap();
            stack.ready().await;
        }
        let replayed = replay(&mut stack, 0).await;
        assert_eq!((replayed.code, count(&replayed, "still rejected")), (Some(0), 0), "{}", replayed.output);
    };
    let (outcome, ()) = tokio::join!(load_within(Duration::from_secs(5), &places, 600, 200), replays);
    assert_eq!(outcome.orders, 600);
    until_sink_is_the_source(&stack).await;
    assert_nothing_twice(&stack);
    let last = replay(&mut stack, 0).await;
    assert_eq!((count(&last, "put back in"), count(&last, "still rejected")), (0, 0), "{}", last.output);
    until_sink_is_the_source(&stack).await;
}

#[tokio::test]
async fn a_replay_of_nothing_and_a_wrong_one_say_so() {
    let mut stack = rejected().await;
    let (from, url) = (i64::MAX.to_string(), stack.url(DWD_CLEANER));
    let token = [("HTTP__CONTROL_TOKEN", TOKEN)];
    let nothing = stack.command(DWD_CLEANER, &["replay", "--from", &from, "--at", &url], &token).await;
    assert!(nothing.code == Some(0) && nothing.output.contains("0 dead letters"), "{}", nothing.output);
    let without =
        stack.command(DWD_CLEANER, &["replay", "--from", "0", "--at", &url], &[("HTTP__CONTROL_TOKEN", "")]).await;
    assert!(without.code == Some(1) && without.output.contains("http.control_token"), "{}", without.output);
    let answer = |body: &'static str| {
        let url = url.clone();
        async move { lab::page::post(&url, "/api/v1/replay", Some(TOKEN), body).await.unwrap().page }
    };
    for body in [r#"{"from":5,"to":4}"#, r#"{"to":4}"#, r#"{"from":0,"where":1}"#] {
        assert_eq!(answer(body).await.status, 400, "{body}");
    }
    // A part of the range: the letters of one partition, two offsets.
    let partition = shared::kafka::partitioner::partition(order_key(2003).as_bytes(), 4);
    let all: Value = serde_json::from_str(&answer(r#"{"from":0}"#).await.body).unwrap();
    assert_eq!((&all["looked_at"], &all["superseded"]), (&6.into(), &2.into()), "{all}");
    let two: Value = serde_json::from_str(&answer(r#"{"from":1,"to":2}"#).await.body).unwrap();
    assert_eq!(two["looked_at"], 2, "{two}");
    let arguments = ["replay", "--from", "0", "--partition", &partition.to_string(), "--at", &url];
    let of_one = stack.command(DWD_CLEANER, &arguments, &token).await;
    assert!(count(&of_one, "still rejected") >= 2, "{}", of_one.output);
    let history = History::read(&stack.layers(), &stack.places.names.dwd_topic);
    assert_eq!(history.of_order(2003).len(), 1, "nothing was put in");
}
