//! How a row of a Fluss table becomes the key and the flat JSON that the topics of the pipeline carry, by the types of its columns.
//!
//! | type | JSON |
//! |---|---|
//! | TINYINT, SMALLINT, INT, BIGINT | number |
//! | DECIMAL | number with all digits of its scale: `5999.00` |
//! | FLOAT, DOUBLE | number, the shortest text that is read back as the same; `"NaN"`, `"Infinity"`, `"-Infinity"` as strings |
//! | BOOLEAN | `true`, `false` |
//! | CHAR, STRING | string |
//! | DATE, TIME | string: `"2025-07-11"`, `"17:25:55.145"` |
//! | TIMESTAMP | string: `"2025-07-11 17:25:55.145"`, at least three digits of the second's fraction, more where the value has more |
//! | TIMESTAMP_LTZ | the same in UTC with `Z` |
//! | BINARY, BYTES | string: `"\\x6162"` |
//! | ARRAY, MAP, ROW | refused |
//!
//! NULL is `null`. These are the forms of `cdc-ingest`.

use std::fmt::Write as _;

use fluss::error::Result as FlussResult;
use fluss::metadata::{DataType, TableInfo};
use fluss::row::DataGetters;
use shared::failure::Failure;
use shared::record::row::{Extend, rendered_name, write_string};

use crate::plan::problem;
use crate::settings::{DimensionConfig, Mode};

/// What is taken of a row.
#[derive(Debug)]
pub struct Form {
    key: Vec<Column>,
    row: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    /// Its place in the table.
    at: usize,
    /// `"city":`
    rendered: Box<[u8]>,
    kind: Kind,
}

/// The types that can be carried.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Boolean,
    Byte,
    Short,
    Int,
    Long,
    Float,
    Double,
    Char(usize),
    Text,
    Decimal { precision: usize, scale: usize },
    Date,
    Time,
    Timestamp(u32),
    Instant(u32),
    Binary(usize),
    Bytes,
}

impl Form {
    /// Refuses a table that the dimension cannot be read from.
    pub fn new(info: &TableInfo, dimension: &DimensionConfig) -> Result<Self, Failure> {
        let (place, name) = (dimension.read_from(), &dimension.name);
        let key = info.get_primary_keys();
        let mut sorted: Vec<&str> = key.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(dimension.on.keys().map(String::as_str)) {
            let on: Vec<&str> = dimension.on.keys().map(String::as_str).collect();
            let what = match key.is_empty() {
                true => format!("Fluss table `{place}` has no primary key"),
                false => format!(
                    "the primary key of Fluss table `{place}` is {}, and dimension `{name}` is joined on {}",
                    key.join(", "),
                    on.join(", ")
                ),
            };
            return Err(problem(what, "take a table whose primary key are the columns that `on` names"));
        }
        if info.is_partitioned() {
            let what = format!("Fluss table `{place}` is partitioned, and only tables without partitions are read");
            return Err(problem(what, "take a table without partitions"));
        }
        let column = |name: &str| Column::new(info, &place, name);
        let time = Some(&dimension.time).filter(|time| dimension.mode == Mode::AsOf && !time.is_empty());
        let mut names: Vec<&str> = Vec::new();
        for wanted in key.iter().chain(dimension.columns.iter().map(|column| &column.from)).chain(time) {
            if !names.contains(&wanted.as_str()) {
                names.push(wanted);
            }
        }
        Ok(Form {
            key: key.iter().map(|name| column(name)).collect::<Result<_, _>>()?,
            row: names.into_iter().map(column).collect::<Result<_, _>>()?,
        })
    }

    /// Appends the key: `{"user_id":1001}`.
    pub fn key(&self, row: &impl DataGetters, out: &mut Vec<u8>) -> FlussResult<()> {
        write_object(&self.key, row, out)
    }

    /// Appends what the dimension takes of the row.
    pub fn row(&self, row: &impl DataGetters, out: &mut Vec<u8>) -> FlussResult<()> {
        write_object(&self.row, row, out)
    }
}

impl Column {
    fn new(info: &TableInfo, place: &str, name: &str) -> Result<Self, Failure> {
        let columns = info.get_schema().columns();
        let Some((at, found)) = columns.iter().enumerate().find(|(_, column)| column.name() == name) else {
            let what = format!("Fluss table `{place}` has no column `{name}`");
            return Err(problem(what, "correct `on`, `time` and [[dimensions.columns]]"));
        };
        let Some(kind) = Kind::of(found.data_type()) else {
            let what = format!("column `{name}` of Fluss table `{place}` is {}, which is not read", found.data_type());
            return Err(problem(what, "take it out of [[dimensions.columns]]"));
        };
        Ok(Column { at, rendered: rendered_name(name), kind })
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean(_) => Kind::Boolean,
            DataType::TinyInt(_) => Kind::Byte,
            DataType::SmallInt(_) => Kind::Short,
            DataType::Int(_) => Kind::Int,
            DataType::BigInt(_) => Kind::Long,
            DataType::Float(_) => Kind::Float,
            DataType::Double(_) => Kind::Double,
            DataType::Char(of) => Kind::Char(of.length() as usize),
            DataType::String(_) => Kind::Text,
            DataType::Decimal(of) => Kind::Decimal { precision: of.precision() as usize, scale: of.scale() as usize },
            DataType::Date(_) => Kind::Date,
            DataType::Time(_) => Kind::Time,
            DataType::Timestamp(of) => Kind::Timestamp(of.precision()),
            DataType::TimestampLTz(of) => Kind::Instant(of.precision()),
            DataType::Binary(of) => Kind::Binary(of.length()),
            DataType::Bytes(_) => Kind::Bytes,
            DataType::Array(_) | DataType::Map(_) | DataType::Row(_) => return None,
        })
    }

    /// Appends the JSON of the value at `at`.
    fn write(self, row: &impl DataGetters, at: usize, out: &mut Vec<u8>) -> FlussResult<()> {
        if row.is_null_at(at)? {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        let json = match self {
            Kind::Boolean => row.get_boolean(at)?.to_string().into(),
            Kind::Byte => row.get_byte(at)?.to_string().into(),
            Kind::Short => row.get_short(at)?.to_string().into(),
            Kind::Int => row.get_int(at)?.to_string().into(),
            Kind::Long => row.get_long(at)?.to_string().into(),
            Kind::Float => real(row.get_float(at)?, f32::is_finite, f32::is_nan),
            Kind::Double => real(row.get_double(at)?, f64::is_finite, f64::is_nan),
            Kind::Decimal { precision, scale } => {
                let value = row.get_decimal(at, precision, scale)?;
                decimal(unscaled(&value.to_unscaled_bytes()), scale).into()
            }
            Kind::Char(length) => text(row.get_char(at, length)?),
            Kind::Text => text(row.get_string(at)?),
            Kind::Date => text(&moment(i64::from(row.get_date(at)?.get_inner()), "")),
            Kind::Time => text(time(i64::from(row.get_time(at)?.get_inner()) * 1_000_000, 0).trim_end_matches('.')),
            Kind::Timestamp(precision) => {
                let value = row.get_timestamp_ntz(at, precision)?;
                text(&timestamp(value.get_millisecond(), value.get_nano_of_millisecond(), ""))
            }
            Kind::Instant(precision) => {
                let value = row.get_timestamp_ltz(at, precision)?;
                text(&timestamp(value.get_epoch_millisecond(), value.get_nano_of_millisecond(), "Z"))
            }
            Kind::Binary(length) => text(&hexadecimal(row.get_binary(at, length)?)),
            Kind::Bytes => text(&hexadecimal(row.get_bytes(at)?)),
        };
        out.extend_from_slice(&json);
        Ok(())
    }
}

fn write_object(columns: &[Column], row: &impl DataGetters, out: &mut Vec<u8>) -> FlussResult<()> {
    let mut object = Extend::new(out);
    let mut json = Vec::new();
    for column in columns {
        json.clear();
        column.kind.write(row, column.at, &mut json)?;
        object.rendered(&column.rendered, &json);
    }
    object.end();
    Ok(())
}

fn text(text: &str) -> Vec<u8> {
    let mut json = Vec::with_capacity(text.len() + 2);
    write_string(text, &mut json);
    json
}

fn real<R: Copy + std::fmt::Display + PartialOrd + Default>(
    value: R,
    is_finite: fn(R) -> bool,
    is_nan: fn(R) -> bool,
) -> Vec<u8> {
    match value {
        value if is_finite(value) => value.to_string().into(),
        value if is_nan(value) => text("NaN"),
        value if value < R::default() => text("-Infinity"),
        _ => text("Infinity"),
    }
}

/// A number of up to 38 digits from its bytes, the highest first, negative ones as two's complement.
fn unscaled(bytes: &[u8]) -> i128 {
    let sign = bytes.first().map_or(0, |first| if *first >= 0x80 { -1 } else { 0 });
    bytes.iter().fold(sign, |number, byte| (number << 8) | i128::from(*byte))
}

/// `599900` with a scale of 2 is `5999.00`.
fn decimal(unscaled: i128, scale: usize) -> String {
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

fn timestamp(millisecond: i64, nano_of_millisecond: i32, zone: &str) -> String {
    const DAY_MS: i64 = 86_400_000;
    let nano_of_day = millisecond.rem_euclid(DAY_MS) * 1_000_000 + i64::from(nano_of_millisecond);
    moment(millisecond.div_euclid(DAY_MS), &format!(" {}{zone}", time(nano_of_day, 3)))
}

/// `17:25:55.145`, with at least so many digits of the fraction; none at all leaves the point.
fn time(nano_of_day: i64, digits_min: usize) -> String {
    let (second, nano) = (nano_of_day / 1_000_000_000, nano_of_day % 1_000_000_000);
    let fraction = format!("{nano:09}");
    let digits = fraction.trim_end_matches('0').len().max(digits_min);
    let fraction = fraction.get(..digits).unwrap_or_default();
    format!("{:02}:{:02}:{:02}.{fraction}", second / 3600, second / 60 % 60, second % 60)
}

/// The date of a day since 1970 with what stands behind it, and the era where it is the other one: `0044-03-15 BC`. Fluss has years
/// that the libraries for dates do not know. The days are counted as in Howard Hinnant's `civil_from_days`.
fn moment(day: i64, behind: &str) -> String {
    let day = day + 719_468;
    let (era, day_of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{year:04}-{month:02}-{day_of_month:02}{behind}{era}")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
