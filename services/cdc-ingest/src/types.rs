//! How PostgreSQL's types become JSON: from the text form of a value, by the type's OID.
//!
//! | type | JSON |
//! |---|---|
//! | smallint, integer, bigint, numeric, real, double precision, oid | number with the exact text; `"NaN"`, `"Infinity"`, `"-Infinity"` as strings |
//! | boolean | `true`, `false` |
//! | json, jsonb | the JSON itself |
//! | timestamp | `"2025-07-11 17:25:55.145"`: at least three digits of the second's fraction, more where the value has more |
//! | timestamptz | the same in UTC with `Z`: `"2025-07-11 17:25:55.145Z"` |
//! | a domain | as the type beneath |
//! | all others | string with PostgreSQL's text form (ISO dates, hex bytea, arrays as `{1,NULL}`) |
//!
//! Casting the value's text back to the column's type gives the value that was stored. Of json, blanks around the value may get lost.
//! The JSON value `null` in a json or jsonb column would look as SQL's NULL: such columns are named by the row's last member,
//! [`shared::record::row::JSON_NULL`].

use shared::record::row::write_string;

/// How a type's text becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Number,
    Boolean,
    Json,
    Timestamp,
    TimestampTz,
    Text,
}

impl Form {
    /// By the type's oid, as fixed in PostgreSQL's `pg_type.dat`.
    pub fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Form::Number,
            16 => Form::Boolean,
            114 | 3802 => Form::Json,
            1114 => Form::Timestamp,
            1184 => Form::TimestampTz,
            _ => Form::Text,
        }
    }

    /// From here on OIDs differ from server to server (FirstGenbkiObjectId in `access/transam.h`): such a type may be a domain.
    pub const FIRST_NOT_FIXED: u32 = 10_000;

    /// Appends the JSON value for the text form of a value.
    pub fn write(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Form::Number if text.ends_with(|last: char| last.is_ascii_digit()) => {
                out.extend_from_slice(text.as_bytes())
            }
            Form::Boolean => out.extend_from_slice(if text == "t" { b"true" } else { b"false" }),
            Form::Json => out.extend_from_slice(text.as_bytes()),
            Form::Timestamp | Form::TimestampTz => write_timestamp(text, out),
            Form::Number | Form::Text => write_string(text, out),
        }
    }
}

/// `2025-07-11 17:25:55.1+00 BC` → `"2025-07-11 17:25:55.100Z BC"`; `infinity` stays.
fn write_timestamp(text: &str, out: &mut Vec<u8>) {
    let (moment, era) = match text.strip_suffix(" BC") {
        Some(moment) => (moment, " BC"),
        None => (text, ""),
    };
    // The session's time zone is UTC, so the offset is always +00.
    let (moment, zone) = match moment.strip_suffix("+00") {
        Some(moment) => (moment, "Z"),
        None => (moment, ""),
    };
    out.push(b'"');
    out.extend_from_slice(moment.as_bytes());
    if moment.contains(':') {
        let padding: &[u8] = match moment.rsplit_once('.').map_or(0, |(_, fraction)| fraction.len()) {
            0 => b".000",
            1 => b"00",
            2 => b"0",
            _ => b"",
        };
        out.extend_from_slice(padding);
    }
    out.extend_from_slice(zone.as_bytes());
    out.extend_from_slice(era.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(type_oid: u32, text: &str) -> String {
        let mut out = Vec::new();
        Form::of(type_oid).write(text, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok(), "{text}");
        text
    }

    #[test]
    fn values_keep_their_exact_text() {
        assert_eq!(json(1700, "5999.00"), "5999.00");
        assert_eq!(json(1700, "NaN"), "\"NaN\"");
        assert_eq!(json(701, "-Infinity"), "\"-Infinity\"");
        assert_eq!(json(701, "1e+20"), "1e+20");
        assert_eq!(json(20, "9223372036854775807"), "9223372036854775807");
        assert_eq!(json(16, "t"), "true");
        assert_eq!(json(3802, "{\"a\": [1, null]}"), "{\"a\": [1, null]}");
        assert_eq!(json(17, "\\xdead"), "\"\\\\xdead\"");
        assert_eq!(json(25, "a\"\n北京"), "\"a\\\"\\n北京\"");
        assert_eq!(json(23, "-1"), "-1");
    }

    #[test]
    fn times_have_at_least_three_digits() {
        assert_eq!(json(1114, "2025-07-11 17:25:55.145"), "\"2025-07-11 17:25:55.145\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55.1"), "\"2025-07-11 17:25:55.100\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55"), "\"2025-07-11 17:25:55.000\"");
        assert_eq!(json(1114, "2025-07-11 17:25:55.123456"), "\"2025-07-11 17:25:55.123456\"");
        assert_eq!(json(1184, "2025-07-11 17:25:55.12+00"), "\"2025-07-11 17:25:55.120Z\"");
        assert_eq!(json(1184, "0044-03-15 00:00:00+00 BC"), "\"0044-03-15 00:00:00.000Z BC\"");
        assert_eq!(json(1114, "infinity"), "\"infinity\"");
        assert_eq!(json(1184, "-infinity"), "\"-infinity\"");
    }
}
