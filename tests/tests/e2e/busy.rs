//! The pipeline under load: lab's orders through their three statuses, and what must hold afterwards.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

use lab::changes::STATUSES;
use lab::load::{Outcome, Plan, measure};
use lab::paper::Paper;
use lab::places::Places;
use shared::record::time;
use sqlx::postgres::PgConnection;

use crate::database::value;
use crate::history::{History, assert_nothing_twice};
use crate::stack::Stack;
use crate::until::{PATIENCE, until};

const USERS: u32 = 20;

/// Makes the users, and waits until orders carry them: from then on an order has one record a status in each topic.
pub async fn make_users_known(stack: &Stack) {
    load(&stack.places, USERS, 0).await;
}

/// Takes orders through their statuses, `rate` changes a second (0: as fast as it goes), until all are in the sink.
pub async fn load(places: &Places, orders: u32, rate: u32) -> Outcome {
    load_within(PATIENCE, places, orders, rate).await
}

/// The same, where not all need come to the sink: how long it is waited for them.
pub async fn load_within(timeout: Duration, places: &Places, orders: u32, rate: u32) -> Outcome {
    let plan = Plan { orders, rate, users: USERS, timeout };
    let outcome = measure(places, &plan, &mut Paper::plain(std::io::sink())).await;
    outcome.unwrap_or_else(|failure| panic!("{}", failure.chain()))
}

/// One load after the other for as long as `work` takes, however long that is; what came of each.
pub async fn loads_during(work: impl Future<Output = ()>, places: &Places, orders: u32, rate: u32) -> Vec<Outcome> {
    let is_done = Cell::new(false);
    let loads = async {
        let mut outcomes = Vec::new();
        while !is_done.get() {
            outcomes.push(load(places, orders, rate).await);
        }
        outcomes
    };
    let work = async {
        work.await;
        is_done.set(true);
    };
    tokio::join!(loads, work).0
}

/// Every row there and right by value, every change in each topic once.
pub fn assert_whole(stack: &Stack, outcome: &Outcome) {
    assert!(outcome.is_complete(), "the sink is not as the source: {outcome:#?}");
    assert_nothing_twice(stack);
    let layers = stack.layers();
    for topic in stack.order_topics() {
        History::read(&layers, topic).assert_records_of_orders(ids(outcome), STATUSES.len());
    }
}

fn ids(outcome: &Outcome) -> RangeInclusive<i64> {
    outcome.first_order_id..=outcome.first_order_id + i64::from(outcome.orders) - 1
}

/// Rows of the trail so far.
pub async fn rows(sink: &mut PgConnection) -> i64 {
    value(sink, "SELECT count(*) FROM result.orders_with_user_info").await
}

/// Waits until the load has brought so many further rows to the sink.
pub async fn further_rows(sink: &mut PgConnection, further: i64) {
    let before = rows(sink).await;
    until(&format!("{further} further rows"), async || match rows(sink).await - before {
        come if come >= further => Ok(()),
        come => Err(format!("{come}")),
    })
    .await;
}

/// Changes order 2001, which no load touches, and waits until the sink shows it. How long that took.
pub async fn new_change_comes_through(stack: &Stack) -> Duration {
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let now_ms = time::now().as_millisecond();
    lab::changes::touch(&mut source, &stack.places.names, 2001, now_ms).await.unwrap();
    let begin = std::time::Instant::now();
    let shown = format!(
        "SELECT coalesce((SELECT updated_at = timestamp '1970-01-01' + {now_ms} * interval '1 millisecond' FROM result.orders_latest
            WHERE order_id = 2001), false)"
    );
    until("a new change is in the sink", async || match value::<bool>(&mut sink, &shown).await {
        true => Ok(()),
        false => Err("the change before".to_owned()),
    })
    .await;
    begin.elapsed()
}
