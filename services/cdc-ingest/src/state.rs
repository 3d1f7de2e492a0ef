//! What cdc-ingest must know after a restart and cannot see in its output: the epoch, what the slot was told, and how far each table's
//! copy has come.
//!
//! Records of the compacted topic `cdc_state`, one partition:
//!
//! ```text
//! {"slot":"tidemill"}                           → {"epoch":1,"system_id":"75…","timeline":1,"confirmed":"0/16B3748"}
//! {"slot":"tidemill","table":"business.orders"} → {"epoch":1,"oid":16390,"topic":"ods_orders","key":["order_id"],"key_types":["bigint"],"rows":5000,"last_key":["7000"],"done":false}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shared::position::{Lsn, Version};

use crate::catalog::SourceTable;

/// Which history of which server the slot follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    pub epoch: u32,
    pub system_id: String,
    pub timeline: u32,
    /// The server is never told more than this. Absent until the first position is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub confirmed: Option<Lsn>,
    /// Transactions that were streamed and that the server did not show to others yet, when this was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<u32>,
    /// The last transaction that the stream brought, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streamed: Option<Streamed>,
    /// The stream brought another history than the one that was captured: the next start begins a new epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<String>,
}

/// A transaction as the stream brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streamed {
    /// Where its commit stands.
    #[serde(with = "lsn_as_text")]
    pub lsn: Lsn,
    pub xid: u32,
    pub commit_time_us: i64,
}

impl SlotState {
    /// The state of a new epoch.
    pub fn new(epoch: u32, system_id: &str, timeline: u32) -> Self {
        SlotState {
            epoch,
            system_id: system_id.to_owned(),
            timeline,
            confirmed: None,
            unseen: Vec::new(),
            streamed: None,
            interrupted: None,
        }
    }
}

/// A table in an epoch: what it was when it was last looked at, and how far its copy has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TableState {
    pub epoch: u32,
    /// 0: written before tables were known by their OID.
    #[serde(default)]
    pub oid: u32,
    #[serde(default)]
    pub topic: String,
    /// The key columns of the topic's records; empty: as above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Their SQL types: a key of another type is another key in JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_types: Vec<String>,
    /// How the table was in the publication; empty: written before that was known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub membership: String,
    /// Rows that the copy has brought so far.
    pub rows: u64,
    /// The key of the last row that is in the topic, as text; the copy goes on behind it.
    pub last_key: Option<Vec<String>>,
    /// No copy is under way.
    pub done: bool,
    /// The copy is of this range of keys only.
    #[serde(default, skip_serializing_if = "KeyRange::is_all")]
    pub range: KeyRange,
    /// What the topic has from before this version and the copy did not find is gone.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub sweep_below: Option<Version>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Why the table is not carried, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Keys from and to, both included, as text; open where absent. Or a list of keys: what is not there of them is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct KeyRange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<Vec<String>>>,
}

impl TableState {
    /// The same, of this table as it is now.
    pub fn of(self, source: &SourceTable) -> Self {
        TableState {
            oid: source.oid,
            key: source.key_names(),
            key_types: source.key.iter().map(|column| column.sql_type.clone()).collect(),
            membership: source.membership.clone(),
            ..self
        }
    }
}

impl KeyRange {
    pub fn is_all(&self) -> bool {
        self.from.is_none() && self.to.is_none() && self.keys.is_none()
    }

    /// Of a list of keys the first so many behind one of them, and whether they are the last; `None` where there is no list.
    pub fn listed(&self, after: Option<&Vec<String>>, most: usize) -> Option<(&[Vec<String>], bool)> {
        let keys = self.keys.as_deref()?;
        let done = after.and_then(|after| keys.iter().position(|key| key == after)).map_or(0, |at| at + 1);
        let rest = keys.get(done..).unwrap_or_default();
        Some((rest.get(..most.max(1)).unwrap_or(rest), rest.len() <= most.max(1)))
    }
}

/// Positions and versions in their text form.
mod as_text {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Option<impl ToString>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

mod lsn_as_text {
    use super::*;

    pub fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
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
        let streamed = Some(Streamed { lsn: Lsn(0x16B_3700), xid: 9, commit_time_us: 5 });
        let slot =
            SlotState { confirmed: Some(Lsn(0x16B_3748)), unseen: vec![7], streamed, ..SlotState::new(2, "7", 1) };
        let table = TableState {
            epoch: 2,
            oid: 16_390,
            rows: 5,
            last_key: Some(vec!["a".into(), "1".into()]),
            range: KeyRange { from: Some(vec!["a".into(), "0".into()]), ..KeyRange::default() },
            sweep_below: Some(Version { epoch: 2, ..Version::default() }),
            ..TableState::default()
        };
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

    #[test]
    fn a_list_of_keys_is_read_part_by_part() {
        let keys: Vec<Vec<String>> = ["c", "a", "b"].map(|key| vec![key.to_owned()]).into();
        let range = KeyRange { keys: Some(keys.clone()), ..KeyRange::default() };
        assert!(!range.is_all());
        assert_eq!(range.listed(None, 2), Some((&keys[..2], false)));
        assert_eq!(range.listed(Some(&keys[1]), 2), Some((&keys[2..], true)));
        assert_eq!(range.listed(None, 3), Some((&keys[..], true)));
        assert_eq!(range.listed(Some(&keys[2]), 3), Some((&keys[3..], true)));
        assert_eq!(KeyRange::default().listed(None, 3), None);
    }

    #[test]
    fn records_of_the_first_version_are_read() {
        let mut state = CaptureState::default();
        let value = br#"{"epoch":1,"system_id":"75","timeline":1}"#;
        state.apply("s", br#"{"slot":"s"}"#, Some(value)).unwrap();
        let value = br#"{"epoch":1,"rows":5000,"last_key":["7000"],"done":false}"#;
        state.apply("s", br#"{"slot":"s","table":"b.o"}"#, Some(value)).unwrap();
        let slot = state.slot.unwrap();
        assert_eq!((slot.confirmed, slot.streamed), (None, None));
        assert_eq!(state.tables["b.o"].oid, 0);
    }
}
