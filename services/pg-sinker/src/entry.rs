//! What a record says: a row or its end, with its version. A record that says nothing readable is set aside.

use shared::batch::Record;
use shared::position::ResultBytes;
use shared::record::dead_letter::Rejection;
use shared::record::header::Header;
use shared::record::row::{Field, Fields};

use crate::tables::Tables;

/// A readable record.
#[derive(Debug)]
pub struct Entry<'a> {
    pub header: Header,
    /// They compare as the versions do.
    pub version: ResultBytes,
    /// The record's key as it stands in the topic.
    pub key: &'a str,
    /// By the index in [`Tables::fields`]: those of the row, or of the key where the row is gone.
    pub fields: Fields<'a>,
    pub is_gone: bool,
}

/// A record of the batch, and what it says or why it says nothing.
#[derive(Debug)]
pub struct Item<'a> {
    pub record: Record<'a>,
    pub content: Result<Entry<'a>, Rejection>,
}

impl<'a> Item<'a> {
    pub fn read(record: Record<'a>, tables: &Tables) -> Self {
        Item { record, content: read(record, tables) }
    }
}

fn read<'a>(record: Record<'a>, tables: &Tables) -> Result<Entry<'a>, Rejection> {
    let reject = |reason, detail: String| Rejection::new(reason, detail);
    let header = Header::parse(record.header).map_err(|error| reject("unreadable_header", error.to_string()))?;
    let no_key = || reject("unreadable_key", "the record has no key that is text".to_owned());
    let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).ok_or_else(no_key)?;
    let fields = match record.value {
        Some(value) => tables.fields.read(value).map_err(|error| reject(error.reason(), error.to_string()))?,
        None => tables
            .fields
            .read(key.as_bytes())
            .map_err(|_| reject("unreadable_key", "the key of a tombstone is not a JSON object".to_owned()))?,
    };
    let entry =
        Entry { version: header.result_version().to_bytes(), header, key, fields, is_gone: record.value.is_none() };
    match key_column_missing(&entry, tables) {
        Some(detail) => Err(reject("missing_key_column", detail)),
        None => Ok(entry),
    }
}

/// What a record must name is the key of each table that it changes.
fn key_column_missing(entry: &Entry<'_>, tables: &Tables) -> Option<String> {
    let mut changed = tables.tables.iter().filter(|target| !entry.is_gone || target.table.on_tombstone.is_heeded());
    // What is not there has nothing to delete.
    let mut awaited = tables.awaited.iter().filter(|_| !entry.is_gone);
    changed
        .find_map(|target| missing_of(entry, tables, target.key_fields(), &target.table.label))
        .or_else(|| awaited.find_map(|table| missing_of(entry, tables, table.key_fields.iter().copied(), &table.label)))
}

fn missing_of(
    entry: &Entry<'_>,
    tables: &Tables,
    mut key_fields: impl Iterator<Item = usize>,
    label: &str,
) -> Option<String> {
    let at = key_fields.find(|&at| entry.fields.get(at).is_none_or(Field::is_null))?;
    let column = tables.fields.names().get(at).map_or("", String::as_str);
    let part = if entry.is_gone { "key of the tombstone" } else { "row" };
    Some(format!("the {part} has no {column}, which is part of the key of {label}"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::tests::example;

    fn tables() -> Tables {
        Tables::new(vec![example(OnTombstone::Delete)])
    }

    fn reason(key: Option<&[u8]>, value: Option<&[u8]>, header: Option<&[u8]>) -> &'static str {
        let record = Record { partition: 0, offset: 0, key, value, header };
        Item::read(record, &tables()).content.map_or_else(|rejection| rejection.reason, |_| "")
    }

    #[test]
    fn a_row_and_a_tombstone_name_the_same_key() {
        let header: Option<&[u8]> = Some(b"op=c v=1.2.3.4");
        let key: Option<&[u8]> = Some(b"{\"order_id\":7}");
        for value in [Some(&b"{\"order_id\":7,\"other\":[1]}"[..]), None] {
            let record = Record { partition: 0, offset: 0, key, value, header };
            let entry = Item::read(record, &tables()).content.unwrap();
            assert_eq!(entry.fields.get(0).unwrap().raw(), "7");
            assert_eq!(entry.is_gone, value.is_none());
        }
    }

    #[test]
    fn what_cannot_be_read_is_rejected_by_name() {
        let header: Option<&[u8]> = Some(b"op=c v=1.2.3.4");
        let key: Option<&[u8]> = Some(b"{\"order_id\":7}");
        assert_eq!(reason(key, Some(b"{}"), None), "unreadable_header");
        assert_eq!(reason(None, Some(b"{\"order_id\":7}"), header), "unreadable_key");
        assert_eq!(reason(Some(b"\xFF"), Some(b"{\"order_id\":7}"), header), "unreadable_key");
        assert_eq!(reason(Some(b"7"), None, header), "unreadable_key");
        assert_eq!(reason(key, Some(b"7"), header), "not_an_object");
        assert_eq!(reason(key, Some(b"{\"order_id\":null}"), header), "missing_key_column");
        assert_eq!(reason(Some(b"{\"id\":7}"), None, header), "missing_key_column");
        assert_eq!(reason(key, Some(b"{\"order_id\":7}"), header), "");
    }

    #[test]
    fn a_row_must_have_the_key_of_a_table_that_is_not_there_yet() {
        let growing = crate::growth::tests::growing(false, false, &[]);
        let tables = Tables::with_awaited(Vec::new(), std::iter::once(&growing));
        let key: Option<&[u8]> = Some(b"{\"other\":1}");
        let header: Option<&[u8]> = Some(b"op=c v=1.2.3.4");
        let read = |value| Item::read(Record { partition: 0, offset: 0, key, value, header }, &tables).content;
        assert!(read(Some(b"{\"id\":1}")).is_ok() && read(None).is_ok());
        assert_eq!(read(Some(b"{\"other\":1}")).unwrap_err().reason, "missing_key_column");
    }

    #[test]
    fn a_tombstone_need_not_name_the_key_of_a_trail() {
        let trail = Tables::new(vec![example(OnTombstone::Keep)]);
        let record = Record { partition: 0, offset: 0, key: Some(b"{}"), value: None, header: Some(b"op=d v=1.2.3.4") };
        assert!(Item::read(record, &trail).content.is_ok());
    }
}
