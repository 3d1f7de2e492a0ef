//! What cleaning is: a row in, the row with its new columns or a rejection out. A pure function of the row, the rules and the time.

use std::ops::Range;

use shared::record::dead_letter::Rejection;
use shared::record::form::Forms;
use shared::record::row::{Extend, Field, Fields};

use crate::action::{Done, Fault, MISSING_COLUMN, Slot, View, missing};
use crate::plan::{Plan, Rule};
use crate::rule::{Absent, OnFail};

/// What became of the rows at one rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub rejected: u64,
    pub marked: u64,
    pub defaulted: u64,
}

/// A place to work in, used for one row after the other, so that a row costs no memory of its own.
#[derive(Debug)]
pub struct Desk {
    forms: Forms,
    /// Values that rules made, by slot, as places in `text`.
    made: Vec<Option<Range<usize>>>,
    text: Vec<u8>,
    output: Vec<u8>,
    spelling: String,
    /// Rules that the row failed and that mark.
    marks: Vec<usize>,
    /// By rule, since it was last taken.
    tallies: Vec<Tally>,
    rows: u64,
}

impl Desk {
    /// For the rows of one topic, and for this plan only.
    pub fn new(plan: &Plan) -> Self {
        Desk {
            forms: Forms::new(plan.columns.clone()),
            made: Vec::new(),
            text: Vec::new(),
            output: Vec::new(),
            spelling: String::new(),
            marks: Vec::new(),
            tallies: Vec::new(),
            rows: 0,
        }
    }

    fn clear(&mut self, plan: &Plan) {
        self.made.clear();
        self.made.resize(plan.columns.names().len(), None);
        self.text.clear();
        self.marks.clear();
        self.tallies.resize(plan.rules.len(), Tally::default());
        self.rows += 1;
    }

    fn put(&mut self, slot: Slot, json: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(json);
        if let Some(made) = self.made.get_mut(slot) {
            *made = Some(start..self.text.len());
        }
    }

    /// How many rows the rules saw since the last call, and what became of them at each rule.
    pub fn take_tallies(&mut self) -> (u64, Vec<Tally>) {
        (std::mem::take(&mut self.rows), std::mem::take(&mut self.tallies))
    }
}

/// Sees each rule at work.
pub trait Watch {
    fn before(&mut self, rule: &Rule, view: &View<'_>);
    /// `made` is the value that the column at the rule's target has now, where it changed.
    fn after(&mut self, rule: &Rule, outcome: &Result<Done, Fault>, made: Option<&[u8]>);
}

/// Nobody looks.
pub struct Unwatched;

impl Watch for Unwatched {
    fn before(&mut self, _: &Rule, _: &View<'_>) {}
    fn after(&mut self, _: &Rule, _: &Result<Done, Fault>, _: Option<&[u8]>) {}
}

/// A row that passed.
pub struct Cleaned<'s> {
    plan: &'s Plan,
    row: &'s [u8],
    fields: Fields<'s>,
    desk: &'s Desk,
}

impl Plan {
    /// Does all rules to a row, in their order.
    pub fn clean<'s>(
        &'s self,
        row: &'s [u8],
        now: &str,
        desk: &'s mut Desk,
        watch: &mut impl Watch,
    ) -> Result<Cleaned<'s>, Rejection> {
        desk.clear(self);
        let read = desk.forms.read(row, None).map_err(|error| Rejection::new(error.reason(), error.to_string()))?;
        let fields = read.fields;
        self.nothing_is_taken(&fields)?;
        for (number, rule) in self.rules.iter().enumerate() {
            self.apply(number, rule, &fields, now, desk, watch)?;
        }
        if let Some(slot) = self.marks {
            let marks = self.marks_of(desk);
            desk.put(slot, &marks);
        }
        Ok(Cleaned { plan: self, row, fields, desk })
    }

    fn nothing_is_taken(&self, fields: &Fields<'_>) -> Result<(), Rejection> {
        match self.added.iter().find(|slot| fields.get(**slot).is_some()) {
            None => Ok(()),
            Some(&slot) => {
                let name = self.column(slot);
                let detail = format!("the row already has a column `{name}`, which this stage would add");
                Err(Rejection { column: Some(name.to_owned()), ..Rejection::new("column_taken", detail) })
            }
        }
    }

    fn apply(
        &self,
        number: usize,
        rule: &Rule,
        fields: &Fields<'_>,
        now: &str,
        desk: &mut Desk,
        watch: &mut impl Watch,
    ) -> Result<(), Rejection> {
        let Desk { made, text, output, spelling, .. } = desk;
        let view = View { fields, made, text, now };
        watch.before(rule, &view);
        output.clear();
        let absent = rule.reads.iter().find(|slot| rule.absent == Absent::Reject && view.get(**slot).is_none());
        let outcome = match absent {
            Some(&slot) => Err(missing(slot)),
            None => rule.action.apply(&view, output, spelling),
        };
        let output = std::mem::take(&mut desk.output);
        let decided = match &outcome {
            Ok(Done::Passed) => Ok(None),
            Ok(Done::Made) => Ok(Some(output.as_slice())),
            Err(fault) => rule.failed(fault, &output),
        };
        let is_rejected = decided.is_err();
        let put = decided.unwrap_or_default();
        if let Some(json) = put {
            desk.put(rule.target, json);
        }
        watch.after(rule, &outcome, put);
        desk.output = output;
        match outcome {
            Ok(_) => Ok(()),
            Err(fault) => self.count(number, rule, &fault, is_rejected, desk),
        }
    }

    fn count(
        &self,
        number: usize,
        rule: &Rule,
        fault: &Fault,
        is_rejected: bool,
        desk: &mut Desk,
    ) -> Result<(), Rejection> {
        let mut nowhere = Tally::default();
        let tally = desk.tallies.get_mut(number).unwrap_or(&mut nowhere);
        if is_rejected {
            tally.rejected += 1;
            return Err(self.rejection(rule, fault));
        }
        match rule.on_fail {
            OnFail::Mark => {
                tally.marked += 1;
                desk.marks.push(number);
            }
            OnFail::Default | OnFail::Reject => tally.defaulted += 1,
        }
        Ok(())
    }

    fn rejection(&self, rule: &Rule, fault: &Fault) -> Rejection {
        let column = self.column(fault.slot).to_owned();
        let detail = format!("rule `{}`: column `{column}` {}", rule.name, fault.words);
        Rejection { rule: Some(rule.name.clone()), column: Some(column), ..Rejection::new(fault.reason, detail) }
    }

    /// `"one,another"`. Names of rules need no escaping.
    fn marks_of(&self, desk: &Desk) -> Vec<u8> {
        let names: Vec<&str> =
            desk.marks.iter().filter_map(|number| Some(self.rules.get(*number)?.name.as_str())).collect();
        format!("\"{}\"", names.join(",")).into_bytes()
    }
}

impl Rule {
    /// What a row that failed goes on with: a value for the target, or none. `Err`: it does not go on.
    fn failed<'a>(&'a self, fault: &Fault, output: &'a [u8]) -> Result<Option<&'a [u8]>, ()> {
        if fault.reason == MISSING_COLUMN {
            return Err(());
        }
        match self.on_fail {
            OnFail::Reject => Err(()),
            // A value that could not be made is none; a value that was looked at stays.
            OnFail::Mark => Ok(self.makes.then_some(b"null")),
            OnFail::Default => match &self.default {
                Some(default) => Ok(Some(default)),
                None if fault.has_right_value => Ok(Some(output)),
                None => Err(()),
            },
        }
    }
}

impl Cleaned<'_> {
    fn made(&self, slot: Slot) -> Option<&[u8]> {
        self.desk.text.get(self.desk.made.get(slot)?.clone()?)
    }

    /// Appends the row: its own bytes, with the values that were replaced, then the new columns.
    pub fn write(&self, out: &mut Vec<u8>) {
        let changed = || self.plan.changed.iter().copied();
        let replaced: Vec<(Field<'_>, &[u8])> =
            changed().filter_map(|slot| Some((self.fields.get(slot)?, self.made(slot)?))).collect();
        let mut row = match replaced.is_empty() {
            true => Extend::row(self.row, out),
            false => Extend::row_with(self.row, &replaced, out),
        };
        // A column that the row lacked and a default filled comes first.
        let lacked = changed().filter(|slot| self.fields.get(*slot).is_none());
        for slot in lacked.chain(self.plan.added.iter().copied()) {
            if let (Some(name), Some(json)) = (self.plan.rendered.get(slot), self.made(slot)) {
                row.rendered(name, json);
            }
        }
        row.end();
    }
}

#[cfg(test)]
mod tests;
