//! Any table of the source with a topic, the one held against the other. PostgreSQL is the judge.

use lab::captured;
use lab::paper::Paper;
use shared::pg::TableName;

use crate::database::run;
use crate::history::History;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::PATIENCE;

pub struct JudgedTable {
    pub table: TableName,
    pub topic: String,
}

impl JudgedTable {
    /// Puts a table into the publication. A topic of its own comes from the next start on; it has `label` in its name.
    pub async fn capture(stack: &mut Stack, label: &str, table: &str) -> Self {
        publish(stack, table).await;
        Self::name(stack, label, table)
    }

    /// Gives a table that is published already a topic of its own.
    pub fn name(stack: &mut Stack, label: &str, table: &str) -> Self {
        let judged = JudgedTable { table: TableName::parse(table), topic: format!("{}_ods_{label}", stack.name) };
        let key = |part: &str| format!("TABLES__{}__{part}", label.to_uppercase());
        stack.set(CDC_INGEST, &key("TABLE"), table);
        stack.set(CDC_INGEST, &key("TOPIC"), &judged.topic);
        judged
    }

    /// A table that the settings do not name.
    pub fn other(stack: &Stack, table: &str, topic: &str) -> Self {
        JudgedTable { table: TableName::parse(table), topic: format!("{}_ods_{topic}", stack.name) }
    }

    pub fn history(&self, stack: &Stack) -> History {
        History::read(&stack.layers(), &self.topic)
    }

    /// Waits until a reader of the topic has the table's rows, and then looks whether all versions grew.
    pub async fn until_topic_is_the_table(&self, stack: &Stack) {
        self.until_topic_is(stack, &self.table).await;
    }

    /// The same with a table that has the rows as they should be.
    pub async fn until_topic_is(&self, stack: &Stack, table: &TableName) {
        let (places, mut nobody) = (&stack.places, Paper::plain(std::io::sink()));
        let compared =
            captured::until_equal(&places.source, &places.kafka, table, &self.topic, PATIENCE, &mut nobody).await;
        let compared = compared.unwrap_or_else(|failure| panic!("{}", failure.chain()));
        assert!(compared.is_equal(), "{compared}");
    }
}

/// Puts a table into the publication, readable for cdc-ingest.
pub async fn publish(stack: &Stack, table: &str) {
    let name = TableName::parse(table);
    let sql = format!(
        "GRANT USAGE ON SCHEMA {} TO tidemill_capture; GRANT SELECT ON {1} TO tidemill_capture;
         ALTER PUBLICATION tidemill ADD TABLE {1}",
        shared::pg::quoted(&name.schema),
        name.sql()
    );
    run(&mut stack.source().await, &sql).await;
}
