//! Rows of the stream: which table they are of, what they need, and what they become.

use std::sync::Arc;

use shared::batch::Outgoing;
use shared::position::Lsn;
use shared::record::header::Operation;

use super::{Assembler, Buffers, Outcome, Position, StreamError, record_bytes, too_large};
use crate::change::{Change, Keys, Reread};
use crate::decode::{DecodeError, Message, Old, Relation, Tuple, decode, relation_of};
use crate::described::Described;
use crate::merge::Merge;
use crate::row::Shape;

impl Assembler {
    /// One message of the open transaction.
    pub fn change(
        &mut self,
        bytes: &[u8],
        reread: Option<&Reread>,
        out: &mut Outgoing<Position>,
    ) -> Result<Outcome, StreamError> {
        let message = match decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.unreadable(bytes, error),
        };
        match message {
            Message::Relation(relation) => Ok(self.describe(&relation)),
            Message::Ignored => Ok(Outcome::Done),
            Message::Insert { relation, new } => {
                self.row_change(relation, Operation::Insert, None, Some(new), reread, out)
            }
            Message::Update { relation, old, new } => {
                self.row_change(relation, Operation::Update, old, Some(new), reread, out)
            }
            Message::Delete { relation, old } => {
                self.row_change(relation, Operation::Delete, Some(old), None, reread, out)
            }
            Message::Truncate { relations } => self.truncate(&relations),
        }
    }

    /// A row that cannot be read stops its table only.
    fn unreadable(&mut self, bytes: &[u8], error: DecodeError) -> Result<Outcome, StreamError> {
        let Some(relation) = relation_of(bytes).filter(|_| error == DecodeError::NotUtf8) else {
            return Err(error.into());
        };
        self.number()?;
        match self.carried(relation) {
            Some(table) => Ok(self.stop(table, error.to_string())),
            None => Ok(Outcome::Done),
        }
    }

    fn stop(&mut self, table: usize, why: String) -> Outcome {
        self.set_aside(table);
        Outcome::Stopped { table, why }
    }

    /// The index of the table that a relation is, if the open transaction's changes of it are carried.
    pub(super) fn carried(&self, relation: u32) -> Option<usize> {
        let table = *self.by_oid.get(&relation)?;
        let captured = self.tables.get(table)?;
        let committed = self.transaction.map_or(Lsn(0), |transaction| transaction.commit_lsn);
        (captured.carried && committed >= captured.since).then_some(table)
    }

    fn describe(&mut self, relation: &Relation<'_>) -> Outcome {
        let described = Described::new(relation);
        let before = self.described.insert(relation.id, described);
        let Some(table) = self.carried(relation.id) else { return Outcome::Done };
        if let (Some(before), Some(now)) = (before, self.described.get(&relation.id))
            && !before.is_alike(now)
        {
            self.reshaped.push(table);
        }
        self.shape(relation.id, table).err().unwrap_or(Outcome::Done)
    }

    /// The shape of a table's rows, or what must be done first.
    fn shape(&mut self, relation: u32, table: usize) -> Result<Arc<Shape>, Outcome> {
        let (Some(described), Some(captured)) = (self.described.get_mut(&relation), self.tables.get(table)) else {
            return Err(Outcome::Unsettled { table });
        };
        if let Some(shape) = described.shape() {
            return Ok(Arc::clone(shape));
        }
        let unknown = described.unknown_types(&self.types);
        if !unknown.is_empty() {
            return Err(Outcome::NeedsTypes(unknown));
        }
        let shape = match described.bears(&captured.key) {
            true => described.make_shape(&captured.name, &captured.key, &self.types).ok(),
            false => None,
        };
        shape.ok_or_else(|| {
            self.set_aside(table);
            Outcome::Unsettled { table }
        })
    }

    fn row_change(
        &mut self,
        relation: u32,
        operation: Operation,
        old: Option<Old<'_>>,
        new: Option<Tuple<'_>>,
        reread: Option<&Reread>,
        out: &mut Outgoing<Position>,
    ) -> Result<Outcome, StreamError> {
        if !self.described.contains_key(&relation) {
            return Err(StreamError::UnknownRelation(relation));
        }
        let Some(table) = self.carried(relation) else {
            // Counted as well, so that a change's number does not depend on what is captured.
            self.number()?;
            self.pass_over(relation);
            return Ok(Outcome::Done);
        };
        let shape = match self.shape(relation, table) {
            Ok(shape) => shape,
            Err(outcome @ Outcome::Unsettled { .. }) => {
                self.number()?;
                return Ok(outcome);
            }
            Err(outcome) => return Ok(outcome),
        };
        let change = Change { shape: &shape, old, new };
        if change.lacks_values() && reread.is_none() {
            return Ok(Outcome::NeedsRow { table, key: change.key_values() });
        }
        let number = self.number()?;
        let mut buffers = std::mem::take(&mut self.buffers);
        let done = self.carry(table, number, operation, &change, reread, &mut buffers, out);
        self.buffers = buffers;
        Ok(done)
    }

    /// One change of a carried table: a tombstone for a key that goes, the row under the key that comes.
    #[expect(clippy::too_many_arguments, reason = "one change, spelled out")]
    fn carry(
        &mut self,
        table: usize,
        number: u32,
        operation: Operation,
        change: &Change<'_>,
        reread: Option<&Reread>,
        Buffers { old_key, new_key, value }: &mut Buffers,
        out: &mut Outgoing<Position>,
    ) -> Outcome {
        let keys = change.write_keys(old_key, new_key);
        let Keys { goes, comes } = match keys {
            Ok(keys) => keys,
            Err(error) => return self.stop(table, error.to_string()),
        };
        if goes {
            self.touch(table, old_key);
            self.emit(table, (number, 0), Operation::Delete, old_key, None, out);
        }
        if !comes {
            return Outcome::Done;
        }
        self.touch(table, new_key);
        value.clear();
        if !change.write_value(reread, value) {
            self.vanished += 1;
            return Outcome::Done;
        }
        let bytes = record_bytes(new_key, value);
        if bytes > self.bounds.record_bytes_max {
            return self.stop(table, too_large(new_key, bytes, self.bounds.record_bytes_max));
        }
        self.emit(table, (number, 1), operation, new_key, Some(value), out);
        Outcome::Done
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<Outcome, StreamError> {
        let mut tables = Vec::new();
        for relation in relations {
            match self.carried(*relation) {
                Some(table) => {
                    // A chunk that is on its way was read before: all of its rows may be gone.
                    self.merges.get_mut(&table).into_iter().for_each(Merge::make_void);
                    tables.push(table);
                }
                None => self.pass_over(*relation),
            }
        }
        Ok(Outcome::Truncated { tables, number: self.number()? })
    }

    /// The ordinal of the next change in the open transaction.
    fn number(&mut self) -> Result<u32, StreamError> {
        let transaction = self.transaction.as_mut().ok_or(StreamError::NoTransaction)?;
        let index = transaction.next_index;
        transaction.next_index += 1;
        Ok(index)
    }

    /// A change that is not carried: a chunk that is on its way must have seen it.
    fn pass_over(&mut self, relation: u32) {
        let Some(&table) = self.by_oid.get(&relation) else { return };
        *self.passed_over.entry(table).or_default() += 1;
        if let (Some(merge), Some(transaction)) = (self.merges.get_mut(&table), self.transaction) {
            merge.pass_over(transaction.xid);
        }
    }
}
