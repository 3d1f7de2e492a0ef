//! Rows in less memory. Rows of a table have the same columns in the same order, so what stands between the values is kept once.
//!
//! ```text
//! {"order_id":2001,"order_status":"PAID"  →  shape {"order_id":·,"order_status":·   values 2001·"PAID"
//! ```

/// Stands for a value in a shape, and between values. JSON has no such byte in its text.
const GAP: u8 = 0x1F;

/// The shape of a row that has none: it is kept as it is.
const WHOLE: u32 = 0;

/// More shapes than a table will have, at the same time; rows of further ones are kept as they are.
const SHAPES_MAX: usize = 64;

/// The shapes of the rows that are held.
#[derive(Debug)]
pub struct Shapes(Vec<Box<[u8]>>);

impl Default for Shapes {
    fn default() -> Self {
        Shapes(vec![Box::default()])
    }
}

impl Shapes {
    /// Appends the values of a row to `out`; gives the number of its shape. Any bytes come back as they are.
    pub fn pack(&mut self, row: &[u8], out: &mut Vec<u8>) -> u32 {
        let begin = out.len();
        let mut shape = Vec::with_capacity(row.len());
        let number = split(row, &mut shape, out).and_then(|()| self.number_of(&shape));
        number.unwrap_or_else(|| {
            out.truncate(begin);
            out.extend_from_slice(row);
            WHOLE
        })
    }

    fn number_of(&mut self, shape: &[u8]) -> Option<u32> {
        let known = self.0.iter().skip(1).position(|known| **known == *shape);
        let at = match known {
            Some(at) => at + 1,
            None if self.0.len() < SHAPES_MAX => {
                self.0.push(shape.into());
                self.0.len() - 1
            }
            None => return None,
        };
        u32::try_from(at).ok()
    }

    /// Appends the row to `out`.
    pub fn unpack(&self, number: u32, values: &[u8], out: &mut Vec<u8>) {
        let shape = self.0.get(number as usize).filter(|_| number != WHOLE);
        let Some(shape) = shape else { return out.extend_from_slice(values) };
        let mut values = values.split(|byte| *byte == GAP);
        for (at, between) in shape.split(|byte| *byte == GAP).enumerate() {
            if at > 0 {
                out.extend_from_slice(values.next().unwrap_or_default());
            }
            out.extend_from_slice(between);
        }
    }
}

/// Parts a row, which need not have its closing brace, into what stands between the values and the values. `None` where a gap could be
/// taken for a byte of the row.
fn split(row: &[u8], shape: &mut Vec<u8>, values: &mut Vec<u8>) -> Option<()> {
    if row.contains(&GAP) {
        return None;
    }
    let (mut in_value, mut in_string, mut escaped, mut depth) = (false, false, false, 0_u32);
    let mut is_first = true;
    for &byte in row {
        if in_value && !in_string && depth == 0 && byte == b',' {
            in_value = false;
        }
        if in_value {
            values.push(byte)
        } else {
            shape.push(byte)
        }
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' if in_value => depth += 1,
            b'}' | b']' if in_value => depth = depth.saturating_sub(1),
            b':' if !in_value => {
                in_value = true;
                shape.push(GAP);
                if !std::mem::take(&mut is_first) {
                    values.push(GAP);
                }
            }
            _ => {}
        }
    }
    Some(())
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
