//! A server that is down at the start is waited for, and the reason is said.

use lab::page;

use crate::busy::rows;
use crate::late_server::LateServer;
use crate::refused_settings::assert_refused;
use crate::stack::{CDC_INGEST, PG_SINKER, SERVICES, Stack};
use crate::until::{until, until_equal};

/// Waits until `/health/ready` refuses for a reason with these words.
async fn until_waits(stack: &Stack, service: &str, words: &str) {
    until(&format!("{service} says {words:?}"), async || {
        let page = page::get(&stack.url(service), "/health/ready").await.map_err(|failure| failure.chain())?;
        let waits = page.status == 503 && page.body.contains(words) && page.body.contains("To do: start");
        if waits { Ok(()) } else { Err(page.body) }
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let mut stack = Stack::new().await;
    let broker = LateServer::of(&stack.places.kafka.brokers);
    for service in SERVICES {
        stack.set(service, "KAFKA__BROKERS", broker.address());
        stack.set(service, "KAFKA__REQUEST_TIMEOUT_MS", 2_000);
    }
    let words = format!("Kafka at {} does not answer", broker.address());
    for service in SERVICES {
        let ended = stack.command(service, &["check"], &[]).await;
        assert_refused(&ended, &[&words, "start the broker, or set kafka.brokers"]);
        stack.start(service);
    }
    for service in SERVICES {
        until_waits(&stack, service, &words).await;
    }

    broker.open();
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
}

#[tokio::test]
async fn databases_that_are_down_at_the_start_are_waited_for() {
    let mut stack = Stack::new().await;
    let address = |config: &shared::pg::PostgresConfig| format!("{}:{}", config.host, config.port);
    let source = LateServer::of(&address(&stack.places.source));
    let sink = LateServer::of(&address(&stack.places.sink));
    let databases = [(CDC_INGEST, "SOURCE__PORT", &source), (PG_SINKER, "SINK__PORT", &sink)];
    for (service, key, server) in databases {
        stack.set(service, key, server.port);
        let ended = stack.command(service, &["check"], &[]).await;
        assert_refused(&ended, &[&server.address(), "start the server, or correct host and port"]);
    }
    for service in SERVICES {
        stack.start(service);
    }
    for (service, _, server) in databases {
        until_waits(&stack, service, &server.address()).await;
    }

    source.open();
    sink.open();
    stack.ready().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
}
