//! The SQL of a comparison.
//!
//! A value of the topic is read by the input function of its column's type and written as text again; it must then be the text of the
//! table's value. Texts are compared by their bytes, whatever the column's collation holds to be equal.

use shared::pg::quoted;
use shared::record::row::JSON_NULL;

use super::comparison::FEW;
use super::table_shape::{Column, TableShape};

/// The temporary table with the rows of the topic: their keys as in the topic, the rows as `json`, in which numbers keep their text.
pub const CREATE_TOPIC_TABLE: &str = "CREATE TEMPORARY TABLE tidemill_topic (key text NOT NULL, row json NOT NULL)";

/// The statement that fills it.
pub const COPY_TOPIC_TABLE: &str = "COPY pg_temp.tidemill_topic (key, row) FROM STDIN";

/// JSON's blanks. Around a value they belong to neither the value nor the row that it stands in.
const BLANKS: &str = r"E' \t\n\r'";

/// How values of the topic are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A row at a time. One value that is none of its type ends the statement.
    Direct,
    /// By the functions of [`Statement::functions`], which say so in place of the value. Slow.
    Guarded,
}

/// A comparison of the table with the topic by these key columns.
pub struct Statement<'a> {
    pub shape: &'a TableShape,
    pub key: Vec<&'a Column>,
}

impl Statement<'_> {
    /// One row for each of the first few findings of a kind: rows in the table, kind, how many there are of it, key, values in the
    /// table, values in the topic. Where nothing is found, one row with the first of these alone.
    pub fn sql(&self, reading: Reading) -> String {
        format!(
            "SELECT total.count, numbered.kind, numbered.count, numbered.key, numbered.in_table, numbered.in_topic
             FROM (SELECT count(*) FROM {from}) AS total LEFT JOIN (
                 SELECT *, count(*) OVER (PARTITION BY kind) AS count,
                     row_number() OVER (PARTITION BY kind ORDER BY key COLLATE \"C\") AS place
                 FROM (
                     SELECT CASE WHEN topic.key IS NULL THEN 'missing' WHEN source.row_values IS NULL THEN 'surplus'
                             ELSE 'different' END AS kind,
                         coalesce(topic.key, json_build_object({named_keys})::text) AS key,
                         source.row_values AS in_table, topic.row_values AS in_topic
                     FROM ({source}) AS source FULL JOIN ({topic}) AS topic ON {same_key}
                     WHERE source.row_values IS DISTINCT FROM topic.row_values) AS findings
                 ) AS numbered ON numbered.place <= {FEW}
             ORDER BY numbered.kind, numbered.place",
            from = self.from(),
            named_keys = self.each_key(", ", |place, column| format!("{}, source.key_{place}", literal(&column.name))),
            source = self.source(),
            topic = self.topic(reading),
            same_key = self.each_key(" AND ", |place, _| format!("source.key_{place} = topic.key_{place}")),
        )
    }

    fn from(&self) -> String {
        let only = if self.shape.is_partitioned { "" } else { "ONLY " };
        format!("{only}{} AS t", self.shape.table.sql())
    }

    /// Keys and values of the table, as text.
    fn source(&self) -> String {
        let keys = self.each_key(", ", |place, column| format!("{} AS key_{place}", in_table(column)));
        let values = list(self.shape.columns.iter().map(in_table));
        format!("SELECT {keys}, ARRAY[{values}] AS row_values FROM {}", self.from())
    }

    /// The same of the topic.
    fn topic(&self, reading: Reading) -> String {
        let value = |object: &str, record: &str, column: &Column| match reading {
            Reading::Direct => text(&in_topic(object, record, column)),
            Reading::Guarded => text(&format!("{}({object})", self.function(column))),
        };
        let keys = self.each_key(", ", |place, column| format!("{} AS key_{place}", value("t.key::json", "k", column)));
        let values = list(self.shape.columns.iter().map(|column| value("t.row", "r", column)));
        let records = match reading {
            Reading::Direct => {
                let (key, row) = (fields(self.key.iter().copied()), fields(&self.shape.columns));
                format!(", json_to_record(t.key::json) AS k({key}), json_to_record(t.row) AS r({row})")
            }
            Reading::Guarded => String::new(),
        };
        format!("SELECT t.key, {keys}, ARRAY[{values}] AS row_values FROM pg_temp.tidemill_topic AS t{records}")
    }

    fn each_key(&self, separator: &str, item: impl Fn(usize, &Column) -> String) -> String {
        let items = self.key.iter().enumerate().map(|(place, column)| item(place, column));
        items.collect::<Vec<_>>().join(separator)
    }

    fn function(&self, column: &Column) -> String {
        let place = self.shape.columns.iter().position(|other| other == column).unwrap_or_default();
        format!("pg_temp.tidemill_value_{place}")
    }

    /// The functions that [`Reading::Guarded`] needs, a statement each.
    pub fn functions(&self) -> Vec<String> {
        let function = |column: &Column| {
            let body = format!(
                "BEGIN RETURN (SELECT {} FROM json_to_record(given) AS r({})); \
                 EXCEPTION WHEN OTHERS THEN RETURN format('(no value of type %s: %s)', {}, SQLERRM); END",
                text(&in_topic("given", "r", column)),
                fields([column]),
                literal(&column.sql_type)
            );
            let name = self.function(column);
            format!("CREATE FUNCTION {name}(given json) RETURNS text LANGUAGE plpgsql AS {}", literal(&body))
        };
        self.shape.columns.iter().map(function).collect()
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn text(expression: &str) -> String {
    format!("({expression})::text COLLATE \"C\"")
}

/// The text of the table's value.
fn in_table(column: &Column) -> String {
    let value = format!("t.{}", quoted(&column.name));
    if column.is_json { text(&format!("btrim({value}::text, {BLANKS})")) } else { text(&value) }
}

/// The fields of a JSON object as columns. A json value comes as text only to tell whether it is there: a record would not keep
/// its text.
fn fields<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    let field = |column: &Column| {
        let sql_type = if column.is_json { "text" } else { &column.sql_type };
        format!("{} {sql_type}", quoted(&column.name))
    };
    list(columns.into_iter().map(field))
}

/// The value that a JSON object has for a column, by the record of its fields; NULL where it has none.
fn in_topic(object: &str, record: &str, column: &Column) -> String {
    let field = format!("{record}.{}", quoted(&column.name));
    if !column.is_json {
        return field;
    }
    let (name, json_null, sql_type) = (literal(&column.name), literal(JSON_NULL), &column.sql_type);
    format!(
        "CASE WHEN {field} IS NOT NULL OR coalesce(({object} -> {json_null})::jsonb ? {name}, false) \
         THEN btrim(({object} -> {name})::{sql_type}::text, {BLANKS}) END"
    )
}

/// A text constant.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::pg::TableName;

    fn column(name: &str, sql_type: &str) -> Column {
        Column { name: name.into(), sql_type: sql_type.into(), is_json: sql_type.starts_with("json") }
    }

    fn shape(is_partitioned: bool) -> TableShape {
        TableShape {
            table: TableName::parse("商店.Orders"),
            is_partitioned,
            columns: vec![column("Id", "bigint"), column("it's", "bpchar"), column("doc", "jsonb")],
            primary_key: vec!["Id".into()],
        }
    }

    fn sql(shape: &TableShape, reading: Reading) -> String {
        Statement { shape, key: vec![shape.column("Id").unwrap()] }.sql(reading)
    }

    #[test]
    fn names_and_constants_are_quoted() {
        let sql = sql(&shape(false), Reading::Direct);
        assert!(sql.contains("(t.\"it's\")::text COLLATE \"C\""), "{sql}");
        assert!(sql.contains("(r.\"it's\")::text COLLATE \"C\""), "{sql}");
        assert!(sql.contains("json_build_object('Id', source.key_0)"), "{sql}");
        assert!(sql.contains("json_to_record(t.key::json) AS k(\"Id\" bigint)"), "{sql}");
        assert!(sql.contains("json_to_record(t.row) AS r(\"Id\" bigint, \"it's\" bpchar, \"doc\" text)"), "{sql}");
    }

    #[test]
    fn children_count_for_a_partitioned_table_only() {
        assert!(sql(&shape(false), Reading::Direct).contains("FROM ONLY \"商店\".\"Orders\" AS t"));
        let sql = sql(&shape(true), Reading::Direct);
        assert!(sql.contains("FROM \"商店\".\"Orders\" AS t") && !sql.contains("ONLY"), "{sql}");
    }

    #[test]
    fn json_is_read_as_json() {
        let sql = sql(&shape(false), Reading::Direct);
        assert!(sql.contains("(t.row -> 'doc')::jsonb::text"), "{sql}");
        assert!(sql.contains("(t.row -> 'tidemill.json_null')::jsonb ? 'doc'"), "{sql}");
    }

    #[test]
    fn a_guarded_reading_has_a_function_for_each_column() {
        let shape = shape(false);
        let statement = Statement { shape: &shape, key: vec![shape.column("Id").unwrap()] };
        let functions = statement.functions();
        assert_eq!(functions.len(), 3);
        assert!(functions[1].contains("json_to_record(given) AS r(\"it''s\" bpchar)"), "{}", functions[1]);
        let sql = statement.sql(Reading::Guarded);
        assert!(sql.contains("pg_temp.tidemill_value_0(t.key::json)"), "{sql}");
        assert!(sql.contains("pg_temp.tidemill_value_2(t.row)") && !sql.contains("json_to_record"), "{sql}");
    }
}
