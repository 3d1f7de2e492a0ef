//! What a dimension gives to a fact: columns of its rows, as they are or through a map, as the text that is put behind the fact.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use shared::failure::Failure;
use shared::record::row::{Columns, Field, Fields, RowError, rendered_name};
use shared::scalar::Scalar;

use crate::event_time;
use crate::plan::problem;
use crate::settings::{ColumnConfig, DimensionConfig, Mode};

/// The columns of one dimension.
#[derive(Debug, Clone)]
pub struct TakenColumns {
    /// What is read of a row.
    read: Columns,
    columns: Vec<Column>,
    /// What a fact carries while the row is not known.
    defaults: Box<[u8]>,
    /// The field that says since when a row is so.
    time: Option<usize>,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
struct Column {
    field: usize,
    name: String,
    /// `,"city":`
    rendered: Box<[u8]>,
    map: Option<Map>,
}

#[derive(Debug, Clone)]
struct Map {
    values: BTreeMap<String, Box<[u8]>>,
    otherwise: Box<[u8]>,
}

impl Column {
    fn new(dimension: &DimensionConfig, config: &ColumnConfig, field: usize) -> Result<Self, Failure> {
        let name = config.name.clone().unwrap_or_else(|| format!("{}{}", dimension.prefix, config.from));
        let map = match (&config.otherwise, config.map.is_empty()) {
            (None, true) => None,
            (Some(otherwise), false) => Some(Map {
                values: config.map.iter().map(|(from, to)| (from.trim().to_owned(), to.json())).collect(),
                otherwise: otherwise.json(),
            }),
            _ => {
                let what =
                    format!("dimension `{}`, column `{name}`: `map` and `otherwise` go together", dimension.name);
                return Err(problem(what, "set `otherwise` to the value of what the map does not name, or neither"));
            }
        };
        let rendered = [b",", &*rendered_name(&name)].concat().into();
        Ok(Column { field, name, rendered, map })
    }

    /// Null stays null: the row says that there is no value.
    fn write(&self, field: Field<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rendered);
        match (&self.map, field.text()) {
            (Some(map), Some(text)) => out.extend_from_slice(map.values.get(text.trim()).unwrap_or(&map.otherwise)),
            _ => out.extend_from_slice(field.raw().as_bytes()),
        }
    }
}

impl TakenColumns {
    pub fn new(config: &DimensionConfig, zone: &TimeZone) -> Result<Self, Failure> {
        if config.columns.is_empty() {
            let what = format!("dimension `{}` gives no columns", config.name);
            return Err(problem(what, "name them in [[dimensions.columns]]"));
        }
        let mut read = Vec::new();
        let columns: Vec<Column> = config
            .columns
            .iter()
            .map(|column| Column::new(config, column, field_of(&mut read, &column.from)))
            .collect::<Result<_, _>>()?;
        let mut defaults = Vec::new();
        for (column, set) in columns.iter().zip(&config.columns) {
            defaults.extend_from_slice(&column.rendered);
            defaults.extend_from_slice(set.default.as_ref().map(Scalar::json).as_deref().unwrap_or(b"null"));
        }
        let has_time = config.mode == Mode::AsOf && !config.time.is_empty();
        let time = has_time.then(|| field_of(&mut read, &config.time));
        Ok(TakenColumns { read: Columns::new(&read), columns, defaults: defaults.into(), time, zone: zone.clone() })
    }

    /// The columns that a fact gets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// What a fact carries while the row is not known: `,"username":"Unknown User",…`.
    pub fn defaults(&self) -> &[u8] {
        &self.defaults
    }

    /// What a fact of this row carries: `,"username":"张三",…`; and since when the row is so, microseconds since 1970, where a column says it.
    pub fn of(&self, row: &[u8]) -> Result<(Vec<u8>, Option<i64>), RowError> {
        let fields = self.read.read(row)?;
        let mut out = Vec::new();
        for column in &self.columns {
            column.write(self.field(&fields, column.field)?, &mut out);
        }
        let time = self.time.map(|field| self.time(&fields, field)).transpose()?.flatten();
        Ok((out, time))
    }

    fn field<'a>(&self, fields: &Fields<'a>, at: usize) -> Result<Field<'a>, RowError> {
        let name = || self.read.names().get(at).cloned().unwrap_or_default();
        fields.get(at).ok_or_else(|| RowError::Missing(name().into()))
    }

    fn time(&self, fields: &Fields<'_>, at: usize) -> Result<Option<i64>, RowError> {
        let Some(text) = self.field(fields, at)?.text() else { return Ok(None) };
        let column = self.read.names().get(at).cloned().unwrap_or_default();
        let wrong = || RowError::WrongType { column, wanted: "a time", found: "a text that is none".into() };
        event_time::microseconds(&text, &self.zone).map(Some).ok_or_else(wrong)
    }
}

/// The place of a column among those that are read; each is read once.
fn field_of<'n>(read: &mut Vec<&'n str>, name: &'n str) -> usize {
    read.iter().position(|known| *known == name).unwrap_or_else(|| {
        read.push(name);
        read.len() - 1
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::Settings;

    pub(crate) const ZHANG: &str = r#"{"user_id":1001,"username":"张三","email":"zhangsan@example.com","phone":"13812345678","city":"北京","register_time":"2025-07-11 17:25:55.143"}"#;

    fn taken(change: impl FnOnce(&mut DimensionConfig)) -> TakenColumns {
        let mut config = Settings::default().dimensions.remove(0);
        change(&mut config);
        TakenColumns::new(&config, &TimeZone::UTC).unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_user_is_the_text_behind_its_orders() {
        let (given, time) = taken(|_| {}).of(ZHANG.as_bytes()).unwrap();
        assert_eq!(
            text(&given),
            r#","username":"张三","email":"zhangsan@example.com","phone":"13812345678","city":"北京","user_register_time":"2025-07-11 17:25:55.143","user_city_tier":"一线城市""#
        );
        assert_eq!(time, None);
    }

    #[test]
    fn cities_have_tiers_and_an_unknown_user_has_defaults() {
        let users = taken(|_| {});
        for (city, tier) in [("\" 杭州 \"", "\"新一线城市\""), ("\"丽江\"", "\"其他城市\""), ("null", "null")]
        {
            let (given, _) = users.of(ZHANG.replace("\"北京\"", city).as_bytes()).unwrap();
            assert!(
                text(&given).ends_with(&format!(
                    "\"city\":{city},\"user_register_time\":\"2025-07-11 17:25:55.143\",\"user_city_tier\":{tier}"
                )),
                "{}",
                text(&given)
            );
        }
        assert_eq!(
            text(users.defaults()),
            r#","username":"Unknown User","email":"unknown@example.com","phone":null,"city":null,"user_register_time":null,"user_city_tier":null"#
        );
    }

    #[test]
    fn columns_have_a_prefix_a_name_or_a_default_of_any_kind() {
        let products = taken(|config| {
            let column = |from: &str, name: Option<&str>, default: Option<Scalar>| ColumnConfig {
                from: from.into(),
                name: name.map(str::to_owned),
                default,
                map: BTreeMap::new(),
                otherwise: None,
            };
            config.prefix = "product_".into();
            config.columns = vec![
                column("brand", None, Some("无".into())),
                column("weight", Some("grams"), Some(Scalar::Plain("0".into()))),
            ];
        });
        assert_eq!(products.names().collect::<Vec<_>>(), ["product_brand", "grams"]);
        assert_eq!(text(products.defaults()), r#","product_brand":"无","grams":0"#);
        assert_eq!(
            text(&products.of(br#"{"weight":5999.00,"brand":"x"}"#).unwrap().0),
            r#","product_brand":"x","grams":5999.00"#
        );
    }

    #[test]
    fn a_row_that_lacks_a_column_or_whose_time_is_none_is_rejected() {
        let error = taken(|_| {}).of(ZHANG.replace("phone", "tel").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("phone"), "{error}");
        assert!(taken(|_| {}).of(b"nonsense").is_err());
        let timed = taken(|config| (config.mode, config.time) = (Mode::AsOf, "register_time".into()));
        assert_eq!(timed.of(ZHANG.as_bytes()).unwrap().1, Some(1_752_254_755_143_000));
        let error = timed.of(ZHANG.replace("2025-07-11 17", "yesterday ").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("register_time") && !error.to_string().contains("yesterday"), "{error}");
    }
}
