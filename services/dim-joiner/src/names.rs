//! The name of a dimension's row, as facts and the dimension's own key both give it: the texts of the columns that they are joined on.

use std::borrow::Cow;

use smol_str::{SmolStr, SmolStrBuilder};

/// One column: its text. Several: their texts in the order of the dimension's columns, with a character between. Most are short, and a
/// short one takes no memory of its own.
pub type Name = SmolStr;

const BETWEEN: char = '\u{1F}';

/// Where a text has the character between, or this one, it stands as this one and a digit: two rows never have one name.
const ESCAPE: char = '\u{1E}';
const ESCAPED: [(char, char); 2] = [(BETWEEN, '1'), (ESCAPE, '0')];

/// `None` where a column is null or missing: it names no row.
pub fn of<'a>(mut columns: impl Iterator<Item = Option<Cow<'a, str>>>) -> Option<Name> {
    let first = columns.next()??;
    let Some(second) = columns.next() else { return Some(Name::new(first)) };
    let mut name = SmolStrBuilder::new();
    push(&mut name, &first);
    for column in std::iter::once(second).chain(columns) {
        name.push(BETWEEN);
        push(&mut name, &column?);
    }
    Some(name.finish())
}

fn push(name: &mut SmolStrBuilder, column: &str) {
    if !column.contains([BETWEEN, ESCAPE]) {
        return name.push_str(column);
    }
    for letter in column.chars() {
        match ESCAPED.iter().find(|(escaped, _)| *escaped == letter) {
            Some((_, digit)) => {
                name.push(ESCAPE);
                name.push(*digit);
            }
            None => name.push(letter),
        }
    }
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
        let looks_like_between = [name(&[Some("a\u{1f}b"), Some("c")]), name(&[Some("a"), Some("b\u{1f}c")])];
        let looks_escaped = [name(&[Some("a\u{1f}"), Some("")]), name(&[Some("a\u{1e}1"), Some("")])];
        for [one, other] in [looks_like_between, looks_escaped] {
            assert!(one.is_some() && one != other, "{one:?} {other:?}");
        }
        for none in [&[None][..], &[Some("a"), None], &[None, Some("a")], &[]] {
            assert_eq!(name(none), None);
        }
    }
}
