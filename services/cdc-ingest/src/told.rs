//! Whether the server has taken the positions that it was told. The stream brings no answer to them: the slot shows them, and the guardian
//! looks at it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::metrics;
use shared::position::Lsn;

/// Shared by the reader of the stream, which tells, and the guardian, which sees.
#[derive(Debug, Clone, Default)]
pub struct Told {
    awaited: Arc<Mutex<Awaited>>,
}

impl Told {
    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tell(&self, position: Lsn) {
        self.awaited().tell(position);
    }

    /// The slot has come to here.
    pub fn shown(&self, confirmed: Lsn) {
        if self.awaited().shown(confirmed) {
            metrics::COMMITS.with_label_values(&["ok"]).inc();
        }
    }

    /// The stream has ended.
    pub fn ended(&self) {
        if self.awaited().ended() {
            metrics::COMMITS.with_label_values(&["failed"]).inc();
        }
    }

    /// The service stops in order: the position is on its way, and nobody will look.
    pub fn forget(&self) {
        self.awaited().waits = None;
    }
}

#[derive(Debug, Default)]
struct Awaited {
    shown: Lsn,
    /// The first position that was told and is not shown yet. Those told behind it are above it: what shows one of them shows it as well.
    waits: Option<Lsn>,
}

impl Awaited {
    fn tell(&mut self, position: Lsn) {
        if position > self.shown {
            self.waits.get_or_insert(position);
        }
    }

    /// Whether that is the answer to what was told.
    fn shown(&mut self, confirmed: Lsn) -> bool {
        self.shown = self.shown.max(confirmed);
        self.waits.take_if(|position| *position <= confirmed).is_some()
    }

    /// Whether there was no answer to what was told.
    fn ended(&mut self) -> bool {
        self.waits.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_taken_when_the_slot_shows_it() {
        let mut awaited = Awaited::default();
        assert!(!awaited.shown(Lsn(10)), "nothing was told");
        awaited.tell(Lsn(20));
        awaited.tell(Lsn(30));
        assert!(!awaited.shown(Lsn(19)));
        assert!(
            awaited.shown(Lsn(20)) && !awaited.shown(Lsn(30)),
            "two that were told one behind the other count once"
        );
        awaited.tell(Lsn(30));
        assert!(!awaited.ended(), "what is shown already waits for nothing");
    }

    #[test]
    fn one_that_is_not_shown_when_the_stream_ends_has_failed() {
        let mut awaited = Awaited::default();
        assert!(!awaited.ended());
        awaited.tell(Lsn(20));
        assert!(!awaited.shown(Lsn(10)));
        assert!(awaited.ended() && !awaited.ended(), "it counts once");
    }
}
