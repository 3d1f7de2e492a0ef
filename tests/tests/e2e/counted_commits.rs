//! A position that was to be made durable, and was not, is counted as one that failed; data goes on meanwhile.

use crate::busy::new_change_comes_through;
use crate::database::run;
use crate::further_broker::FurtherBroker;
use crate::late_server::LateServer;
use crate::service_page::{get, metric};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::until::until;

const CHANGE: &str = "UPDATE business.orders SET quantity = quantity + 1 WHERE order_id = 2002";

async fn commits(stack: &Stack, service: &str, outcome: &str) -> f64 {
    let page = get(stack, service, "/metrics").await.body;
    metric(&page, "tidemill_position_commits_total", &format!("outcome=\"{outcome}\"")).unwrap_or_default()
}

/// Changes the source until the service has counted more than this.
async fn until_more(stack: &Stack, service: &str, outcome: &str, than: f64) {
    let mut source = stack.source().await;
    until(&format!("{service} counts commits as {outcome}"), async || {
        run(&mut source, CHANGE).await;
        let found = commits(stack, service, outcome).await;
        if found > than { Ok(()) } else { Err(format!("{found}, not above {than}")) }
    })
    .await;
}

/// The topic in which the broker keeps the offsets of groups takes nothing any more: nothing else is refused.
#[tokio::test]
async fn offsets_that_the_broker_does_not_take_are_counted_as_failed() {
    const OFFSETS: &str = "__consumer_offsets";
    const READERS: [&str; 3] = [DWD_CLEANER, DIM_JOINER, PG_SINKER];
    let mut stack = Stack::new().await;
    let broker = FurtherBroker::start(&stack);
    stack.places.kafka = broker.client();
    for service in READERS {
        stack.set(service, "KAFKA__REQUEST_TIMEOUT_MS", 5_000);
    }
    stack.start_all().await;
    for service in READERS {
        until_more(&stack, service, "ok", 0.0).await;
        assert_eq!(commits(&stack, service, "failed").await, 0.0, "{service}");
    }

    let chains = async |service| metric(&get(&stack, service, "/metrics").await.body, "tidemill_generations_total", "");
    let mut before = Vec::new();
    for service in READERS {
        before.push(chains(service).await);
    }
    broker.takes_at_most(OFFSETS, 10).await;
    for service in READERS {
        until_more(&stack, service, "failed", 0.0).await;
    }
    new_change_comes_through(&stack).await;
    for (service, before) in READERS.into_iter().zip(before) {
        assert_eq!(chains(service).await, before, "{service} goes on");
    }

    broker.takes_at_most(OFFSETS, 1 << 20).await;
    for service in READERS {
        let before = commits(&stack, service, "ok").await;
        until_more(&stack, service, "ok", before).await;
    }
    // While its broker is there.
    drop(stack);
}

/// What cdc-ingest says does not come to the source any more, until the stream is given up.
#[tokio::test]
async fn a_position_that_the_source_does_not_take_is_counted_as_failed() {
    let mut stack = Stack::new().await;
    let source = LateServer::of(&format!("{}:{}", stack.places.source.host, stack.places.source.port));
    source.open();
    stack.set(CDC_INGEST, "SOURCE__PORT", source.port);
    stack.start(CDC_INGEST);
    stack.ready().await;
    until_more(&stack, CDC_INGEST, "ok", 0.0).await;
    assert_eq!(commits(&stack, CDC_INGEST, "failed").await, 0.0);

    source.hold();
    let before = commits(&stack, CDC_INGEST, "ok").await;
    until_more(&stack, CDC_INGEST, "failed", 0.0).await;
    // An answer may have been on its way.
    let after = commits(&stack, CDC_INGEST, "ok").await;
    assert!(after <= before + 1.0, "{after} after {before}: none was taken that did not come through");

    source.release();
    until_more(&stack, CDC_INGEST, "ok", before).await;
}
