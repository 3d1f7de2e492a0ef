//! What the settings say of one rule. `docs/cleaning.md` describes each kind, with an example.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use shared::scalar::Scalar;

use crate::decimal::Decimal;
use crate::fold::Difference;

/// A rule: its name, what it does, and what happens to a row that it cannot be done to.
#[derive(Debug, Clone, Serialize)]
pub struct RuleConfig {
    /// Stands in dead letters, metrics and marks.
    pub name: String,
    pub on_fail: OnFail,
    /// What `on_fail = "default"` puts in.
    pub default: Option<Scalar>,
    /// What a column is that the row does not have.
    pub absent: Absent,
    #[serde(flatten)]
    pub kind: Kind,
}

/// What becomes of a row that fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// The row goes to the dead letters.
    #[default]
    Reject,
    /// The row goes on; the column of marks names the rule.
    Mark,
    /// The row goes on with the default.
    Default,
}

/// What a column is that the row does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// A reason to reject the row: rule and table do not fit.
    #[default]
    Reject,
    /// NULL: the column was added to the table later, and older rows do not have it.
    Null,
}

/// What a rule does. `column` is read, `to` is the column that is added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// A value by its name in a list.
    Map {
        column: String,
        to: String,
        values: BTreeMap<String, Scalar>,
        #[serde(default)]
        fold: Vec<Difference>,
    },
    /// One spelling for all that mean the same.
    Fold {
        column: String,
        #[serde(default)]
        to: Option<String>,
        fold: Vec<Difference>,
    },
    /// An amount as text, with its currency.
    Amount {
        column: String,
        to: String,
        #[serde(default)]
        currency: String,
        #[serde(default)]
        decimals_min: usize,
        #[serde(default)]
        decimals_max: Option<u32>,
    },
    /// The date of a time.
    Date {
        column: String,
        to: String,
        #[serde(default)]
        assume_zone: Option<String>,
        #[serde(default)]
        zone: Option<String>,
    },
    /// The hour of a time.
    Hour {
        column: String,
        to: String,
        #[serde(default)]
        assume_zone: Option<String>,
        #[serde(default)]
        zone: Option<String>,
    },
    /// The band that a number is in.
    Band { column: String, to: String, bands: Vec<Band> },
    /// When the row was cleaned.
    Now { to: String },
    /// A personal value as a keyed hash.
    Hash {
        column: String,
        #[serde(default)]
        to: Option<String>,
        #[serde(default)]
        hex_digits: Option<usize>,
    },
    /// A personal value, most of it hidden.
    Mask {
        column: String,
        #[serde(default)]
        to: Option<String>,
        #[serde(default)]
        keep_first: usize,
        #[serde(default)]
        keep_last: usize,
        #[serde(default)]
        keep_from: Option<String>,
        mask: String,
    },
    /// There is a value.
    Required {
        column: String,
        /// Whether a text of nothing but blanks is a value.
        #[serde(default)]
        blank: bool,
    },
    /// Between two bounds, both included.
    Range {
        column: String,
        #[serde(default)]
        min: Option<Bound>,
        #[serde(default)]
        max: Option<Bound>,
    },
    /// One of a set.
    Set {
        column: String,
        values: Vec<Scalar>,
        #[serde(default)]
        fold: Vec<Difference>,
    },
    /// A text of a form.
    Pattern { column: String, pattern: String },
    /// The product of others.
    Product {
        column: String,
        factors: Vec<String>,
        #[serde(default)]
        tolerance: Option<Decimal>,
    },
    /// The sum of others; a minus before the name takes away.
    Sum {
        column: String,
        terms: Vec<String>,
        #[serde(default)]
        tolerance: Option<Decimal>,
    },
    /// Before, after or equal to another.
    Compare { column: String, is: Relation, other: String },
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Map { .. } => "map",
            Kind::Fold { .. } => "fold",
            Kind::Amount { .. } => "amount",
            Kind::Date { .. } => "date",
            Kind::Hour { .. } => "hour",
            Kind::Band { .. } => "band",
            Kind::Now { .. } => "now",
            Kind::Hash { .. } => "hash",
            Kind::Mask { .. } => "mask",
            Kind::Required { .. } => "required",
            Kind::Range { .. } => "range",
            Kind::Set { .. } => "set",
            Kind::Pattern { .. } => "pattern",
            Kind::Product { .. } => "product",
            Kind::Sum { .. } => "sum",
            Kind::Compare { .. } => "compare",
        }
    }
}

/// A band: all below the bound that are in no band before it. One without a bound takes the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    #[serde(default)]
    pub below: Option<Decimal>,
    pub value: Scalar,
}

/// `a <= b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = "<>")]
    NotEqual,
}

impl Relation {
    /// Whether two equal values stand so: then the other column has a value that is right.
    pub fn holds_for_equals(self) -> bool {
        matches!(self, Relation::LessOrEqual | Relation::Equal | Relation::GreaterOrEqual)
    }
}

/// A number or a time, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bound(pub String);

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        Ok(Bound(Scalar::deserialize(value)?.text().to_owned()))
    }
}

/// What all kinds have, and the kind's own keys: read apart, so that an unknown key of either is refused.
impl<'de> Deserialize<'de> for RuleConfig {
    fn deserialize<D: Deserializer<'de>>(rule: D) -> Result<Self, D::Error> {
        let mut keys: Map<String, Value> = Map::deserialize(rule)?;
        let Some(Value::String(name)) = keys.remove("name") else {
            return Err(de::Error::custom("a rule has no name: each of [[rules]] needs `name = \"...\"`"));
        };
        let refused = |error: serde_json::Error| de::Error::custom(format!("rule `{name}`: {error}"));
        let on_fail = keys.remove("on_fail").map(OnFail::deserialize).transpose().map_err(refused)?;
        let default = keys.remove("default").map(Scalar::deserialize).transpose().map_err(refused)?;
        let absent = keys.remove("absent").map(Absent::deserialize).transpose().map_err(refused)?;
        let kind = Kind::deserialize(Value::Object(keys)).map_err(refused)?;
        let (on_fail, absent) = (on_fail.unwrap_or_default(), absent.unwrap_or_default());
        Ok(RuleConfig { name, on_fail, default, absent, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<RuleConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rule_is_its_common_keys_and_those_of_its_kind() {
        let rule = rule(r#"{"name":"tier","kind":"band","column":"unit_price","to":"price_tier","on_fail":"mark","bands":[{"below":"99.99","value":"低价"},{"value":1}]}"#).unwrap();
        assert_eq!((rule.name.as_str(), rule.on_fail, rule.kind.name()), ("tier", OnFail::Mark, "band"));
        let Kind::Band { bands, .. } = rule.kind else { panic!() };
        assert_eq!(bands[1].value, Scalar::Plain("1".into()));
    }

    #[test]
    fn what_is_wrong_is_named_with_the_rule() {
        for (json, words) in [
            (r#"{"kind":"now","to":"a"}"#, "has no name"),
            (r#"{"name":"a"}"#, "kind"),
            (r#"{"name":"a","kind":"mop","to":"b"}"#, "unknown variant `mop`"),
            (r#"{"name":"a","kind":"now"}"#, "missing field `to`"),
            (r#"{"name":"a","kind":"now","to":"b","column":"c"}"#, "unknown field `column`"),
            (r#"{"name":"a","kind":"now","to":"b","on_fail":"stop"}"#, "unknown variant `stop`"),
            (r#"{"name":"a","kind":"band","column":"b","to":"c","bands":[{"below":9.99,"value":"x"}]}"#, "in quotes"),
            (r#"{"name":"a","kind":"range","column":"b","min":0.5}"#, "in quotes"),
            (r#"{"name":"a","kind":"compare","column":"b","is":"=>","other":"c"}"#, "unknown variant `=>`"),
        ] {
            let error = rule(json).unwrap_err();
            assert!(error.contains(words), "{words:?} is not in: {error}");
        }
    }
}
