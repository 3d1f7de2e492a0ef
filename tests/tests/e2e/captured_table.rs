//! A further table of the source with a topic of its own, and the one held against the other.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::pg::TableName;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::database::run;
use crate::history::History;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;

/// A table that is named in the settings.
pub struct CapturedTable {
    pub table: String,
    pub topic: String,
}

impl CapturedTable {
    /// Makes `business.<name>` with the key `id bigint`, and has cdc-ingest capture it from its next start on.
    pub async fn make(stack: &mut Stack, name: &str, columns: &str) -> Self {
        CapturedTable::define(stack, name, &format!("id bigint PRIMARY KEY, {columns}")).await
    }

    /// The same, with any key.
    pub async fn define(stack: &mut Stack, name: &str, columns: &str) -> Self {
        let made = CapturedTable { table: format!("business.{name}"), topic: format!("{}_ods_{name}", stack.name) };
        let sql = format!(
            "CREATE TABLE {0} ({columns}); GRANT SELECT ON {0} TO tidemill_capture;
             ALTER PUBLICATION tidemill ADD TABLE {0}",
            made.table
        );
        run(&mut stack.source().await, &sql).await;
        let key = |part: &str| format!("TABLES__{}__{part}", name.to_uppercase());
        stack.set(CDC_INGEST, &key("TABLE"), &made.table);
        stack.set(CDC_INGEST, &key("TOPIC"), &made.topic);
        made
    }

    pub fn history(&self, stack: &Stack) -> History {
        History::read(&stack.layers(), &self.topic)
    }

    /// Waits until PostgreSQL finds the table's rows in the topic, whatever the key, with versions that grew.
    pub async fn until_judged_equal(&self, stack: &Stack) {
        until_judged_equal(stack, &self.table, &self.topic).await;
    }

    /// Waits until a reader of the topic has the table's rows, value by value. For tables with the key `id bigint`.
    pub async fn until_topic_is_the_table(&self, stack: &Stack) {
        let mut source = stack.source().await;
        until(&format!("{} is {}", self.topic, self.table), async || {
            let wanted = self.rows(&mut source).await;
            let history = self.history(stack);
            let found: BTreeMap<String, Value> = history
                .rows()
                .iter()
                .map(|(key, row)| ((*key).to_owned(), serde_json::from_str(row).unwrap()))
                .collect();
            if wanted == found { Ok(()) } else { Err(difference(&wanted, &found)) }
        })
        .await;
    }

    async fn rows(&self, source: &mut PgConnection) -> BTreeMap<String, Value> {
        let sql = format!("SELECT format('{{\"id\":%s}}', id), to_jsonb(t)::text FROM {} t", self.table);
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(source).await.unwrap();
        rows.into_iter().map(|(key, row)| (key, serde_json::from_str(&row).unwrap())).collect()
    }
}

/// Waits until PostgreSQL finds the rows of `table` in `topic`, value by value, with versions that grew.
pub async fn until_judged_equal(stack: &Stack, table: &str, topic: &str) {
    let (source, kafka, table) = (&stack.places.source, &stack.places.kafka, TableName::parse(table));
    until(&format!("{topic} is {table}"), async || match lab::captured::compare(source, kafka, &table, topic).await {
        Ok(comparison) if comparison.is_equal() => Ok(()),
        Ok(comparison) => Err(comparison.to_string()),
        Err(failure) => Err(failure.chain()),
    })
    .await;
}

fn difference(wanted: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> String {
    let missing = wanted.iter().filter(|(key, _)| !found.contains_key(*key)).count();
    let surplus = found.keys().filter(|key| !wanted.contains_key(*key)).count();
    let wrong = wanted.iter().find(|(key, row)| found.get(*key).is_some_and(|other| other != *row));
    let wrong = wrong.map(|(key, row)| format!("{key}: {row} in the table, {} in the topic", found[key]));
    format!("{missing} missing, {surplus} too many, first wrong: {wrong:?}").chars().take(2_000).collect()
}
