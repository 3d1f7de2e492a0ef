//! A record that a stage rejects: it is set aside with all that is needed to mend and replay it.

use super::row::{Extend, write_string};
use crate::batch::Record;

/// Why a record was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A short fixed name, the label of the metric.
    pub reason: &'static str,
    /// What is wrong, in words. They never hold the value: they go to the log as well.
    pub detail: String,
    /// The rule that the row broke, where it was one of the settings.
    pub rule: Option<String>,
    /// The column that it is about, where it is about one.
    pub column: Option<String>,
}

impl Rejection {
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Rejection { reason, detail: detail.into(), rule: None, column: None }
    }
}

/// The key: where the record came from, so that a repeat replaces itself.
pub fn key(topic: &str, record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = Extend::new(&mut out);
    row.text("topic", topic).raw("partition", record.partition.to_string()).raw("offset", record.offset.to_string());
    row.end();
    out
}

/// The value: stage, reason, rule, column, origin, and the record's bytes (as text where they are UTF-8, else in hexadecimal).
pub fn value(stage: &str, topic: &str, record: &Record<'_>, rejection: &Rejection, rejected_at: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = Extend::new(&mut out);
    row.text("stage", stage).text("reason", rejection.reason);
    for (name, given) in [("rule", &rejection.rule), ("column", &rejection.column)] {
        match given {
            Some(text) => row.text(name, text),
            None => row.raw(name, "null"),
        };
    }
    row.text("detail", &rejection.detail)
        .text("rejected_at", rejected_at)
        .text("topic", topic)
        .raw("partition", record.partition.to_string())
        .raw("offset", record.offset.to_string());
    for (name, bytes) in [("key", record.key), ("value", record.value), ("header", record.header)] {
        let json = match bytes.map(std::str::from_utf8) {
            None => "null".to_owned(),
            Some(Ok(text)) => json_string(text),
            Some(Err(_)) => {
                row.raw(&format!("{name}_hex"), json_string(&hex(bytes.unwrap_or_default())));
                continue;
            }
        };
        row.raw(name, &json);
    }
    row.end();
    out
}

fn json_string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_kept_whatever_they_are() {
        let record =
            Record { partition: 2, offset: 7, key: Some(b"{\"order_id\":1}"), value: Some(b"\xFF\x00"), header: None };
        let rejection = Rejection::new("not_an_object", "the value is not a JSON object");
        let letter: serde_json::Value =
            serde_json::from_slice(&value("dwd-cleaner", "ods_orders", &record, &rejection, "now")).unwrap();
        assert_eq!(letter["key"], "{\"order_id\":1}");
        assert_eq!(letter["value_hex"], "ff00");
        assert_eq!(letter["header"], serde_json::Value::Null);
        assert_eq!(key("ods_orders", &record), br#"{"topic":"ods_orders","partition":2,"offset":7}"#);
    }
}
