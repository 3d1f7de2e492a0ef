//! The users as their topic has them, version by version, and what an order carries of them.

use std::collections::HashMap;

use serde::Deserialize;
use shared::position::Version;

use crate::expected::UserRow;

/// The columns that an order gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserColumns {
    username: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    city: Option<String>,
    register_time: Option<String>,
}

#[derive(Deserialize)]
struct UserJson {
    username: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    city: Option<String>,
    register_time: Option<String>,
}

/// What is read of a result.
#[derive(Deserialize)]
pub struct ResultJson {
    pub user_id: i64,
    pub order_status: String,
    username: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    city: Option<String>,
    user_register_time: Option<String>,
}

impl UserColumns {
    pub fn of_user(row: &str) -> Option<Self> {
        let UserJson { username, email, phone, city, register_time } = serde_json::from_str(row).ok()?;
        Some(UserColumns { username, email, phone, city, register_time })
    }

    pub fn of_result(row: &ResultJson) -> Self {
        UserColumns {
            username: row.username.clone(),
            email: row.email.clone(),
            phone: row.phone.clone(),
            city: row.city.clone(),
            register_time: row.user_register_time.clone(),
        }
    }

    /// The defaults of dim-joiner, written a second time.
    pub fn of_nobody() -> Self {
        UserColumns {
            username: Some("Unknown User".to_owned()),
            email: Some("unknown@example.com".to_owned()),
            phone: None,
            city: None,
            register_time: None,
        }
    }

    /// As PostgreSQL shows the row.
    pub fn row(&self) -> UserRow {
        UserRow {
            username: self.username.clone(),
            email: self.email.clone(),
            phone: self.phone.clone(),
            city: self.city.clone(),
            register_time: self.register_time.as_deref().map(without_zeros),
        }
    }
}

/// `2025-07-11 17:25:55.100` → `2025-07-11 17:25:55.1`.
fn without_zeros(text: &str) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    }
}

/// A version of a user; no columns where the user is gone.
#[derive(Debug)]
struct UserVersion {
    version: Version,
    columns: Option<Box<UserColumns>>,
}

/// Every version of every user.
#[derive(Debug, Default)]
pub struct KnownUsers {
    by_id: HashMap<i64, Vec<UserVersion>>,
}

impl KnownUsers {
    pub fn put(&mut self, user_id: i64, version: Version, columns: Option<UserColumns>) {
        self.by_id.entry(user_id).or_default().push(UserVersion { version, columns: columns.map(Box::new) });
    }

    /// The newest version; the lowest where nobody ever was.
    pub fn newest(&self, user_id: i64) -> Version {
        let versions = self.by_id.get(&user_id).map(Vec::as_slice).unwrap_or_default();
        versions.iter().map(|known| known.version).max().unwrap_or_default()
    }

    /// Whether orders that have the user at this version show the user as it is now: a change of other columns changes nothing for them.
    pub fn is_as_newest(&self, user_id: i64, version: Version) -> bool {
        self.at(user_id, version).is_some_and(|then| Some(then) == self.at(user_id, self.newest(user_id)))
    }

    /// The user at a version: `Some(None)` where there was none then, `None` for a version that never was.
    pub fn at(&self, user_id: i64, version: Version) -> Option<Option<&UserColumns>> {
        if version <= Version::UNKNOWN {
            return Some(None);
        }
        let versions = self.by_id.get(&user_id)?;
        let found = versions.iter().rev().find(|known| known.version == version)?;
        Some(found.columns.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::Lsn;

    #[test]
    fn an_order_carries_the_user_of_its_version() {
        let version = |lsn| Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        let json = r#"{"user_id":7,"username":"张三","email":null,"phone":"1","city":"北京","register_time":"2025-07-11 17:25:55.100","updated_at":"x"}"#;
        let zhang = UserColumns::of_user(json).unwrap();
        let mut users = KnownUsers::default();
        users.put(7, version(3), Some(zhang.clone()));
        users.put(7, version(5), None);
        assert_eq!(users.at(7, version(3)), Some(Some(&zhang)));
        assert_eq!(users.at(7, version(5)), Some(None));
        assert_eq!(users.at(7, Version::default()), Some(None));
        assert_eq!((users.at(7, version(4)), users.at(8, version(3))), (None, None));
        assert_eq!((users.newest(7), users.newest(8)), (version(5), Version::default()));
        assert_eq!(zhang.row().register_time.unwrap(), "2025-07-11 17:25:55.1");
        let result = r#"{"order_id":1,"user_id":7,"order_status":"PAID","username":"张三","email":null,"phone":"1","city":"北京","user_register_time":"2025-07-11 17:25:55.100"}"#;
        let result: ResultJson = serde_json::from_str(result).unwrap();
        assert_eq!(UserColumns::of_result(&result), zhang);
        assert_ne!(UserColumns::of_nobody(), zhang);
    }

    #[test]
    fn zeros_behind_the_point_are_not_shown() {
        for (json, shown) in [("1:00:55.000", "1:00:55"), ("1:00:50.120", "1:00:50.12"), ("1:00:50", "1:00:50")] {
            assert_eq!(without_zeros(json), shown);
        }
    }
}
