//! Rows in less memory. Rows of a table have the same columns in the same order, so what stands between the values is kept once.
//!
//! ```text
//! {"order_id":2001,"order_status":"PAID"  →  shape {"order_id": · ,"order_status":   values 2001 · "PAID"
//! ```

use shared::record::scan::plain_len;

use crate::slots::number_of;

/// Stands between values. JSON has no such byte in its text.
const GAP: u8 = 0x1F;

/// The shape of a row that has none: it is kept as it is.
const WHOLE: u32 = 0;

/// More shapes than a table will have, at the same time; rows of further ones are kept as they are.
const SHAPES_MAX: usize = 64;

/// The shapes of the rows that are held: what stands before, between and behind the values.
#[derive(Debug)]
pub struct Shapes {
    /// The first one is [`WHOLE`].
    known: Vec<Vec<Box<[u8]>>>,
    /// The shape of the last row: most often that of the next one.
    last: u32,
}

impl Default for Shapes {
    fn default() -> Self {
        Shapes { known: vec![Vec::new()], last: WHOLE }
    }
}

impl Shapes {
    /// Appends the values of a row to `out`; gives the number of its shape. Any bytes come back as they are.
    pub fn pack(&mut self, row: &[u8], out: &mut Vec<u8>) -> u32 {
        let number = if row.contains(&GAP) { None } else { self.split(row, out) };
        number.unwrap_or_else(|| {
            out.extend_from_slice(row);
            WHOLE
        })
    }

    fn split(&mut self, row: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        let begin = out.len();
        let others = (WHOLE + 1..number_of(self.known.len())).filter(|number| *number != self.last);
        for number in std::iter::once(self.last).filter(|last| *last != WHOLE).chain(others) {
            if values_of(row, self.known.get(number as usize)?, out).is_some() {
                self.last = number;
                return Some(number);
            }
            out.truncate(begin);
        }
        if self.known.len() >= SHAPES_MAX {
            return None;
        }
        let shape = shape_of(row);
        values_of(row, &shape, out)?;
        self.known.push(shape);
        self.last = number_of(self.known.len() - 1);
        Some(self.last)
    }

    /// Appends the row to `out`.
    pub fn unpack(&self, number: u32, values: &[u8], out: &mut Vec<u8>) {
        let shape = self.known.get(number as usize).filter(|_| number != WHOLE);
        let Some(shape) = shape else { return out.extend_from_slice(values) };
        let mut values = values.split(|byte| *byte == GAP);
        for (at, between) in shape.iter().enumerate() {
            if at > 0 {
                out.extend_from_slice(values.next().unwrap_or_default());
            }
            out.extend_from_slice(between);
        }
    }
}

/// Appends the values of a row that has this shape; `None` where it has another.
fn values_of(row: &[u8], shape: &[Box<[u8]>], out: &mut Vec<u8>) -> Option<()> {
    let (last, between) = shape.split_last()?;
    let mut rest = row;
    for (at, between) in between.iter().enumerate() {
        let value = rest.strip_prefix(&**between)?;
        let (value, behind) = value.split_at_checked(value_len(value))?;
        if at > 0 {
            out.push(GAP);
        }
        out.extend_from_slice(value);
        rest = behind;
    }
    (*rest == **last).then_some(())
}

/// What stands before, between and behind the values of a row, which need not have its closing brace.
fn shape_of(row: &[u8]) -> Vec<Box<[u8]>> {
    let (mut shape, mut rest) = (Vec::new(), row);
    while let Some((between, value)) =
        rest.split_at_checked(name_len(rest)).filter(|(between, _)| between.ends_with(b":"))
    {
        shape.push(between.into());
        rest = value.get(value_len(value)..).unwrap_or_default();
    }
    shape.push(rest.into());
    shape
}

/// Up to and with the colon behind the next name; all where there is none.
fn name_len(row: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = row.get(at) {
        at += match byte {
            b'"' => string_len(row.get(at..).unwrap_or_default()),
            b':' => return at + 1,
            _ => 1,
        };
    }
    row.len()
}

/// Up to the comma behind a value, or to the end.
fn value_len(row: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_u32);
    while let Some(byte) = row.get(at) {
        match byte {
            b'"' => {
                at += string_len(row.get(at..).unwrap_or_default());
                continue;
            }
            b',' if depth == 0 => return at,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    row.len()
}

/// The length of the string that begins here, with its quotes.
fn string_len(row: &[u8]) -> usize {
    let mut at = 1;
    loop {
        at += plain_len(row.get(at..).unwrap_or_default());
        match row.get(at) {
            None => return row.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at = (at + 2).min(row.len()),
            Some(_) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(shapes: &mut Shapes, row: &[u8]) -> (u32, Vec<u8>, Vec<u8>) {
        let (mut values, mut back) = (Vec::new(), Vec::new());
        let shape = shapes.pack(row, &mut values);
        shapes.unpack(shape, &values, &mut back);
        (shape, values, back)
    }

    #[test]
    fn rows_with_the_same_columns_share_a_shape() {
        let mut shapes = Shapes::default();
        let rows = [
            r#"{"id":1,"name":"a, \"b\": {c","tags":["x",{"y":1}],"price":5999.00"#,
            r#"{"id":22,"name":"张三","tags":null,"price":0.10"#,
            r#"{"id":22,"price":0.10"#,
        ];
        let packed = rows.map(|row| there_and_back(&mut shapes, row.as_bytes()));
        assert_eq!(packed.each_ref().map(|(shape, ..)| *shape), [1, 1, 2]);
        assert_eq!(packed[1].1, "22\u{1f}\"张三\"\u{1f}null\u{1f}0.10".as_bytes());
        for (row, (.., back)) in rows.iter().zip(packed) {
            assert_eq!(row.as_bytes(), back);
        }
    }

    #[test]
    fn a_table_of_ever_new_shapes_is_kept_as_it_is() {
        let mut shapes = Shapes::default();
        for number in 0..100 {
            let row = format!("{{\"column{number}\":1");
            let (shape, _, back) = there_and_back(&mut shapes, row.as_bytes());
            assert_eq!((shape == WHOLE, back), (number + 1 >= SHAPES_MAX, row.into_bytes()));
        }
        assert_eq!(there_and_back(&mut shapes, b"{\"column7\":5").0, 8);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(row in "[{}\\[\\],:\"\\\\ a1\u{1f}]{0,40}") {
            let (.., back) = there_and_back(&mut Shapes::default(), row.as_bytes());
            prop_assert_eq!(row.as_bytes(), back);
        }
    }
}
