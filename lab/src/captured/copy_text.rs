//! Rows for `COPY … FROM STDIN` in its text format.

/// Appends a row of values that are not NULL.
pub fn write_row(values: &[&str], out: &mut Vec<u8>) {
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.push(b'\t');
        }
        write_value(value, out);
    }
    out.push(b'\n');
}

fn write_value(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_inside_of_values_are_escaped() {
        let mut out = Vec::new();
        write_row(&["a\tb", "{\"c\":\"\\n\r\n北京\"}"], &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\tb\t{\"c\":\"\\\\n\\r\\n北京\"}\n");
    }
}
