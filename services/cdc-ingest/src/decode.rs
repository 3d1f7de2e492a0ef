//! pgoutput messages, borrowed from the bytes of the WAL stream.
//!
//! Layouts: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 1. Begin, Commit and Message are told
//! apart by the replication client already; here come the rows and what describes them.

/// Bytes that are not the message they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a pgoutput message of kind {kind:?} ends too early")]
    TooShort { kind: char },
    #[error("a pgoutput message has the unknown kind {0:?}")]
    UnknownKind(char),
    #[error("a pgoutput tuple has a column of the unknown kind {0:?}")]
    UnknownCell(char),
    #[error("a name or value in the WAL stream is not UTF-8")]
    NotUtf8,
}

/// A message with rows or about tables.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Relation(Relation<'a>),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Type and Origin: nothing to carry.
    Ignored,
}

/// A table as it is from here on in the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The table's OID.
    pub id: u32,
    pub schema: &'a str,
    pub name: &'a str,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub identity: char,
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column of a [`Relation`].
#[derive(Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    pub name: &'a str,
    pub type_oid: u32,
    /// Part of the replica identity.
    pub in_key: bool,
}

/// The row before a change: under REPLICA IDENTITY FULL whole, else its key columns only (the others are null).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old<'a> {
    pub whole: bool,
    pub tuple: Tuple<'a>,
}

/// The cells of a row, checked when it was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a>(&'a [u8]);

/// One column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// A TOASTed value that the change did not touch; it is not in the stream.
    Unchanged,
    Text(&'a str),
}

#[derive(Clone)]
struct Input<'a> {
    kind: char,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::TooShort { kind: self.kind })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let kind = self.kind;
        self.take(N)?.try_into().map_err(|_| DecodeError::TooShort { kind })
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(DecodeError::TooShort { kind: self.kind })?;
        let text = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)
    }

    fn cell(&mut self) -> Result<Cell<'a>, DecodeError> {
        match self.byte()? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32()?;
                let text = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                std::str::from_utf8(text).map(Cell::Text).map_err(|_| DecodeError::NotUtf8)
            }
            other => Err(DecodeError::UnknownCell(char::from(other))),
        }
    }

    /// Checks a tuple to its end and keeps its bytes.
    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let whole = self.rest;
        for _ in 0..self.u16()? {
            self.cell()?;
        }
        let length = whole.len() - self.rest.len();
        Ok(Tuple(whole.get(..length).unwrap_or(whole)))
    }

    fn old(&mut self, kind: u8) -> Result<Old<'a>, DecodeError> {
        match kind {
            b'K' => Ok(Old { whole: false, tuple: self.tuple()? }),
            b'O' => Ok(Old { whole: true, tuple: self.tuple()? }),
            other => Err(DecodeError::UnknownCell(char::from(other))),
        }
    }

    fn relation(&mut self) -> Result<Relation<'a>, DecodeError> {
        let (id, schema, name) = (self.u32()?, self.string()?, self.string()?);
        let identity = char::from(self.byte()?);
        let mut columns = Vec::new();
        for _ in 0..self.u16()? {
            let in_key = self.byte()? & 1 == 1;
            let name = self.string()?;
            let type_oid = self.u32()?;
            self.u32()?; // type modifier
            columns.push(RelationColumn { name, type_oid, in_key });
        }
        // The system schema's name is sent as an empty string.
        Ok(Relation { id, schema: if schema.is_empty() { "pg_catalog" } else { schema }, name, identity, columns })
    }

    fn update(&mut self) -> Result<Message<'a>, DecodeError> {
        let relation = self.u32()?;
        let old = match self.byte()? {
            b'N' => None,
            kind => {
                let old = self.old(kind)?;
                self.byte()?; // 'N'
                Some(old)
            }
        };
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message<'a>, DecodeError> {
        let count = self.u32()?;
        self.byte()?; // CASCADE, RESTART IDENTITY
        let relations = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
        Ok(Message::Truncate { relations })
    }
}

/// Reads one message.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let Some((&kind, rest)) = bytes.split_first() else { return Err(DecodeError::TooShort { kind: '-' }) };
    let mut input = Input { kind: char::from(kind), rest };
    match kind {
        b'R' => input.relation().map(Message::Relation),
        b'I' => {
            let relation = input.u32()?;
            input.byte()?; // 'N'
            Ok(Message::Insert { relation, new: input.tuple()? })
        }
        b'U' => input.update(),
        b'D' => {
            let relation = input.u32()?;
            let kind = input.byte()?;
            Ok(Message::Delete { relation, old: input.old(kind)? })
        }
        b'T' => input.truncate(),
        b'Y' | b'O' => Ok(Message::Ignored),
        other => Err(DecodeError::UnknownKind(char::from(other))),
    }
}

/// The relation that a message about a row belongs to, where the message itself cannot be read.
pub fn relation_of(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [b'I' | b'U' | b'D', id @ ..] => id.first_chunk().map(|id| u32::from_be_bytes(*id)),
        _ => None,
    }
}

impl<'a> Tuple<'a> {
    /// The cells in order.
    pub fn cells(self) -> impl Iterator<Item = Cell<'a>> + Clone {
        let mut input = Input { kind: 't', rest: self.0 };
        let count = input.u16().unwrap_or(0);
        // The tuple was read to its end before: no error is left.
        (0..count).map_while(move |_| input.cell().ok())
    }

    pub fn has_unchanged(self) -> bool {
        self.cells().any(|cell| cell == Cell::Unchanged)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tuple in the form of the protocol.
    pub(crate) fn tuple(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut out = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Cell::Null => out.push(b'n'),
                Cell::Unchanged => out.push(b'u'),
                Cell::Text(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    pub(crate) fn insert(relation: u32, cells: &[Cell<'_>]) -> Vec<u8> {
        [&[b'I'][..], &relation.to_be_bytes(), b"N", &tuple(cells)].concat()
    }

    pub(crate) fn update(relation: u32, old: Option<(u8, &[Cell<'_>])>, new: &[Cell<'_>]) -> Vec<u8> {
        let old = old.map(|(kind, cells)| [&[kind][..], &tuple(cells)].concat()).unwrap_or_default();
        [&[b'U'][..], &relation.to_be_bytes(), &old, b"N", &tuple(new)].concat()
    }

    pub(crate) fn delete(relation: u32, kind: u8, old: &[Cell<'_>]) -> Vec<u8> {
        [&[b'D'][..], &relation.to_be_bytes(), &[kind], &tuple(old)].concat()
    }

    pub(crate) fn relation(id: u32, schema: &str, name: &str, columns: &[(&str, u32)]) -> Vec<u8> {
        let mut out = [&[b'R'][..], &id.to_be_bytes(), schema.as_bytes(), b"\0", name.as_bytes(), b"\0d"].concat();
        out.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for (at, (name, oid)) in columns.iter().enumerate() {
            out.push(u8::from(at == 0)); // the first column is the key
            out.extend(name.as_bytes());
            out.push(0);
            out.extend(oid.to_be_bytes());
            out.extend((-1_i32).to_be_bytes());
        }
        out
    }

    #[test]
    fn rows_come_as_they_were_written() {
        let cells = [Cell::Text("2001"), Cell::Null, Cell::Unchanged, Cell::Text("北京")];
        let bytes = update(7, Some((b'K', &[Cell::Text("1")])), &cells);
        let Ok(Message::Update { relation: 7, old: Some(old), new }) = decode(&bytes) else { panic!() };
        assert!(!old.whole && new.has_unchanged());
        assert_eq!(old.tuple.cells().collect::<Vec<_>>(), [Cell::Text("1")]);
        assert_eq!(new.cells().collect::<Vec<_>>(), cells);
    }

    #[test]
    fn a_relation_has_its_columns() {
        let bytes = relation(5, "business", "订单", &[("order_id", 20), ("city", 1043)]);
        let Ok(Message::Relation(found)) = decode(&bytes) else { panic!() };
        assert_eq!((found.id, found.schema, found.name, found.identity), (5, "business", "订单", 'd'));
        assert!(found.columns[0].in_key);
        assert_eq!(found.columns[1], RelationColumn { name: "city", type_oid: 1043, in_key: false });
    }

    #[test]
    fn a_message_names_its_relation_even_where_a_value_cannot_be_read() {
        let mut bytes = insert(7, &[Cell::Text("ab")]);
        *bytes.last_mut().unwrap() = 0xFF;
        assert_eq!(decode(&bytes), Err(DecodeError::NotUtf8));
        assert_eq!(relation_of(&bytes), Some(7));
        assert_eq!(relation_of(b"T"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(
            kind in prop::sample::select(b"RIUDTYOX".to_vec()), bytes in any::<Vec<u8>>()
        ) {
            let bytes = [vec![kind], bytes].concat();
            if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = decode(&bytes) {
                let _ = new.cells().count();
            }
        }

        #[test]
        fn a_message_cut_short_is_refused(cut in 0usize..30) {
            let bytes = insert(1, &[Cell::Text("a"), Cell::Text("some text"), Cell::Null]);
            prop_assert!(decode(&bytes[..cut.min(bytes.len() - 1)]).is_err());
        }
    }
}
