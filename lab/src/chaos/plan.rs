//! What is broken when: a pure function of the seed. Every fault comes in every phase before any comes twice in one.

use std::fmt;

use serde::Serialize;

use super::fault::{Abilities, Fault, every_fault};
use crate::random::Random;

/// What the system is doing when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It carries changes as they come.
    Live,
    /// A table is copied.
    Snapshot,
    /// All services were down under load and come up together.
    CatchingUp,
    /// An instance was asked to stop a moment ago.
    Draining,
    /// A user with many orders has changed.
    Reemitting,
}

impl Phase {
    pub const ALL: [Phase; 5] = [Phase::Live, Phase::Snapshot, Phase::CatchingUp, Phase::Draining, Phase::Reemitting];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Live => "live",
            Phase::Snapshot => "snapshot",
            Phase::CatchingUp => "catching up",
            Phase::Draining => "draining",
            Phase::Reemitting => "re-emitting",
        })
    }
}

/// One fault, or two, in a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Episode {
    pub phase: Phase,
    /// From the begin of the phase to the fault.
    pub after_ms: u64,
    pub fault: Fault,
    /// A second fault, so much later.
    pub second: Option<(u64, Fault)>,
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.fault)?;
        match &self.second {
            Some((after_ms, second)) => write!(f, ", and {after_ms} ms later {second}"),
            None => Ok(()),
        }
    }
}

/// Deals episodes for ever.
pub struct Plan {
    random: Random,
    faults: Vec<Fault>,
    deck: Vec<(Phase, Fault)>,
}

/// One in so many episodes has a second fault.
const PAIR_ONE_IN: usize = 2;

impl Plan {
    pub fn new(seed: u64, abilities: Abilities) -> Self {
        Plan { random: Random::seeded(seed), faults: every_fault(abilities), deck: Vec::new() }
    }

    fn shuffled_deck(&mut self) -> Vec<(Phase, Fault)> {
        let faults = &self.faults;
        let mut deck: Vec<_> =
            Phase::ALL.into_iter().flat_map(|phase| faults.iter().map(move |fault| (phase, fault.clone()))).collect();
        self.random.shuffle(&mut deck);
        deck
    }

    fn partner(&mut self, fault: &Fault) -> Option<Fault> {
        let partners: Vec<&Fault> = self.faults.iter().filter(|other| other.goes_with(fault)).collect();
        let at = self.random.below(partners.len());
        partners.get(at).copied().cloned()
    }
}

impl Iterator for Plan {
    type Item = Episode;

    fn next(&mut self) -> Option<Episode> {
        if self.deck.is_empty() {
            self.deck = self.shuffled_deck();
        }
        let (phase, fault) = self.deck.pop()?;
        let mut milliseconds = |below: usize| self.random.below(below) as u64;
        let (after_ms, second_after_ms) = (milliseconds(700), milliseconds(2_000));
        let second = if self.random.one_in(PAIR_ONE_IN) { self.partner(&fault) } else { None };
        Some(Episode { phase, after_ms, fault, second: second.map(|second| (second_after_ms, second)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: Abilities = Abilities { small_disk: true, clock: true };

    #[test]
    fn a_seed_makes_the_same_plan_again() {
        let plan = |seed| Plan::new(seed, ALL).take(50).collect::<Vec<_>>();
        assert_eq!(plan(5), plan(5));
        assert_ne!(plan(5), plan(6));
    }

    #[test]
    fn every_fault_comes_in_every_phase_before_any_comes_again() {
        let faults = every_fault(ALL).len();
        let episodes: Vec<Episode> = Plan::new(1, ALL).take(faults * Phase::ALL.len()).collect();
        let dealt: BTreeSet<String> = episodes.iter().map(|dealt| format!("{} {}", dealt.phase, dealt.fault)).collect();
        assert_eq!(dealt.len(), episodes.len());
        for Episode { fault, second, .. } in &episodes {
            assert!(second.as_ref().is_none_or(|(_, second)| second.goes_with(fault)), "{fault} {second:?}");
        }
        assert!(episodes.iter().any(|episode| episode.second.is_some()));
    }
}
