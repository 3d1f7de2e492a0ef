//! The result held against DWD and the users.

use std::collections::BTreeMap;

use shared::failure::Failure;
use shared::position::Version;
use shared::record::header::Header;

use super::cleaned::{Place, pass_over};
use super::findings::{Problems, TopicCounts};
use super::order_way::{InStatus, OrderWay, Statuses};
use super::own_key;
use super::users::{KnownUsers, ResultJson, UserColumns};
use crate::chaos::witness::subject::Subject;
use crate::layers::{LayerRecord, Layers};

/// What results are held against.
struct Reader<'a> {
    ways: &'a mut BTreeMap<i64, OrderWay>,
    statuses: &'a Statuses,
    users: &'a KnownUsers,
    problems: &'a mut Problems,
    counts: TopicCounts,
}

/// Reads the result, and leaves in each way the newest record for each status.
pub fn check(
    layers: &Layers,
    topic: &str,
    ways: &mut BTreeMap<i64, OrderWay>,
    statuses: &Statuses,
    users: &KnownUsers,
    problems: &mut Problems,
) -> Result<TopicCounts, Failure> {
    let mut reader = Reader { ways, statuses, users, problems, counts: TopicCounts::of(topic) };
    layers.visit(topic, &layers.begin(topic)?, &layers.end(topic)?, |record| reader.take(&record))?;
    reader.check_ends();
    Ok(reader.counts)
}

impl Reader<'_> {
    fn take(&mut self, record: &LayerRecord) {
        self.counts.records += 1;
        let Some((key, header)) = own_key(Subject::Orders, record).zip(record.header.as_ref().ok()) else {
            return pass_over(record, &mut self.counts, self.problems);
        };
        let row: Option<ResultJson> = record.value.as_deref().and_then(|row| serde_json::from_str(row).ok());
        let way = self.ways.entry(key).or_default();
        let version = header.result_version();
        let came = way.joined(&version, row.as_ref().map(|row| row.user_id));
        // A late record counts for the status that it shows: an order that moved on does not stand in its way.
        if let Some(row) = &row
            && let Some(status) = self.statuses.find(&row.order_status)
            && way.knows(version.fact)
        {
            way.note(InStatus { status, version, user_id: row.user_id });
        }
        let place = Place { topic: self.counts.topic.clone(), key, record };
        let Some(at) = self.counts.enter(&came, &place, self.problems) else { return };
        let open = way.passed.get(at).and_then(|passed| passed.open);
        let is_kept = match (open, record.value.as_deref()) {
            (Some(open), Some(row)) => open.begins(row) && header.cleaned_bytes == Some(open.bytes()),
            (open, row) => open.is_none() && row.is_none(),
        };
        let what = match (is_kept, &row) {
            (false, _) => Some("is not the row of DWD with further columns".to_owned()),
            (true, None) => record.value.as_ref().map(|_| "is no readable row".to_owned()),
            (true, Some(row)) => user_problem(self.users, header, row),
        };
        if let Some(what) = what {
            self.counts.wrong += 1;
            place.tell(&what, self.problems);
        }
    }

    /// Every version must be there, and the last one with the user as it is now.
    fn check_ends(&mut self) {
        let topic = &self.counts.topic;
        for (key, way) in self.ways.iter() {
            self.counts.keys += u64::from(!way.passed.is_empty());
            let lost = way.not_joined();
            if lost > 0 {
                self.counts.lost += lost;
                self.problems
                    .add(Some((Subject::Orders, *key)), format!("{topic} lacks the last {lost} versions of DWD"));
                continue;
            }
            if let Some((version, Some(user_id))) = &way.last
                && !self.users.is_as_newest(*user_id, version.joined.of(0))
            {
                self.counts.lost += 1;
                let newest = self.users.newest(*user_id);
                let what = format!(
                    "{topic}: the last record has user {user_id} at {}, and the user is at {newest}",
                    version.joined.of(0)
                );
                self.problems.add(Some((Subject::Orders, *key)), what);
            }
        }
    }
}

/// What is wrong with the user's columns.
fn user_problem(users: &KnownUsers, header: &Header, row: &ResultJson) -> Option<String> {
    let version = header.joined.of(0);
    let Some(user) = users.at(row.user_id, version) else {
        return Some(format!("its user {} never had the version {version}", row.user_id));
    };
    let wanted = user.cloned().unwrap_or_else(UserColumns::of_nobody);
    let found = UserColumns::of_result(row);
    if found == wanted {
        return None;
    }
    let at = if version <= Version::UNKNOWN { "unknown".to_owned() } else { format!("at version {version}") };
    Some(format!("its user {} {at} is {wanted:?}, and it has {found:?}", row.user_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::verdict::order_way::{Open, Passed};
    use crate::chaos::verdict::suffix::Seen;
    use shared::position::Lsn;
    use shared::record::header::Operation;

    const CLEANED: &str = r#"{"order_id":7,"user_id":9,"order_status":"PAID"}"#;
    const WANG: &str = r#""username":"王五","email":null,"phone":"1","city":"北京""#;

    fn version(lsn: u64) -> Version {
        Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
    }

    /// A result of version 5 of the order; `user`: its version, 0 for none.
    fn record(row: &str, user: u64) -> LayerRecord {
        let header = Header {
            joined: (user > 0).then(|| version(user)).into_iter().collect(),
            cleaned_bytes: Some(CLEANED.len() - 1),
            ..Header::new(Operation::Update, version(5))
        };
        let key = Subject::Orders.key_json(7);
        LayerRecord { partition: 0, offset: 3, produced_ms: None, key, value: Some(row.to_owned()), header: Ok(header) }
    }

    fn joined(user: &str) -> String {
        let open = CLEANED.trim_end_matches('}');
        format!("{open},{user},\"user_register_time\":\"2025-07-11 17:25:55.143\",\"user_city_tier\":\"x\"}}")
    }

    /// The order is at version 5, its user 9 at version 3.
    fn found(records: &[LayerRecord]) -> (TopicCounts, Vec<String>) {
        let mut statuses = Statuses::default();
        let seen = Seen { version: version(5), operation: Operation::Update, digest: None };
        let passed = Passed { seen, open: Some(Open::of(CLEANED)), status: statuses.number("PAID") };
        let mut users = KnownUsers::default();
        let json = format!("{{{WANG},\"register_time\":\"2025-07-11 17:25:55.143\"}}");
        users.put(9, version(3), UserColumns::of_user(&json));
        let (mut ways, mut problems) = (BTreeMap::from([(7, OrderWay::new(vec![passed]))]), Problems::default());
        let mut reader = Reader {
            ways: &mut ways,
            statuses: &statuses,
            users: &users,
            problems: &mut problems,
            counts: TopicCounts::of("result"),
        };
        records.iter().for_each(|record| reader.take(record));
        reader.check_ends();
        (reader.counts, problems.first.into_iter().map(|problem| problem.what).collect())
    }

    #[test]
    fn a_row_with_its_user_is_right_and_what_came_before_the_user_as_well() {
        let unknown = r#""username":"Unknown User","email":"unknown@example.com","phone":null,"city":null"#;
        let unknown = joined(unknown).replace("\"2025-07-11 17:25:55.143\"", "null");
        let (counts, problems) = found(&[record(&unknown, 0), record(&joined(WANG), 3)]);
        assert_eq!((counts.versions, counts.lost, counts.wrong, problems), (2, 0, 0, vec![]));
    }

    #[test]
    fn another_row_another_user_or_an_old_one_is_found() {
        let other_row = joined(WANG).replace("PAID", "LOST");
        let other_user = joined(&WANG.replace("北京", "上海"));
        for (row, user, words) in [
            (other_row, 3, "is not the row of DWD with further columns"),
            (CLEANED.to_owned(), 3, "is not the row of DWD with further columns"),
            (other_user, 3, "its user 9 at version"),
            (joined(WANG), 2, "its user 9 never had the version 1.2.0.0"),
            (joined(WANG), 0, "its user 9 unknown is"),
        ] {
            let (counts, problems) = found(&[record(&row, user)]);
            assert!(problems.first().is_some_and(|problem| problem.contains(words)), "{words}: {problems:?}");
            assert_eq!(counts.wrong, 1, "{words}");
        }
    }

    #[test]
    fn a_version_that_did_not_come_and_a_user_who_came_later_are_missed() {
        let (counts, problems) = found(&[]);
        assert_eq!((counts.lost, problems), (1, vec!["order 7: result lacks the last 1 versions of DWD".to_owned()]));
        let unknown = r#""username":"Unknown User","email":"unknown@example.com","phone":null,"city":null"#;
        let unknown = joined(unknown).replace("\"2025-07-11 17:25:55.143\"", "null");
        let (counts, problems) = found(&[record(&unknown, 0)]);
        assert_eq!((counts.lost, counts.wrong), (1, 0));
        assert!(
            problems[0].ends_with("the last record has user 9 at 0.0.0.0, and the user is at 1.3.0.0"),
            "{problems:?}"
        );
    }

    #[test]
    fn what_was_planted_is_passed_over_and_what_is_nobodys_is_not() {
        let mut planted = record(&joined(WANG), 3);
        planted.header = Err(shared::record::header::HeaderError::Missing);
        let mut poison = record("x", 3);
        poison.key = "{\"order_id\":\"chaos-poison\"}".to_owned();
        let mut stray = record("x", 3);
        stray.key = "{\"order_id\":\"7\"}".to_owned();
        let (counts, problems) = found(&[planted, poison, stray, record(&joined(WANG), 3)]);
        assert_eq!((counts.passed_over, counts.surplus, counts.versions, problems.len()), (2, 1, 1, 1));
    }
}
