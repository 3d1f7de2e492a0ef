//! What cdc-ingest must know after a restart and cannot see in its output: the epoch, and how far each table's copy has come.
//!
//! Records of the compacted topic `cdc_state`, one partition:
//!
//! ```text
//! {"slot":"tidemill"}                             → {"epoch":1,"system_id":"75…","timeline":1}
//! {"slot":"tidemill","table":"business.orders"}   → {"epoch":1,"rows":5000,"last_key":["7000"],"done":false}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which history of which server the slot follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    pub epoch: u32,
    pub system_id: String,
    pub timeline: u32,
}

/// How far the copy of a table has come in an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    pub epoch: u32,
    pub rows: u64,
    /// The key of the last row that is in the topic, as text; the copy goes on behind it.
    pub last_key: Option<Vec<String>>,
    pub done: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Key {
    slot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
}

/// All of it, for one slot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CaptureState {
    pub slot: Option<SlotState>,
    pub tables: BTreeMap<String, TableState>,
}

impl CaptureState {
    /// Takes in one record of the topic. Records of other slots are passed over.
    pub fn apply(&mut self, slot: &str, key: &[u8], value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let key: Key = serde_json::from_slice(key)?;
        if key.slot != slot {
            return Ok(());
        }
        match (key.table, value) {
            (None, Some(value)) => self.slot = Some(serde_json::from_slice(value)?),
            (None, None) => self.slot = None,
            (Some(table), Some(value)) => {
                self.tables.insert(table, serde_json::from_slice(value)?);
            }
            (Some(table), None) => {
                self.tables.remove(&table);
            }
        }
        Ok(())
    }
}

/// Key and value of the slot's record.
pub fn slot_record(slot: &str, state: &SlotState) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
    let key = Key { slot: slot.to_owned(), table: None };
    Ok((serde_json::to_vec(&key)?, serde_json::to_vec(state)?))
}

/// Key and value of a table's record.
pub fn table_record(slot: &str, table: &str, state: &TableState) -> Result<(Vec<u8>, Vec<u8>), serde_json::Error> {
    let key = Key { slot: slot.to_owned(), table: Some(table.to_owned()) };
    Ok((serde_json::to_vec(&key)?, serde_json::to_vec(state)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_other_slots_are_passed_over() {
        let slot = SlotState { epoch: 2, system_id: "7".into(), timeline: 1 };
        let table = TableState { epoch: 2, rows: 5, last_key: Some(vec!["a".into(), "1".into()]), done: false };
        let mut state = CaptureState::default();
        for (key, value) in [
            slot_record("s", &slot).unwrap(),
            table_record("s", "b.o", &table).unwrap(),
            slot_record("t", &slot).unwrap(),
        ] {
            state.apply("s", &key, Some(&value)).unwrap();
        }
        assert_eq!(state, CaptureState { slot: Some(slot), tables: BTreeMap::from([("b.o".into(), table)]) });
        assert!(state.apply("s", b"{}", None).is_err());
    }
}
