//! What every instance tells of itself in a topic, and how the page of any of them shows all.

use serde_json::Value;

use crate::database::run;
use crate::service_page::get;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::until::until;

/// All instances as the page of this one shows them.
async fn shown(stack: &Stack, at: &str) -> Value {
    serde_json::from_str(&get(stack, at, "/api/v1/pipeline").await.body).unwrap()
}

/// What it shows of another one; null where it shows none.
async fn shown_of(stack: &Stack, at: &str, service: &str) -> Value {
    let shown = shown(stack, at).await;
    let instances = shown["instances"].as_array().unwrap();
    instances.iter().find(|found| found["service"] == service).cloned().unwrap_or_default()
}

async fn until_shown(stack: &Stack, at: &str, service: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(&format!("the page of {at} shows that {service} {what}"), async || {
        let found = shown_of(stack, at, service).await;
        if is_so(&found) { Ok(found) } else { Err(found.to_string()) }
    })
    .await
}

#[tokio::test]
async fn the_page_of_each_shows_all_with_their_places_and_figures() {
    let stack = Stack::started().await;
    let names = &stack.places.names;
    for at in SERVICES {
        for service in SERVICES {
            let found = until_shown(&stack, at, service, "is ready", |found| {
                found["told"]["state"]["ready"] == true && found["gone"] == false
            })
            .await;
            assert_eq!((&found["instance"], &found["told"]["url"]), (&service.into(), &stack.url(service).into()));
            assert_eq!(found["told"]["state"]["version"], env!("CARGO_PKG_VERSION"));
        }
    }
    let joiner = until_shown(&stack, CDC_INGEST, DIM_JOINER, "has sent results and tells its lag", |found| {
        let figures = &found["told"]["figures"];
        figures["records_out"][0]["total"].as_u64() >= Some(5)
            && figures["lag"].as_array().is_some_and(|lag| lag.len() == 4)
    })
    .await;
    let (place, figures) = (&joiner["told"]["topology"], &joiner["told"]["figures"]);
    assert_eq!(place["input"], names.dwd_topic.as_str());
    assert_eq!(place["beside"], serde_json::json!([stack.users_topic()]));
    assert_eq!(place["outputs"], serde_json::json!([names.result_topic]));
    assert!(figures["in_stage"]["p99_ms"].as_f64().unwrap() > 0.0, "{figures}");
}

#[tokio::test]
async fn a_change_moves_the_figures_of_every_stage() {
    let stack = Stack::started().await;
    for service in SERVICES {
        until(&format!("{service} shows rows a second and the time since the commit"), async || {
            let sql = "UPDATE business.orders SET quantity = quantity + 1 WHERE order_id = 2001";
            run(&mut stack.source().await, sql).await;
            let found = shown_of(&stack, PG_SINKER, service).await;
            let figures = &found["told"]["figures"];
            let flows = figures["records_out"].as_array().cloned().unwrap_or_default();
            let is_live = flows.iter().any(|flow| flow["per_second"].as_f64().unwrap() > 0.0);
            let is_timed = figures["since_commit"]["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0);
            if is_live && is_timed { Ok(()) } else { Err(figures.to_string()) }
        })
        .await;
    }
}

#[tokio::test]
async fn who_stops_in_order_is_shown_no_more_and_who_is_killed_is_gone() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "CONSOLE__GONE_AFTER_MS", 2_000);
    }
    stack.start_all().await;
    for service in [DWD_CLEANER, DIM_JOINER] {
        until_shown(&stack, PG_SINKER, service, "is there", |found| found["gone"] == false).await;
    }
    assert!(stack.process(DWD_CLEANER).terminate().await.success());
    until_shown(&stack, PG_SINKER, DWD_CLEANER, "is not there", Value::is_null).await;
    stack.process(DIM_JOINER).kill();
    until_shown(&stack, PG_SINKER, DIM_JOINER, "is gone", |found| found["gone"] == true).await;
    stack.process(DIM_JOINER).restart();
    until_shown(&stack, PG_SINKER, DIM_JOINER, "is back", |found| found["gone"] == false).await;
}

#[tokio::test]
async fn a_restart_is_shown_with_its_reason() {
    let stack = Stack::started().await;
    let cut = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
        stack.name
    );
    run(&mut stack.source().await, &cut).await;
    let found = until_shown(&stack, PG_SINKER, CDC_INGEST, "was restarted", |found| {
        found["told"]["state"]["restarts"].as_array().is_some_and(|restarts| !restarts.is_empty())
    })
    .await;
    let restart = &found["told"]["state"]["restarts"][0];
    assert!(restart["kind"].is_string() && restart["why"].as_str().unwrap().len() > 10, "{restart}");
}

#[tokio::test]
async fn without_a_topic_a_page_shows_its_own_instance() {
    let mut stack = Stack::new().await;
    stack.set(CDC_INGEST, "CONSOLE__TOPIC", "");
    stack.start(CDC_INGEST);
    stack.ready().await;
    let shown = shown(&stack, CDC_INGEST).await;
    assert_eq!(shown["instances"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["here"]["service"], CDC_INGEST);
    assert!(stack.layers().partitions(&stack.told_topic()).is_err(), "no topic was made");
}

#[tokio::test]
async fn the_settings_are_shown_and_their_secrets_are_not() {
    let mut stack = Stack::new().await;
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", "open-sesame");
    stack.start(CDC_INGEST);
    stack.ready().await;
    let page = get(&stack, CDC_INGEST, "/api/v1/configuration").await.body;
    let shown: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(shown["slot"]["name"], stack.name.as_str());
    assert_eq!((&shown["source"]["password"], &shown["http"]["control_token"]), (&"***".into(), &"***".into()));
    assert!(!page.contains("open-sesame"), "{page}");
    let layers = stack.layers();
    let topic = stack.told_topic();
    let told = until("the state is in the topic", async || {
        let told = layers.read(&topic, &layers.begin(&topic).map_err(|failure| failure.chain())?, |_| true).unwrap();
        if told.is_empty() { Err("it is not".to_owned()) } else { Ok(told) }
    })
    .await;
    assert!(told.iter().all(|record| !record.value.as_deref().unwrap_or_default().contains("open-sesame")));
}
