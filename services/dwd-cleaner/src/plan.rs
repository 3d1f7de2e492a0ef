//! The rules of the settings, held against each other once and made ready for many rows: names of columns become indexes.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use regex::Regex;
use shared::config::Secret;
use shared::failure::{Failure, FailureKind};
use shared::record::row::{Columns, rendered_name, write_string};

use crate::action::{Action, Limit, Slot, Term, names};
use crate::decimal::Decimal;
use crate::fold::Fold;
use crate::moment::{Place, Zones};
use crate::personal::{HASH_DIGITS, HASH_DIGITS_MIN, Hasher, KEY_BYTES_MIN, Mask};
use crate::rule::{Absent, Kind, OnFail, RuleConfig};

/// A rule, ready.
#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub kind: &'static str,
    pub action: Action,
    /// The columns that it reads.
    pub reads: Vec<Slot>,
    /// A rule before may have made one of them.
    pub reads_made: bool,
    /// The column that it adds or changes; for a check the one that a default replaces.
    pub target: Slot,
    /// It makes a value; a check only looks.
    pub makes: bool,
    /// What it makes is a new column.
    pub adds: bool,
    pub on_fail: OnFail,
    /// JSON.
    pub default: Option<Box<[u8]>>,
    pub absent: Absent,
}

impl Rule {
    /// The column that has another value behind it, on some rows.
    fn changes(&self) -> Option<Slot> {
        (self.makes || self.on_fail == OnFail::Default).then_some(self.target)
    }
}

/// All rules, in their order.
#[derive(Debug)]
pub struct Plan {
    pub rules: Vec<Rule>,
    /// Every column that a rule reads or adds, by slot.
    pub columns: Columns,
    /// Their names as they stand in a row, by slot.
    pub rendered: Vec<Box<[u8]>>,
    /// The columns that are added, in their order.
    pub added: Vec<Slot>,
    /// The columns of the row that a rule may change.
    pub changed: Vec<Slot>,
    /// The column that names the failed rules, where any rule marks.
    pub marks: Option<Slot>,
}

/// What the rules need beside themselves.
pub struct Surroundings<'a> {
    pub marks_column: &'a str,
    pub hash_key: &'a Secret,
}

impl Plan {
    /// Holds the rules against each other. The failure names the rule, and says what to do.
    pub fn new(rules: &[RuleConfig], surroundings: &Surroundings<'_>) -> Result<Self, Failure> {
        let mut making = Making { names: Vec::new(), sources: HashMap::new(), added: Vec::new(), surroundings };
        let mut ready: Vec<Rule> = Vec::new();
        for config in rules {
            name_is_right(config, &ready)?;
            ready.push(making.rule(config, &ready)?);
        }
        let marking = ready.iter().find(|rule| rule.on_fail == OnFail::Mark).map(|rule| rule.name.clone());
        let marks = marking.map(|rule| making.add(surroundings.marks_column, &rule)).transpose()?;
        let mut changed: Vec<Slot> = ready.iter().filter_map(Rule::changes).collect();
        changed.sort_unstable();
        changed.dedup();
        changed.retain(|slot| !making.added.contains(slot));
        let rendered = making.names.iter().map(|name| rendered_name(name)).collect();
        let columns = Columns::new(&making.names);
        Ok(Plan { rules: ready, columns, rendered, added: making.added, changed, marks })
    }

    pub fn column(&self, slot: Slot) -> &str {
        self.columns.names().get(slot).map_or("", String::as_str)
    }
}

fn problem(rule: &str, what: impl std::fmt::Display, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, format!("rule `{rule}`: {what}")).cure(cure)
}

fn name_is_right(config: &RuleConfig, before: &[Rule]) -> Result<(), Failure> {
    let is_right = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    if config.name.is_empty() || !config.name.chars().all(is_right) {
        return Err(problem(&config.name, "that is no name for a rule", "use letters, digits, _ and -"));
    }
    if before.iter().any(|rule| rule.name == config.name) {
        return Err(problem(&config.name, "there are two rules of this name", "give each a name of its own"));
    }
    Ok(())
}

/// The plan while it is made.
struct Making<'a> {
    names: Vec<String>,
    /// The rule that adds the column at a slot; the others come with the row.
    sources: HashMap<Slot, String>,
    added: Vec<Slot>,
    surroundings: &'a Surroundings<'a>,
}

impl Making<'_> {
    fn slot(&self, name: &str) -> Option<Slot> {
        self.names.iter().position(|known| known == name)
    }

    /// A column that is read: of the row, or added by a rule before.
    fn read(&mut self, name: &str) -> Slot {
        self.slot(name).unwrap_or_else(|| self.push(name))
    }

    fn push(&mut self, name: &str) -> Slot {
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    /// A column that the rule adds.
    fn add(&mut self, name: &str, rule: &str) -> Result<Slot, Failure> {
        let known = self.slot(name);
        if let Some(other) = known.and_then(|slot| self.sources.get(&slot)) {
            let what = format!("column `{name}` is added by rule `{other}` already");
            return Err(problem(rule, what, "choose another name for one of them"));
        }
        if known.is_some() {
            let what = format!("column `{name}` is added here, but a rule before reads it");
            return Err(problem(
                rule,
                what,
                "put this rule before that one, or choose another name: a column of the row is never added",
            ));
        }
        if name.is_empty() {
            return Err(problem(rule, "a column without a name would be added", "name it"));
        }
        let slot = self.push(name);
        self.sources.insert(slot, rule.to_owned());
        self.added.push(slot);
        Ok(slot)
    }

    fn rule(&mut self, config: &RuleConfig, before: &[Rule]) -> Result<Rule, Failure> {
        let name = config.name.as_str();
        let (reads, action) = self.action(name, &config.kind)?;
        let (makes, target) = match &config.kind {
            Kind::Map { to, .. }
            | Kind::Amount { to, .. }
            | Kind::Date { to, .. }
            | Kind::Hour { to, .. }
            | Kind::Band { to, .. }
            | Kind::Now { to } => (true, self.add(to, name)?),
            Kind::Fold { to: Some(to), .. } | Kind::Hash { to: Some(to), .. } | Kind::Mask { to: Some(to), .. } => {
                (true, self.add(to, name)?)
            }
            Kind::Fold { .. } | Kind::Hash { .. } | Kind::Mask { .. } => (true, first(&reads)),
            _ => (false, first(&reads)),
        };
        let (on_fail, absent, kind) = (config.on_fail, config.absent, config.kind.name());
        let default = default(config, &action)?;
        let adds = makes && self.sources.get(&target).is_some_and(|source| source == name);
        let reads_made = before.iter().filter_map(Rule::changes).any(|made| reads.contains(&made));
        Ok(Rule {
            name: name.to_owned(),
            kind,
            action,
            reads,
            reads_made,
            target,
            makes,
            adds,
            on_fail,
            default,
            absent,
        })
    }

    /// The columns that are read, the rule's own first, and what is done.
    fn action(&mut self, rule: &str, kind: &Kind) -> Result<(Vec<Slot>, Action), Failure> {
        let of = match kind {
            Kind::Now { .. } => return Ok((Vec::new(), Action::Now)),
            Kind::Map { column, .. }
            | Kind::Fold { column, .. }
            | Kind::Amount { column, .. }
            | Kind::Date { column, .. }
            | Kind::Hour { column, .. }
            | Kind::Band { column, .. }
            | Kind::Hash { column, .. }
            | Kind::Mask { column, .. }
            | Kind::Required { column, .. }
            | Kind::Range { column, .. }
            | Kind::Set { column, .. }
            | Kind::Pattern { column, .. }
            | Kind::Product { column, .. }
            | Kind::Sum { column, .. }
            | Kind::Compare { column, .. } => self.read(column),
        };
        let mut reads = vec![of];
        let action = match kind {
            Kind::Now { .. } => Action::Now,
            Kind::Map { values, fold, .. } => {
                let values = values.iter().map(|(name, value)| (name.clone(), value.json()));
                Action::Map {
                    from: of,
                    names: names(values, Fold::of(fold)).map_err(|pair| folds_into_one(rule, &pair))?,
                }
            }
            Kind::Fold { fold, .. } if fold.is_empty() => {
                return Err(problem(rule, "fold is empty", "name what does not count: \"width\", \"blank\", \"case\""));
            }
            Kind::Fold { fold, .. } => Action::Fold { from: of, fold: Fold::of(fold) },
            Kind::Amount { currency, decimals_min, decimals_max, .. } => {
                amount(rule, of, currency, *decimals_min, *decimals_max)?
            }
            Kind::Date { assume_zone, zone, .. } => Action::Date { from: of, zones: zones(rule, assume_zone, zone)? },
            Kind::Hour { assume_zone, zone, .. } => Action::Hour { from: of, zones: zones(rule, assume_zone, zone)? },
            Kind::Band { bands, .. } => {
                let bands: Vec<_> = bands.iter().map(|band| (band.below, band.value.json())).collect();
                bands_ascend(rule, &bands)?;
                Action::Band { from: of, bands }
            }
            Kind::Hash { hex_digits, .. } => Action::Hash { from: of, hasher: self.hasher(rule, *hex_digits)? },
            Kind::Mask { keep_first, keep_last, keep_from, mask, .. } => {
                let (keep_from, mask) = (keep_from.clone(), mask.clone());
                let mask = Mask { keep_first: *keep_first, keep_last: *keep_last, keep_from, mask };
                Action::Mask { from: of, mask }
            }
            Kind::Required { blank, .. } => Action::Required { of, blank: *blank },
            Kind::Range { min, max, .. } => {
                let bound = |text: Option<&String>| text.map(|text| limit(rule, text)).transpose();
                let (min, max) = (bound(min.as_ref().map(|min| &min.0))?, bound(max.as_ref().map(|max| &max.0))?);
                range_is_right(rule, min, max)?;
                Action::Range { of, min, max }
            }
            Kind::Set { values, fold, .. } => {
                let values = values.iter().map(|value| (value.text().to_owned(), ()));
                Action::Set { of, names: names(values, Fold::of(fold)).map_err(|pair| folds_into_one(rule, &pair))? }
            }
            Kind::Pattern { pattern, .. } => Action::Pattern { of, pattern: whole(rule, pattern)? },
            Kind::Product { factors, tolerance, .. } => {
                let factors: Vec<Slot> = factors.iter().map(|factor| self.read(factor)).collect();
                reads.extend(&factors);
                Action::Product { of, factors, tolerance: *tolerance }
            }
            Kind::Sum { terms, tolerance, .. } => {
                let terms: Vec<Term> = terms.iter().map(|term| self.term(term)).collect();
                reads.extend(terms.iter().map(|term| term.slot));
                Action::Sum { of, terms, tolerance: *tolerance }
            }
            Kind::Compare { is, other, .. } => {
                let other = self.read(other);
                reads.push(other);
                Action::Compare { of, is: *is, other }
            }
        };
        if reads.len() < 2 && matches!(kind, Kind::Product { .. } | Kind::Sum { .. }) {
            return Err(problem(rule, "no other column is named", "name at least one in factors or terms"));
        }
        Ok((reads, action))
    }

    fn term(&mut self, term: &str) -> Term {
        match term.strip_prefix('-') {
            Some(name) => Term { slot: self.read(name), is_taken_away: true },
            None => Term { slot: self.read(term), is_taken_away: false },
        }
    }

    fn hasher(&self, rule: &str, hex_digits: Option<usize>) -> Result<Hasher, Failure> {
        let digits = hex_digits.unwrap_or(HASH_DIGITS);
        if !(HASH_DIGITS_MIN..=HASH_DIGITS).contains(&digits) {
            let what = format!("hex_digits is {digits}");
            return Err(problem(rule, what, format!("set {HASH_DIGITS_MIN} to {HASH_DIGITS}")));
        }
        let key = self.surroundings.hash_key.reveal();
        if key.len() < KEY_BYTES_MIN {
            let what = "it needs a secret key, or every phone number could be tried out";
            let cure = format!(
                "set personal.hash_key, at least {KEY_BYTES_MIN} bytes, best in DWD_CLEANER__PERSONAL__HASH_KEY"
            );
            return Err(problem(rule, what, cure));
        }
        Hasher::new(key, digits).ok_or_else(|| problem(rule, "personal.hash_key is no key", "set another one"))
    }
}

fn first(reads: &[Slot]) -> Slot {
    reads.first().copied().unwrap_or_default()
}

/// The default as JSON: a number where the rule is about numbers.
fn default(config: &RuleConfig, action: &Action) -> Result<Option<Box<[u8]>>, Failure> {
    let name = &config.name;
    let knows_right_value = match action {
        Action::Product { .. } | Action::Sum { .. } => true,
        Action::Compare { is, .. } => is.holds_for_equals(),
        _ => false,
    };
    match (config.on_fail, &config.default) {
        (OnFail::Default, None) if !knows_right_value => {
            Err(problem(name, "on_fail is \"default\", but there is none", "set default"))
        }
        (OnFail::Reject | OnFail::Mark, Some(_)) => {
            Err(problem(name, "it has a default that nothing uses", "set on_fail = \"default\", or leave default out"))
        }
        (_, None) => Ok(None),
        (OnFail::Default, Some(value)) => {
            let is_of_numbers = match action {
                Action::Range { min, max, .. } => matches!(min.or(*max), Some(Limit::Number(_))),
                Action::Product { .. } | Action::Sum { .. } => true,
                _ => false,
            };
            match is_of_numbers {
                true if Decimal::parse(value.text()).is_none() => {
                    Err(problem(name, "the default is no number, and the column is one", "correct the default"))
                }
                true => Ok(Some(value.text().as_bytes().into())),
                false => Ok(Some(value.json())),
            }
        }
    }
}

fn folds_into_one(rule: &str, (one, other): &(String, String)) -> Failure {
    let what = format!("\"{one}\" and \"{other}\" are one name when they are folded, but mean different things");
    problem(rule, what, "leave one of them out")
}

fn amount(rule: &str, from: Slot, currency: &str, min: usize, max: Option<u32>) -> Result<Action, Failure> {
    const DECIMALS: usize = 38;
    if min > DECIMALS || max.is_some_and(|max| (max as usize) < min || max as usize > DECIMALS) {
        let cure = format!("set decimals_min <= decimals_max <= {DECIMALS}");
        return Err(problem(rule, "the decimals contradict each other", cure));
    }
    let mut begun = Vec::new();
    write_string(currency, &mut begun);
    begun.pop();
    Ok(Action::Amount { from, currency: begun.into(), decimals_min: min, decimals_max: max })
}

fn zones(rule: &str, assumed: &Option<String>, target: &Option<String>) -> Result<Option<Zones>, Failure> {
    let zone = |name: &String| {
        TimeZone::get(name).map_err(|error| {
            problem(
                rule,
                format!("there is no time zone `{name}`"),
                "name one of the IANA time zones: Asia/Shanghai, UTC",
            )
            .caused_by(error)
        })
    };
    match (assumed, target) {
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(problem(rule, "assume_zone is set, but not zone", "set zone: the one in which date and hour are told"))
        }
        (assumed, Some(target)) => {
            Ok(Some(Zones { assumed: assumed.as_ref().map(zone).transpose()?, target: zone(target)? }))
        }
    }
}

/// Each band begins where the one before ends, and nothing comes behind the one that takes the rest.
fn bands_ascend(rule: &str, bands: &[(Option<Decimal>, Box<[u8]>)]) -> Result<(), Failure> {
    let ascend = |pair: &[(Option<Decimal>, Box<[u8]>)]| match pair {
        [(Some(low), _), (Some(high), _)] => low < high,
        [(Some(_), _), (None, _)] => true,
        _ => false,
    };
    if bands.is_empty() {
        return Err(problem(
            rule,
            "it has no bands",
            "name them: bands = [{ below = \"100\", value = \"low\" }, { value = \"high\" }]",
        ));
    }
    match bands.windows(2).all(ascend) {
        true => Ok(()),
        false => Err(problem(rule, "the bands do not ascend", "order them by below; one without below stands last")),
    }
}

fn limit(rule: &str, text: &str) -> Result<Limit, Failure> {
    let number = || Decimal::parse(text).map(Limit::Number);
    let time = || Place::parse(text).map(|(place, has_zone)| Limit::Time(place, has_zone));
    number().or_else(time).ok_or_else(|| {
        problem(
            rule,
            format!("\"{text}\" is neither a number nor a time"),
            "write \"99.99\", \"2025-07-11\" or \"2025-07-11 00:00:00Z\"",
        )
    })
}

fn range_is_right(rule: &str, min: Option<Limit>, max: Option<Limit>) -> Result<(), Failure> {
    match (min, max) {
        (None, None) => Err(problem(rule, "it has no bound", "set min, max or both")),
        (Some(Limit::Number(min)), Some(Limit::Number(max))) if min > max => {
            Err(problem(rule, "min is above max", "correct one of them"))
        }
        (Some(Limit::Time(min, _)), Some(Limit::Time(max, _))) if min > max => {
            Err(problem(rule, "min is behind max", "correct one of them"))
        }
        (Some(Limit::Number(_)), Some(Limit::Time(..))) | (Some(Limit::Time(..)), Some(Limit::Number(_))) => {
            Err(problem(rule, "one bound is a number, the other a time", "correct one of them"))
        }
        _ => Ok(()),
    }
}

/// The pattern is one of the whole value.
fn whole(rule: &str, pattern: &str) -> Result<Regex, Failure> {
    let refused = |error: regex::Error| {
        problem(rule, "the pattern cannot be read", "correct it; docs.rs/regex describes the syntax").caused_by(error)
    };
    // Alone first: a bracket too many would else close the group around it.
    Regex::new(pattern).map_err(refused)?;
    Regex::new(&format!("^(?:{pattern})$")).map_err(refused)
}
