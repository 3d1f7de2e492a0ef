//! Where to start: the decision, as a table.
//!
//! | `cdc_state` | slot | server | then |
//! |---|---|---|---|
//! | knows the slot | there | the same | go on in the same epoch; tables whose copy is not done go on with it |
//! | knows the slot | gone | any | changes were missed: new slot, new epoch, every table is read again, rows that are gone get tombstones |
//! | knows the slot | there | another system id | the same: the slot belongs to another history |
//! | knows the slot | there | its WAL ends before what was sent | the same: the server was restored or failed over to an older state |
//! | nothing | there or not | any | first start: slot made if absent, epoch above all that the topics have, every table is copied |
//!
//! A timeline that grew while the slot is there is the same history going on (failover slot).

use shared::position::{Lsn, Version};

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
    pub make_slot: bool,
    /// Set when the slot's history was interrupted: why every table is read again.
    pub interrupted: Option<&'static str>,
}

/// `sent` is the highest version of any record in the output topics.
pub fn plan(known: Option<&SlotState>, slot_exists: bool, server: &Server, sent: Version) -> Plan {
    let highest_epoch = sent.epoch;
    let fresh = Plan {
        epoch: highest_epoch.max(known.map_or(0, |known| known.epoch)) + 1,
        make_slot: !slot_exists,
        interrupted: None,
    };
    match known {
        None => fresh,
        Some(_) if !slot_exists => Plan { interrupted: Some("the slot is gone, so changes were missed"), ..fresh },
        Some(known) if known.system_id != server.system_id => {
            Plan { interrupted: Some("the server is another one than before"), ..fresh }
        }
        Some(known) if known.epoch == sent.epoch && sent.lsn > server.flushed => {
            Plan { interrupted: Some("the server's WAL ends before what was captured from it"), ..fresh }
        }
        Some(known) => Plan { epoch: known.epoch, make_slot: false, interrupted: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let server = Server { system_id: "7".into(), timeline: 2, flushed: Lsn(100) };
        let sent = Version { epoch: 3, lsn: Lsn(90), ..Version::default() };
        let known = SlotState { epoch: 3, system_id: "7".into(), timeline: 1 };
        let other = SlotState { system_id: "8".into(), ..known.clone() };
        let decide = |known, exists| {
            let plan = plan(known, exists, &server, sent);
            (plan.epoch, plan.make_slot, plan.interrupted.is_some())
        };
        assert_eq!(decide(Some(&known), true), (3, false, false));
        assert_eq!(decide(Some(&known), false), (4, true, true));
        assert_eq!(decide(Some(&other), true), (4, false, true));
        assert_eq!(decide(None, false), (4, true, false));
        assert_eq!(decide(None, true), (4, false, false));
        let rewound = plan(Some(&known), true, &Server { flushed: Lsn(80), ..server.clone() }, sent);
        assert_eq!((rewound.epoch, rewound.interrupted.is_some()), (4, true));
    }
}
