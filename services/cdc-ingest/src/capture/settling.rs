//! Tables that change under the capture: set aside, looked at, stopped, carried again, added.

use std::time::Duration;

use shared::failure::Failure;
use shared::metrics;
use shared::position::Lsn;

use super::{Core, Standing, Table};
use crate::catalog::SourceTable;
use crate::state::{KeyRange, TableState};
use crate::transaction::Captured;
use crate::watch::{Added, Looked, TableLook};

impl Core {
    /// The stream brought the table with another key. Its changes are passed over until the guardian has looked; then it is read anew.
    pub(super) fn unsettle(&mut self, table: usize) -> Result<(), Failure> {
        tracing::warn!(table = self.table_name(table), "the table's key changed: it is looked at and read again");
        metrics::SCHEMA_CHANGES.with_label_values(&[self.table_name(table)]).inc();
        self.set_standing(table, Standing::Unsettled);
        // Recorded with the position behind it: a restart finds the copy to be done.
        self.begin_copy(table, KeyRange::default())?;
        self.wanted.look_at(table);
        Ok(())
    }

    /// The table cannot be carried on; the others go on. When it is carried again, it is read anew.
    pub fn stop_table(&mut self, table: usize, standing: Standing, why: String) -> Result<(), Failure> {
        tracing::error!(table = self.table_name(table), "the table is stopped, the others go on: {why}");
        self.assembler.set_aside(table);
        self.set_standing(table, standing);
        if let Some(state) = self.copies.state_mut(table) {
            state.stopped = Some(why);
        }
        self.begin_copy(table, KeyRange::default())
    }

    fn set_standing(&mut self, table: usize, standing: Standing) {
        if let Some(entry) = self.tables.get_mut(table) {
            entry.standing = standing;
        }
        self.copies.set_carried(table, standing == Standing::Carried);
    }

    /// The table is carried again as what it is now, and read anew.
    pub(super) fn settle(&mut self, table: usize, source: SourceTable, since: Lsn) -> Result<(), Failure> {
        tracing::info!(table = self.table_name(table), now = %source.name, key = ?source.key_names(), "the table is read again");
        self.assembler.settle(table, source.oid, source.name.clone(), source.key_names(), since);
        if let Some(state) = self.copies.state_mut(table) {
            *state = TableState { stopped: None, ..state.clone().of(&source) };
        }
        if let Some(entry) = self.tables.get_mut(table) {
            entry.source = Some(source);
        }
        self.set_standing(table, Standing::Carried);
        self.begin_copy(table, KeyRange::default())
    }

    /// The guardian has looked.
    pub(super) async fn looked(&mut self, looked: Looked) -> Result<(), Failure> {
        if let Some(snapshot) = &looked.seen {
            self.assembler.forget_seen(snapshot);
        }
        for look in looked.tables {
            self.table_looked(look)?;
        }
        for added in looked.added {
            self.add_table(added)?;
        }
        self.take_chunks(Duration::ZERO);
        self.send().await
    }

    fn table_looked(&mut self, TableLook { table, found, since }: TableLook) -> Result<(), Failure> {
        let (Some(entry), Some(copy)) = (self.tables.get(table), self.copies.get(table)) else { return Ok(()) };
        let source = match found {
            Ok(source) => source,
            Err(why) if copy.state.stopped.as_ref() == Some(&why) => return Ok(()),
            Err(why) => return self.stop_table(table, Standing::Refused, why),
        };
        let before = entry.source.as_ref();
        let is_same = before.is_some_and(|before| {
            let essence = |table: &SourceTable| (table.oid, table.key.clone(), table.membership.clone());
            essence(before) == essence(&source) && before.filter == source.filter
        });
        match entry.standing {
            Standing::Carried | Standing::Spoilt if is_same => {
                self.rename(table, source);
                Ok(())
            }
            _ => self.settle(table, source, since),
        }
    }

    /// Only the name may be another one.
    fn rename(&mut self, table: usize, source: SourceTable) {
        let before = self.tables.get(table).and_then(|entry| entry.source.as_ref()).map(|source| source.name.clone());
        if before.is_some_and(|before| before != source.name) {
            tracing::warn!(
                table = self.table_name(table),
                now = %source.name,
                "the table was renamed: it goes on into the same topic; name it so under [tables] to keep the two in step"
            );
            metrics::SCHEMA_CHANGES.with_label_values(&[self.table_name(table)]).inc();
            self.assembler.rename(table, source.name.clone());
        }
        if let Some(entry) = self.tables.get_mut(table) {
            entry.source = Some(source);
        }
        self.report_copies();
    }

    /// A table came into the publication.
    fn add_table(&mut self, Added { source, topic, topic_index, sent, since }: Added) -> Result<(), Failure> {
        tracing::info!(table = %source.name, topic, "a table came into the publication: it is copied");
        let captured = Captured {
            oid: source.oid,
            name: source.name.clone(),
            topic: topic_index,
            partitions: self.settings.kafka.topics.partitions,
            key: source.key_names(),
            carried: true,
            since,
        };
        let state = TableState { epoch: self.slot.epoch, topic: topic.clone(), ..TableState::default() }.of(&source);
        let table = self.assembler.add(captured, &sent);
        self.copies.add(state, true);
        let state_name = source.name.to_string();
        self.tables.push(Table { state_name, topic, source: Some(source), standing: Standing::Carried });
        self.begin_copy(table, KeyRange::default())
    }
}
