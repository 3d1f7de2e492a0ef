//! All rounds in one: for people as Markdown, for programs as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::fault::Abilities;
use super::round::Outcome;

/// What all rounds came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command that makes a report like this.
    pub command: String,
    pub partitions: u32,
    pub rate: u32,
    pub abilities: Abilities,
    pub rounds: Vec<Outcome>,
}

impl Report {
    pub fn is_whole(&self) -> bool {
        self.rounds.iter().all(|round| round.verdict.is_clean())
    }

    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    fn faults(&self) -> BTreeMap<&str, u32> {
        let mut faults = BTreeMap::new();
        for (kind, count) in self.rounds.iter().flat_map(|round| &round.faults) {
            *faults.entry(kind.as_str()).or_default() += count;
        }
        faults
    }

    /// The page for `docs/`.
    pub fn markdown(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let seconds = self.sum(|round| round.seconds);
        let seeds: Vec<String> = self.rounds.iter().map(|round| round.seed.to_string()).collect();
        writeln!(page, "# Chaos: what was broken, and what came of it\n")?;
        writeln!(page, "```sh\n{}\n```\n", self.command)?;
        writeln!(
            page,
            "{} rounds, {} min {} s in all, seeds {}. {} partitions, two instances of each service, {} changes a second wanted at the source.\n",
            self.rounds.len(),
            seconds / 60,
            seconds % 60,
            seeds.join(", "),
            self.partitions,
            self.rate
        )?;
        self.write_verdict(page)?;
        self.write_faults(page)?;
        self.write_rounds(page)?;
        if !self.abilities.small_disk {
            writeln!(page, "Not tried here: a full disk of the sink, which wants root and a tmpfs.\n")?;
        }
        if !self.abilities.clock {
            writeln!(page, "Not tried here: the machine's clock, which is stepped with --step-clock only.\n")?;
        }
        Ok(())
    }

    fn write_verdict(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page, "| held against the source | |\n|---|---|")?;
        writeln!(
            page,
            "| changes committed at the source, as triggers wrote them down | {} |",
            self.sum(|round| round.verdict.changes)
        )?;
        for (name, count) in self.totals() {
            writeln!(page, "| {name} | {count} |")?;
        }
        writeln!(page)?;
        for round in self.rounds.iter().filter(|round| !round.verdict.is_clean()) {
            writeln!(page, "Seed {}:\n\n```text\n{}\n```\n", round.seed, round.verdict.in_words())?;
        }
        Ok(())
    }

    /// The verdicts' figures, added up.
    fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut totals: Vec<(&'static str, u64)> = Vec::new();
        for (name, count) in self.rounds.iter().flat_map(|round| round.verdict.figures()) {
            match totals.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => *total += count,
                None => totals.push((name, count)),
            }
        }
        totals
    }

    fn write_faults(&self, page: &mut String) -> std::fmt::Result {
        let pairs = self.sum(|round| u64::from(round.pairs));
        let episodes = self.sum(|round| u64::from(round.episodes));
        writeln!(page, "{episodes} episodes, {pairs} of them with two faults at a time.\n")?;
        writeln!(page, "| fault | times |\n|---|---|")?;
        for (kind, count) in self.faults() {
            writeln!(page, "| {kind} | {count} |")?;
        }
        writeln!(page)?;
        let mut phases = BTreeMap::new();
        for (phase, count) in self.rounds.iter().flat_map(|round| &round.phases) {
            *phases.entry(phase).or_insert(0) += count;
        }
        writeln!(page, "| phase | episodes |\n|---|---|")?;
        for (phase, count) in phases {
            writeln!(page, "| {phase} | {count} |")?;
        }
        writeln!(page)
    }

    fn write_rounds(&self, page: &mut String) -> std::fmt::Result {
        writeln!(
            page,
            "| seed | seconds | episodes | changes | processes ended by themselves | not ready within 20 s |\n|---|---|---|---|---|---|"
        )?;
        for round in &self.rounds {
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} |",
                round.seed,
                round.seconds,
                round.episodes,
                round.verdict.changes,
                round.ended.len(),
                round.not_ready.len()
            )?;
        }
        writeln!(page)
    }
}
