//! The two tables that are watched: their columns, and how a row of the log is held against a row in JSON.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::value::RawValue;
use shared::pg::TableName;

use crate::places::Names;

/// A row: the text of each column's value, as PostgreSQL writes it; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A watched table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Orders,
    Users,
}

/// What a column's values are in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Number,
    Text,
    /// A text with three digits of the second's fraction.
    Time,
}

const ORDERS: &[(&str, Form)] = &[
    ("order_id", Form::Number),
    ("user_id", Form::Number),
    ("product_name", Form::Text),
    ("product_category", Form::Text),
    ("quantity", Form::Number),
    ("unit_price", Form::Number),
    ("total_amount", Form::Number),
    ("order_status", Form::Text),
    ("order_time", Form::Time),
    ("updated_at", Form::Time),
];

const USERS: &[(&str, Form)] = &[
    ("user_id", Form::Number),
    ("username", Form::Text),
    ("email", Form::Text),
    ("phone", Form::Text),
    ("city", Form::Text),
    ("register_time", Form::Time),
    ("updated_at", Form::Time),
];

impl Subject {
    /// In the log, and for people.
    pub fn label(self) -> &'static str {
        match self {
            Subject::Orders => "orders",
            Subject::Users => "users",
        }
    }

    /// One row of it, for people.
    pub fn noun(self) -> &'static str {
        match self {
            Subject::Orders => "order",
            Subject::Users => "user",
        }
    }

    pub fn table(self, names: &Names) -> &TableName {
        match self {
            Subject::Orders => &names.orders,
            Subject::Users => &names.users,
        }
    }

    pub fn key(self) -> &'static str {
        match self {
            Subject::Orders => "order_id",
            Subject::Users => "user_id",
        }
    }

    fn columns(self) -> &'static [(&'static str, Form)] {
        match self {
            Subject::Orders => ORDERS,
            Subject::Users => USERS,
        }
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.columns().iter().map(|(name, _)| *name)
    }

    /// The key of a topic's record.
    pub fn key_json(self, key: i64) -> String {
        format!("{{\"{}\":{key}}}", self.key())
    }

    /// The key that a record's key names; `None` for another text.
    pub fn key_of(self, json: &str) -> Option<i64> {
        let number = json.strip_prefix("{\"")?.strip_prefix(self.key())?.strip_prefix("\":")?.strip_suffix('}')?;
        let key: i64 = number.parse().ok()?;
        (self.key_json(key) == json).then_some(key)
    }

    /// A short form of a row of the log. Equal rows have equal ones.
    pub fn digest(self, row: &Row) -> u64 {
        let mut hasher = DefaultHasher::new();
        for ((_, form), value) in self.columns().iter().zip(row) {
            match value {
                Some(text) if *form == Form::Time => Some(with_milliseconds(text).as_str()).hash(&mut hasher),
                value => value.as_deref().hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    /// The same of a record's value; `None` where it is not a row of exactly these columns, each in its form.
    pub fn digest_of_json(self, json: &str) -> Option<u64> {
        let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(json).ok()?;
        if fields.len() != self.columns().len() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        for (name, form) in self.columns() {
            text(*form, fields.get(name)?.get())?.as_deref().hash(&mut hasher);
        }
        Some(hasher.finish())
    }
}

/// The text of a value in JSON: `Some(None)` is NULL, `None` a value of another form.
fn text(form: Form, json: &str) -> Option<Option<String>> {
    if json == "null" {
        return Some(None);
    }
    match form {
        Form::Number => json.starts_with(|first: char| first == '-' || first.is_ascii_digit()).then(|| json.to_owned()),
        Form::Text | Form::Time => serde_json::from_str(json).ok(),
    }
    .map(Some)
}

/// `2025-07-11 17:25:55.1` → `2025-07-11 17:25:55.100`, as records have it.
fn with_milliseconds(text: &str) -> String {
    let digits = text.rsplit_once('.').map_or(0, |(_, fraction)| fraction.len());
    let point = if digits == 0 { "." } else { "" };
    format!("{text}{point}{}", "0".repeat(3_usize.saturating_sub(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(texts: [Option<&str>; 7]) -> Row {
        texts.map(|text| text.map(str::to_owned)).into()
    }

    fn zhang() -> Row {
        let time = Some("2025-07-11 17:25:55.1");
        user([Some("1001"), Some("张\"三"), Some("a@b"), None, Some("北京"), time, Some("2025-07-11 17:25:55")])
    }

    const ZHANG: &str = r#"{"user_id":1001,"username":"张\"三","email":"a@b","phone":null,"city":"北京","register_time":"2025-07-11 17:25:55.100","updated_at":"2025-07-11 17:25:55.000"}"#;

    #[test]
    fn a_row_of_the_log_and_its_json_have_one_digest() {
        assert_eq!(Subject::Users.digest_of_json(ZHANG), Some(Subject::Users.digest(&zhang())));
    }

    #[test]
    fn every_difference_shows() {
        let known = Subject::Users.digest(&zhang());
        for (from, to) in [
            (":1001", ":1002"),
            ("null", "\"\""),
            ("\"北京\"", "\"北京 \""),
            ("55.100", "55.10"),
            ("\"a@b\"", "\"null\""),
            ("55.000", "55.001"),
        ] {
            let json = ZHANG.replace(from, to);
            assert_ne!(json, ZHANG, "{from}");
            assert_ne!(Subject::Users.digest_of_json(&json), Some(known), "{json}");
        }
        for (from, to) in [(":1001", ":\"1001\""), (",\"city\":\"北京\"", ""), ("\"北京\"", "\"北京\",\"age\":1")]
        {
            assert_eq!(Subject::Users.digest_of_json(&ZHANG.replace(from, to)), None, "{from}");
        }
        assert_eq!(Subject::Users.digest_of_json("no JSON"), None);
    }

    #[test]
    fn a_value_does_not_slip_into_the_next_column() {
        let time = Some("2025-07-11 17:25:55");
        let row = |email, phone| user([Some("1"), Some("x"), email, phone, None, time, time]);
        assert_ne!(
            Subject::Users.digest(&row(Some("ab"), Some("c"))),
            Subject::Users.digest(&row(Some("a"), Some("bc")))
        );
        assert_ne!(Subject::Users.digest(&row(Some("a"), None)), Subject::Users.digest(&row(None, Some("a"))));
    }

    #[test]
    fn only_the_exact_key_is_a_key() {
        assert_eq!(Subject::Orders.key_of(&Subject::Orders.key_json(-7)), Some(-7));
        for other in
            ["{\"order_id\": 7}", "{\"order_id\":07}", "{\"user_id\":7}", "{\"order_id\":\"chaos-poison\"}", ""]
        {
            assert_eq!(Subject::Orders.key_of(other), None, "{other}");
        }
    }
}
