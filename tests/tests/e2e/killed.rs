//! `kill -9` in the middle of a load: nothing is lost, nothing comes twice.

use std::time::Instant;

use crate::busy::{assert_whole, further_rows, loads_during, make_users_known, new_change_comes_through};
use crate::stack::{SERVICES, Stack};

/// Rows that the load brings to the sink between two kills.
const BETWEEN: i64 = 150;

/// Of a load: enough, and slow enough, that a kill falls into it.
const ORDERS: u32 = 600;
const CHANGES_A_SECOND: u32 = 300;

#[tokio::test]
async fn each_service_is_killed_in_the_middle_of_a_load_and_nothing_is_lost_or_twice() {
    let mut stack = Stack::started().await;
    make_users_known(&stack).await;
    let places = stack.places.clone();
    let kill_one_after_the_other = async {
        for service in SERVICES {
            further_rows(&mut stack.sink().await, BETWEEN).await;
            stack.process(service).kill();
            let restarted = Instant::now();
            stack.process(service).restart();
            new_change_comes_through(&stack).await;
            eprintln!(
                "{service}: a new change was in the sink {:.2} s after the restart",
                restarted.elapsed().as_secs_f64()
            );
        }
    };
    for outcome in loads_during(kill_one_after_the_other, &places, ORDERS, CHANGES_A_SECOND).await {
        assert_whole(&stack, &outcome);
    }
}

#[tokio::test]
async fn all_services_are_killed_at_once_in_the_middle_of_a_load_and_nothing_is_lost_or_twice() {
    let mut stack = Stack::started().await;
    make_users_known(&stack).await;
    let places = stack.places.clone();
    let kill_all = async {
        for _ in 0..2 {
            further_rows(&mut stack.sink().await, BETWEEN).await;
            for service in SERVICES {
                stack.process(service).kill();
            }
            for service in SERVICES {
                stack.process(service).restart();
            }
            new_change_comes_through(&stack).await;
        }
    };
    for outcome in loads_during(kill_all, &places, ORDERS, CHANGES_A_SECOND).await {
        assert_whole(&stack, &outcome);
    }
}
