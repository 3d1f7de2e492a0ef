//! Where to start: the decision, as a table.
//!
//! | `cdc_state` | slot | server | then |
//! |---|---|---|---|
//! | knows the slot | there | the same | go on in the same epoch; tables whose copy is not done go on with it |
//! | knows the slot | gone, or invalidated | any | changes were missed: new slot, new epoch, every table is read again, rows that are gone get tombstones |
//! | knows the slot | there, further than it was ever told | the same | the same: somebody else moved it or made it anew |
//! | knows the slot | there | another system id | the same: the slot belongs to another history |
//! | knows the slot | there | its WAL ends before what was sent | the same: the server was restored or failed over to an older state |
//! | has noted an interruption | there | any | the same: what the stream brought again is not what was sent ([`crate::witness`]) |
//! | nothing | there or not | any | first start: slot made if absent, epoch above all that the topics have and all of earlier hours, every table is copied |
//!
//! A timeline that grew while the slot is there is the same history going on (failover slot), as far as the stream bears it out.

use std::time::{Duration, SystemTime};

use shared::position::{Lsn, Version};

use crate::slot::Slot;
use crate::state::SlotState;

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub system_id: String,
    pub timeline: u32,
    /// Where its WAL ends.
    pub flushed: Lsn,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub epoch: u32,
    /// The slot is there, and nothing can be read from it.
    pub drop_slot: bool,
    pub make_slot: bool,
    /// Set when the slot's history was interrupted: why every table is read again.
    pub interrupted: Option<String>,
}

/// The lowest epoch of a first start at this time: hours since 2025. Where all of Kafka was lost, the sink still has the versions of what was
/// captured before, and what is captured now must stand above them.
pub fn first_epoch(now: SystemTime) -> u32 {
    const YEAR_2025: Duration = Duration::from_secs(1_735_689_600);
    let since = now.duration_since(SystemTime::UNIX_EPOCH + YEAR_2025).unwrap_or_default();
    u32::try_from(since.as_secs() / 3_600).unwrap_or_default().max(1)
}

/// `sent` is the highest version of any record in the output topics, `first` that of [`first_epoch`].
pub fn plan(known: Option<&SlotState>, slot: Option<&Slot>, server: &Server, sent: Version, first: u32) -> Plan {
    let lost = slot.is_some_and(|slot| slot.lost.is_some());
    let epoch = |known: &SlotState| known.epoch.max(sent.epoch) + 1;
    let Some(known) = known else {
        let make_slot = slot.is_none() || lost;
        return Plan { epoch: first.max(sent.epoch + 1), drop_slot: lost, make_slot, interrupted: None };
    };
    match interruption(known, slot, server, sent) {
        None => Plan { epoch: known.epoch, drop_slot: false, make_slot: false, interrupted: None },
        Some(why) => {
            Plan { epoch: epoch(known), drop_slot: lost, make_slot: slot.is_none() || lost, interrupted: Some(why) }
        }
    }
}

/// Why the history that was captured does not go on.
fn interruption(known: &SlotState, slot: Option<&Slot>, server: &Server, sent: Version) -> Option<String> {
    if let Some(noted) = &known.interrupted {
        return Some(noted.clone());
    }
    let Some(slot) = slot else { return Some("the slot is gone, so changes were missed".into()) };
    if let Some(reason) = &slot.lost {
        return Some(format!("the slot was invalidated ({reason}), so changes were missed"));
    }
    if known.system_id != server.system_id {
        let (system, before) = (&server.system_id, &known.system_id);
        return Some(format!("the server is another one than before (system identifier {system}, it was {before})"));
    }
    if known.epoch == sent.epoch && sent.lsn > server.flushed {
        return Some(format!(
            "the server's WAL ends at {}, before {} that was captured from it",
            server.flushed, sent.lsn
        ));
    }
    match (slot.confirmed, known.confirmed) {
        (Some(slot), Some(told)) if slot > told => Some(format!(
            "the slot stands at {slot}, further than {told}, which it was told: it was made anew or moved by somebody else"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Version = Version { epoch: 3, lsn: Lsn(90), index: 0, part: 0 };

    fn known() -> SlotState {
        SlotState { confirmed: Some(Lsn(85)), ..SlotState::new(3, "7", 1) }
    }

    fn slot() -> Slot {
        Slot { holder: None, confirmed: Some(Lsn(80)), lost: None }
    }

    fn server() -> Server {
        Server { system_id: "7".into(), timeline: 2, flushed: Lsn(100) }
    }

    /// Epoch, slot dropped, slot made, interrupted.
    fn decide(known: Option<SlotState>, slot: Option<Slot>, server: &Server) -> (u32, bool, bool, bool) {
        let plan = plan(known.as_ref(), slot.as_ref(), server, SENT, 1);
        (plan.epoch, plan.drop_slot, plan.make_slot, plan.interrupted.is_some())
    }

    #[test]
    fn every_row_of_the_table() {
        assert_eq!(decide(Some(known()), Some(slot()), &server()), (3, false, false, false));
        assert_eq!(decide(Some(known()), None, &server()), (4, false, true, true));
        let lost = Slot { lost: Some("wal_removed".into()), ..slot() };
        assert_eq!(decide(Some(known()), Some(lost.clone()), &server()), (4, true, true, true));
        let moved = Slot { confirmed: Some(Lsn(86)), ..slot() };
        assert_eq!(decide(Some(known()), Some(moved.clone()), &server()), (4, false, false, true));
        let never_told = SlotState { confirmed: None, ..known() };
        assert_eq!(decide(Some(never_told), Some(moved), &server()), (3, false, false, false));
        let other = Server { system_id: "8".into(), ..server() };
        assert_eq!(decide(Some(known()), Some(slot()), &other), (4, false, false, true));
        let rewound = Server { flushed: Lsn(89), ..server() };
        assert_eq!(decide(Some(known()), Some(slot()), &rewound), (4, false, false, true));
        let noted = SlotState { interrupted: Some("diverged".into()), ..known() };
        assert_eq!(decide(Some(noted), Some(slot()), &server()), (4, false, false, true));
        assert_eq!(decide(None, None, &server()), (4, false, true, false));
        assert_eq!(decide(None, Some(slot()), &server()), (4, false, false, false));
        assert_eq!(decide(None, Some(lost), &server()), (4, true, true, false));
    }

    #[test]
    fn a_first_start_stands_above_all_that_was_captured_in_earlier_hours() {
        let at = |seconds| first_epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(0), at(1_735_689_600 + 3_599)), (1, 1));
        // 2026-11-26, a second before 21:00 UTC and at 21:00.
        let (then, later) = (at(1_795_726_799), at(1_795_726_800));
        assert_eq!((then, later), (16_676, 16_677));
        let nothing = Version::default();
        assert_eq!(plan(None, None, &server(), nothing, later).epoch, later);
        assert_eq!(plan(None, None, &server(), SENT, later).epoch, later);
        assert_eq!(plan(Some(&known()), None, &server(), SENT, later).epoch, 4, "the state knows better");
    }
}
