//! The record, as it stands in the topics: key, row, header. Wire names stand here and nowhere else.
//!
//! A topic is a table. The key is a JSON object with the primary key, the value one flat JSON row, no value a tombstone.

pub mod dead_letter;
pub(crate) mod digits;
pub mod dwd;
pub mod form;
pub mod header;
pub mod ods;
pub mod result;
pub mod row;
pub mod scan;
pub mod time;
