//! The form of a row: what stands before, between and behind its values.
//!
//! ```text
//! {"order_id":2001,"order_status":"PAID"}  →  form {"order_id": · ,"order_status": · }   values 2001 · "PAID"
//! ```
//!
//! Rows of a table have the same columns in the same order, so a topic has few forms. A row is read by holding it against the form of the
//! last one: only its values are looked at, and what they are of was found out when the form was met first. Kept in memory, rows of one
//! form need their values only.

use std::ops::Range;
use std::sync::Arc;

use super::row::{Columns, Field, Fields, RowError, for_each_field};
use super::scan::Scan;

/// Stands between values. No JSON has it: in a string it would be escaped.
const GAP: u8 = 0x1F;

/// More than the rows of a topic will have at the same time. Rows of further ones are read name by name.
const FORMS_MAX: usize = 64;

/// A table of PostgreSQL has 1,600 columns at most, each with a name of 63 bytes. Rows of more are read name by name.
const FORM_VALUES_MAX: usize = 2_000;
const FORM_BYTES_MAX: usize = 256 * 1024;

/// What is compared and copied at a time: most values, and most of what stands between them, are not longer.
const CHUNK: usize = 32;

/// What stands before, between and behind the values of a row.
#[derive(Debug)]
pub struct Form {
    before: Vec<Between>,
    end: Box<[u8]>,
    /// By value the index of its column among those that are read.
    columns: Vec<Option<usize>>,
}

/// What stands before a value.
#[derive(Debug)]
struct Between {
    text: Box<[u8]>,
    /// The text in words, with zeros behind, and the bits of the words that count.
    words: [u64; CHUNK / 8],
    masks: [u64; CHUNK / 8],
}

impl Between {
    fn new(text: &[u8]) -> Self {
        let word = |at: usize, byte_of: &dyn Fn(usize) -> u8| {
            u64::from_le_bytes(std::array::from_fn(|byte| byte_of(at * 8 + byte)))
        };
        Between {
            words: std::array::from_fn(|at| word(at, &|byte| text.get(byte).copied().unwrap_or_default())),
            masks: std::array::from_fn(|at| word(at, &|byte| if byte < text.len() { u8::MAX } else { 0 })),
            text: text.into(),
        }
    }

    fn begins(&self, rest: &[u8]) -> bool {
        let Some(chunk) = rest.first_chunk::<CHUNK>().filter(|_| self.text.len() <= CHUNK) else {
            return rest.starts_with(&self.text);
        };
        let (words, _) = chunk.as_chunks::<8>();
        let pairs = words.iter().zip(self.words.iter().zip(&self.masks));
        pairs.fold(0, |differs, (word, (own, mask))| differs | ((u64::from_le_bytes(*word) ^ own) & mask)) == 0
    }
}

impl Form {
    /// The form of a row that was read; `None` where it is too large to be kept.
    fn of(row: &[u8], columns: &Columns) -> Result<Option<Self>, RowError> {
        let mut form = Form { before: Vec::new(), end: Box::default(), columns: Vec::new() };
        let (mut behind, mut bytes, mut is_too_large) = (0, 0, false);
        for_each_field(row, |name, field| {
            let Some(place) = field.place_in(row) else { return };
            bytes += place.start.saturating_sub(behind);
            is_too_large |= form.before.len() >= FORM_VALUES_MAX || bytes > FORM_BYTES_MAX;
            if !is_too_large {
                form.before.push(Between::new(row.get(behind..place.start).unwrap_or_default()));
                form.columns.push(columns.names().iter().position(|wanted| wanted == name));
            }
            behind = place.end;
        })?;
        form.end = row.get(behind..).unwrap_or_default().into();
        is_too_large |= form.end.len() > FORM_BYTES_MAX;
        Ok((!is_too_large).then_some(form))
    }

    /// Calls `visit` with each value's number and place. `None` where the row has another form; some may have been visited then.
    fn read(&self, row: &str, mut visit: impl FnMut(usize, Range<usize>)) -> Option<()> {
        let mut scan = Scan::new(row);
        for (number, before) in self.before.iter().enumerate() {
            if !before.begins(scan.rest()) {
                return None;
            }
            scan.at += before.text.len();
            let start = scan.at;
            scan.pass_value()?;
            visit(number, start..scan.at);
        }
        (*scan.rest() == *self.end).then_some(())
    }

    /// Appends the row with these values, without its closing brace.
    pub fn write_open(&self, values: &[u8], out: &mut Vec<u8>) {
        let mut values = values.split(|byte| *byte == GAP);
        for before in &self.before {
            out.extend_from_slice(&before.text);
            out.extend_from_slice(values.next().unwrap_or_default());
        }
        out.extend_from_slice(self.end.trim_ascii_end().strip_suffix(b"}").unwrap_or(&self.end));
    }
}

/// The forms of the rows of one topic, and which of their columns are read.
#[derive(Debug, Clone)]
pub struct Forms {
    columns: Columns,
    known: Vec<Arc<Form>>,
    /// Of the row that was read last.
    last: usize,
}

/// A row that was read.
#[derive(Debug)]
pub struct Read<'a> {
    pub fields: Fields<'a>,
    /// The number of its form; none where there are too many.
    pub form: Option<usize>,
}

impl Forms {
    pub fn new(columns: Columns) -> Self {
        Forms { columns, known: Vec::new(), last: 0 }
    }

    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    pub fn get(&self, number: usize) -> Option<&Arc<Form>> {
        self.known.get(number)
    }

    /// Reads the columns of a row. All its values are appended to `values`, where they are wanted, for [`Form::write_open`].
    pub fn read<'a>(&mut self, row: &'a [u8], values: Option<&mut Vec<u8>>) -> Result<Read<'a>, RowError> {
        let Ok(text) = simdutf8::basic::from_utf8(row) else {
            return Ok(Read { fields: self.columns.read(row)?, form: None });
        };
        let mut values = values.map(|values| Values::behind(values, row.len()));
        let others = (0..self.known.len()).filter(|number| *number != self.last);
        for number in std::iter::once(self.last).chain(others) {
            if let Some(fields) = self.read_as(number, text, values.as_mut()) {
                self.last = number;
                return Ok(Read { fields, form: Some(number) });
            }
        }
        let fields = self.columns.read(row)?;
        if self.known.len() < FORMS_MAX
            && let Some(form) = Form::of(row, &self.columns)?
        {
            self.known.push(Arc::new(form));
            self.last = self.known.len() - 1;
            if let Some(fields) = self.read_as(self.last, text, values.as_mut()) {
                return Ok(Read { fields, form: Some(self.last) });
            }
        }
        Ok(Read { fields, form: None })
    }

    fn read_as<'a>(&self, number: usize, row: &'a str, mut values: Option<&mut Values<'_>>) -> Option<Fields<'a>> {
        let form = self.known.get(number)?;
        let mut fields = Fields::none(self.columns.names().len());
        if let Some(values) = &mut values {
            values.begin_anew();
        }
        form.read(row, |number, place| {
            if let Some(index) = form.columns.get(number).copied().flatten()
                && let Some(value) = row.get(place.clone())
            {
                fields.put(index, Field::of(value));
            }
            if let Some(values) = &mut values {
                values.push(row.as_bytes(), place);
            }
        })?;
        if let Some(values) = values {
            values.end();
        }
        Some(fields)
    }
}

/// Writes values behind what a buffer has. Dropped before its end, it leaves the buffer as it was.
struct Values<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
    at: usize,
    ended: bool,
}

impl<'a> Values<'a> {
    /// Values and gaps come to less than the row that has them, `room` bytes.
    fn behind(out: &'a mut Vec<u8>, room: usize) -> Self {
        let begin = out.len();
        out.resize(begin + room + CHUNK, 0);
        Values { out, begin, at: begin, ended: false }
    }

    fn begin_anew(&mut self) {
        self.at = self.begin;
    }

    fn push(&mut self, row: &[u8], place: Range<usize>) {
        if self.at > self.begin {
            if let Some(gap) = self.out.get_mut(self.at) {
                *gap = GAP;
            }
            self.at += 1;
        }
        let length = place.len();
        let to = self.out.get_mut(self.at..).unwrap_or_default();
        // What is copied beyond a short value is written over by the next one.
        let from = row.get(place.start..).and_then(|from| from.first_chunk::<CHUNK>()).filter(|_| length <= CHUNK);
        if let (Some(from), Some(to)) = (from, to.first_chunk_mut::<CHUNK>()) {
            *to = *from;
        } else if let (Some(from), Some(to)) = (row.get(place), to.get_mut(..length)) {
            to.copy_from_slice(from);
        }
        self.at += length;
    }

    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        self.out.truncate(if self.ended { self.at } else { self.begin });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::scan::tests::value;
    use proptest::prelude::*;

    const NAMES: [&str; 3] = ["price", "id", "b"];

    /// The fields as texts, the number of the form, and the row that its values give back.
    type Found = (Vec<Option<String>>, Option<usize>, Option<String>);

    fn fields_of(fields: &Fields<'_>) -> Vec<Option<String>> {
        (0..NAMES.len()).map(|index| fields.get(index).map(|field| field.raw().to_owned())).collect()
    }

    fn read(forms: &mut Forms, row: &[u8]) -> Result<Found, String> {
        let mut values = b"before".to_vec();
        let found = forms.read(row, Some(&mut values)).map_err(|error| error.to_string())?;
        assert!(values.starts_with(b"before"));
        let back = found.form.map(|number| {
            let mut open = Vec::new();
            forms.get(number).unwrap().write_open(values.get(6..).unwrap(), &mut open);
            String::from_utf8(open).unwrap()
        });
        Ok((fields_of(&found.fields), found.form, back))
    }

    fn forms() -> Forms {
        Forms::new(Columns::new(&NAMES))
    }

    fn open(row: &str) -> String {
        let row = row.trim_end();
        row.strip_suffix('}').unwrap_or(row).to_owned()
    }

    #[test]
    fn rows_with_the_same_columns_have_one_form() {
        let rows = [
            r#"{"id":1,"name":"a, \"b\": {c","tags":["x",{"y":1}],"price":5999.00}"#,
            r#"{"id":22,"name":"张三","tags":null,"price":0.10}"#,
            r#"{"id":22,"price":0.10}"#,
            r#"{"id":1e3,"name":"x","tags":-0.5,"price":"a text of more than thirty-two bytes, to be sure"}"#,
            "{}",
            r#" { "id" : [1, 2] , "a name of more than thirty-two bytes, to be sure":true,"id":2 } "#,
        ];
        let mut forms = forms();
        let found = rows.map(|row| read(&mut forms, row.as_bytes()).unwrap());
        assert_eq!(found.each_ref().map(|(_, form, _)| form.unwrap()), [0, 0, 1, 0, 2, 3]);
        for (row, (.., back)) in rows.iter().zip(&found) {
            assert_eq!(back.as_deref(), Some(&*open(row)));
        }
        assert_eq!(found[1].0, [Some("0.10".into()), Some("22".into()), None]);
        assert_eq!(found[5].0, [None, Some("2".into()), None], "of two of one name the last counts");
    }

    #[test]
    fn what_is_no_row_is_refused_whatever_was_read_before() {
        let mut forms = forms();
        read(&mut forms, br#"{"id":1,"b":2}"#).unwrap();
        for row in [
            "",
            "{\"id\":1,\"b\":",
            "{\"id\":1,\"b\":2",
            "{\"id\":01,\"b\":2}",
            "{\"id\":1,\"b\":2}}",
            "{\"id\":,\"b\":2}",
            "{\"id\":nul,\"b\":2}",
        ] {
            assert!(read(&mut forms, row.as_bytes()).is_err(), "{row}");
        }
        assert!(read(&mut forms, b"{\"id\":\"\xFF\",\"b\":2}").is_err());
        assert_eq!(forms.known.len(), 1);
    }

    #[test]
    fn a_blank_before_a_value_is_of_another_form() {
        let mut forms = forms();
        for (row, price) in [
            (r#"{"id":1,"price":2}"#, "2"),
            (r#"{"id":1,"price": 2}"#, "2"),
            ("{\"id\":1,\"price\":\t\n\"a\"}", "\"a\""),
            (r#"{"id":1,"price": null}"#, "null"),
        ] {
            let (fields, _, back) = read(&mut forms, row.as_bytes()).unwrap();
            assert_eq!((fields[0].as_deref(), back), (Some(price), Some(open(row))), "{row}");
        }
    }

    #[test]
    fn a_row_that_no_table_has_is_read_name_by_name() {
        let many: Vec<_> = (0..=FORM_VALUES_MAX).map(|number| format!("\"c{number}\":0")).collect();
        let long = format!("\"{}\":0", "c".repeat(FORM_BYTES_MAX));
        let mut forms = forms();
        for row in [many.join(","), long] {
            let row = format!("{{{row},\"id\":1}}");
            assert_eq!(read(&mut forms, row.as_bytes()), Ok((vec![None, Some("1".into()), None], None, None)));
        }
        assert!(forms.known.is_empty());
        let row = format!("{{{}}}", many[1..].join(","));
        assert_eq!(read(&mut forms, row.as_bytes()).unwrap().1, Some(0));
    }

    #[test]
    fn rows_of_too_many_forms_are_read_name_by_name() {
        let mut forms = forms();
        for number in 0..FORMS_MAX * 2 {
            let (fields, form, _) =
                read(&mut forms, format!("{{\"column{number}\":1,\"b\":{number}}}").as_bytes()).unwrap();
            assert_eq!((fields[2].clone(), form), (Some(number.to_string()), (number < FORMS_MAX).then_some(number)));
        }
        assert_eq!(read(&mut forms, b"{\"column7\":5,\"b\":6}").unwrap().1, Some(7));
    }

    proptest! {
        /// Whatever was read before, a row is read as it is without a form, and comes back.
        #[test]
        fn a_form_changes_nothing(
            rows in prop::collection::vec((
                prop::collection::vec(("(id|b|price|x|long name of more than thirty-two bytes)", "[ -~é\u{1}\n]{0,40}", 0..7u8, "[ \t]{0,1}"), 0..5),
                "[ \n]{0,1}",
            ), 1..20),
            broken in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut forms = forms();
            for (members, blank) in rows {
                let members: Vec<String> = members.iter().map(|(name, text, kind, own)| {
                    format!("\"{name}\"{blank}:{own}{}", value(name, text, *kind))
                }).collect();
                let mut row = format!("{blank}{{{}{blank}}}{blank}", members.join(",")).into_bytes();
                if let Some((at, byte)) = broken {
                    let at = at.index(row.len());
                    row[at] = byte;
                }
                let expected = Columns::new(&NAMES).read(&row).map(|fields| fields_of(&fields)).map_err(|error| error.to_string());
                let found = read(&mut forms, &row);
                prop_assert_eq!(found.clone().map(|(fields, ..)| fields), expected);
                if let Ok((.., back)) = found {
                    prop_assert_eq!(back, Some(open(std::str::from_utf8(&row).unwrap())));
                }
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(rows in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut forms = forms();
            let _ = read(&mut forms, br#"{"id":1}"#);
            for row in rows {
                let _ = read(&mut forms, &row);
            }
        }
    }
}
