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
    /// The form of a row that was read.
    fn of(row: &[u8], columns: &Columns) -> Result<Self, RowError> {
        let mut form = Form { before: Vec::new(), end: Box::default(), columns: Vec::new() };
        let mut behind = 0;
        for_each_field(row, |name, field| {
            let Some(place) = field.place_in(row) else { return };
            form.before.push(Between::new(row.get(behind..place.start).unwrap_or_default()));
            form.columns.push(columns.names().iter().position(|wanted| wanted == name));
            behind = place.end;
        })?;
        form.end = row.get(behind..).unwrap_or_default().into();
        Ok(form)
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

    /// Reads the columns of a row. Its values are appended to `values`, for [`Form::write_open`], where it has a form.
    pub fn read<'a>(&mut self, row: &'a [u8], values: &mut Vec<u8>) -> Result<Read<'a>, RowError> {
        if let Ok(text) = simdutf8::basic::from_utf8(row) {
            let others = (0..self.known.len()).filter(|number| *number != self.last);
            for number in std::iter::once(self.last).chain(others) {
                if let Some(fields) = self.read_as(number, text, values) {
                    self.last = number;
                    return Ok(Read { fields, form: Some(number) });
                }
            }
        }
        let fields = self.columns.read(row)?;
        if self.known.len() >= FORMS_MAX {
            return Ok(Read { fields, form: None });
        }
        self.known.push(Arc::new(Form::of(row, &self.columns)?));
        self.last = self.known.len() - 1;
        self.read(row, values)
    }

    fn read_as<'a>(&self, number: usize, row: &'a str, values: &mut Vec<u8>) -> Option<Fields<'a>> {
        let form = self.known.get(number)?;
        let mut fields = Fields::none(self.columns.names().len());
        let mut writer = Values::behind(values, row.len());
        form.read(row, |number, place| {
            if let Some(index) = form.columns.get(number).copied().flatten()
                && let Some(value) = row.get(place.clone())
            {
                fields.put(index, Field::of(value));
            }
            writer.push(row.as_bytes(), place);
        })?;
        writer.end();
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

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        self.out.truncate(if self.ended { self.at } else { self.begin });
    }
}
