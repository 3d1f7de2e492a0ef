//! With `log.format = "json"` each line of a service is one JSON object that says who writes it, and a line about a record where that stands.

use serde_json::Value;

use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::topics::{Foreign, write};
use crate::until::until;

fn lines(log: &str) -> Vec<Value> {
    // The last one may be half written.
    let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test]
async fn each_line_says_who_writes_it_and_where_a_rejected_record_stands() {
    const VERSION: &str = "4000000.16B3748.0.1";
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "LOG__FORMAT", "json");
    }
    stack.start_all().await;
    let inputs = stack.order_topics().map(str::to_owned);
    for (service, topic) in [DWD_CLEANER, DIM_JOINER, PG_SINKER].into_iter().zip(inputs) {
        let header = format!("op=u v={VERSION} u={VERSION} tx=7 ts=1752226555145000");
        let record =
            Foreign { topic: &topic, partition: 2, key: "{\"order_id\":1}", value: Some(b"?"), header: Some(&header) };
        let offset = stack.layers().end(&topic).unwrap().iter().find(|(partition, _)| *partition == 2).unwrap().1;
        write(&stack.places.kafka, &record);
        let line = until(&format!("{service} tells of the rejected record"), async || {
            let found = lines(&stack.process(service).log_text());
            let told = found.iter().find(|line| line["reason"].is_string());
            told.cloned().ok_or_else(|| format!("{found:?}"))
        })
        .await;
        assert_eq!(line["topic"], topic.as_str(), "{line}");
        assert_eq!(line["partition"], 2, "{line}");
        assert_eq!(line["offset"], offset, "{line}");
        assert_eq!(line["version"], VERSION, "{line}");
    }
    for service in SERVICES {
        let found = lines(&stack.process(service).log_text());
        assert!(found.len() > 2, "{service}: {found:?}");
        for line in found {
            assert_eq!(line["service"], service, "{line}");
            assert_eq!(line["instance"], service, "{line}");
            assert_eq!(line["release"], env!("CARGO_PKG_VERSION"), "{line}");
            assert!(
                line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(),
                "{line}"
            );
        }
    }
}
