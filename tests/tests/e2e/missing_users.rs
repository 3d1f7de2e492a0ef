//! A user whom orders name and whom nobody knows: listed with its age, counted, and gone from the list by itself.

use serde_json::Value;

use crate::database::{run, value};
use crate::service_page::{get, metric};
use crate::stack::{DIM_JOINER, Stack};
use crate::until::until;
use crate::user_changes::until_latest;

const UNKNOWN: &str = "Unknown User|unknown@example.com";

/// Waits until the page lists these users, in whatever order, and the metrics say the same. What the page says of users.
async fn until_missing(stack: &Stack, names: &[&str]) -> Value {
    until(&format!("{names:?} are missing"), async || {
        let page = get(stack, DIM_JOINER, "/api/v1/missing").await.body;
        let users = serde_json::from_str::<Value>(&page).map_err(|error| error.to_string())?["users"].clone();
        let oldest = users["oldest"].as_array().cloned().unwrap_or_default();
        let mut listed: Vec<&str> = oldest.iter().filter_map(|user| user["name"].as_str()).collect();
        listed.sort_unstable();
        let metrics = get(stack, DIM_JOINER, "/metrics").await.body;
        let counted = metric(&metrics, "tidemill_missing_rows", "dimension=\"users\"");
        let is_so = listed == names && users["missing"] == names.len() && counted == Some(names.len() as f64);
        if is_so { Ok(users) } else { Err(format!("{users}, metric {counted:?}")) }
    })
    .await
}

async fn oldest_s(stack: &Stack) -> Option<f64> {
    let metrics = get(stack, DIM_JOINER, "/metrics").await.body;
    metric(&metrics, "tidemill_missing_rows_oldest_seconds", "dimension=\"users\"")
}

#[tokio::test]
async fn a_missing_user_is_listed_with_its_age_until_it_comes_or_no_order_names_it() {
    let mut stack = Stack::started().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until_latest(&mut sink, 2005, "username", "赵六").await;
    until_missing(&stack, &[]).await;

    // Missed since the commit of the order that names it.
    let time = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '1 millisecond' * {}, 'YYYY-MM-DD HH24:MI:SS.MS')";
    let before: String = value(&mut source, &time.replace("{}", "-1")).await;
    run(&mut source, "UPDATE business.orders SET user_id = 9001 WHERE order_id = 2005").await;
    let after: String = value(&mut source, &time.replace("{}", "1")).await;
    run(&mut source, "UPDATE business.orders SET user_id = 9002 WHERE order_id = 2003").await;
    let users = until_missing(&stack, &["9001", "9002"]).await;
    let oldest = &users["oldest"][0];
    let since = oldest["since"].as_str().unwrap();
    assert_eq!(oldest["name"], "9001", "the oldest comes first: {users}");
    assert!(before.as_str() <= since && since <= after.as_str(), "{since} is not from {before} to {after}");
    until("the gauge tells the age", async || match oldest_s(&stack).await {
        Some(age) if age >= 2.0 => Ok(()),
        age => Err(format!("{age:?}")),
    })
    .await;
    let users = until_missing(&stack, &["9001", "9002"]).await;
    assert!(users["oldest_age_s"].as_i64() >= Some(2) && users["oldest"][0]["age_s"].as_i64() >= Some(2), "{users}");

    // Another process finds them again in the orders.
    stack.process(DIM_JOINER).kill();
    stack.process(DIM_JOINER).restart();
    stack.ready().await;
    until_missing(&stack, &["9001", "9002"]).await;

    run(&mut source, "INSERT INTO business.users (user_id, username, email) VALUES (9001, '周九', 'z@example.com')")
        .await;
    until_latest(&mut sink, 2005, "username, email", "周九|z@example.com").await;
    until_missing(&stack, &["9002"]).await;
    run(&mut source, "DELETE FROM business.users WHERE user_id = 9001").await;
    until_latest(&mut sink, 2005, "username, email", UNKNOWN).await;
    until_missing(&stack, &["9001", "9002"]).await;

    // Nobody names them any more: one order is another user's, one is deleted.
    run(&mut source, "UPDATE business.orders SET user_id = 1002 WHERE order_id = 2003").await;
    run(&mut source, "DELETE FROM business.orders WHERE order_id = 2005").await;
    let users = until_missing(&stack, &[]).await;
    assert_eq!((users["oldest_age_s"].as_i64(), oldest_s(&stack).await), (Some(0), Some(0.0)));
}
