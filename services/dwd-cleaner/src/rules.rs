//! What cleaning is: a row in, the row with its new columns or a rejection out. A pure function of the row, the rules and the time.

use shared::record::dead_letter::Rejection;
use shared::record::form::Forms;
use shared::record::row::{Extend, Field, Fields};

use crate::action::{Done, Fault, MISSING_COLUMN, Slot, View, missing};
use crate::made::Made;
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
    made: Made,
    /// What a rule makes that reads what others made.
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
            made: Made::default(),
            output: Vec::new(),
            spelling: String::new(),
            marks: Vec::new(),
            tallies: Vec::new(),
            rows: 0,
        }
    }

    fn clear(&mut self, plan: &Plan) {
        self.made.clear(plan.columns.names().len());
        self.marks.clear();
        self.tallies.resize(plan.rules.len(), Tally::default());
        self.rows += 1;
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
            let begun = desk.made.begin(self.rendered.get(slot).map(AsRef::as_ref));
            desk.made.value_is(&begun, &marks);
            desk.made.add(&begun, slot);
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
        watch.before(rule, &View { fields, made: Some(&desk.made), now });
        let name = self.rendered.get(rule.target).filter(|_| rule.adds);
        let begun = desk.made.begin(name.map(AsRef::as_ref));
        let outcome = rule.act(fields, now, desk);
        let next = match &outcome {
            Ok(Done::Passed) => Next::Unchanged,
            Ok(Done::Made) => Next::Made,
            Err(fault) => rule.failed(fault),
        };
        if let Next::Instead(json) = next {
            desk.made.value_is(&begun, json);
        }
        let is_put = matches!(next, Next::Made | Next::Instead(_));
        watch.after(rule, &outcome, is_put.then(|| desk.made.value(&begun)));
        match (is_put, rule.adds) {
            (false, _) => desk.made.discard(&begun),
            (true, true) => desk.made.add(&begun, rule.target),
            (true, false) => desk.made.change(&begun, rule.target),
        }
        match outcome {
            Ok(_) => Ok(()),
            Err(fault) => self.count(number, rule, &fault, matches!(next, Next::Rejected), desk),
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

/// How a row goes on behind a rule.
#[derive(Clone, Copy)]
enum Next<'r> {
    Rejected,
    /// The target is as it was.
    Unchanged,
    /// The target has the value that the rule made.
    Made,
    /// It has this one.
    Instead(&'r [u8]),
}

impl Rule {
    /// Does it; what it makes stands at the end of what was made.
    fn act(&self, fields: &Fields<'_>, now: &str, desk: &mut Desk) -> Result<Done, Fault> {
        let Desk { made, output, spelling, .. } = desk;
        if !self.reads_made {
            return self.act_on(&View { fields, made: None, now }, made.end(), spelling);
        }
        output.clear();
        let outcome = self.act_on(&View { fields, made: Some(made), now }, output, spelling);
        made.end().extend_from_slice(output);
        outcome
    }

    fn act_on(&self, view: &View<'_>, out: &mut Vec<u8>, spelling: &mut String) -> Result<Done, Fault> {
        let lacks = |slot: &&Slot| self.absent == Absent::Reject && view.get(**slot).is_none();
        match self.reads.iter().find(lacks) {
            Some(&slot) => Err(missing(slot)),
            None => self.action.apply(view, out, spelling),
        }
    }

    /// How a row that failed goes on.
    fn failed(&self, fault: &Fault) -> Next<'_> {
        if fault.reason == MISSING_COLUMN {
            return Next::Rejected;
        }
        match (self.on_fail, &self.default) {
            (OnFail::Reject, _) => Next::Rejected,
            // A value that could not be made is none; a value that was looked at stays.
            (OnFail::Mark, _) if self.makes => Next::Instead(b"null"),
            (OnFail::Mark, _) => Next::Unchanged,
            (OnFail::Default, Some(default)) => Next::Instead(default),
            (OnFail::Default, None) if fault.has_right_value => Next::Made,
            (OnFail::Default, None) => Next::Rejected,
        }
    }
}

impl Cleaned<'_> {
    /// Appends the row: its own bytes, with the values that were replaced, then the new columns.
    pub fn write(&self, out: &mut Vec<u8>) {
        let changed = || self.plan.changed.iter().copied();
        let replaced: Vec<(Field<'_>, &[u8])> =
            changed().filter_map(|slot| Some((self.fields.get(slot)?, self.desk.made.get(slot)?))).collect();
        let mut row = match replaced.is_empty() {
            true => Extend::row(self.row, out),
            false => Extend::row_with(self.row, &replaced, out),
        };
        // A column that the row lacked and a default filled comes first.
        let lacked = changed().filter(|slot| self.fields.get(*slot).is_none());
        for slot in lacked {
            if let (Some(name), Some(json)) = (self.plan.rendered.get(slot), self.desk.made.get(slot)) {
                row.rendered(name, json);
            }
        }
        row.columns(self.desk.made.columns());
        row.end();
    }
}

#[cfg(test)]
mod tests;
