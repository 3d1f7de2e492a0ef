//! SIGTERM in the middle of a load: a service finishes what it has in hand and goes, and its successor repeats nothing.

use crate::busy::{assert_whole, further_rows, loads_during, make_users_known};
use crate::stack::{SERVICES, Stack};

const BETWEEN: i64 = 150;
const ORDERS: u32 = 500;
const CHANGES_A_SECOND: u32 = 300;

#[tokio::test]
async fn each_service_drains_and_exits_well_when_it_is_asked_to_stop() {
    let mut stack = Stack::started().await;
    make_users_known(&stack).await;
    let places = stack.places.clone();
    let stop_one_after_the_other = async {
        for service in SERVICES {
            further_rows(&mut stack.sink().await, BETWEEN).await;
            let asked = std::time::Instant::now();
            let status = stack.process(service).terminate().await;
            eprintln!("{service}: gone {:.2} s after SIGTERM", asked.elapsed().as_secs_f64());
            assert_eq!(status.code(), Some(0), "{service}");
            let log = stack.process(service).log_text();
            assert!(log.contains("asked to stop") && !log.contains("not drained within"), "{service} did not drain");
            stack.process(service).restart();
        }
    };
    for outcome in loads_during(stop_one_after_the_other, &places, ORDERS, CHANGES_A_SECOND).await {
        assert_whole(&stack, &outcome);
    }
}
