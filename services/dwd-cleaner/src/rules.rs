//! What cleaning is: an ODS row in, a DWD row or a rejection out. A pure function of the row and the settings.

use shared::record::dwd;
use shared::record::ods::orders;
use shared::record::row::{Columns, Extend, Field, Fields, RowError};

use crate::settings::RulesConfig;

/// Columns that are read, then those that are added (and so must not be there).
const CATEGORY: usize = 0;
const STATUS: usize = 1;
const AMOUNT: usize = 2;
const ORDER_TIME: usize = 3;
const READ: [&str; 4] = [orders::PRODUCT_CATEGORY, orders::ORDER_STATUS, orders::TOTAL_AMOUNT, orders::ORDER_TIME];
const ADDED: [&str; 6] = [
    dwd::PRODUCT_CATEGORY_NORMALIZED,
    dwd::TOTAL_AMOUNT_YUAN,
    dwd::ORDER_STATUS_DESC,
    dwd::ORDER_DATE,
    dwd::ORDER_HOUR,
    dwd::ETL_TIME,
];

/// The rules, ready to be used on many rows.
#[derive(Debug, Clone)]
pub struct Rules {
    config: RulesConfig,
    columns: Columns,
}

impl Rules {
    pub fn new(config: RulesConfig) -> Self {
        let names: Vec<&str> = READ.into_iter().chain(ADDED).collect();
        Rules { config, columns: Columns::new(&names) }
    }

    /// Appends the cleaned row to `out`: the row as it came, and the columns of [`dwd`]. Nothing is appended on an error.
    pub fn clean(&self, row: &[u8], etl_time: &str, out: &mut Vec<u8>) -> Result<(), RowError> {
        let fields = self.columns.read(row)?;
        let taken = ADDED.iter().enumerate().find(|(at, _)| fields.get(READ.len() + at).is_some());
        if let Some((_, name)) = taken {
            return Err(RowError::Taken(name));
        }
        let category = text(&fields, CATEGORY, "text or null")?;
        let status = text(&fields, STATUS, "text")?.ok_or(RowError::Missing(orders::ORDER_STATUS))?;
        let amount = self.amount(required(&fields, AMOUNT)?)?;
        let moment = moment(required(&fields, ORDER_TIME)?)?;

        let mut row = Extend::row(row, out);
        let code = category.and_then(|category| self.config.categories.get(category.trim()));
        row.text(dwd::PRODUCT_CATEGORY_NORMALIZED, code.unwrap_or(&self.config.category_default));
        match amount {
            Some(amount) => row.text(dwd::TOTAL_AMOUNT_YUAN, &amount),
            None => row.raw(dwd::TOTAL_AMOUNT_YUAN, "null"),
        };
        let words = self.config.statuses.get(status.as_ref());
        row.text(dwd::ORDER_STATUS_DESC, words.unwrap_or(&self.config.status_default));
        match moment {
            Some((date, hour)) => row.text(dwd::ORDER_DATE, &date).raw(dwd::ORDER_HOUR, &hour.to_string()),
            None => row.raw(dwd::ORDER_DATE, "null").raw(dwd::ORDER_HOUR, "null"),
        };
        row.text(dwd::ETL_TIME, etl_time);
        row.end();
        Ok(())
    }

    /// `5999` → `¥5999.00`. The digits are those of the number; nothing is rounded.
    fn amount(&self, field: Field<'_>) -> Result<Option<String>, RowError> {
        if field.is_null() {
            return Ok(None);
        }
        let digits = field.raw();
        let plain = digits.strip_prefix('-').unwrap_or(digits);
        if !plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(wrong_type(AMOUNT, "a decimal number", field));
        }
        let decimals = plain.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let mut amount = format!("{}{digits}", self.config.currency);
        if decimals == 0 && self.config.amount_decimals_min > 0 {
            amount.push('.');
        }
        amount.extend(std::iter::repeat_n('0', self.config.amount_decimals_min.saturating_sub(decimals)));
        Ok(Some(amount))
    }
}

fn required<'a>(fields: &Fields<'a>, column: usize) -> Result<Field<'a>, RowError> {
    fields.get(column).ok_or(RowError::Missing(READ.get(column).copied().unwrap_or_default()))
}

fn text<'a>(
    fields: &Fields<'a>,
    column: usize,
    wanted: &'static str,
) -> Result<Option<std::borrow::Cow<'a, str>>, RowError> {
    let field = required(fields, column)?;
    if field.is_null() || field.is_string() { Ok(field.text()) } else { Err(wrong_type(column, wanted, field)) }
}

/// Says the form of the value, not the value: a dead letter has the bytes, a log must not.
fn wrong_type(column: usize, wanted: &'static str, found: Field<'_>) -> RowError {
    let found = match found.raw().as_bytes().first() {
        Some(b'"') => "a text of another form",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    RowError::WrongType {
        column: READ.get(column).copied().unwrap_or_default().to_owned(),
        wanted,
        found: found.to_owned(),
    }
}

/// Date and hour of `2025-07-11 17:25:55.145`.
fn moment(field: Field<'_>) -> Result<Option<(String, u32)>, RowError> {
    let wrong = || wrong_type(ORDER_TIME, "a date and time", field);
    if field.is_null() {
        return Ok(None);
    }
    let text = field.text().filter(|_| field.is_string()).ok_or_else(wrong)?;
    let (date, time) = text.split_once([' ', 'T']).ok_or_else(wrong)?;
    let hour = time.get(..2).and_then(|hour| hour.parse::<u32>().ok()).filter(|hour| *hour < 24).ok_or_else(wrong)?;
    let parts: Vec<&str> = date.split('-').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != 3 || !parts.iter().all(is_number) {
        return Err(wrong());
    }
    // PostgreSQL writes the era behind the time.
    let era = if text.ends_with(" BC") { " BC" } else { "" };
    Ok(Some((format!("{date}{era}"), hour)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORDER: &str = r#"{"order_id":2001,"product_category":"电子产品","unit_price":5999.00,"total_amount":5999,"order_status":"COMPLETED","order_time":"2025-07-11 17:25:55.145","colour":"红"}"#;

    fn clean(row: &str) -> Result<String, RowError> {
        let mut out = Vec::new();
        Rules::new(RulesConfig::default()).clean(row.as_bytes(), "2025-07-12 02:32:59.555", &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_row_is_kept_and_extended() {
        let added = concat!(
            r#","product_category_normalized":"ELECTRONICS","total_amount_yuan":"¥5999.00","order_status_desc":"已完成","#,
            r#""order_date":"2025-07-11","order_hour":17,"etl_time":"2025-07-12 02:32:59.555"}"#
        );
        assert_eq!(clean(ORDER).unwrap(), format!("{}{added}", ORDER.trim_end_matches('}')));
    }

    #[test]
    fn unknown_values_get_the_defaults() {
        let cleaned = clean(&ORDER.replace("电子产品", "古董").replace("COMPLETED", "LOST")).unwrap();
        assert!(cleaned.contains(r#""product_category_normalized":"OTHER""#), "{cleaned}");
        assert!(cleaned.contains(r#""order_status_desc":"未知状态""#), "{cleaned}");
        assert!(clean(&ORDER.replace("\"电子产品\"", "null")).unwrap().contains("OTHER"));
    }

    #[test]
    fn amounts_keep_their_digits() {
        for (amount, text) in
            [("0", "¥0.00"), ("-1.5", "¥-1.50"), ("12345678901234567890.123", "¥12345678901234567890.123")]
        {
            let cleaned = clean(&ORDER.replace(":5999,", &format!(":{amount},"))).unwrap();
            assert!(cleaned.contains(&format!("\"{text}\"")), "{cleaned}");
        }
        assert!(clean(&ORDER.replace(":5999,", ":null,")).unwrap().contains("\"total_amount_yuan\":null"));
    }

    #[test]
    fn a_bad_row_is_rejected_with_the_column() {
        let cases = [
            (ORDER.replace("5999,", "\"NaN\","), "total_amount"),
            (ORDER.replace("5999,", "1e3,"), "total_amount"),
            (ORDER.replace("2025-07-11 17:25:55.145", "infinity"), "order_time"),
            (ORDER.replace("\"COMPLETED\"", "null"), "order_status"),
            (ORDER.replace("\"COMPLETED\"", "7"), "order_status"),
            (ORDER.replace("order_time", "time"), "order_time"),
            (ORDER.replace("colour", "etl_time"), "etl_time"),
        ];
        for (row, column) in cases {
            let error = clean(&row).unwrap_err().to_string();
            assert!(error.contains(column), "{error}");
        }
        assert!(matches!(clean("not json"), Err(RowError::NotAnObject(_))));
    }

    proptest! {
        #[test]
        fn whatever_is_cleaned_is_json_with_the_old_row_in_front(category in any::<String>(), amount in any::<i64>()) {
            let row = serde_json::json!({
                "product_category": category, "total_amount": amount, "order_status": "PAID", "order_time": "2025-01-01 00:00:00.000"
            }).to_string();
            let cleaned = clean(&row).unwrap();
            let open_row = row.trim_end_matches('}');
            prop_assert!(cleaned.starts_with(open_row));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&cleaned).is_ok());
        }

        #[test]
        fn any_bytes_are_rejected_or_cleaned_but_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = Rules::new(RulesConfig::default()).clean(&bytes, "", &mut Vec::new());
        }
    }
}
