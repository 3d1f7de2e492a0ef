//! A table's rows and keys as JSON objects.

use shared::pg::TableName;
use shared::record::row::{JSON_NULL, write_string};

use crate::decode::Cell;
use crate::types::Form;

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
    /// For messages.
    table: String,
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
        Ok(Shape { table: table.to_string(), columns, key })
    }

    /// Appends the row. Cells that are [`Cell::Unchanged`] must have been filled before.
    pub fn write_row<'a>(&self, cells: impl Iterator<Item = Cell<'a>>, out: &mut Vec<u8>) {
        let mut json_nulls = Vec::new();
        out.push(b'{');
        for (index, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_cell(column, cell, out);
            if column.form == Form::Json && matches!(cell, Cell::Text(text) if text.trim_ascii() == "null") {
                json_nulls.push(column.name.as_str());
            }
        }
        if !json_nulls.is_empty() {
            write_json_nulls(&json_nulls, out);
        }
        out.push(b'}');
    }

    /// Appends the key, and gives the text of its values back.
    pub fn write_key<'a>(
        &self,
        cells: impl Iterator<Item = Cell<'a>> + Clone,
        out: &mut Vec<u8>,
    ) -> Result<(), ShapeError> {
        out.push(b'{');
        for (position, &index) in self.key.iter().enumerate() {
            let (Some(column), Some(cell @ Cell::Text(_))) = (self.columns.get(index), cells.clone().nth(index)) else {
                let column = self.columns.get(index).map(|column| column.name.clone()).unwrap_or_default();
                return Err(ShapeError::NoKeyValue { table: self.table.clone(), column });
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

fn write_json_nulls(columns: &[&str], out: &mut Vec<u8>) {
    out.push(b',');
    write_string(JSON_NULL, out);
    out.extend_from_slice(b":[");
    for (index, name) in columns.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
    }
    out.push(b']');
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

    #[test]
    fn key_and_row_are_objects() {
        let table = TableName::parse("business.orders");
        let shape = Shape::new(&table, [("b", 25), ("order_id", 20)], &["order_id".into(), "b".into()]).unwrap();
        let cells = [Cell::Text("x"), Cell::Text("1")];
        let (mut key, mut row) = (Vec::new(), Vec::new());
        shape.write_key(cells.into_iter(), &mut key).unwrap();
        shape.write_row([Cell::Null, Cell::Text("1")].into_iter(), &mut row);
        assert_eq!(key, br#"{"order_id":1,"b":"x"}"#);
        assert_eq!(row, br#"{"b":null,"order_id":1}"#);
        assert_eq!(shape.key_values(cells.into_iter()), ["1", "x"]);
        assert!(shape.write_key([Cell::Null, Cell::Text("1")].into_iter(), &mut key).is_err());
        assert!(Shape::new(&table, [("a", 25)], &["b".into()]).is_err());
    }

    #[test]
    fn the_json_null_is_not_the_null_of_sql() {
        let table = TableName::parse("a.b");
        let shape = Shape::new(&table, [("id", 20), ("j", 114), ("k", 3802), ("t", 25)], &["id".into()]).unwrap();
        let row = |cells: [Cell<'_>; 4]| {
            let mut row = Vec::new();
            shape.write_row(cells.into_iter(), &mut row);
            String::from_utf8(row).unwrap()
        };
        let id = Cell::Text("1");
        assert_eq!(row([id, Cell::Null, Cell::Null, Cell::Text("null")]), r#"{"id":1,"j":null,"k":null,"t":"null"}"#);
        assert_eq!(
            row([id, Cell::Text("null"), Cell::Text("{}"), Cell::Null]),
            r#"{"id":1,"j":null,"k":{},"t":null,"tidemill.json_null":["j"]}"#
        );
        assert!(row([id, Cell::Text(" null"), Cell::Text("null"), Cell::Null]).ends_with(r#":["j","k"]}"#));
    }
}
