//! Rows of `COPY … TO STDOUT` in text format: the same text form of values as in the stream, so one way of writing JSON serves both.
//!
//! PostgreSQL documentation, COPY, "Text Format": fields end with a tab, `\N` is null, backslash escapes.

use crate::decode::Cell;

/// A line's fields, unescaped.
#[derive(Debug, Default)]
pub struct CopyRow {
    text: String,
    /// End of each field in `text`; `None` is null.
    ends: Vec<Option<usize>>,
}

impl CopyRow {
    /// Reads one line, without its newline. The buffers are used again.
    pub fn read(&mut self, line: &str) {
        self.text.clear();
        self.ends.clear();
        for field in line.split('\t') {
            if field == "\\N" {
                self.ends.push(None);
                continue;
            }
            unescape(field, &mut self.text);
            self.ends.push(Some(self.text.len()));
        }
    }

    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> + Clone {
        let mut start = 0;
        self.ends.iter().map(move |end| match *end {
            None => Cell::Null,
            Some(end) => {
                let field = self.text.get(start..end).unwrap_or_default();
                start = end;
                Cell::Text(field)
            }
        })
    }
}

fn unescape(field: &str, out: &mut String) {
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        let (plain, escaped) = rest.split_at(at);
        out.push_str(plain);
        let mut characters = escaped.chars();
        characters.next();
        match characters.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As PostgreSQL's CopyAttributeOutText escapes.
    fn escape(value: Option<&str>) -> String {
        let Some(value) = value else { return "\\N".into() };
        let mut out = String::new();
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{b}' => out.push_str("\\v"),
                other => out.push(other),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_copy_escapes_comes_back(fields in prop::collection::vec(any::<Option<String>>(), 1..5)) {
            let line = fields.iter().map(|field| escape(field.as_deref())).collect::<Vec<_>>().join("\t");
            let mut row = CopyRow::default();
            row.read("rubbish\tfrom before");
            row.read(&line);
            let expected: Vec<Cell> = fields.iter().map(|field| field.as_deref().map_or(Cell::Null, Cell::Text)).collect();
            prop_assert_eq!(row.cells().collect::<Vec<_>>(), expected);
        }
    }
}
