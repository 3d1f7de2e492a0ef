//! The name of a dimension's row, as facts and the dimension's own key both give it: the texts of the columns that they are joined on.

use std::borrow::Cow;

use smol_str::{SmolStr, SmolStrBuilder};

/// One column: its text. Several: their texts in the order of the dimension's columns, with a byte between that JSON text cannot hold
/// unescaped. Most are short, and a short one takes no memory of its own.
pub type Name = SmolStr;

const BETWEEN: char = '\u{1F}';

/// `None` where a column is null or missing: it names no row.
pub fn of<'a>(mut columns: impl Iterator<Item = Option<Cow<'a, str>>>) -> Option<Name> {
    let first = columns.next()??;
    let Some(second) = columns.next() else { return Some(Name::new(first)) };
    let mut name = SmolStrBuilder::new();
    name.push_str(&first);
    for column in std::iter::once(second).chain(columns) {
        name.push(BETWEEN);
        name.push_str(&column?);
    }
    Some(name.finish())
}

/// As people read it.
pub fn shown(name: &str) -> String {
    name.replace(BETWEEN, ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_all_of_its_columns() {
        let name = |columns: &[Option<&'static str>]| of(columns.iter().map(|column| column.map(Cow::Borrowed)));
        assert_eq!(name(&[Some("1001")]).as_deref(), Some("1001"));
        assert_eq!(name(&[Some("shop"), Some("7")]).as_deref(), Some("shop\u{1f}7"));
        assert_eq!(name(&[Some("shop"), Some("7")]).map(|name| shown(&name)).as_deref(), Some("shop, 7"));
        assert_ne!(name(&[Some("a"), Some("bc")]), name(&[Some("ab"), Some("c")]));
        for none in [&[None][..], &[Some("a"), None], &[None, Some("a")], &[]] {
            assert_eq!(name(none), None);
        }
    }
}
