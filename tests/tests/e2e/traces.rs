//! One commit at the source is one trace through the four services; and nothing depends on who takes the traces.

use std::collections::BTreeSet;

use shared::traces::id::{Commit, Sampling, TraceId};
use sqlx::postgres::PgConnection;

use crate::collector::{Collector, Trace};
use crate::database::{run, value};
use crate::history::{History, header};
use crate::service_page::{get, metric};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::until::{until, until_equal};
use crate::user_changes::until_latest;

/// With a collector, and these settings of `[traces]`.
async fn started(collector: &Collector, settings: &[(&str, &str)]) -> Stack {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "TRACES__ENDPOINT", collector.url());
        stack.set(service, "TRACES__EXPORT_INTERVAL_MS", 100);
        for (key, value) in settings {
            stack.set(service, &format!("TRACES__{key}"), value);
        }
    }
    stack.start_all().await;
    until_latest(&mut stack.sink().await, 2005, "count(*) OVER ()", "1").await;
    stack
}

/// The commit that caused the newest result of an order.
fn commit_of(stack: &Stack, order_id: i64) -> Commit {
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    Commit::of(header(history.of_order(order_id).last().unwrap())).unwrap()
}

async fn set_quantity(source: &mut PgConnection, orders: &str, quantity: u32) {
    run(source, &format!("UPDATE business.orders SET quantity = {quantity} WHERE {orders}")).await;
}

/// The trace, once the sink has told of so many records of it.
async fn sunk(collector: &Collector, commit: Commit, title: &str, records: i64) -> Trace {
    until(&format!("the trace {} has {records} of {title}", commit.trace()), async || {
        let trace = collector.trace(commit.trace().0);
        // Services tell in their own time: the others may be behind the sink.
        let is_whole = trace.records(title) == records && trace.root().is_some() && {
            let parents = trace.0.iter().filter(|told| trace.parent_of(told).is_some()).count();
            parents + 1 == trace.0.len()
        };
        if is_whole { Ok(trace) } else { Err(format!("{trace:#?}")) }
    })
    .await
}

#[tokio::test]
async fn a_commit_is_one_trace_through_four_services() {
    let collector = Collector::new();
    collector.open();
    let stack = started(&collector, &[("SAMPLE_RATIO", "1")]).await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let [ods, dwd, result] = stack.order_topics().map(str::to_owned);
    assert!(collector.told().is_empty(), "copied rows are of no commit");

    set_quantity(&mut source, "order_id BETWEEN 2001 AND 2005", 7).await;
    until_latest(&mut sink, 2005, "quantity", "7").await;
    let first = commit_of(&stack, 2005);
    let titles = [
        format!("{CDC_INGEST}: commit"),
        format!("{CDC_INGEST}: send {ods}"),
        format!("{DWD_CLEANER}: process {ods}"),
        format!("{DIM_JOINER}: process {dwd}"),
        format!("{PG_SINKER}: process {result}"),
    ];
    let trace = sunk(&collector, first, &titles[4], 5).await;
    trace.assert_is_a_tree();
    for title in &titles[1..] {
        assert_eq!(trace.records(title), 5, "{title} in {trace:#?}");
    }
    for sunk in trace.titled(&titles[4]) {
        assert_eq!(trace.way_to(sunk), titles, "{trace:#?}");
        assert_eq!(sunk.text("db.namespace"), stack.places.sink.database);
    }
    // Each partition that the commit wrote to has its own way through the tree.
    let partition = "messaging.destination.partition.id";
    let of = |title: &str| -> BTreeSet<String> { trace.titled(title).map(|told| told.text(partition)).collect() };
    assert_eq!(of(&titles[1]), of(&titles[4]));
    assert!(of(&titles[1]).len() > 1, "five orders are in several partitions: {trace:#?}");
    let root = trace.root().unwrap();
    assert_eq!(root.span.start_time_unix_nano, u64::try_from(first.time_us).unwrap() * 1_000);
    assert_eq!(root.number("tidemill.transaction"), i64::from(first.transaction));

    set_quantity(&mut source, "order_id = 2005", 8).await;
    until_latest(&mut sink, 2005, "quantity", "8").await;
    let second = commit_of(&stack, 2005);
    assert_ne!(first.trace(), second.trace());
    sunk(&collector, second, &titles[4], 1).await.assert_is_a_tree();

    // The orders of a user that changes hang under the change of the user.
    run(&mut source, "UPDATE business.users SET city = '成都' WHERE user_id = 1001").await;
    until_latest(&mut sink, 2001, "city", "成都").await;
    let orders: i64 = value(&mut source, "SELECT count(*) FROM business.orders WHERE user_id = 1001").await;
    let moved = sunk(&collector, commit_of(&stack, 2001), &titles[4], orders).await;
    moved.assert_is_a_tree();
    assert_eq!(moved.records(&format!("{CDC_INGEST}: send {}", stack.users_topic())), 1);
    for sunk in moved.titled(&titles[4]) {
        let way = [titles[0].clone(), format!("{DIM_JOINER}: send {result}"), titles[4].clone()];
        assert_eq!(moved.way_to(sunk), way, "{moved:#?}");
    }
}

#[tokio::test]
async fn all_services_choose_the_same_commits_and_tell_the_last_spans_when_they_stop() {
    const COMMITS: u32 = 24;
    let collector = Collector::new();
    collector.open();
    // So long a wait that only the stop sends what is there.
    let mut stack = started(&collector, &[("SAMPLE_RATIO", "0.5"), ("EXPORT_INTERVAL_MS", "600000")]).await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for quantity in 100..100 + COMMITS {
        set_quantity(&mut source, "order_id = 2005", quantity).await;
    }
    until_latest(&mut sink, 2005, "quantity", &(99 + COMMITS).to_string()).await;
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    let commits = history.of_order(2005).iter().filter_map(|record| Commit::of(header(record)));
    let traces: BTreeSet<[u8; 16]> = commits.map(|commit| commit.trace().0).collect();
    assert_eq!(traces.len(), COMMITS as usize);
    for service in SERVICES {
        assert_eq!(stack.process(service).terminate().await.code(), Some(0));
    }
    let half = Sampling::of(0.5);
    let chosen: BTreeSet<Vec<u8>> =
        traces.iter().filter(|id| half.takes(TraceId(**id))).map(|id| id.to_vec()).collect();
    assert!(!chosen.is_empty() && chosen.len() < traces.len(), "{} of {COMMITS}", chosen.len());
    for service in SERVICES {
        assert_eq!(collector.traces_of(service), chosen, "{service}");
    }
}

#[tokio::test]
async fn without_a_collector_all_goes_on_and_what_is_lost_is_counted() {
    let collector = Collector::new();
    let settings = [("SAMPLE_RATIO", "1"), ("QUEUE_SPANS_MAX", "4"), ("BATCH_SPANS_MAX", "2"), ("ATTEMPTS_MAX", "3")];
    let mut stack = started(&collector, &settings).await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for quantity in 100..130 {
        set_quantity(&mut source, "order_id = 2005", quantity).await;
    }
    until_latest(&mut sink, 2005, "quantity", "129").await;
    for service in SERVICES {
        for (name, labels) in [
            ("tidemill_trace_spans_total", "outcome=\"queue_full\""),
            ("tidemill_trace_spans_total", "outcome=\"given_up\""),
            ("tidemill_trace_export_failures_total", ""),
        ] {
            until(&format!("{service} counts {name} {labels}"), async || {
                let page = get(&stack, service, "/metrics").await.body;
                metric(&page, name, labels).filter(|count| *count > 0.0).ok_or(page)
            })
            .await;
        }
    }

    collector.open();
    until("spans come again", async || {
        set_quantity(&mut source, "order_id = 2005", 1).await;
        let silent: Vec<&str> =
            SERVICES.into_iter().filter(|service| collector.traces_of(service).is_empty()).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("nothing of {silent:?}")) }
    })
    .await;
    for service in SERVICES {
        let process = stack.process(service);
        let said = |words: &str| process.log_text().matches(words).count();
        until_equal(&format!("{service} tells of the end of the outage"), 1, async || said("takes spans again")).await;
        assert_eq!(said("traces cannot be sent"), 1, "{service} tells of an outage once");
    }
}
