//! A service as it is, and the service with something changed: a setting, or the whole program.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::bench::child::variable;

/// What is changed of a service that is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Empty for the service as it is.
    pub name: String,
    /// Another build of it.
    pub program: Option<PathBuf>,
    /// `kafka.linger_ms` and its value.
    pub settings: Vec<(String, String)>,
}

/// Longest name: it becomes a part of a slot's.
const NAME_LENGTH_MAX: usize = 30;

impl FromStr for Variant {
    type Err = String;

    /// `NAME KEY=VALUE...`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if name.is_empty() || name.len() > NAME_LENGTH_MAX || !letters {
            return Err(format!("{name:?} is not a name: use small letters, digits and _"));
        }
        let mut variant = Variant { name: name.to_owned(), ..Variant::default() };
        for word in words {
            match word.split_once('=') {
                Some(("program", path)) => variant.program = Some(path.into()),
                Some((key, value)) if key.contains('.') => variant.settings.push((key.to_owned(), value.to_owned())),
                _ => return Err(format!("{word:?} is neither program=PATH nor SECTION.KEY=VALUE")),
            }
        }
        Ok(variant)
    }
}

impl Variant {
    /// What its figures stand under.
    pub fn title(&self, service: &str) -> String {
        format!("{service} {}", self.name).trim_end().to_owned()
    }

    /// Its settings as variables of the environment.
    pub fn variables(&self, service: &str) -> impl Iterator<Item = (String, String)> {
        self.settings.iter().map(move |(key, value)| (variable(service, key), value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_and_what_is_changed() {
        let variant: Variant = "linger5 kafka.linger_ms=5 program=/tmp/a".parse().unwrap();
        assert_eq!(
            (variant.title("cdc-ingest").as_str(), variant.program.clone()),
            ("cdc-ingest linger5", Some("/tmp/a".into()))
        );
        let variables: Vec<_> = variant.variables("cdc-ingest").collect();
        assert_eq!(variables, [("CDC_INGEST__KAFKA__LINGER_MS".to_owned(), "5".to_owned())]);
        assert_eq!(Variant::default().title("cdc-ingest"), "cdc-ingest");
        for wrong in ["", "Linger", "a b", "a linger=5"] {
            assert!(wrong.parse::<Variant>().is_err(), "{wrong}");
        }
    }
}
