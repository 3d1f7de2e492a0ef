//! The copies of tables: which chunk is asked for next, what is recorded, when a copy is done.
//!
//! Pure: the shell asks, merges and records what is decided here.
//!
//! ```text
//!  begin ─▶ ask ─▶ merged ─▶ ask … ─▶ merged, no more rows ─▶ all acked ─▶ swept ─▶ done
//!             ▲      │ a commit was not visible, or the read was refused
//!             └──────┘
//! ```

use crate::state::{KeyRange, TableState};
use crate::transaction::ChunkDone;
use shared::position::Version;

/// While one chunk is on its way to the topic the next is read, and no further one.
const UNACKED_MAX: u32 = 2;

/// A chunk to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub table: usize,
    /// Grows with each ask; a chunk carries it.
    pub ask: u64,
    /// Which of the readers reads it.
    pub seat: usize,
    /// The key behind which the chunk begins; none for the first.
    pub after: Option<Vec<String>>,
    pub range: KeyRange,
    /// How often this chunk was asked for before.
    pub tries: u32,
}

/// A table's copy.
#[derive(Debug)]
pub struct Copy {
    /// As it stands in the state topic, or will.
    pub state: TableState,
    /// The table is carried, so that it may be read.
    pub carried: bool,
    /// Asks below this number belong to an earlier copy.
    first_ask: u64,
    seat: Option<usize>,
    asked: Option<u64>,
    tries: u32,
    /// Chunks that went into the stream and are not acknowledged: what a crash costs.
    unacked: u32,
    /// The key behind which the next chunk begins: that of the last chunk which went into the stream.
    after: Option<Vec<String>>,
    /// The last chunk went into the stream.
    exhausted: bool,
}

impl Copy {
    fn new(state: TableState, carried: bool) -> Self {
        let after = state.last_key.clone();
        Copy { state, carried, first_ask: 0, seat: None, asked: None, tries: 0, unacked: 0, after, exhausted: false }
    }

    fn wants_chunk(&self) -> bool {
        let reads = self.carried && !self.state.done && !self.state.paused && !self.exhausted;
        reads && self.asked.is_none() && self.unacked < UNACKED_MAX
    }

    /// A copy is under way, or would be.
    pub fn is_open(&self) -> bool {
        self.carried && !self.state.done
    }
}

/// What an acknowledged chunk means.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked {
    /// It belongs to a copy that was given up.
    Stale,
    /// The copy goes on behind it.
    Further,
    /// It was the last one.
    Last,
}

/// All copies, by index of the table.
#[derive(Debug)]
pub struct Copies {
    tables: Vec<Copy>,
    seats: usize,
    next_ask: u64,
}

impl Copies {
    pub fn new(seats: usize) -> Self {
        Copies { tables: Vec::new(), seats, next_ask: 1 }
    }

    pub fn add(&mut self, state: TableState, carried: bool) {
        self.tables.push(Copy::new(state, carried));
    }

    pub fn get(&self, table: usize) -> Option<&Copy> {
        self.tables.get(table)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Copy> {
        self.tables.iter()
    }

    pub fn state_mut(&mut self, table: usize) -> Option<&mut TableState> {
        self.tables.get_mut(table).map(|copy| &mut copy.state)
    }

    /// A new copy of the table, or of a range of its keys. What it does not find and is older than `sweep_below` is gone.
    pub fn begin(&mut self, table: usize, range: KeyRange, sweep_below: Option<Version>) {
        let first_ask = self.next_ask;
        let Some(copy) = self.tables.get_mut(table) else { return };
        let state = TableState {
            rows: 0,
            last_key: None,
            done: false,
            range,
            sweep_below,
            paused: false,
            ..copy.state.clone()
        };
        *copy = Copy { first_ask, ..Copy::new(state, copy.carried) };
    }

    pub fn set_carried(&mut self, table: usize, carried: bool) {
        if let Some(copy) = self.tables.get_mut(table) {
            copy.carried = carried;
            if !carried {
                (copy.asked, copy.seat) = (None, None);
            }
        }
    }

    pub fn set_paused(&mut self, table: usize, paused: bool) {
        if let Some(copy) = self.tables.get_mut(table) {
            copy.state.paused = paused;
            (copy.asked, copy.seat) = (None, None);
        }
    }

    /// The chunks to be asked for now: one for each table that wants one and has, or gets, a seat.
    pub fn asks(&mut self) -> Vec<Ask> {
        let mut taken: Vec<usize> = self.tables.iter().filter_map(|copy| copy.seat).collect();
        let mut asks = Vec::new();
        for (table, copy) in self.tables.iter_mut().enumerate().filter(|(_, copy)| copy.wants_chunk()) {
            let free = (0..self.seats).find(|seat| !taken.contains(seat));
            let Some(seat) = copy.seat.or(free) else { continue };
            taken.push(seat);
            (copy.seat, copy.asked) = (Some(seat), Some(self.next_ask));
            asks.push(Ask {
                table,
                ask: self.next_ask,
                seat,
                after: copy.after.clone(),
                range: copy.state.range.clone(),
                tries: copy.tries,
            });
            self.next_ask += 1;
        }
        asks
    }

    /// The chunk that is on its way is of no use; it will be asked for again. Gives how often that was so.
    pub fn retake(&mut self, table: usize) -> u32 {
        let Some(copy) = self.tables.get_mut(table) else { return 0 };
        copy.asked = None;
        copy.tries += 1;
        copy.tries
    }

    /// Whether this chunk is waited for.
    pub fn is_asked(&self, table: usize, ask: u64) -> bool {
        self.tables.get(table).is_some_and(|copy| copy.asked == Some(ask))
    }

    /// A chunk went into the stream.
    pub fn merged(&mut self, done: &ChunkDone) {
        let Some(copy) = self.tables.get_mut(done.table).filter(|copy| copy.asked == Some(done.ask)) else { return };
        (copy.asked, copy.tries) = (None, 0);
        copy.unacked += 1;
        copy.exhausted = done.last_key.is_none();
        copy.after = done.last_key.clone();
        if copy.exhausted {
            copy.seat = None;
        }
    }

    /// A chunk is acknowledged.
    pub fn acked(&mut self, done: &ChunkDone) -> Acked {
        let Some(copy) = self.tables.get_mut(done.table) else { return Acked::Stale };
        if done.ask < copy.first_ask || copy.state.done {
            return Acked::Stale;
        }
        copy.unacked = copy.unacked.saturating_sub(1);
        copy.state.rows += done.rows;
        copy.state.last_key = done.last_key.clone();
        if done.last_key.is_some() { Acked::Further } else { Acked::Last }
    }

    /// No copy is under way any more.
    pub fn finish(&mut self, table: usize) {
        let next = self.next_ask;
        if let Some(copy) = self.tables.get_mut(table) {
            copy.state.done = true;
            (copy.state.last_key, copy.state.sweep_below, copy.state.range) = (None, None, KeyRange::default());
            copy.state.paused = false;
            (copy.asked, copy.seat, copy.exhausted, copy.first_ask) = (None, None, false, next);
        }
    }
}

/// How far a copy has come: percent, and seconds left where that can be told.
pub fn progress(rows: u64, rows_estimate: i64, done: bool, rows_a_second: f64) -> (u8, Option<u64>) {
    if done {
        return (100, Some(0));
    }
    let estimate = u64::try_from(rows_estimate).unwrap_or(0);
    if estimate == 0 {
        return (0, None);
    }
    // The estimate may be too low: 100 is for copies that are done.
    let percent = u8::try_from((rows.saturating_mul(100) / estimate).min(99)).unwrap_or(99);
    let left = estimate.saturating_sub(rows);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
    let seconds = (rows_a_second > 0.0).then(|| (left as f64 / rows_a_second).ceil() as u64);
    (percent, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(tables: usize, seats: usize) -> Copies {
        let mut copies = Copies::new(seats);
        (0..tables).for_each(|_| copies.add(TableState::default(), true));
        copies
    }

    fn done(ask: &Ask, last_key: Option<&str>) -> ChunkDone {
        ChunkDone { table: ask.table, ask: ask.ask, rows: 5, last_key: last_key.map(|key| vec![key.to_owned()]) }
    }

    fn tables(asks: &[Ask]) -> Vec<(usize, usize)> {
        asks.iter().map(|ask| (ask.table, ask.seat)).collect()
    }

    #[test]
    fn so_many_tables_are_copied_side_by_side_as_there_are_seats() {
        let mut copies = copies(3, 2);
        let asks = copies.asks();
        assert_eq!(tables(&asks), [(0, 0), (1, 1)]);
        assert!(copies.asks().is_empty());
        copies.merged(&done(&asks[0], Some("5")));
        let next = copies.asks();
        assert_eq!((tables(&next), &next[0].after), (vec![(0, 0)], &Some(vec!["5".to_owned()])));
        copies.merged(&done(&next[0], Some("9")));
        assert!(copies.asks().is_empty(), "two chunks are not acknowledged");
        copies.acked(&done(&asks[0], Some("5")));
        assert_eq!(tables(&copies.asks()), [(0, 0)]);
        copies.merged(&done(&asks[1], None));
        assert_eq!(tables(&copies.asks()), [(2, 1)]);
    }

    #[test]
    fn a_copy_is_done_when_its_last_chunk_is_acknowledged() {
        let mut copies = copies(1, 1);
        let first = copies.asks().remove(0);
        copies.merged(&done(&first, Some("5")));
        assert_eq!(copies.acked(&done(&first, Some("5"))), Acked::Further);
        let second = copies.asks().remove(0);
        assert_eq!(copies.retake(0), 1);
        let again = copies.asks().remove(0);
        assert_eq!((&again.after, again.tries), (&second.after, 1));
        assert!(!copies.is_asked(0, second.ask) && copies.is_asked(0, again.ask));
        let last = ChunkDone { ask: again.ask, ..done(&second, None) };
        copies.merged(&last);
        assert!(copies.asks().is_empty());
        assert_eq!(copies.acked(&last), Acked::Last);
        copies.finish(0);
        assert!(copies.get(0).unwrap().state.done && copies.asks().is_empty());
    }

    #[test]
    fn what_belongs_to_an_earlier_copy_is_stale() {
        let mut copies = copies(1, 1);
        let old = copies.asks().remove(0);
        copies.merged(&done(&old, Some("5")));
        copies.begin(0, KeyRange::default(), None);
        assert_eq!(copies.acked(&done(&old, Some("5"))), Acked::Stale);
        let state = &copies.get(0).unwrap().state;
        assert_eq!((state.rows, &state.last_key, state.done), (0, &None, false));
        assert_eq!(copies.asks()[0].after, None);
    }

    #[test]
    fn a_paused_copy_gives_its_seat_away_and_goes_on_where_it_stopped() {
        let mut copies = copies(2, 1);
        let first = copies.asks().remove(0);
        copies.merged(&done(&first, Some("5")));
        copies.set_paused(0, true);
        let other = copies.asks();
        assert_eq!(tables(&other), [(1, 0)]);
        copies.merged(&done(&other[0], None));
        copies.set_paused(0, false);
        assert_eq!(copies.asks()[0].after, Some(vec!["5".to_owned()]));
        copies.set_carried(0, false);
        assert!(copies.asks().is_empty());
    }

    #[test]
    fn progress_is_by_the_estimate_and_never_whole_before_the_end() {
        assert_eq!(progress(50, 200, false, 10.0), (25, Some(15)));
        assert_eq!(progress(500, 200, false, 10.0), (99, Some(0)));
        assert_eq!(progress(5, 0, false, 10.0), (0, None));
        assert_eq!(progress(5, 0, true, 0.0), (100, Some(0)));
    }
}
