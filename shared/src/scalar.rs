//! A value in the settings that stands for a value of a row: a text, a whole number, true or false. A number with a point stands in quotes,
//! for TOML would make a float of it.

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{self, Serialize, Serializer};
use serde_json::Value;

use crate::record::row::write_string;

/// A text, a whole number, or a boolean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    Text(String),
    /// A whole number or a boolean: its JSON is its text.
    Plain(String),
}

impl Scalar {
    pub fn text(&self) -> &str {
        match self {
            Scalar::Text(text) | Scalar::Plain(text) => text,
        }
    }

    /// Its JSON text.
    pub fn json(&self) -> Box<[u8]> {
        match self {
            Scalar::Plain(json) => json.as_bytes().into(),
            Scalar::Text(text) => {
                let mut json = Vec::new();
                write_string(text, &mut json);
                json.into()
            }
        }
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Scalar::Text(text.to_owned())
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scalar::Text(text) => serializer.serialize_str(text),
            Scalar::Plain(json) => {
                serde_json::from_str::<Value>(json).map_err(ser::Error::custom)?.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        match Value::deserialize(value)? {
            Value::String(text) => Ok(Scalar::Text(text)),
            Value::Bool(value) => Ok(Scalar::Plain(value.to_string())),
            Value::Number(number) if !number.is_f64() => Ok(Scalar::Plain(number.to_string())),
            Value::Number(_) => Err(de::Error::custom("a number with a point stands in quotes: \"99.99\"")),
            _ => Err(de::Error::custom("not a text, a whole number, true or false")),
        }
    }
}
