use super::*;

/// A state by a number; 0 is no row. Each change stands 10 behind the one before, the first at 10.
fn history(text: &str) -> Vec<Moment> {
    let moment = |(at, word): (usize, &str)| {
        let (made, row) = word.split_at(1);
        let made = match made {
            "s" => Made::Stood,
            "c" => Made::Inserted,
            "u" => Made::Updated,
            "t" => Made::Truncated,
            _ => Made::Gone,
        };
        Moment { made, lsn: Lsn((at as u64 + 1) * 10), digest: row.parse().ok() }
    };
    text.split_whitespace().enumerate().map(moment).collect()
}

/// Records; each has a newer version than the one before.
fn seen(text: &str) -> Vec<Seen> {
    let record = |(at, word): (usize, &str)| {
        let (operation, row) = word.split_at(1);
        let operation = match operation {
            "r" | "x" => Operation::Snapshot,
            "c" => Operation::Insert,
            "u" => Operation::Update,
            _ => Operation::Delete,
        };
        let copied = word.starts_with(['r', 'x']);
        let index = if copied { Version::SNAPSHOT } else { 0 };
        let version = Version { epoch: 1, lsn: Lsn(at as u64 + 1), index, part: 0 };
        Seen { version, operation, digest: row.parse().ok() }
    };
    text.split_whitespace().enumerate().map(record).collect()
}

const FROM_THE_START: Lsn = Lsn(0);
/// The capture began behind the second change.
const LATER: Lsn = Lsn(25);

fn check(of: &str, records: &str, since: Lsn) -> Result<u64, Mismatch> {
    held_against(&history(of), &seen(records), since)
}

fn assert_right(of: &str, records: &str, since: Lsn) {
    assert_eq!(check(of, records, since), Ok(0), "{of} / {records}");
}

#[test]
fn all_changes_are_there() {
    assert_right("c1 u2 d c3", "c1 u2 d c3", FROM_THE_START);
    assert_right("c1 u1 u1", "c1 u1 u1", FROM_THE_START);
    assert_right("", "", FROM_THE_START);
}

#[test]
fn what_was_before_the_capture_is_in_the_copy_or_was_changed_since_or_is_gone() {
    assert_right("s1", "r1", FROM_THE_START);
    assert_right("s1 u2", "r1 u2", FROM_THE_START);
    assert_right("s1 u2", "u2", FROM_THE_START);
    assert_right("s1 u2", "u2 r2", FROM_THE_START);
    assert_right("s1 d", "", LATER);
    assert_right("c1 u2 u3 d", "r2 u3 d", LATER);
    assert_right("c1 u2", "r2", LATER);
    // Between the start of the capture and its first change nobody knows: both are right.
    assert_right("c1 u2 u3", "u2 u3", LATER);
}

#[test]
fn a_copy_may_stand_anywhere_with_the_state_of_its_place() {
    assert_right("c1 u2 d c3", "c1 r1 r1 u2 r2 d c3 r3", FROM_THE_START);
    assert_eq!(check("c1 u2", "c1 r2 u2", FROM_THE_START), wrong("is not the row as it was then", 2));
    assert_eq!(check("c1 u2", "c1 u2 r1", FROM_THE_START), wrong("is not the row as it was then", 3));
    assert_eq!(check("c1 d", "c1 d r1", FROM_THE_START), wrong("is a row, and there was none then", 3));
    assert_eq!(check("c1", "r1 c1", FROM_THE_START), wrong("is a row, and there was none then", 1));
    assert_eq!(check("s1 d", "r1", LATER), wrong("is a row, and there was none then", 1));
    assert_eq!(check("", "r1", FROM_THE_START), wrong("is a row, and there was none then", 1));
}

fn wrong(what: &str, place: u64) -> Result<u64, Mismatch> {
    let version = Version { epoch: 1, lsn: Lsn(place), index: Version::SNAPSHOT, part: 0 };
    Err(Mismatch::Wrong(format!("the copy's record with version {version} {what}")))
}

#[test]
fn a_tombstone_of_a_copy_for_a_row_that_is_there_is_wrong() {
    assert_eq!(check("c1", "c1 x", FROM_THE_START), wrong("says that the row is gone, and it was there", 2));
    assert_right("c1 d", "c1 d x", FROM_THE_START);
}

fn is_lost(found: &Result<u64, Mismatch>) -> bool {
    matches!(found, Err(Mismatch::Lost(..)))
}

#[test]
fn a_lost_record_is_found_wherever_it_stood() {
    for records in ["u2 d c3", "c1 d c3", "c1 u2 c3", "c1 u2 d", "", "c1"] {
        assert!(is_lost(&check("c1 u2 d c3", records, FROM_THE_START)), "{records}");
    }
    assert!(is_lost(&check("c1 u2 u3 d", "r2 d", LATER)));
    assert!(is_lost(&check("s1", "", FROM_THE_START)));
    assert!(is_lost(&check("c1 u2", "", LATER)));
}

#[test]
fn a_truncation_is_a_tombstone_unless_the_topic_does_not_have_the_key_yet() {
    assert_right("c1 t c2", "c1 d c2", FROM_THE_START);
    assert_right("s1 t", "", FROM_THE_START);
    assert_right("s1 t c2", "c2", FROM_THE_START);
    assert_right("s1 t", "r1 d", FROM_THE_START);
    for (of, records) in [("c1 t c2", "c1 c2"), ("s1 u2 t", "u2"), ("c1 t c2 t", "d c2"), ("s1 t c2 t", "c2")] {
        assert!(is_lost(&check(of, records, FROM_THE_START)), "{of} / {records}");
    }
    assert_eq!(check("s1 t", "r1", FROM_THE_START), wrong("is a row, and there was none then", 1));
    assert_eq!(check("s1 t c2", "r1 c2", FROM_THE_START), wrong("is a row, and there was none then", 1));
}

#[test]
fn a_missing_tombstone_is_found() {
    assert!(is_lost(&check("c1 d", "c1", FROM_THE_START)));
    assert!(is_lost(&check("s1 d c2", "r1 c2", FROM_THE_START)));
    assert!(is_lost(&check("s1 c2 d", "r1", LATER)));
}

#[test]
fn a_doubled_record_is_found() {
    for records in ["c1 c1 u2", "c1 u2 u2"] {
        assert!(matches!(check("c1 u2", records, FROM_THE_START), Err(Mismatch::Surplus(1, _))), "{records}");
    }
    // Also where a change before the capture would make up for it.
    assert!(matches!(check("s1 u2 u3", "u2 u2 u3", Lsn(5)), Err(Mismatch::Surplus(1, _))));
    assert!(matches!(check("", "c1", FROM_THE_START), Err(Mismatch::Surplus(1, _))));
}

#[test]
fn another_order_or_another_value_is_found() {
    for records in ["c1 u3 u2", "c1 u2 u4", "c1 u2 d", "u1 u2 u3", "c1 u2 c3", "c2 u2 u3"] {
        assert!(matches!(check("c1 u2 u3", records, FROM_THE_START), Err(Mismatch::Wrong(_))), "{records}");
    }
}

#[test]
fn a_change_that_comes_again_under_a_further_number_is_a_repeat() {
    let mut records = seen("c1 d c2");
    records.insert(2, Seen { version: Version { part: 4, ..records[1].version }, ..records[1] });
    assert_eq!(held_against(&history("c1 d c2"), &records, FROM_THE_START), Ok(1));
    records[2].digest = Some(9);
    assert!(matches!(held_against(&history("c1 d c2"), &records, FROM_THE_START), Err(Mismatch::Wrong(_))));
}

#[test]
fn records_of_a_copy_are_each_their_own() {
    let copied = |part| Version { epoch: 1, lsn: Lsn(5), index: Version::SNAPSHOT, part };
    assert!(is_same_change(copied(1), copied(1)));
    assert!(!is_same_change(copied(1), copied(2)));
    let streamed = |part| Version { index: 3, ..copied(part) };
    assert!(is_same_change(streamed(0), streamed(7)));
}
