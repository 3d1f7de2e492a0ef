use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fluss::metadata::{DataTypes, Schema, TablePath};
use fluss::row::{Date, Datum, Decimal, GenericRow, Time, TimestampLtz, TimestampNtz};
use proptest::prelude::*;

use super::*;
use crate::settings::{ColumnConfig, Settings};

fn table(columns: &[(&str, DataType)], key: &[&str], partitioned: bool) -> TableInfo {
    let schema = columns.iter().fold(Schema::builder(), |schema, (name, of)| schema.column(*name, of.clone()));
    let schema = if key.is_empty() { schema } else { schema.primary_key(key.to_vec()).unwrap() };
    let partitions: Arc<[String]> = if partitioned { Arc::new([key[0].to_owned()]) } else { Arc::new([]) };
    let (path, key) = (TablePath::new("shop", "users"), key.iter().map(|&name| name.to_owned()).collect());
    let schema = schema.build().unwrap();
    TableInfo::new(path, 7, 1, schema, key, partitions, 3, HashMap::new(), HashMap::new(), None, 0, 0)
}

fn dimension(on: &[&str], taken: &[&str]) -> DimensionConfig {
    let users = Settings::default().dimensions.remove(0);
    let column = |from: &&str| ColumnConfig { from: (*from).into(), ..users.columns[2].clone() };
    DimensionConfig {
        on: on.iter().map(|name| ((*name).to_owned(), "user_id".to_owned())).collect::<BTreeMap<_, _>>(),
        columns: taken.iter().map(column).collect(),
        topic: "shop.users".into(),
        ..users
    }
}

/// The JSON of one value beside the key.
fn json(of: DataType, value: Datum<'static>) -> String {
    let info = table(&[("id", DataTypes::bigint()), ("v", of)], &["id"], false);
    let form = Form::new(&info, &dimension(&["id"], &["v"])).unwrap();
    let mut out = Vec::new();
    form.row(&GenericRow { values: vec![Datum::Int64(-1), value] }, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    text.strip_prefix("{\"id\":-1,\"v\":").unwrap().strip_suffix('}').unwrap().to_owned()
}

#[test]
fn values_have_the_forms_of_the_source_topics() {
    let ntz = |ms, nanos| Datum::TimestampNtz(TimestampNtz::from_millis_nanos(ms, nanos).unwrap());
    let ltz = |ms, nanos| Datum::TimestampLtz(TimestampLtz::from_millis_nanos(ms, nanos).unwrap());
    let cases = [
        (json(DataTypes::boolean(), true.into()), "true"),
        (json(DataTypes::tinyint(), Datum::Int8(-128)), "-128"),
        (json(DataTypes::smallint(), Datum::Int16(7)), "7"),
        (json(DataTypes::int(), Datum::Int32(i32::MIN)), "-2147483648"),
        (json(DataTypes::bigint(), Datum::Int64(i64::MAX)), "9223372036854775807"),
        (json(DataTypes::float(), 0.1_f32.into()), "0.1"),
        (json(DataTypes::double(), 1.5e-7_f64.into()), "0.00000015"),
        (json(DataTypes::double(), f64::NAN.into()), "\"NaN\""),
        (json(DataTypes::double(), f64::INFINITY.into()), "\"Infinity\""),
        (json(DataTypes::float(), f32::NEG_INFINITY.into()), "\"-Infinity\""),
        (json(DataTypes::string(), "a\"\n北京".into()), "\"a\\\"\\n北京\""),
        (json(DataTypes::char(3), "abc".into()), "\"abc\""),
        (json(DataTypes::decimal(10, 2), Decimal::from_unscaled_long(599_900, 10, 2).unwrap().into()), "5999.00"),
        (json(DataTypes::date(), Date::new(20_280).into()), "\"2025-07-11\""),
        (json(DataTypes::time(), Time::new(62_755_145).into()), "\"17:25:55.145\""),
        (json(DataTypes::time(), Time::new(3_600_000).into()), "\"01:00:00\""),
        (json(DataTypes::timestamp(), ntz(1_752_254_755_143, 0)), "\"2025-07-11 17:25:55.143\""),
        (json(DataTypes::timestamp(), ntz(1_752_254_755_100, 0)), "\"2025-07-11 17:25:55.100\""),
        (json(DataTypes::timestamp(), ntz(1_752_254_755_143, 120_000)), "\"2025-07-11 17:25:55.14312\""),
        (json(DataTypes::timestamp(), ntz(-1, 0)), "\"1969-12-31 23:59:59.999\""),
        (json(DataTypes::timestamp_ltz(), ltz(1_752_254_755_143, 1)), "\"2025-07-11 17:25:55.143000001Z\""),
        (json(DataTypes::bytes(), vec![0xDE_u8, 0xAD].into()), "\"\\\\xdead\""),
        (json(DataTypes::string(), Datum::Null), "null"),
    ];
    for (made, wanted) in cases {
        assert_eq!(made, wanted);
    }
}

#[test]
fn decimals_keep_every_digit() {
    for (number, scale, wanted) in [
        (0, 0, "0"),
        (0, 2, "0.00"),
        (5, 3, "0.005"),
        (-5, 3, "-0.005"),
        (-599_900, 2, "-5999.00"),
        (10_i128.pow(38) - 1, 38, "0.99999999999999999999999999999999999999"),
        (1 - 10_i128.pow(38), 0, "-99999999999999999999999999999999999999"),
    ] {
        assert_eq!(decimal(number, scale), wanted);
    }
}

#[test]
fn dates_of_all_years_have_postgresqls_form() {
    for (day, wanted) in [
        (0, "1970-01-01"),
        (11_016, "2000-02-29"),
        (2_932_896, "9999-12-31"),
        (2_932_897, "10000-01-01"),
        (-719_162, "0001-01-01"),
        (-719_163, "0001-12-31 BC"),
        (-735_160, "0044-03-15 BC"),
    ] {
        assert_eq!(moment(day, ""), wanted, "{day}");
    }
}

proptest! {
    #[test]
    fn numbers_come_back_from_their_bytes(number in any::<i64>(), scale in 0..19_usize) {
        let value = Decimal::from_unscaled_bytes(&number.to_be_bytes(), 38, scale as u32).unwrap();
        let text = decimal(unscaled(&value.to_unscaled_bytes()), scale);
        prop_assert_eq!(text.replace('.', "").parse::<i64>().unwrap(), number);
        prop_assert_eq!(text.split_once('.').map_or(0, |(_, fraction)| fraction.len()), scale);
    }

    #[test]
    fn days_are_those_of_the_calendar(day in -700_000..2_900_000_i64) {
        let date = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(day);
        prop_assert_eq!(moment(day, ""), date.to_string());
    }

    #[test]
    fn no_moment_is_too_early_or_too_late(ms in any::<i64>(), nano in 0..1_000_000_i32) {
        prop_assert!(timestamp(ms, nano, "Z").contains('Z'));
    }
}

#[test]
fn the_key_is_in_the_tables_order_and_columns_that_nobody_takes_stay_behind() {
    let columns = [
        ("tags", DataTypes::array(DataTypes::string())),
        ("region", DataTypes::string()),
        ("id", DataTypes::bigint()),
        ("city", DataTypes::string()),
    ];
    let info = table(&columns, &["region", "id"], false);
    let form = Form::new(&info, &dimension(&["id", "region"], &["city", "city"])).unwrap();
    let row = GenericRow { values: vec![Datum::Null, "华东".into(), Datum::Int64(7), "上海".into()] };
    let (mut key, mut value) = (Vec::new(), Vec::new());
    form.key(&row, &mut key).unwrap();
    form.row(&row, &mut value).unwrap();
    assert_eq!(String::from_utf8(key).unwrap(), r#"{"region":"华东","id":7}"#);
    assert_eq!(String::from_utf8(value).unwrap(), r#"{"region":"华东","id":7,"city":"上海"}"#);
}

#[test]
fn a_table_that_cannot_be_read_is_refused_by_name() {
    let columns = [("id", DataTypes::bigint()), ("tags", DataTypes::array(DataTypes::string()))];
    let refused = |key: &[&str], partitioned, on: &[&str], taken: &[&str]| {
        Form::new(&table(&columns, key, partitioned), &dimension(on, taken)).unwrap_err().chain()
    };
    let cases = [
        (refused(&["id"], false, &["id"], &["tags"]), "column `tags` of Fluss table `shop.users` is ARRAY"),
        (refused(&["id"], false, &["id"], &["city"]), "has no column `city`"),
        (refused(&["id"], false, &["user_id"], &["id"]), "is id, and dimension `users` is joined on user_id"),
        (refused(&[], false, &["id"], &["id"]), "has no primary key"),
        (refused(&["id"], true, &["id"], &["id"]), "is partitioned"),
    ];
    for (said, wanted) in cases {
        assert!(said.contains(wanted), "{wanted:?} is not in: {said}");
    }
}
