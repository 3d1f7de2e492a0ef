//! A record that a stage rejects: it is set aside with all that is needed to mend and replay it.

use serde::Deserialize;

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
    row.text("topic", topic).raw("partition", &record.partition.to_string()).raw("offset", &record.offset.to_string());
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
        .raw("partition", &record.partition.to_string())
        .raw("offset", &record.offset.to_string());
    for (name, bytes) in [("key", record.key), ("value", record.value), ("header", record.header)] {
        let json = match bytes.map(std::str::from_utf8) {
            None => "null".to_owned(),
            Some(Ok(text)) => json_string(text),
            Some(Err(_)) => {
                row.raw(&format!("{name}_hex"), &json_string(&hex(bytes.unwrap_or_default())));
                continue;
            }
        };
        row.raw(name, &json);
    }
    row.end();
    out
}

/// A dead letter as it is read back: when and where the record was rejected, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub rejected_at: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub header: Option<Vec<u8>>,
}

impl Letter {
    /// `None` for what no stage wrote.
    pub fn read(value: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Told {
            rejected_at: String,
            topic: String,
            partition: i32,
            offset: i64,
            key: Option<String>,
            key_hex: Option<String>,
            value: Option<String>,
            value_hex: Option<String>,
            header: Option<String>,
            header_hex: Option<String>,
        }
        let bytes = |text: Option<String>, hex: Option<String>| match (text, hex) {
            (Some(text), _) => Some(Some(text.into_bytes())),
            (None, Some(hex)) => unhex(&hex).map(Some),
            (None, None) => Some(None),
        };
        let told: Told = serde_json::from_slice(value).ok()?;
        Some(Letter {
            rejected_at: told.rejected_at,
            topic: told.topic,
            partition: told.partition,
            offset: told.offset,
            key: bytes(told.key, told.key_hex)?,
            value: bytes(told.value, told.value_hex)?,
            header: bytes(told.header, told.header_hex)?,
        })
    }
}

fn json_string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_letter_is_read_back_byte_by_byte(key in any::<Option<Vec<u8>>>(), value_bytes in any::<Option<Vec<u8>>>(), header in any::<Option<String>>()) {
            let header = header.map(String::into_bytes);
            let record = Record { partition: 3, offset: 9, key: key.as_deref(), value: value_bytes.as_deref(), header: header.as_deref() };
            let letter = value("dwd-cleaner", "ods_orders", &record, &Rejection::new("no_key", ""), "now");
            let wanted = Letter { rejected_at: "now".into(), topic: "ods_orders".into(), partition: 3, offset: 9, key: key.clone(), value: value_bytes.clone(), header: header.clone() };
            prop_assert_eq!(Letter::read(&letter), Some(wanted));
        }

        #[test]
        fn any_bytes_are_a_letter_or_none_but_never_panic(bytes in any::<Vec<u8>>(), hex in "[0-9a-fA-Fx ]*") {
            let _ = Letter::read(&bytes);
            let _ = unhex(&hex);
        }
    }

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
