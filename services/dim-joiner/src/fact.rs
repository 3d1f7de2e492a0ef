//! What the join reads of a fact: the rows that it names, its time, and when it is forgotten.

use std::ops::Range;
use std::sync::Arc;

use jiff::tz::TimeZone;
use shared::record::form::{Form, Forms, Read};
use shared::record::row::{Columns, Fields, RowError};
use smallvec::SmallVec;

use crate::event_time;
use crate::names::{self, Name};
use crate::settings::{Mode, Settings};

/// By dimension the name of its row; none where a column is null.
pub type Names = SmallVec<[Option<Name>; 1]>;

/// What was read of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub names: Names,
    /// Microseconds since 1970.
    pub time: Option<i64>,
    /// Minutes since 1970 after which it is forgotten.
    pub expires: Option<u32>,
}

/// Reads a fact.
#[derive(Debug, Clone)]
pub struct FactReader {
    forms: Forms,
    /// By dimension the fields that name its row.
    on: Vec<Vec<usize>>,
    time: Option<usize>,
    expiry: Option<Expiry>,
    /// Fields that the join adds: a fact must not have them.
    added: Range<usize>,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
struct Expiry {
    time: usize,
    /// The field, and the values with which a fact is forgotten; none: all.
    status: Option<(usize, Vec<String>)>,
    after_minutes: u32,
}

const MINUTE_US: i64 = 60_000_000;

impl FactReader {
    /// `added`: the columns that the join adds.
    pub fn new(settings: &Settings, added: &[&str], zone: TimeZone) -> Self {
        let mut read: Vec<&str> = added.to_vec();
        let mut on = Vec::new();
        for dimension in &settings.dimensions {
            on.push(dimension.on.values().map(|name| place_of(&mut read, name)).collect());
        }
        let as_of = settings.dimensions.iter().any(|dimension| dimension.mode == Mode::AsOf);
        let time = as_of.then(|| place_of(&mut read, &settings.facts.time));
        let config = &settings.facts.expiry;
        let expiry = (config.after_hours > 0).then(|| Expiry {
            time: place_of(&mut read, &config.time),
            status: (!config.status.is_empty()).then(|| (place_of(&mut read, &config.status), config.statuses.clone())),
            after_minutes: config.after_hours.saturating_mul(60),
        });
        FactReader { forms: Forms::new(Columns::new(&read)), on, time, expiry, added: 0..added.len(), zone }
    }

    /// Reads a fact. The values of its row are appended to `values`; with them goes the number of the row's form, where it has one.
    pub fn read(&mut self, row: &[u8], values: &mut Vec<u8>) -> Result<(Fact, Option<usize>), RowError> {
        let Read { fields, form } = self.forms.read(row, Some(values))?;
        Ok((self.fact(&fields)?, form))
    }

    /// The form with this number.
    pub fn form(&self, number: usize) -> Option<&Arc<Form>> {
        self.forms.get(number)
    }

    fn fact(&self, fields: &Fields<'_>) -> Result<Fact, RowError> {
        if let Some(taken) = self.added.clone().find(|&at| fields.get(at).is_some()) {
            return Err(RowError::Taken(self.name(taken).into()));
        }
        // Not collected: most often it is one.
        let mut names = Names::new();
        for on in &self.on {
            names.push(self.names_row(fields, on)?);
        }
        let time = self.time.map(|at| self.moment(fields, at)).transpose()?.flatten();
        let expires = self.expiry.as_ref().map(|expiry| self.expires(fields, expiry)).transpose()?.flatten();
        Ok(Fact { names, time, expires })
    }

    fn name(&self, at: usize) -> String {
        self.forms.columns().names().get(at).cloned().unwrap_or_default()
    }

    fn names_row(&self, fields: &Fields<'_>, on: &[usize]) -> Result<Option<Name>, RowError> {
        if let Some(&missing) = on.iter().find(|&&at| fields.get(at).is_none()) {
            return Err(RowError::Missing(self.name(missing).into()));
        }
        Ok(names::of(on.iter().map(|&at| fields.get(at).and_then(|field| field.text()))))
    }

    fn moment(&self, fields: &Fields<'_>, at: usize) -> Result<Option<i64>, RowError> {
        let field = fields.get(at).ok_or_else(|| RowError::Missing(self.name(at).into()))?;
        let Some(text) = field.text() else { return Ok(None) };
        let wrong =
            || RowError::WrongType { column: self.name(at), wanted: "a time", found: "a text that is none".into() };
        event_time::microseconds(&text, &self.zone).map(Some).ok_or_else(wrong)
    }

    /// A time that cannot be read keeps the fact: forgetting is for those that are surely old.
    fn expires(&self, fields: &Fields<'_>, expiry: &Expiry) -> Result<Option<u32>, RowError> {
        if let Some((at, statuses)) = &expiry.status {
            let status = fields.get(*at).ok_or_else(|| RowError::Missing(self.name(*at).into()))?;
            if !status.text().is_some_and(|status| statuses.iter().any(|one| *one == status)) {
                return Ok(None);
            }
        }
        let time = fields.get(expiry.time).ok_or_else(|| RowError::Missing(self.name(expiry.time).into()))?;
        let minutes =
            time.text().and_then(|text| event_time::microseconds(&text, &self.zone)).map(|time| time / MINUTE_US);
        Ok(minutes
            .and_then(|minutes| u32::try_from(minutes).ok())
            .map(|from| from.saturating_add(expiry.after_minutes)))
    }
}

/// The place of a column among those that are read; each is read once.
fn place_of<'n>(read: &mut Vec<&'n str>, name: &'n str) -> usize {
    read.iter().position(|known| *known == name).unwrap_or_else(|| {
        read.push(name);
        read.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::settings::DimensionConfig;

    fn reader(change: impl FnOnce(&mut Settings)) -> FactReader {
        let mut settings = Settings::default();
        change(&mut settings);
        Plan::new(&settings).unwrap().reader
    }

    #[test]
    fn a_fact_names_a_row_of_each_dimension() {
        let users = Settings::default().dimensions.remove(0);
        let mut two = reader(|settings| {
            settings.dimensions.push(DimensionConfig {
                name: "stock".into(),
                topic: "ods_stock".into(),
                on: [("sku", "product"), ("shop", "shop_id")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
                prefix: "stock_".into(),
                columns: users.columns.iter().take(1).cloned().collect(),
                ..users
            });
        });
        let mut names = |row: &str| two.read(row.as_bytes(), &mut Vec::new()).map(|(fact, _)| fact.names.to_vec());
        let all = names(r#"{"user_id":7,"shop_id":1,"product":"x"}"#).unwrap();
        assert_eq!(all, [Some("7".into()), Some("1\u{1f}x".into())]);
        assert_eq!(names(r#"{"user_id":null,"shop_id":1,"product":null}"#).unwrap(), [None, None]);
        for (row, wanted) in [
            (r#"{"user_id":7,"shop_id":1}"#, "`product` is missing"),
            (r#"{"user_id":7,"shop_id":1,"product":"x","stock_username":1}"#, "already has a column `stock_username`"),
            ("[]", "not a JSON object"),
        ] {
            assert!(names(row).unwrap_err().to_string().contains(wanted), "{row}");
        }
    }

    #[test]
    fn a_fact_is_forgotten_some_hours_after_it_came_to_rest() {
        let mut expiring = reader(|settings| {
            let expiry = &mut settings.facts.expiry;
            (expiry.after_hours, expiry.time, expiry.status) = (2, "updated_at".into(), "order_status".into());
            expiry.statuses = vec!["COMPLETED".into()];
        });
        let mut expires = |status: &str, time: &str| {
            let row = format!("{{\"user_id\":1,\"order_status\":{status},\"updated_at\":{time}}}");
            expiring.read(row.as_bytes(), &mut Vec::new()).unwrap().0.expires
        };
        assert_eq!(expires("\"COMPLETED\"", "\"1970-01-02 00:00:30\""), Some((24 + 2) * 60));
        assert_eq!(expires("\"PAID\"", "\"1970-01-02 00:00:30\""), None);
        assert_eq!(expires("null", "\"1970-01-02 00:00:30\""), None);
        assert_eq!(expires("\"COMPLETED\"", "null"), None);
        assert_eq!(expires("\"COMPLETED\"", "\"infinity\""), None);
    }

    #[test]
    fn a_time_is_read_where_a_dimension_asks_for_it() {
        assert_eq!(reader(|_| {}).read(br#"{"user_id":1}"#, &mut Vec::new()).unwrap().0.time, None);
        let mut as_of = reader(|settings| settings.dimensions[0].mode = Mode::AsOf);
        let mut time = |row: &str| as_of.read(row.as_bytes(), &mut Vec::new()).map(|(fact, _)| fact.time);
        assert_eq!(time(r#"{"user_id":1,"order_time":"1970-01-01 00:00:01"}"#).unwrap(), Some(1_000_000));
        assert_eq!(time(r#"{"user_id":1,"order_time":null}"#).unwrap(), None);
        assert!(time(r#"{"user_id":1}"#).is_err() && time(r#"{"user_id":1,"order_time":"x"}"#).is_err());
    }
}
