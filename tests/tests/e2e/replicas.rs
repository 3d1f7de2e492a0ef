//! Two instances of a service share its partitions; when one is gone for good, the other takes them over.

use std::time::{Duration, Instant};

use crate::busy::{assert_whole, further_rows, load, make_users_known};
use crate::service_page::{owned_partitions, state};
use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::until::until_equal;

/// The replicated services, and the name of the second instance of each.
const PAIRS: [(&str, &str); 3] =
    [(DWD_CLEANER, "dwd-cleaner-second"), (DIM_JOINER, "dim-joiner-second"), (PG_SINKER, "pg-sinker-second")];

/// Waits until these instances own so many partitions each, by their own account.
pub async fn until_owned(stack: &Stack, wanted: &[(&str, usize)]) {
    for &(instance, partitions) in wanted {
        let what = format!("{instance} owns {partitions} partitions");
        until_equal(&what, partitions, async || owned_partitions(&state(stack, instance).await)).await;
    }
}

/// Two instances of each, with half of the partitions each, and users whose orders are joined at once.
async fn start_pairs(stack: &mut Stack) {
    stack.start_all().await;
    for (service, second) in PAIRS {
        stack.start_replica(service, second);
    }
    stack.ready().await;
    for (first, second) in PAIRS {
        until_owned(stack, &[(first, 2), (second, 2)]).await;
    }
    make_users_known(stack).await;
}

#[tokio::test]
async fn the_second_instance_takes_over_the_partitions_of_one_that_is_killed_for_good() {
    let mut stack = Stack::new().await;
    for (service, _) in PAIRS {
        stack.set(service, "KAFKA__SESSION_TIMEOUT_MS", 6_000);
    }
    start_pairs(&mut stack).await;

    let places = stack.places.clone();
    let kill_the_first_ones = async {
        further_rows(&mut stack.sink().await, 150).await;
        for (first, _) in PAIRS {
            stack.process(first).kill();
        }
    };
    let (outcome, ()) = tokio::join!(load(&places, 500, 300), kill_the_first_ones);
    for (_, second) in PAIRS {
        until_owned(&stack, &[(second, 4)]).await;
    }
    assert_whole(&stack, &outcome);
}

#[tokio::test]
async fn an_instance_that_keeps_no_place_hands_its_partitions_on_when_it_stops() {
    /// Long enough to tell whether it was waited for: the others hear of the change with their heartbeat, a third of it.
    const SESSION: Duration = Duration::from_secs(30);
    let mut stack = Stack::new().await;
    for (service, _) in PAIRS {
        stack.set(service, "KAFKA__SESSION_TIMEOUT_MS", SESSION.as_millis());
        stack.set(service, "KAFKA__KEEPS_PLACE", false);
    }
    start_pairs(&mut stack).await;

    let places = stack.places.clone();
    let stop_the_first_ones = async {
        further_rows(&mut stack.sink().await, 150).await;
        let asked = Instant::now();
        for (first, _) in PAIRS {
            assert_eq!(stack.process(first).terminate().await.code(), Some(0), "{first}");
        }
        for (_, second) in PAIRS {
            until_owned(&stack, &[(second, 4)]).await;
        }
        asked.elapsed()
    };
    let (outcome, handed_on) = tokio::join!(load(&places, 500, 300), stop_the_first_ones);
    assert!(handed_on < SESSION * 2 / 3, "the others had the partitions after {handed_on:?} only");
    assert_whole(&stack, &outcome);
}
