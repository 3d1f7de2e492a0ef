//! One change of a row, and what it becomes: the key that goes, the key that comes, the row.

use crate::decode::{Cell, Old, Tuple};
use crate::row::{Shape, ShapeError};

/// A row that was read again from the source: its columns' text, in the order of the stream's columns; `None` when it is gone.
pub type Reread = Option<Vec<Option<String>>>;

/// What a change does to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The row under the old key is gone.
    pub goes: bool,
    /// There is a row under the new key.
    pub comes: bool,
}

/// One change of a row, with what is needed to write it.
pub struct Change<'a> {
    pub shape: &'a Shape,
    pub old: Option<Old<'a>>,
    pub new: Option<Tuple<'a>>,
}

impl<'a> Change<'a> {
    /// The new row's cells. An unchanged one is taken from the old row: under REPLICA IDENTITY FULL that is whole, otherwise it has the
    /// key, whose columns can be TOASTed too.
    fn filled(&self) -> impl Iterator<Item = Cell<'a>> + Clone + use<'a> {
        let old = self.old.map(|old| old.tuple);
        let mut old = old.into_iter().flat_map(Tuple::cells);
        self.new.into_iter().flat_map(Tuple::cells).map(move |cell| match (cell, old.next()) {
            (Cell::Unchanged, Some(before @ Cell::Text(_))) => before,
            _ => cell,
        })
    }

    /// A value is neither in the new row nor in the old one.
    pub fn lacks_values(&self) -> bool {
        self.new.is_some_and(Tuple::has_unchanged) && self.filled().any(|cell| cell == Cell::Unchanged)
    }

    /// The text of the new key's values, for reading the row again.
    pub fn key_values(&self) -> Vec<String> {
        self.shape.key_values(self.filled())
    }

    /// Writes the old key (where the stream has one) and the new key, as JSON.
    pub fn write_keys(&self, old_key: &mut Vec<u8>, new_key: &mut Vec<u8>) -> Result<Keys, ShapeError> {
        old_key.clear();
        new_key.clear();
        if let Some(old) = self.old {
            self.shape.write_key(old.tuple.cells(), old_key)?;
        }
        if self.new.is_some() {
            self.shape.write_key(self.filled(), new_key)?;
        }
        Ok(Keys { goes: self.old.is_some() && old_key != new_key, comes: self.new.is_some() })
    }

    /// Writes the row; false when a value is not in the stream and the row is gone at the source.
    pub fn write_value(&self, reread: Option<&Reread>, out: &mut Vec<u8>) -> bool {
        match reread {
            None => self.shape.write_row(self.filled(), out),
            Some(None) => return false,
            Some(Some(row)) => {
                let mut row = row.iter().map(|text| text.as_deref().map_or(Cell::Null, Cell::Text));
                let cells = self.filled().map(|cell| match (cell, row.next()) {
                    (Cell::Unchanged, read) => read.unwrap_or(Cell::Null),
                    (cell, _) => cell,
                });
                self.shape.write_row(cells, out);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Message, decode, tests::update};
    use shared::pg::TableName;

    fn shape() -> Shape {
        Shape::new(&TableName::parse("a.b"), [("id", 25), ("v", 25)], &["id".into()]).unwrap()
    }

    fn row(bytes: &[u8], reread: Option<&Reread>) -> (bool, String, String) {
        let Ok(Message::Update { old, new, .. }) = decode(bytes) else { panic!() };
        let shape = shape();
        let change = Change { shape: &shape, old, new: Some(new) };
        let (mut old_key, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
        let lacks = change.lacks_values();
        change.write_value(reread, &mut value);
        assert!(change.write_keys(&mut old_key, &mut key).unwrap().comes);
        (lacks, String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap())
    }

    #[test]
    fn an_unchanged_value_comes_from_the_old_row() {
        let whole =
            update(1, Some((b'O', &[Cell::Text("1"), Cell::Text("long")])), &[Cell::Text("1"), Cell::Unchanged]);
        assert_eq!(row(&whole, None), (false, r#"{"id":"1"}"#.into(), r#"{"id":"1","v":"long"}"#.into()));
    }

    #[test]
    fn an_unchanged_key_comes_from_the_old_key() {
        let keyed = update(1, Some((b'K', &[Cell::Text("long key"), Cell::Null])), &[Cell::Unchanged, Cell::Text("x")]);
        let found = row(&keyed, None);
        assert_eq!(found, (false, r#"{"id":"long key"}"#.into(), r#"{"id":"long key","v":"x"}"#.into()));
    }

    #[test]
    fn what_is_nowhere_is_read_again_and_never_null() {
        let bytes = update(1, None, &[Cell::Text("1"), Cell::Unchanged]);
        let read: Reread = Some(vec![Some("1".into()), Some("from the source".into())]);
        assert_eq!(
            row(&bytes, Some(&read)),
            (true, r#"{"id":"1"}"#.into(), r#"{"id":"1","v":"from the source"}"#.into())
        );
        assert_eq!(row(&bytes, Some(&None)).2, "");
    }
}
