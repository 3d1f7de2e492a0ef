//! A table as the stream described it last.

use std::collections::HashMap;
use std::sync::Arc;

use shared::pg::TableName;

use crate::decode::Relation;
use crate::row::{Shape, ShapeError};
use crate::types::Form;

/// What a Relation message said, and the shape of rows that follows from it.
#[derive(Debug)]
pub struct Described {
    pub name: TableName,
    /// Names and types, in the order of the rows' cells.
    columns: Vec<(String, u32)>,
    /// The columns of the replica identity, where it is an index.
    identity: Option<Vec<String>>,
    /// Made when the first row needs it.
    shape: Option<Arc<Shape>>,
}

impl Described {
    pub fn new(relation: &Relation<'_>) -> Self {
        let by_index = matches!(relation.identity, 'd' | 'i');
        let flagged = relation.columns.iter().filter(|column| column.in_key).map(|column| column.name.to_owned());
        Described {
            name: TableName { schema: relation.schema.to_owned(), name: relation.name.to_owned() },
            columns: relation.columns.iter().map(|column| (column.name.to_owned(), column.type_oid)).collect(),
            identity: by_index.then(|| flagged.collect()),
            shape: None,
        }
    }

    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The same name, columns and types.
    pub fn is_alike(&self, other: &Described) -> bool {
        self.name == other.name && self.columns == other.columns
    }

    /// Whether changes carry this key: all of it, and under an index nothing else.
    pub fn bears(&self, key: &[String]) -> bool {
        let identity = self.identity.as_ref();
        let same = identity
            .is_none_or(|identity| identity.len() == key.len() && key.iter().all(|column| identity.contains(column)));
        same && key.iter().all(|column| self.column_names().any(|name| name == column))
    }

    /// Types that may be domains and that nobody has looked up yet.
    pub fn unknown_types(&self, known: &HashMap<u32, u32>) -> Vec<u32> {
        let types = self.columns.iter().map(|(_, type_oid)| *type_oid);
        types.filter(|oid| *oid >= Form::FIRST_NOT_FIXED && !known.contains_key(oid)).collect()
    }

    /// The shape of the rows, where it was made.
    pub fn shape(&self) -> Option<&Arc<Shape>> {
        self.shape.as_ref()
    }

    /// Makes the shape of the rows.
    pub fn make_shape(
        &mut self,
        table: &TableName,
        key: &[String],
        types: &HashMap<u32, u32>,
    ) -> Result<Arc<Shape>, ShapeError> {
        let beneath = |(name, oid): &'_ (String, u32)| (name.clone(), types.get(oid).copied().unwrap_or(*oid));
        let columns: Vec<_> = self.columns.iter().map(beneath).collect();
        let shape = Shape::new(table, columns.iter().map(|(name, oid)| (name.as_str(), *oid)), key)?;
        Ok(Arc::clone(self.shape.insert(Arc::new(shape))))
    }

    /// The table has another key or name from here on.
    pub fn forget_shape(&mut self) {
        self.shape = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Message, decode, tests::relation};

    fn described(identity: u8, columns: &[(&str, u32)]) -> Described {
        let mut bytes = relation(1, "s", "t", columns);
        let at = bytes.iter().rposition(|byte| *byte == b'd' && bytes.starts_with(b"R")).unwrap();
        assert_eq!(bytes[at], b'd');
        bytes[at] = identity;
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!() };
        Described::new(&relation)
    }

    #[test]
    fn a_key_is_borne_by_its_index_or_by_the_whole_row() {
        let key = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let by_index = described(b'd', &[("a", 20), ("b", 25)]);
        assert!(by_index.bears(&key(&["a"])));
        assert!(!by_index.bears(&key(&["b"])) && !by_index.bears(&key(&["a", "b"])) && !by_index.bears(&[]));
        for identity in [b'f', b'n'] {
            let whole = described(identity, &[("a", 20), ("b", 25)]);
            assert!(whole.bears(&key(&["a"])) && whole.bears(&key(&["b", "a"])) && !whole.bears(&key(&["c"])));
        }
    }

    #[test]
    fn types_that_may_be_domains_are_asked_for_once() {
        let mut table = described(b'd', &[("a", 20), ("b", 20_000)]);
        assert_eq!(table.unknown_types(&HashMap::new()), [20_000]);
        let known = HashMap::from([(20_000, 1700)]);
        assert!(table.unknown_types(&known).is_empty());
        let shape = table.make_shape(&TableName::parse("s.t"), &["a".into()], &known).unwrap();
        let mut row = Vec::new();
        shape.write_row([crate::decode::Cell::Text("1"), crate::decode::Cell::Text("2.50")].into_iter(), &mut row);
        assert_eq!(row, br#"{"a":1,"b":2.50}"#);
    }
}
