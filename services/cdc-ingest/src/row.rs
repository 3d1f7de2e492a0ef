//! A table's rows as JSON: PostgreSQL's text form of each value, made a JSON value by the column's type.
//!
//! | type | JSON |
//! |---|---|
//! | smallint, integer, bigint, numeric, real, double precision, oid | number with the exact text; `"NaN"`, `"Infinity"`, `"-Infinity"` as strings |
//! | boolean | `true`, `false` |
//! | json, jsonb | the JSON itself |
//! | timestamp | `"2025-07-11 17:25:55.145"`: at least three digits of the second's fraction, more where the value has more |
//! | timestamptz | the same in UTC with `Z`: `"2025-07-11 17:25:55.145Z"` |
//! | all others | string with PostgreSQL's text form (ISO dates, hex bytea) |
//!
//! Casting the value's text back to the column's type gives the value that was stored.

use shared::pg::TableName;
use shared::record::row::write_string;

use crate::decode::Cell;

/// How a type's text becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Number,
    Boolean,
    Json,
    Timestamp,
    TimestampTz,
    Text,
}

impl Form {
    /// By the type's oid, as fixed in PostgreSQL's `pg_type.dat`.
    pub fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Form::Number,
            16 => Form::Boolean,
            114 | 3802 => Form::Json,
            1114 => Form::Timestamp,
            1184 => Form::TimestampTz,
            _ => Form::Text,
        }
    }

    /// Appends the JSON value for the text form of a value.
    fn write(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Form::Number if text.ends_with(|last: char| last.is_ascii_digit()) => {
                out.extend_from_slice(text.as_bytes())
            }
            Form::Boolean => out.extend_from_slice(if text == "t" { b"true" } else { b"false" }),
            Form::Json => out.extend_from_slice(text.as_bytes()),
            Form::Timestamp | Form::TimestampTz => write_timestamp(text, out),
            Form::Number | Form::Text => write_string(text, out),
        }
    }
}

/// `2025-07-11 17:25:55.1+00 BC` → `"2025-07-11 17:25:55.100Z BC"`; `infinity` stays.
fn write_timestamp(text: &str, out: &mut Vec<u8>) {
    let (moment, era) = match text.strip_suffix(" BC") {
        Some(moment) => (moment, " BC"),
        None => (text, ""),
    };
    // The session's time zone is UTC, so the offset is always +00.
    let (moment, zone) = match moment.strip_suffix("+00") {
        Some(moment) => (moment, "Z"),
        None => (moment, ""),
    };
    out.push(b'"');
    out.extend_from_slice(moment.as_bytes());
    if moment.contains(':') {
        let padding: &[u8] = match moment.rsplit_once('.').map_or(0, |(_, fraction)| fraction.len()) {
            0 => b".000",
            1 => b"00",
            2 => b"0",
            _ => b"",
        };
        out.extend_from_slice(padding);
    }
    out.extend_from_slice(zone.as_bytes());
    out.extend_from_slice(era.as_bytes());
    out.push(b'"');
}

/// One column, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    /// `"name":`
    label: Vec<u8>,
    form: Form,
}

/// The shape of a table's rows at one moment of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    columns: Vec<Column>,
    /// Indexes of the key columns, in the order of the primary key.
    key: Vec<usize>,
}

/// Why a row or a table's shape cannot be carried.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShapeError {
    #[error("table {table} has no column `{column}`, which is part of its key")]
    NoKeyColumn { table: String, column: String },
    #[error("a row of {table} comes without its key column `{column}`")]
    NoKeyValue { table: String, column: String },
}

impl Shape {
    /// `columns` are names and type oids in the order of the rows' cells; `key` the names of the primary key.
    pub fn new<'a>(
        table: &TableName,
        columns: impl IntoIterator<Item = (&'a str, u32)>,
        key: &[String],
    ) -> Result<Self, ShapeError> {
        let columns: Vec<Column> = columns
            .into_iter()
            .map(|(name, type_oid)| {
                let mut label = Vec::new();
                write_string(name, &mut label);
                label.push(b':');
                Column { name: name.to_owned(), label, form: Form::of(type_oid) }
            })
            .collect();
        let key = key.iter().map(|name| {
            columns
                .iter()
                .position(|column| column.name == *name)
                .ok_or_else(|| ShapeError::NoKeyColumn { table: table.to_string(), column: name.clone() })
        });
        let key = key.collect::<Result<_, _>>()?;
        Ok(Shape { columns, key })
    }

    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().filter_map(|&index| self.columns.get(index)).map(|column| column.name.as_str())
    }

    /// Appends the row. Cells that are [`Cell::Unchanged`] must have been filled before.
    pub fn write_row<'a>(&self, cells: impl Iterator<Item = Cell<'a>>, out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_cell(column, cell, out);
        }
        out.push(b'}');
    }

    /// Appends the key, and gives the text of its values back.
    pub fn write_key<'a>(
        &self,
        table: &TableName,
        cells: impl Iterator<Item = Cell<'a>> + Clone,
        out: &mut Vec<u8>,
    ) -> Result<(), ShapeError> {
        out.push(b'{');
        for (position, &index) in self.key.iter().enumerate() {
            let (Some(column), Some(cell @ Cell::Text(_))) = (self.columns.get(index), cells.clone().nth(index)) else {
                let column = self.columns.get(index).map(|column| column.name.clone()).unwrap_or_default();
                return Err(ShapeError::NoKeyValue { table: table.to_string(), column });
            };
            if position > 0 {
                out.push(b',');
            }
            write_cell(column, cell, out);
        }
        out.push(b'}');
        Ok(())
    }

    /// The text of the key's values, for SQL.
    pub fn key_values<'a>(&self, cells: impl Iterator<Item = Cell<'a>> + Clone) -> Vec<String> {
        let values = self.key.iter().filter_map(|&index| cells.clone().nth(index));
        values
            .filter_map(|cell| match cell {
                Cell::Text(text) => Some(text.to_owned()),
                Cell::Null | Cell::Unchanged => None,
            })
            .collect()
    }
}

fn write_cell(column: &Column, cell: Cell<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&column.label);
    match cell {
        Cell::Text(text) => column.form.write(text, out),
        Cell::Null | Cell::Unchanged => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(type_oid: u32, text: &str) -> String {
        let mut out = Vec::new();
        Form::of(type_oid).write(text, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok(), "{text}");
        text
    }

    #[test]
    fn values_keep_their_exact_text() {
        assert_eq!(json(1700, "5999.00"), "5999.00");
        assert_eq!(json(1700, "NaN"), "\"NaN\"");
        assert_eq!(json(701, "-Infinity"), "\"-Infinity\"");
        assert_eq!(json(701, "1e+20"), "1e+20");
        assert_eq!(json(20, "9223372036854775807"), "9223372036854775807");
        assert_eq!(json(16, "t"), "true");
        assert_eq!(json(3802, "{\"a\": [1, null]}"), "{\"a\": [1, null]}");
        assert_eq!(json(17, "\\xdead"), "\"\\\\xdead\"");
        assert_eq!(json(25, "a\"\n北京"), "\"a\\\"\\n北京\"");
        assert_eq!(json(23, "-1"), "-1");
    }

    #[test]
    fn times_have_at_least_three_digits() {
        assert_eq!(json(1114, "2025-07-11 17:25:55.145"), "\"2025-07-11 17:25:55.145\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55.1"), "\"2025-07-11 17:25:55.100\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55"), "\"2025-07-11 17:25:55.000\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55.123456"), "\"2025-07-11 17:25:55.123456\"");
        assert_eq!(json(1184, "2025-07-11 17:25:55.12+00"), "\"2025-07-11 17:25:55.120Z\"");
        assert_eq!(json(1184, "0044-03-15 00:00:00+00 BC"), "\"0044-03-15 00:00:00.000Z BC\"");
        assert_eq!(json(1114, "infinity"), "\"infinity\"");
        assert_eq!(json(1184, "-infinity"), "\"-infinity\"");
    }

    #[test]
    fn key_and_row_are_objects() {
        let table = TableName::parse("business.orders");
        let shape = Shape::new(&table, [("b", 25), ("order_id", 20)], &["order_id".into(), "b".into()]).unwrap();
        let cells = [Cell::Text("x"), Cell::Text("1")];
        let (mut key, mut row) = (Vec::new(), Vec::new());
        shape.write_key(&table, cells.into_iter(), &mut key).unwrap();
        shape.write_row([Cell::Null, Cell::Text("1")].into_iter(), &mut row);
        assert_eq!(key, br#"{"order_id":1,"b":"x"}"#);
        assert_eq!(row, br#"{"b":null,"order_id":1}"#);
        assert_eq!(shape.key_values(cells.into_iter()), ["1", "x"]);
        assert!(shape.write_key(&table, [Cell::Null, Cell::Text("1")].into_iter(), &mut key).is_err());
        assert!(Shape::new(&table, [("a", 25)], &["b".into()]).is_err());
    }
}
