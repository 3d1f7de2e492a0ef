//! The row as text: one flat JSON object that a stage reads in part and extends at its end.
//!
//! A stage finds the fields it needs as borrowed slices of the record's bytes and appends its own columns. What it does
//! not name travels on untouched, and numbers keep their exact text.

use std::borrow::Cow;
use std::ops::Range;

use super::scan;

/// Why bytes are not a row, or a row lacks what a stage needs.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("the value is not a JSON object")]
    NotAnObject(#[source] serde_json::Error),
    #[error("column `{0}` is missing")]
    Missing(Cow<'static, str>),
    #[error("column `{column}` is {found}, not {wanted}")]
    WrongType { column: String, wanted: &'static str, found: String },
    #[error("the row already has a column `{0}`, which this stage would add")]
    Taken(Cow<'static, str>),
}

impl RowError {
    /// A short name for metrics and dead letters.
    pub fn reason(&self) -> &'static str {
        match self {
            RowError::NotAnObject(_) => "not_an_object",
            RowError::Missing(_) => "missing_column",
            RowError::WrongType { .. } => "wrong_type",
            RowError::Taken(_) => "column_taken",
        }
    }
}

/// The member of a row that names json and jsonb columns whose `null` is a JSON value: `"tidemill.json_null":["payload"]`.
pub const JSON_NULL: &str = "tidemill.json_null";

/// The text of one JSON value inside a row, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a>(&'a str);

impl<'a> Field<'a> {
    /// SQL's NULL.
    pub const NULL: Field<'static> = Field("null");

    /// A value that somebody made: JSON text of one value.
    pub fn of(json: &'a str) -> Self {
        Field(json)
    }

    /// Where the value stands in the row that it was read from; `None` for another row.
    pub(super) fn place_in(self, row: &[u8]) -> Option<Range<usize>> {
        let start = (self.0.as_ptr() as usize).checked_sub(row.as_ptr() as usize)?;
        let place = start..start + self.0.len();
        (row.get(place.clone())? == self.0.as_bytes()).then_some(place)
    }

    /// The JSON text: `5999.00`, `"北京"`, `null`.
    pub fn raw(self) -> &'a str {
        self.0
    }

    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    pub fn is_string(self) -> bool {
        self.0.starts_with('"')
    }

    /// The value as plain text, as PostgreSQL would take it in a cast: a string without its quotes and escapes,
    /// anything else as it stands. `None` for null.
    pub fn text(self) -> Option<Cow<'a, str>> {
        if self.is_null() {
            return None;
        }
        let Some(inner) = self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Some(Cow::Borrowed(self.0));
        };
        // In a string of JSON nothing but a backslash is not plain.
        if scan::plain_len(inner.as_bytes()) == inner.len() {
            return Some(Cow::Borrowed(inner));
        }
        // The text was validated as JSON when the row was parsed. A lone surrogate is valid JSON and no text: kept as written.
        Some(serde_json::from_str::<String>(self.0).map_or(Cow::Borrowed(inner), Cow::Owned))
    }
}

/// The fields of a row, in the order of a fixed list of names.
///
/// ```
/// use shared::record::row::Columns;
/// let columns = Columns::new(&["order_id", "city"]);
/// let fields = columns.read(br#"{"order_id":2001,"unit_price":5999.00}"#).unwrap();
/// assert_eq!(fields.get(0).unwrap().raw(), "2001");
/// assert!(fields.get(1).is_none());
/// ```
#[derive(Debug, Clone)]
pub struct Columns {
    names: Vec<String>,
    /// A bit for the mark of each name: most names of a row that are not wanted are passed over by it.
    marks: u64,
}

/// One of 64 bits, by the length and the last letter of a name.
fn mark_of(name: &str) -> u64 {
    let last = name.as_bytes().last().copied().unwrap_or_default();
    1 << ((name.len() as u64 * 11 + u64::from(last)) % 64)
}

/// What [`Columns::read`] found, by the index of the name.
#[derive(Debug)]
pub struct Fields<'a> {
    first: [Option<Field<'a>>; FIRST],
    /// Those behind: few plans read so many columns, and so most rows take no memory of their own.
    others: Vec<Option<Field<'a>>>,
}

const FIRST: usize = 16;

impl<'a> Fields<'a> {
    /// The field at `index` of the list of names; `None` where the row does not have it.
    pub fn get(&self, index: usize) -> Option<Field<'a>> {
        let found = self.first.get(index).or_else(|| self.others.get(index.checked_sub(FIRST)?));
        found.copied().flatten()
    }

    pub(super) fn none(names: usize) -> Self {
        Fields { first: [None; FIRST], others: vec![None; names.saturating_sub(FIRST)] }
    }

    pub(super) fn put(&mut self, index: usize, field: Field<'a>) {
        let place = match index.checked_sub(FIRST) {
            None => self.first.get_mut(index),
            Some(behind) => self.others.get_mut(behind),
        };
        if let Some(place) = place {
            *place = Some(field);
        }
    }
}

impl Columns {
    pub fn new<S: AsRef<str>>(names: &[S]) -> Self {
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        Columns { marks: names.iter().fold(0, |marks, name| marks | mark_of(name)), names }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads the named fields of one JSON object in one pass over its bytes.
    pub fn read<'a>(&self, value: &'a [u8]) -> Result<Fields<'a>, RowError> {
        let mut fields = Fields::none(self.names.len());
        let mut from = 0;
        for_each_field(value, |name, field| {
            if self.marks & mark_of(name) == 0 {
                return;
            }
            // Rows of a topic have their columns in one order, so the next name is most often the one behind the last.
            let at = (from..self.names.len())
                .chain(0..from)
                .find(|&index| self.names.get(index).is_some_and(|wanted| wanted == name));
            if let Some(index) = at {
                fields.put(index, field);
                from = index + 1;
            }
        })?;
        Ok(fields)
    }
}

/// Calls `visit` with the name and the text of each field, in the order of the object.
pub fn for_each_field<'a>(value: &'a [u8], mut visit: impl FnMut(&str, Field<'a>)) -> Result<(), RowError> {
    let text = simdutf8::basic::from_utf8(value).ok();
    match text.and_then(|text| scan::object(text, |name, field| visit(name, Field(field)))) {
        Some(()) => Ok(()),
        None => Err(RowError::NotAnObject(what_is_wrong(value))),
    }
}

fn what_is_wrong(value: &[u8]) -> serde_json::Error {
    use serde::de::Error as _;
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(value) {
        Err(error) => error,
        Ok(_) => serde_json::Error::custom("it cannot be read"),
    }
}

/// Appends columns to a row: the row's own bytes, then the new columns, one closing brace.
pub struct Extend<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Extend<'a> {
    /// Copies the row (an object that parsed) without its closing brace.
    pub fn row(row: &[u8], out: &'a mut Vec<u8>) -> Self {
        let open = row.trim_ascii_end().strip_suffix(b"}").unwrap_or(row).trim_ascii_end();
        let empty = open.trim_ascii() == b"{";
        out.extend_from_slice(open);
        Extend { out, empty }
    }

    /// As [`Extend::row`], with other values in the place of some fields of the row: what stands between them is copied byte by byte.
    pub fn row_with(row: &[u8], replaced: &[(Field<'_>, &[u8])], out: &'a mut Vec<u8>) -> Self {
        let mut places: Vec<(Range<usize>, &[u8])> =
            replaced.iter().filter_map(|(field, value)| Some((field.place_in(row)?, *value))).collect();
        places.sort_unstable_by_key(|(place, _)| place.start);
        let mut copied = 0;
        for (place, value) in places {
            out.extend_from_slice(row.get(copied..place.start).unwrap_or_default());
            out.extend_from_slice(value);
            copied = place.end;
        }
        let rest = row.get(copied..).unwrap_or_default();
        let open = rest.trim_ascii_end().strip_suffix(b"}").unwrap_or(rest).trim_ascii_end();
        let empty = copied == 0 && open.trim_ascii() == b"{";
        out.extend_from_slice(open);
        Extend { out, empty }
    }

    /// Begins a new row.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Extend { out, empty: true }
    }

    fn comma(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    fn name(&mut self, name: &str) {
        self.comma();
        write_string(name, self.out);
        self.out.push(b':');
    }

    /// A column as JSON: its name, of [`rendered_name`], and its value.
    pub fn rendered(&mut self, name: &[u8], json: &[u8]) -> &mut Self {
        self.comma();
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(json);
        self
    }

    /// Columns as they stand in a row, each with a comma before it.
    pub fn columns(&mut self, columns: &[u8]) -> &mut Self {
        let columns = if self.empty { columns.strip_prefix(b",").unwrap_or(columns) } else { columns };
        self.out.extend_from_slice(columns);
        self.empty &= columns.is_empty();
        self
    }

    /// A column whose value is JSON text already.
    pub fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.name(name);
        self.out.extend_from_slice(json.as_bytes());
        self
    }

    /// A column whose value is text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.name(name);
        write_string(text, self.out);
        self
    }

    /// Closes the object.
    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// A column's name as it stands before its value, for rows that all get the column: `"city":`.
pub fn rendered_name(name: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    write_string(name, &mut out);
    out.push(b':');
    out.into()
}

/// Appends `text` as a JSON string. Bytes beyond ASCII stay as they are (UTF-8).
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, behind) = rest.split_at_checked(scan::plain_len(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = behind.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = behind;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extended(row: &str) -> String {
        let mut out = Vec::new();
        let mut extend = Extend::row(row.as_bytes(), &mut out);
        extend.raw("a", "1").rendered(&rendered_name("b"), "\"北\\\"京\"".as_bytes());
        extend.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_keeps_its_text_and_gets_columns_at_its_end() {
        assert_eq!(extended(r#"{"p":5999.00}"#), r#"{"p":5999.00,"a":1,"b":"北\"京"}"#);
        assert_eq!(extended("{ \"p\" : 1 }\n"), "{ \"p\" : 1,\"a\":1,\"b\":\"北\\\"京\"}");
        assert_eq!(extended("{}"), r#"{"a":1,"b":"北\"京"}"#);
    }

    #[test]
    fn columns_come_with_their_commas() {
        for (row, columns, expected) in [
            ("{\"p\":1}", ",\"a\":2,\"b\":3", "{\"p\":1,\"a\":2,\"b\":3,\"c\":4}"),
            ("{}", ",\"a\":2", "{\"a\":2,\"c\":4}"),
            ("{}", "", "{\"c\":4}"),
        ] {
            let mut out = Vec::new();
            let mut extend = Extend::row(row.as_bytes(), &mut out);
            extend.columns(columns.as_bytes()).raw("c", "4");
            extend.end();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_value_is_replaced_and_all_else_stays() {
        let row = br#"{ "a" : "x", "b":[1,{"a":2}],"c":null }"#;
        let columns = Columns::new(&["c", "a"]);
        let fields = columns.read(row).unwrap();
        let replaced = [(fields.get(0).unwrap(), &b"7"[..]), (fields.get(1).unwrap(), b"\"***\"")];
        let mut out = Vec::new();
        let mut extend = Extend::row_with(row, &replaced, &mut out);
        extend.raw("d", "1");
        extend.end();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{ "a" : "***", "b":[1,{"a":2}],"c":7,"d":1}"#);
    }

    #[test]
    fn fields_are_found_in_any_order_and_the_last_of_two_wins() {
        let columns = Columns::new(&["a", "b"]);
        let fields = columns.read(br#"{"b":"x","c":{"a":3},"a":1e400,"a":2}"#).unwrap();
        assert_eq!(fields.get(0).unwrap().raw(), "2");
        assert_eq!(fields.get(1).unwrap().text().unwrap(), "x");
    }

    #[test]
    fn as_many_columns_are_read_as_are_named() {
        let names: Vec<String> = (0..FIRST * 2 + 1).map(|number| format!("column{number}")).collect();
        let members: Vec<String> = names.iter().enumerate().map(|(at, name)| format!("\"{name}\":{at}")).collect();
        let row = format!("{{{}}}", members.join(","));
        let columns = Columns::new(&names);
        let fields = columns.read(row.as_bytes()).unwrap();
        for at in 0..names.len() {
            assert_eq!(fields.get(at).unwrap().raw(), at.to_string());
        }
        assert!(fields.get(names.len()).is_none());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for value in ["", "null", "[1]", "\"x\"", "{", "{\"a\":}", "{} {}", "not json", "{\"a\":01}"] {
            assert!(Columns::new(&["a"]).read(value.as_bytes()).is_err(), "{value}");
        }
        assert!(Columns::new(&["a"]).read(b"{\"a\":\"\xFF\"}").is_err());
    }

    proptest! {
        #[test]
        fn strings_are_json_and_come_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &text);
            let raw = String::from_utf8(out).unwrap();
            prop_assert_eq!(Field(&raw).text().unwrap(), text);
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = Columns::new(&["a"]).read(&bytes);
        }
    }
}
