//! Types of two servers brought to one text: how a value of the source looks once it has gone through the pipeline into its column of the
//! sink, and the sink's own value beside it.
//!
//! The pipeline writes PostgreSQL's text form into JSON, and pg-sinker casts it to the type of the sink's column: so does the SQL here. What a
//! cast would make of it (`timestamp(3)` rounds) is thus no difference; nor are zeros at the end of a `numeric`, blanks at the end of a
//! `char(n)`, and spelling inside of a `json`.

/// What is known of a type, by its OID, as fixed in PostgreSQL's `pg_type.dat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Numeric,
    Float,
    Text,
    /// `char(n)`: blanks at the end are no part of the value.
    Blank,
    Boolean,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    TimestampTz,
    Json,
    /// Another type that every server has.
    BuiltIn,
    /// A type that only this server has, or the value of an expression.
    Own,
}

/// From here on OIDs differ from server to server (FirstGenbkiObjectId in `access/transam.h`).
const FIRST_NOT_FIXED: u32 = 10_000;

impl Kind {
    pub fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 => Kind::Integer,
            1700 => Kind::Numeric,
            700 | 701 => Kind::Float,
            25 | 1043 | 19 => Kind::Text,
            1042 => Kind::Blank,
            16 => Kind::Boolean,
            2950 => Kind::Uuid,
            17 => Kind::Bytea,
            1082 => Kind::Date,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            114 | 3802 => Kind::Json,
            fixed if fixed < FIRST_NOT_FIXED => Kind::BuiltIn,
            _ => Kind::Own,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Kind::Text | Kind::Blank)
    }
}

/// A type: its kind, and its SQL with length or precision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub kind: Kind,
    pub sql: String,
}

/// The SQL that brings a value of the source, and the sink's, to one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alike {
    pub source: String,
    pub sink: String,
}

/// Brings `source`, SQL of a value of this type, and `sink` together. `None`: no SQL does it.
pub fn alike((source, from): (&str, &Type), (sink, to): (&str, &Type)) -> Option<Alike> {
    let both = |source: String, sink: String| Some(Alike { source, sink });
    let jsonb = |value: &str| format!("nullif({value}::jsonb::text, 'null')");
    let cut = |value: &str| format!("rtrim({value}::text, ' ')");
    match (from.kind, to.kind) {
        (Kind::Json, Kind::Json) => both(jsonb(source), jsonb(sink)),
        (_, Kind::Json) => both(jsonb(&format!("{source}::text")), jsonb(sink)),
        // The JSON value null becomes SQL's NULL on its way.
        (Kind::Json, Kind::Text) => both(format!("nullif({source}::text, 'null')"), sink.to_owned()),
        (Kind::Integer | Kind::Numeric, Kind::Numeric) => {
            both(format!("trim_scale({source}::{})", to.sql), format!("trim_scale({sink})"))
        }
        (_, Kind::Numeric) => both(format!("trim_scale({source}::text::{})", to.sql), format!("trim_scale({sink})")),
        (Kind::Integer, Kind::Integer) | (Kind::Text, Kind::Text) => both(source.to_owned(), sink.to_owned()),
        (Kind::Blank, Kind::Text) | (_, Kind::Blank) => both(cut(source), cut(sink)),
        // The pipeline writes other digits than a cast does.
        (Kind::Timestamp | Kind::TimestampTz, Kind::Text) => None,
        (_, Kind::Text) => both(format!("{source}::text"), sink.to_owned()),
        (_, _) if from == to && to.kind != Kind::Own => both(source.to_owned(), sink.to_owned()),
        // The same digits as by way of text, in less time.
        (Kind::Timestamp, Kind::Timestamp) | (Kind::TimestampTz, Kind::TimestampTz) => {
            both(format!("{source}::{}", to.sql), sink.to_owned())
        }
        // What the source's server may not know is compared as text.
        (_, Kind::Own) => both(format!("{source}::text"), format!("{sink}::text")),
        _ => both(format!("{source}::text::{}", to.sql), sink.to_owned()),
    }
}

/// The form of a compared value that is hashed. What a server writes for a moment takes it longer than all other columns of a row together;
/// the bytes that it sends of one are the same on every server.
pub fn summed(value: &str, kind: Kind) -> String {
    match kind {
        Kind::Timestamp => format!("timestamp_send({value})"),
        Kind::TimestampTz => format!("timestamptz_send({value})"),
        _ => value.to_owned(),
    }
}

/// A column of a key on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySide {
    /// In an order that is the same on every server.
    pub order: String,
    /// The type in which values are held against it.
    pub cast: &'static str,
    /// For lookups by the column's index.
    pub equal: String,
    pub equal_cast: &'static str,
    /// The value as text, the same on both sides.
    pub text: String,
}

/// A column of a key as the catalog has it.
#[derive(Debug, Clone, Copy)]
pub struct KeyColumn<'a> {
    /// The column in SQL.
    pub sql: &'a str,
    pub of: &'a Type,
    /// Its index sorts by bytes: no collation that differs from server to server.
    pub by_bytes: bool,
}

/// The column of a key on both sides; `None` where no order is the same on both.
pub fn key_sides(source: KeyColumn<'_>, sink: KeyColumn<'_>) -> Option<(KeySide, KeySide)> {
    let (from, to) = (source.of.kind, sink.of.kind);
    let number = |kind| matches!(kind, Kind::Integer | Kind::Numeric);
    let plain = |column: KeyColumn<'_>, cast, text: String| KeySide {
        order: column.sql.to_owned(),
        cast,
        equal: column.sql.to_owned(),
        equal_cast: cast,
        text,
    };
    let as_text = |column: KeyColumn<'_>| format!("{}::text", column.sql);
    let same = |cast| Some((plain(source, cast, as_text(source)), plain(sink, cast, as_text(sink))));
    match (from, to) {
        (Kind::Integer, Kind::Integer) => same("bigint"),
        (from, to) if number(from) && number(to) => {
            let text = |column: KeyColumn<'_>| format!("trim_scale({}::numeric)::text", column.sql);
            Some((plain(source, "numeric", text(source)), plain(sink, "numeric", text(sink))))
        }
        (from, to) if from.is_text() && to.is_text() => Some((text_side(source), text_side(sink))),
        (Kind::Uuid, Kind::Uuid) => same("uuid"),
        (Kind::Boolean, Kind::Boolean) => same("boolean"),
        (Kind::Bytea, Kind::Bytea) => same("bytea"),
        (Kind::Date, Kind::Date) => same("date"),
        (Kind::Timestamp, Kind::Timestamp) if source.of == sink.of => same("timestamp"),
        (Kind::TimestampTz, Kind::TimestampTz) if source.of == sink.of => same("timestamptz"),
        _ => None,
    }
}

fn text_side(column: KeyColumn<'_>) -> KeySide {
    let text = match column.of.kind {
        Kind::Blank => format!("rtrim({}::text, ' ')", column.sql),
        _ => format!("{}::text", column.sql),
    };
    let order = match column.by_bytes && column.of.kind == Kind::Text {
        true => column.sql.to_owned(),
        false => format!("{text} COLLATE \"C\""),
    };
    let equal_cast = if column.of.kind == Kind::Blank { "bpchar" } else { "text" };
    KeySide { order, cast: "text", equal: column.sql.to_owned(), equal_cast, text }
}

/// The value of a key's column as a topic has it, in the text that [`KeySide::text`] gives. The topic's JSON keeps zeros and blanks.
pub fn as_key_text(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Blank => text.trim_end_matches(' ').to_owned(),
        Kind::Numeric if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        Kind::Timestamp | Kind::TimestampTz => {
            let (moment, zone) = text.strip_suffix('Z').map_or((text, ""), |moment| (moment, "+00"));
            let short = if moment.contains('.') { moment.trim_end_matches('0').trim_end_matches('.') } else { moment };
            format!("{short}{zone}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(oid: u32, sql: &str) -> Type {
        Type { kind: Kind::of(oid), sql: sql.into() }
    }

    fn pair(from: &Type, to: &Type) -> Option<(String, String)> {
        alike(("a", from), ("b", to)).map(|alike| (alike.source, alike.sink))
    }

    fn texts(source: &str, sink: &str) -> Option<(String, String)> {
        Some((source.into(), sink.into()))
    }

    #[test]
    fn a_value_is_cast_as_its_way_into_the_sink_casts_it() {
        let (int, bigint, text) = (of(23, "integer"), of(20, "bigint"), of(25, "text"));
        let (varchar, blank) = (of(1043, "character varying(9)"), of(1042, "character(3)"));
        let (money, numeric) = (of(1700, "numeric(10,2)"), of(1700, "numeric"));
        let (precise, rough) = (of(1114, "timestamp without time zone"), of(1114, "timestamp(3) without time zone"));
        let zoned = of(1184, "timestamp with time zone");
        let (json, jsonb) = (of(114, "json"), of(3802, "jsonb"));
        let (mood, float) = (of(16_500, "mood"), of(701, "double precision"));
        assert_eq!(pair(&int, &bigint), texts("a", "b"));
        assert_eq!(pair(&varchar, &text), texts("a", "b"));
        assert_eq!(pair(&blank, &text), texts("rtrim(a::text, ' ')", "rtrim(b::text, ' ')"));
        assert_eq!(pair(&text, &blank), texts("rtrim(a::text, ' ')", "rtrim(b::text, ' ')"));
        assert_eq!(pair(&money, &numeric), texts("trim_scale(a::numeric)", "trim_scale(b)"));
        assert_eq!(pair(&float, &money), texts("trim_scale(a::text::numeric(10,2))", "trim_scale(b)"));
        assert_eq!(pair(&precise, &rough), texts("a::timestamp(3) without time zone", "b"));
        assert_eq!(pair(&rough, &rough), texts("a", "b"));
        assert_eq!(pair(&zoned, &rough), texts("a::text::timestamp(3) without time zone", "b"));
        assert_eq!(pair(&precise, &text), None);
        assert_eq!(pair(&json, &jsonb), texts("nullif(a::jsonb::text, 'null')", "nullif(b::jsonb::text, 'null')"));
        assert_eq!(pair(&json, &text), texts("nullif(a::text, 'null')", "b"));
        assert_eq!(pair(&mood, &text), texts("a::text", "b"));
        assert_eq!(pair(&mood, &mood), texts("a::text", "b::text"));
        assert_eq!(pair(&money, &text), texts("a::text", "b"));
    }

    #[test]
    fn keys_have_one_order_on_every_server() {
        let sides = |from: &Type, to: &Type, by_bytes| {
            let source = KeyColumn { sql: "a", of: from, by_bytes };
            key_sides(source, KeyColumn { sql: "b", of: to, by_bytes: true })
        };
        let (int, numeric, text) = (of(23, "integer"), of(1700, "numeric"), of(25, "text"));
        let (source, sink) = sides(&int, &int, true).unwrap();
        assert_eq!((source.order.as_str(), source.cast, sink.text.as_str()), ("a", "bigint", "b::text"));
        let (source, _) = sides(&int, &numeric, true).unwrap();
        assert_eq!((source.cast, source.text.as_str()), ("numeric", "trim_scale(a::numeric)::text"));
        let (source, sink) = sides(&text, &text, false).unwrap();
        assert_eq!((source.order.as_str(), sink.order.as_str()), ("a::text COLLATE \"C\"", "b"));
        assert_eq!((source.equal.as_str(), source.equal_cast), ("a", "text"));
        let (source, _) = sides(&of(1042, "character(3)"), &text, true).unwrap();
        assert_eq!((source.order.as_str(), source.equal_cast), ("rtrim(a::text, ' ') COLLATE \"C\"", "bpchar"));
        assert_eq!(sides(&of(701, "double precision"), &int, true), None);
    }

    #[test]
    fn the_keys_of_topics_are_those_of_the_tables() {
        assert_eq!(as_key_text(Kind::Numeric, "10.50"), "10.5");
        assert_eq!(as_key_text(Kind::Numeric, "10.00"), "10");
        assert_eq!(as_key_text(Kind::Numeric, "100"), "100");
        assert_eq!(as_key_text(Kind::Blank, "ab "), "ab");
        assert_eq!(as_key_text(Kind::Timestamp, "2025-07-11 17:25:55.100"), "2025-07-11 17:25:55.1");
        assert_eq!(as_key_text(Kind::TimestampTz, "2025-07-11 17:25:50.000Z"), "2025-07-11 17:25:50+00");
        assert_eq!(as_key_text(Kind::Text, "a.0"), "a.0");
    }
}
