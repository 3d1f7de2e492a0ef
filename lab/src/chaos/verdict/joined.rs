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
        let came = way.joined(version, row.as_ref().map(|row| row.user_id));
        // A late record counts for the status that it shows: an order that moved on does not stand in its way.
        if let Some(row) = &row
            && let Some(status) = self.statuses.find(&row.order_status)
            && way.knows(version.order)
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
            if let Some((version, Some(user_id))) = way.last
                && version.user != self.users.newest(user_id)
            {
                self.counts.lost += 1;
                let newest = self.users.newest(user_id);
                let what = format!(
                    "{topic}: the last record has user {user_id} at {}, and the user is at {newest}",
                    version.user
                );
                self.problems.add(Some((Subject::Orders, *key)), what);
            }
        }
    }
}

/// What is wrong with the user's columns.
fn user_problem(users: &KnownUsers, header: &Header, row: &ResultJson) -> Option<String> {
    let version = header.user_version.unwrap_or_default();
    let Some(user) = users.at(row.user_id, version) else {
        return Some(format!("its user {} never had the version {version}", row.user_id));
    };
    let wanted = user.cloned().unwrap_or_else(UserColumns::of_nobody);
    let found = UserColumns::of_result(row);
    if found == wanted {
        return None;
    }
    let at = if version == Version::default() { "unknown".to_owned() } else { format!("at version {version}") };
    Some(format!("its user {} {at} is {wanted:?}, and it has {found:?}", row.user_id))
}
