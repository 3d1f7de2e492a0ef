//! One row as the tables of the sink have it, for the console: what the key of a record leads to. Nothing is written here.

use serde_json::{Map, Value, json};
use shared::control::{Problem, Reply};
use shared::failure::Failure;
use shared::pg::{TableName, quoted, refused};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::catalog::{self, Facts};
use crate::settings::Settings;

/// A column of a key and its value, as text: the server reads it in the type of its column.
type Part = (String, String);

/// In each table whose key begins with the columns of this one, the rows that have it.
pub async fn of(config: &Settings, body: &Value) -> Reply {
    let key = read_key(body)?;
    let unavailable = |failure: Failure| Problem::unavailable(failure.chain());
    let timeout = config.console.look_timeout_ms.to_string();
    let limits = [("default_transaction_read_only", "on"), ("statement_timeout", timeout.as_str())];
    let mut connection = config.sink.connect_with("pg-sinker console", &limits).await.map_err(unavailable)?;
    let mut tables = Vec::new();
    for table in config.tables.values().filter(|table| leads(&table.key, &key)) {
        tables.push(match in_table(&mut connection, &TableName::parse(&table.table), &key, config).await {
            Ok((rows, is_cut)) => json!({ "table": table.label(), "rows": rows, "cut": is_cut, "problem": null }),
            Err(failure) => json!({ "table": table.label(), "rows": [], "cut": false, "problem": failure.chain() }),
        });
    }
    let _ = connection.close().await;
    Ok(json!({ "tables": tables }))
}

/// `{"key":"{\"order_id\":2001}"}`: the key as the topics have it.
fn read_key(body: &Value) -> Result<Vec<Part>, Problem> {
    let wrong = || Problem::bad_request("the key is a JSON object of strings and whole numbers: {\"order_id\":2001}");
    let text = body.get("key").and_then(Value::as_str).ok_or_else(wrong)?;
    let columns: Map<String, Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    let key: Option<Vec<Part>> = columns.into_iter().map(|(name, value)| Some((name, text_of(&value)?))).collect();
    key.filter(|key| !key.is_empty()).ok_or_else(wrong)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.contains('\0') => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Whether these columns are the first ones of a table's key, in any order: only by those are rows found without reading all.
fn leads(table_key: &[String], key: &[Part]) -> bool {
    table_key
        .get(..key.len())
        .is_some_and(|first| first.iter().all(|name| key.iter().any(|(column, _)| column == name)))
}

/// The rows as JSON, whose numbers are as the server writes them, and whether there are more.
async fn in_table(
    connection: &mut PgConnection,
    table: &TableName,
    key: &[Part],
    config: &Settings,
) -> Result<(Vec<String>, bool), Failure> {
    let Some(facts) = catalog::read(connection, table).await? else { return Ok((Vec::new(), false)) };
    let (most, bytes_max) = (config.console.look_records_max, config.console.look_bytes_max);
    let sql = select(table, &facts, key, most.saturating_add(1));
    let mut query = sqlx::query_scalar(AssertSqlSafe(sql));
    for (_, value) in key {
        query = query.bind(value);
    }
    let found: Vec<String> = query
        .fetch_all(connection)
        .await
        .map_err(|error| refused(format!("rows of {table} cannot be read by this key"), error))?;
    let (count, mut bytes) = (found.len(), 0);
    let rows: Vec<String> = found
        .into_iter()
        .take(most)
        .take_while(|row| {
            bytes += row.len();
            bytes <= bytes_max
        })
        .collect();
    let is_cut = rows.len() < count;
    Ok((rows, is_cut))
}

/// Each value in the type of its column, so that an index serves; older versions of the row first.
fn select(table: &TableName, facts: &Facts, key: &[Part], limit: usize) -> String {
    let type_of = |name: &str| facts.columns.iter().find(|column| column.name == name).map(|column| &column.type_sql);
    let equal = key.iter().enumerate().map(|(at, (name, _))| {
        let cast = type_of(name).map(|type_sql| format!("::{type_sql}")).unwrap_or_default();
        format!("t.{} = ${}::text{cast}", quoted(name), at + 1)
    });
    let order = type_of("record_version").map(|_| " ORDER BY t.record_version").unwrap_or_default();
    let equal = equal.collect::<Vec<_>>().join(" AND ");
    format!("SELECT to_jsonb(t)::text FROM {} t WHERE {equal}{order} LIMIT {limit}", table.sql())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::ColumnFacts;

    fn key(text: &str) -> Result<Vec<Part>, Problem> {
        read_key(&json!({ "key": text }))
    }

    #[test]
    fn a_key_is_an_object_of_plain_values() {
        let read = key(r#"{"order_id":9007199254740993,"s":"x"}"#).unwrap();
        assert_eq!(read, [("order_id".to_owned(), "9007199254740993".to_owned()), ("s".to_owned(), "x".to_owned())]);
        for wrong in ["", "2001", "{}", r#"{"a":1.5}"#, r#"{"a":null}"#, r#"{"a":[1]}"#, "{\"a\":\"\\u0000\"}"] {
            assert_eq!(key(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn only_the_first_columns_of_a_tables_key_lead_to_its_rows() {
        let table = ["order_id", "order_status"].map(str::to_owned);
        let leads = |text: &str| super::leads(&table, &key(text).unwrap());
        assert!(leads(r#"{"order_id":1}"#) && leads(r#"{"order_status":"x","order_id":1}"#));
        assert!(!leads(r#"{"order_status":"x"}"#) && !leads(r#"{"user_id":1}"#));
        assert!(!leads(r#"{"order_id":1,"order_status":"x","city":"y"}"#));
        assert!(!leads(r#"{"order_id":1,"city":"y"}"#));
    }

    #[test]
    fn values_are_read_in_the_types_of_their_columns() {
        let column = |name: &str, type_sql: &str| ColumnFacts {
            name: name.into(),
            type_sql: type_sql.into(),
            not_null: true,
            has_default: false,
            generated: false,
        };
        let facts = Facts {
            is_table: true,
            schema_usage: true,
            is_owned: false,
            privileges: Vec::new(),
            columns: vec![column("or\"der", "bigint"), column("record_version", "bytea")],
            unique: Vec::new(),
        };
        let sql = select(&TableName::parse("result.t"), &facts, &key(r#"{"or\"der":1}"#).unwrap(), 3);
        let wanted = "SELECT to_jsonb(t)::text FROM \"result\".\"t\" t WHERE t.\"or\"\"der\" = $1::text::bigint ORDER BY t.record_version LIMIT 3";
        assert_eq!(sql, wanted);
    }
}
