//! A further table of the source with a topic of its own, and the one held against the other.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::database::run;
use crate::history::History;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;

/// A table whose key is `id bigint`.
pub struct CapturedTable {
    pub table: String,
    pub topic: String,
}

impl CapturedTable {
    /// Makes `business.<name>`, and has cdc-ingest capture it from its next start on.
    pub async fn make(stack: &mut Stack, name: &str, columns: &str) -> Self {
        let made = CapturedTable { table: format!("business.{name}"), topic: format!("{}_ods_{name}", stack.name) };
        let sql = format!(
            "CREATE TABLE {0} (id bigint PRIMARY KEY, {columns}); GRANT SELECT ON {0} TO tidemill_capture;
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

    /// Waits until a reader of the topic has the table's rows, value by value.
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

fn difference(wanted: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> String {
    let missing = wanted.iter().filter(|(key, _)| !found.contains_key(*key)).count();
    let surplus = found.keys().filter(|key| !wanted.contains_key(*key)).count();
    let wrong = wanted.iter().find(|(key, row)| found.get(*key).is_some_and(|other| other != *row));
    let wrong = wrong.map(|(key, row)| format!("{key}: {row} in the table, {} in the topic", found[key]));
    format!("{missing} missing, {surplus} too many, first wrong: {wrong:?}").chars().take(2_000).collect()
}
