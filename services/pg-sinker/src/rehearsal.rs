//! The newest rows of the topics, held against the tables that they would go into: what `check` says of columns and types.

use std::collections::BTreeSet;

use shared::batch::Record;
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::KafkaConfig;
use shared::kafka::tail::{TailReader, read_in_task};
use shared::pg::{TableName, quoted};
use shared::record::header::Header;
use shared::record::row::{Fields, for_each_field};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::catalog::Facts;
use crate::growth;
use crate::settings::TableConfig;
use crate::tables::{Column, Table, Tables, growing};

/// So many of the last records of each partition are looked at.
const RECORDS: i64 = 20;

/// The newest rows of a topic.
pub async fn newest_rows(
    config: &KafkaConfig,
    service: &'static str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<Vec<u8>>, Failure> {
    let topic = topic.to_owned();
    let read = move |reader: &TailReader| {
        let bounds = reader.bounds(&topic, 0..partitions)?;
        let from: Vec<(i32, i64)> =
            bounds.iter().map(|(&partition, bounds)| (partition, bounds.end.saturating_sub(RECORDS))).collect();
        let mut rows = Vec::new();
        reader.scan(&topic, &from, &mut |record: &Record<'_>| {
            // What the writer would set aside tells nothing of the others.
            if let Some(value) = record.value.filter(|_| Header::parse(record.header).is_ok())
                && for_each_field(value, |_, _| {}).is_ok()
            {
                rows.push(value.to_vec());
            }
            Ok(())
        })?;
        Ok(rows)
    };
    read_in_task(config, service, &Fate::default(), read).await
}

/// Rows that a table would refuse, and why.
struct Refused {
    rows: usize,
    what: String,
    cure: String,
}

/// Holds the rows against a table that is there.
pub async fn hold(
    connection: &mut PgConnection,
    (config, table, facts): (&TableConfig, &Table, &Facts),
    topic: &str,
    rows: &[Vec<u8>],
) -> Vec<Finding> {
    let tables = Tables::new(vec![table.clone()]);
    let read: Vec<Fields<'_>> = rows.iter().filter_map(|row| tables.fields.read(row).ok()).collect();
    let mut refused = missing_values(&tables, facts, &read);
    for (column, at) in tables.tables.iter().flat_map(|target| target.columns()) {
        let texts = tables.tables.iter().flat_map(|target| read.iter().filter_map(|row| target.text(row, column, at)));
        let texts: Vec<String> = texts.map(|text| text.into_owned()).collect();
        refused.extend(wrong_values(connection, table, column, &texts).await);
    }
    let mut findings: Vec<Finding> = refused.iter().map(|refused| refused.finding(topic, rows.len())).collect();
    findings.extend(by_name((config, table, facts), topic, rows).map(Finding::ok));
    findings
}

impl Refused {
    /// A problem where it is so with every row; others go to the dead letters, one by one.
    fn finding(&self, topic: &str, of: usize) -> Finding {
        let what = format!("{}: {} of the newest {of} rows of {topic}", self.what, self.rows);
        if self.rows < of {
            return Finding::ok(format!("{what} would be set aside"));
        }
        Finding::problem(&Failure::new(FailureKind::Settings, what).cure(self.cure.clone()))
    }
}

/// Columns that must not be NULL.
fn missing_values(tables: &Tables, facts: &Facts, rows: &[Fields<'_>]) -> Vec<Refused> {
    let must = |name: &str| facts.columns.iter().any(|column| column.name == name && column.not_null);
    let mut refused = Vec::new();
    for target in &tables.tables {
        for (column, at) in target.columns().filter(|(column, _)| must(&column.name)) {
            let lacking = rows.iter().filter(|row| target.text(row, column, at).is_none()).count();
            if lacking > 0 {
                let name = &column.name;
                let cure = match target.table.is_key(column) {
                    true => format!("name another key of {} in [tables], or another topic", target.table.name),
                    false => {
                        format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", target.table.name.sql(), quoted(name))
                    }
                };
                let what = format!("column {name} of {} must not be NULL, and has no value", target.table.name);
                refused.push(Refused { rows: lacking, what, cure });
            }
        }
    }
    refused
}

/// Values that cannot be cast to the type of their column.
async fn wrong_values(
    connection: &mut PgConnection,
    table: &Table,
    column: &Column,
    texts: &[String],
) -> Option<Refused> {
    let sql = format!("SELECT count(v::{}) FROM unnest($1::text[]) AS v", column.type_sql);
    let mut cast = async |texts: &[String]| {
        let asked =
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.clone())).bind(texts).fetch_one(&mut *connection).await;
        asked.err().and_then(|error| error.as_database_error().map(|said| said.message().to_owned()))
    };
    let words = cast(texts).await?;
    let mut rows = 0;
    for text in texts {
        rows += usize::from(cast(std::slice::from_ref(text)).await.is_some());
    }
    let Table { name, .. } = table;
    Some(Refused {
        rows,
        what: format!("column {} of {name} is {}, which the values are not ({words})", column.name, column.type_sql),
        cure: format!(
            "ALTER TABLE {} ALTER COLUMN {} TYPE text, or another type that fits",
            name.sql(),
            quoted(&column.name)
        ),
    })
}

/// Fields without a column, and columns without a field: what a wrong name looks like.
fn by_name((config, table, facts): (&TableConfig, &Table, &Facts), topic: &str, rows: &[Vec<u8>]) -> Option<String> {
    let mut fields = BTreeSet::new();
    for row in rows {
        // They were read before.
        let _ = for_each_field(row, |name, _| {
            fields.insert(name.to_owned());
        });
    }
    let columns = table.columns.iter().map(|column| column.name.clone());
    let without: Vec<String> = columns.filter(|name| !fields.contains(name)).collect();
    let growing = growing(config, Some(facts), usize::MAX);
    let is_passed_over = |name: &String| !growing.may_add && !growing.known.contains(name);
    let over: Vec<String> = fields.into_iter().filter(is_passed_over).collect();
    let told = |names: &[String], what: &str| (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")));
    let parts = [told(&over, "fields that no column takes"), told(&without, "columns that no field fills")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{topic} and {}: {}", table.name, parts.join("; ")))
}

/// The statements that make a table for these rows; `None` where none of them has its key.
pub fn definition(config: &TableConfig, role: &str, rows: &[Vec<u8>]) -> Option<String> {
    let name = TableName::parse(&config.table);
    let growing = growing(config, None, usize::MAX);
    let wanted = growth::wanted(std::slice::from_ref(&growing), rows.iter().map(Vec::as_slice));
    let create = growing.create_sql(wanted.columns.get(&0)?);
    let (schema, role) = (quoted(&name.schema), quoted(role));
    Some(format!(
        "CREATE SCHEMA IF NOT EXISTS {schema}; {create}; GRANT USAGE ON SCHEMA {schema} TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role}",
        name.sql()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::examine;
    use crate::tables::tests::{config, facts};

    fn rows(rows: &[&str]) -> Vec<Vec<u8>> {
        rows.iter().map(|row| row.as_bytes().to_vec()).collect()
    }

    #[test]
    fn what_must_not_be_null_is_counted() {
        let (config, facts) = (config(&["order_id"], OnTombstone::Keep), facts());
        let tables = Tables::new(vec![examine(&config, Some(&facts), "w").unwrap()]);
        let all = rows(&["{\"order_id\":1}", "{\"order_id\":null}", "{}"]);
        let read: Vec<Fields<'_>> = all.iter().map(|row| tables.fields.read(row).unwrap()).collect();
        let refused = missing_values(&tables, &facts, &read);
        assert_eq!((refused.len(), refused[0].rows), (1, 2));
        assert!(refused[0].finding("t", 3).ok, "only these rows are set aside");
        let always = Refused { rows: 3, ..missing_values(&tables, &facts, &read).remove(0) };
        assert!(!always.finding("t", 3).ok && always.finding("t", 3).text.contains("another key of r.t"));
    }

    #[test]
    fn names_without_a_counterpart_are_told() {
        let (config, facts) = (config(&["order_id"], OnTombstone::Keep), facts());
        let table = examine(&config, Some(&facts), "w").unwrap();
        let told = by_name(
            (&config, &table, &facts),
            "t",
            &rows(&["{\"order_id\":1,\"made\":2}", "{\"x\":1,\"processed_time\":1}"]),
        );
        assert_eq!(told.unwrap(), "t and r.t: fields that no column takes: x; columns that no field fills: 订单 \"x\"");
        let fits = rows(&["{\"order_id\":1,\"订单 \\\"x\\\"\":null,\"tidemill.json_null\":[]}"]);
        assert_eq!(by_name((&config, &table, &facts), "t", &fits), None);
    }

    #[test]
    fn a_table_is_proposed_for_the_rows() {
        let config = config(&["order_id"], OnTombstone::Keep);
        let sql = definition(&config, "w", &rows(&["{\"order_id\":1,\"s\":\"x\"}"])).unwrap();
        let begin = "CREATE SCHEMA IF NOT EXISTS \"r\"; CREATE TABLE \"r\".\"t\" (\"order_id\" numeric, \"s\" text, processed_time";
        assert!(sql.starts_with(begin) && sql.ends_with("ON \"r\".\"t\" TO \"w\""), "{sql}");
        assert_eq!(definition(&config, "w", &rows(&["{\"s\":\"x\"}"])), None);
    }
}
