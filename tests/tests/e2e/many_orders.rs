//! Many orders through three statuses: none missing, none wrong, none twice.

use crate::busy::{assert_whole, load, make_users_known};
use crate::environment::load_orders;
use crate::stack::Stack;

#[tokio::test]
async fn every_status_of_every_order_is_in_the_sink_once_and_right() {
    let stack = Stack::started().await;
    make_users_known(&stack).await;
    let outcome = load(&stack.places, load_orders(), 0).await;
    eprintln!("{} changes: {:.0} a second, {:?}", outcome.changes, outcome.changes_per_second, outcome.latency);
    assert_eq!(outcome.trail.expected, outcome.changes);
    assert_whole(&stack, &outcome);
}
