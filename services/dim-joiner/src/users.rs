//! The users: the whole table in memory, each as the text that is appended to an order.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use shared::batch::Record;
use shared::position::Version;
use shared::record::dead_letter::Rejection;
use shared::record::header::Header;
use shared::record::ods::users;
use shared::record::result;
use shared::record::row::{Columns, Extend, Field, RowError};

use crate::settings::JoinConfig;

/// A user as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub version: Version,
    pub transaction: u32,
    /// When the change was committed at the source, microseconds since 1970.
    pub commit_time_us: Option<i64>,
    /// The id, and behind it `,"username":"张三",…` to be put behind an order; nothing for a user that was deleted.
    text: Box<[u8]>,
    id_bytes: u32,
}

impl User {
    fn id(&self) -> &[u8] {
        self.text.get(..self.id_bytes as usize).unwrap_or_default()
    }

    fn appended(&self) -> Option<&[u8]> {
        self.text.get(self.id_bytes as usize..).filter(|appended| !appended.is_empty())
    }
}

const USER_ID: usize = 0;
const USERNAME: usize = 1;
const EMAIL: usize = 2;
const PHONE: usize = 3;
const CITY: usize = 4;
const REGISTER_TIME: usize = 5;
const READ: [&str; 6] =
    [users::USER_ID, users::USERNAME, users::EMAIL, users::PHONE, users::CITY, users::REGISTER_TIME];

/// All users. The index holds numbers, and looks into the users for the ids.
pub struct Users {
    config: JoinConfig,
    columns: Columns,
    users: Vec<User>,
    by_id: HashTable<u32>,
    hashes: RandomState,
    unknown: Box<[u8]>,
}

/// What became of a record of the users' topic.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// This user is another one now.
    Changed(Box<str>),
    /// A record of this version or a newer one was there before.
    Repeat,
}

impl Users {
    pub fn new(config: JoinConfig) -> Self {
        let mut unknown = Vec::new();
        let mut row = Extend::row(b"{}", &mut unknown);
        row.text(result::USERNAME, &config.unknown_username).text(result::EMAIL, &config.unknown_email);
        for column in [result::PHONE, result::CITY, result::USER_REGISTER_TIME, result::USER_CITY_TIER] {
            row.raw(column, "null");
        }
        Users {
            config,
            columns: Columns::new(&READ),
            users: Vec::new(),
            by_id: HashTable::new(),
            hashes: RandomState::new(),
            unknown: behind(&unknown).into(),
        }
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&User> {
        self.users.get(self.number_of(id)? as usize)
    }

    fn number_of(&self, id: &str) -> Option<u32> {
        let is_it = |number: &u32| self.users.get(*number as usize).is_some_and(|user| user.id() == id.as_bytes());
        self.by_id.find(self.hashes.hash_one(id.as_bytes()), is_it).copied()
    }

    fn put(&mut self, id: &str, user: User) {
        let known = self.number_of(id).and_then(|number| self.users.get_mut(number as usize));
        if let Some(known) = known {
            *known = user;
            return;
        }
        let number = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        self.users.push(user);
        let (users, hashes) = (&self.users, &self.hashes);
        let hash_of = |number: &u32| users.get(*number as usize).map_or(0, |user| hashes.hash_one(user.id()));
        self.by_id.insert_unique(hashes.hash_one(id.as_bytes()), number, hash_of);
    }

    /// Whether orders of this user carry its data, not the defaults.
    pub fn is_known(&self, id: &str) -> bool {
        self.get(id).is_some_and(|user| user.appended().is_some())
    }

    /// The text to put behind an order of this user.
    pub fn appended(&self, id: &str) -> &[u8] {
        self.get(id).and_then(User::appended).unwrap_or(&self.unknown)
    }

    /// Takes in one record of the topic.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<Applied, Rejection> {
        let rejected = |error: RowError| Rejection::new(error.reason(), error.to_string());
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let key = self.columns.read(record.key.unwrap_or_default()).map_err(rejected)?;
        let id = key.get(USER_ID).and_then(Field::text).ok_or_else(|| rejected(RowError::Missing(users::USER_ID)))?;
        if self.get(&id).is_some_and(|known| known.version >= header.version) {
            return Ok(Applied::Repeat);
        }
        let appended = record.value.map(|row| self.render(row)).transpose().map_err(rejected)?;
        let user = User {
            version: header.version,
            transaction: header.transaction,
            commit_time_us: header.commit_time_us,
            text: [id.as_bytes(), &appended.unwrap_or_default()].concat().into(),
            id_bytes: u32::try_from(id.len()).unwrap_or(u32::MAX),
        };
        self.put(&id, user);
        Ok(Applied::Changed(id.into()))
    }

    fn render(&self, row: &[u8]) -> Result<Vec<u8>, RowError> {
        let fields = self.columns.read(row)?;
        let field = |at: usize| fields.get(at).ok_or(RowError::Missing(READ.get(at).copied().unwrap_or_default()));
        let city = field(CITY)?;
        let mut out = Vec::new();
        let mut row = Extend::row(b"{}", &mut out);
        row.raw(result::USERNAME, field(USERNAME)?.raw())
            .raw(result::EMAIL, field(EMAIL)?.raw())
            .raw(result::PHONE, field(PHONE)?.raw())
            .raw(result::CITY, city.raw())
            .raw(result::USER_REGISTER_TIME, field(REGISTER_TIME)?.raw());
        match city.text() {
            Some(city) => {
                let tier = self.config.city_tiers.get(city.trim()).unwrap_or(&self.config.city_tier_default);
                row.text(result::USER_CITY_TIER, tier)
            }
            None => row.raw(result::USER_CITY_TIER, "null"),
        };
        Ok(behind(&out))
    }
}

/// `{"a":1` → `,"a":1`: what stands behind an order that has columns of its own.
fn behind(open_row: &[u8]) -> Vec<u8> {
    let mut text = open_row.to_vec();
    if let Some(brace) = text.first_mut() {
        *brace = b',';
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shared::position::Lsn;
    use shared::record::header::Operation;

    pub(crate) const ZHANG: &str = r#"{"user_id":1001,"username":"张三","email":"zhangsan@example.com","phone":"13812345678","city":"北京","register_time":"2025-07-11 17:25:55.143"}"#;

    pub(crate) fn apply(users: &mut Users, lsn: u64, id: u64, row: Option<&str>) -> Result<Applied, Rejection> {
        let mut header = String::new();
        let version = Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        Header { commit_time_us: Some(1), ..Header::new(Operation::Update, version) }.write(&mut header);
        let key = format!("{{\"user_id\":{id}}}");
        users.apply(&Record {
            partition: 0,
            offset: 0,
            key: Some(key.as_bytes()),
            value: row.map(str::as_bytes),
            header: Some(header.as_bytes()),
        })
    }

    #[test]
    fn a_user_is_the_text_behind_its_orders() {
        let mut users = Users::new(JoinConfig::default());
        assert_eq!(apply(&mut users, 5, 1001, Some(ZHANG)), Ok(Applied::Changed("1001".into())));
        assert_eq!(
            String::from_utf8_lossy(users.appended("1001")),
            r#","username":"张三","email":"zhangsan@example.com","phone":"13812345678","city":"北京","user_register_time":"2025-07-11 17:25:55.143","user_city_tier":"一线城市""#
        );
        assert_eq!(apply(&mut users, 5, 1001, None), Ok(Applied::Repeat));
        assert!(users.is_known("1001"));
        assert_eq!(apply(&mut users, 6, 1001, None), Ok(Applied::Changed("1001".into())));
        assert!(!users.is_known("1001") && users.get("1001").is_some());
    }

    #[test]
    fn cities_have_tiers_and_an_unknown_user_has_defaults() {
        let mut users = Users::new(JoinConfig::default());
        for (city, tier) in [("\"杭州\"", "\"新一线城市\""), ("\"丽江\"", "\"其他城市\""), ("null", "null")]
        {
            let version = users.len() as u64 + 1;
            apply(&mut users, version, version, Some(&ZHANG.replace("\"北京\"", city))).unwrap();
            let text = String::from_utf8_lossy(users.appended(&version.to_string())).into_owned();
            assert!(text.ends_with(&format!("\"user_city_tier\":{tier}")), "{text}");
        }
        let unknown = String::from_utf8_lossy(users.appended("9")).into_owned();
        assert!(
            unknown.starts_with(r#","username":"Unknown User","email":"unknown@example.com","phone":null"#),
            "{unknown}"
        );
    }

    #[test]
    fn a_row_without_a_column_is_rejected() {
        let mut users = Users::new(JoinConfig::default());
        let rejection = apply(&mut users, 1, 1, Some(&ZHANG.replace("phone", "tel"))).unwrap_err();
        assert!(rejection.detail.contains("phone"), "{}", rejection.detail);
        assert!(apply(&mut users, 1, 1, Some("nonsense")).is_err());
    }
}
