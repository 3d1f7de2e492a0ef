//! What a rule does to one row: it reads columns, and answers a value, nothing, or what is wrong.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::Write as _;

use hashbrown::HashMap;
use regex::Regex;
use shared::record::row::{Field, Fields, write_string};

use crate::decimal::Decimal;
use crate::fold::Fold;
use crate::made::Made;
use crate::moment::{Moment, Place, Zones};
use crate::personal::{Hasher, Mask};
use crate::rule::Relation;

/// Index of a column in the plan.
pub type Slot = usize;

/// A row as the rules before left it.
pub struct View<'v> {
    pub fields: &'v Fields<'v>,
    /// What the rules before made; `None` where it does not matter.
    pub made: Option<&'v Made>,
    /// When the row is cleaned.
    pub now: &'v str,
}

impl<'v> View<'v> {
    /// The value; `None` where the row does not have the column.
    pub fn get(&self, slot: Slot) -> Option<Field<'v>> {
        let Some(json) = self.made.and_then(|made| made.get(slot)) else { return self.fields.get(slot) };
        // What a rule made is JSON text.
        Some(std::str::from_utf8(json).map_or(Field::NULL, Field::of))
    }

    /// The value; NULL where the row does not have the column.
    fn field(&self, slot: Slot) -> Field<'v> {
        self.get(slot).unwrap_or(Field::NULL)
    }
}

/// What is wrong with a row.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// A short fixed name.
    pub reason: &'static str,
    pub slot: Slot,
    /// What the column is or is not, without its value.
    pub words: Cow<'static, str>,
    /// The right value stands in the output.
    pub has_right_value: bool,
}

fn fault(reason: &'static str, slot: Slot, words: impl Into<Cow<'static, str>>) -> Fault {
    Fault { reason, slot, words: words.into(), has_right_value: false }
}

/// The reason of a column that the row does not have.
pub const MISSING_COLUMN: &str = "missing_column";

pub fn missing(slot: Slot) -> Fault {
    fault(MISSING_COLUMN, slot, "is missing")
}

fn wrong_type(slot: Slot, wanted: &'static str) -> Fault {
    fault("wrong_type", slot, wanted)
}

const NO_NUMBER: &str = "is not a decimal number of up to 38 digits";
const NO_TIME: &str = "is not a date and time";

/// How an action went well.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// The row is as it should be.
    Passed,
    /// The value is in the output, as JSON.
    Made,
}

/// A value among named ones, by spelling.
#[derive(Debug)]
pub struct Names<T> {
    /// As they are written, so that most rows need no folding.
    pub exact: HashMap<Box<str>, T>,
    pub folded: HashMap<Box<str>, T>,
    pub fold: Fold,
}

impl<T> Names<T> {
    fn get(&self, text: &str, spelling: &mut String) -> Option<&T> {
        if let Some(found) = self.exact.get(text) {
            return Some(found);
        }
        if self.fold.is_none() {
            return None;
        }
        spelling.clear();
        self.fold.append(text, spelling);
        self.folded.get(spelling.as_str())
    }
}

/// A bound of a range, and how it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Number(Decimal),
    Time(Place, Option<bool>),
}

/// A part of a sum.
#[derive(Debug, Clone, Copy)]
pub struct Term {
    pub slot: Slot,
    pub is_taken_away: bool,
}

/// The kinds of rules, ready to be used on many rows.
#[derive(Debug)]
pub enum Action {
    Map { from: Slot, names: Names<Box<[u8]>> },
    Fold { from: Slot, fold: Fold },
    Amount { from: Slot, currency: Box<[u8]>, decimals_min: usize, decimals_max: Option<u32> },
    Date { from: Slot, zones: Option<Zones> },
    Hour { from: Slot, zones: Option<Zones> },
    Band { from: Slot, bands: Vec<(Option<Decimal>, Box<[u8]>)> },
    Now,
    Hash { from: Slot, hasher: Hasher },
    Mask { from: Slot, mask: Mask },
    Required { of: Slot, blank: bool },
    Range { of: Slot, min: Option<Limit>, max: Option<Limit> },
    Set { of: Slot, names: Names<()> },
    Pattern { of: Slot, pattern: Regex },
    Product { of: Slot, factors: Vec<Slot>, tolerance: Option<Decimal> },
    Sum { of: Slot, terms: Vec<Term>, tolerance: Option<Decimal> },
    Compare { of: Slot, is: Relation, other: Slot },
}

impl Action {
    /// Does it to a row. A value is appended to `out` as JSON; `spelling` is a place to work in.
    pub fn apply(&self, view: &View<'_>, out: &mut Vec<u8>, spelling: &mut String) -> Result<Done, Fault> {
        match self {
            Action::Map { from, names } => map(*from, view, names, spelling, out),
            Action::Fold { from, fold } => {
                Ok(rewritten(view.field(*from), out, spelling, |text, new| fold.append(text, new)))
            }
            Action::Hash { from, hasher } => {
                Ok(rewritten(view.field(*from), out, spelling, |text, new| hasher.append(text, new)))
            }
            Action::Mask { from, mask } => {
                Ok(rewritten(view.field(*from), out, spelling, |text, new| mask.append(text, new)))
            }
            Action::Amount { from, currency, decimals_min, decimals_max } => {
                amount(*from, view.field(*from), currency, (*decimals_min, *decimals_max), out)
            }
            Action::Date { from, zones } => date(*from, view.field(*from), zones.as_ref(), out),
            Action::Hour { from, zones } => hour(*from, view.field(*from), zones.as_ref(), out),
            Action::Band { from, bands } => band(*from, view, bands, out),
            Action::Now => {
                write_string(view.now, out);
                Ok(Done::Made)
            }
            Action::Required { of, blank } => required(*of, view.field(*of), *blank),
            Action::Range { of, min, max } => range(*of, view.field(*of), *min, *max),
            Action::Set { of, names } => match view.field(*of).text() {
                Some(text) if names.get(&text, spelling).is_none() => {
                    Err(fault("not_in_set", *of, "is none of the values that the rule names"))
                }
                _ => Ok(Done::Passed),
            },
            Action::Pattern { of, pattern } => match view.field(*of).text() {
                Some(text) if !pattern.is_match(&text) => {
                    Err(fault("not_of_pattern", *of, "is not of the pattern that the rule names"))
                }
                _ => Ok(Done::Passed),
            },
            Action::Product { of, factors, tolerance } => {
                let product = |view: &View<'_>| {
                    let mut product = None;
                    for &slot in factors {
                        let Some(factor) = number(view, slot)? else { return Ok(None) };
                        let next = product.map_or(Some(factor), |product: Decimal| product.times(factor));
                        product = Some(next.ok_or_else(|| wrong_type(slot, "makes a product of more than 38 digits"))?);
                    }
                    Ok(product)
                };
                reckoned(*of, view, product(view)?, *tolerance, "is not the product of the others", out)
            }
            Action::Sum { of, terms, tolerance } => {
                let sum = |view: &View<'_>| {
                    let mut sum = Decimal::default();
                    for term in terms {
                        let Some(next) = number(view, term.slot)? else { return Ok(None) };
                        let next = if term.is_taken_away { sum.minus(next) } else { sum.plus(next) };
                        sum = next.ok_or_else(|| wrong_type(term.slot, "makes a sum of more than 38 digits"))?;
                    }
                    Ok(Some(sum))
                };
                reckoned(*of, view, sum(view)?, *tolerance, "is not the sum of the others", out)
            }
            Action::Compare { of, is, other } => compare(*of, view, *is, *other, out),
        }
    }
}

fn map(
    from: Slot,
    view: &View<'_>,
    names: &Names<Box<[u8]>>,
    spelling: &mut String,
    out: &mut Vec<u8>,
) -> Result<Done, Fault> {
    let field = view.field(from);
    let Some(text) = field.text() else { return Err(fault("not_in_map", from, "is NULL")) };
    match names.get(&text, spelling) {
        Some(value) => {
            out.extend_from_slice(value);
            Ok(Done::Made)
        }
        None => Err(fault("not_in_map", from, "is none of the values that the rule names")),
    }
}

/// A text by a function of the text; NULL stays NULL.
fn rewritten(
    field: Field<'_>,
    out: &mut Vec<u8>,
    spelling: &mut String,
    rewrite: impl FnOnce(&str, &mut String),
) -> Done {
    match field.text() {
        None => out.extend_from_slice(b"null"),
        Some(text) => {
            spelling.clear();
            rewrite(&text, spelling);
            write_string(spelling, out);
        }
    }
    Done::Made
}

/// The currency, which is the beginning of a JSON string (`"¥`), and the digits of the number as they are written, with as many behind the
/// point as are wanted.
fn amount(
    from: Slot,
    field: Field<'_>,
    currency: &[u8],
    (min, max): (usize, Option<u32>),
    out: &mut Vec<u8>,
) -> Result<Done, Fault> {
    if field.is_null() {
        out.extend_from_slice(b"null");
        return Ok(Done::Made);
    }
    let digits = field.raw();
    let decimals = decimals(digits.strip_prefix('-').unwrap_or(digits).as_bytes())
        .ok_or_else(|| wrong_type(from, "is not a decimal number"))?;
    out.extend_from_slice(currency);
    if let Some(max) = max.filter(|max| decimals > *max as usize) {
        let rounded = Decimal::parse(digits).ok_or_else(|| wrong_type(from, NO_NUMBER))?.rounded(max);
        // Writing to memory cannot fail.
        let _ = write!(out, "{}", rounded.with_scale(max.max(u32::try_from(min).unwrap_or(max))));
    } else {
        out.extend_from_slice(digits.as_bytes());
        if decimals == 0 && min > 0 {
            out.push(b'.');
        }
        out.extend(std::iter::repeat_n(b'0', min.saturating_sub(decimals)));
    }
    out.push(b'"');
    Ok(Done::Made)
}

/// How many digits stand behind the point; `None` for what is no plain number.
fn decimals(plain: &[u8]) -> Option<usize> {
    let mut point = None;
    for (at, letter) in plain.iter().enumerate() {
        match letter {
            b'0'..=b'9' => {}
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    Some(point.map_or(0, |point| plain.len() - point - 1))
}

/// The text of a column that should be a time; `None` for NULL.
fn time_text<'v>(from: Slot, field: Field<'v>) -> Result<Option<Cow<'v, str>>, Fault> {
    match field.text() {
        None => Ok(None),
        Some(text) if field.is_string() => Ok(Some(text)),
        Some(_) => Err(wrong_type(from, NO_TIME)),
    }
}

const NO_ZONE: &str =
    "is not a date and time with its zone, in the years 1 to 9999; assume_zone is for times without one";

fn date(from: Slot, field: Field<'_>, zones: Option<&Zones>, out: &mut Vec<u8>) -> Result<Done, Fault> {
    let Some(text) = time_text(from, field)? else {
        out.extend_from_slice(b"null");
        return Ok(Done::Made);
    };
    let moment = Moment::parse(&text).ok_or_else(|| wrong_type(from, NO_TIME))?;
    match zones {
        None => {
            let (date, era) = moment.date();
            [b"\"", date.as_bytes(), era.as_bytes(), b"\""].into_iter().for_each(|part| out.extend_from_slice(part));
        }
        Some(zones) => {
            let there = moment.in_zone(zones).ok_or_else(|| wrong_type(from, NO_ZONE))?;
            // Writing to memory cannot fail.
            let _ = write!(out, "\"{}\"", there.date());
        }
    }
    Ok(Done::Made)
}

fn hour(from: Slot, field: Field<'_>, zones: Option<&Zones>, out: &mut Vec<u8>) -> Result<Done, Fault> {
    let Some(text) = time_text(from, field)? else {
        out.extend_from_slice(b"null");
        return Ok(Done::Made);
    };
    let moment = Moment::parse(&text).ok_or_else(|| wrong_type(from, NO_TIME))?;
    let hour = match zones {
        None => moment.hour().ok_or_else(|| wrong_type(from, NO_TIME))?,
        Some(zones) => moment.in_zone(zones).ok_or_else(|| wrong_type(from, NO_ZONE))?.hour(),
    };
    out.extend_from_slice(itoa::Buffer::new().format(hour).as_bytes());
    Ok(Done::Made)
}

/// `None` for NULL.
fn number(view: &View<'_>, slot: Slot) -> Result<Option<Decimal>, Fault> {
    let field = view.field(slot);
    if field.is_null() {
        return Ok(None);
    }
    Decimal::parse(field.raw()).map(Some).ok_or_else(|| wrong_type(slot, NO_NUMBER))
}

fn band(from: Slot, view: &View<'_>, bands: &[(Option<Decimal>, Box<[u8]>)], out: &mut Vec<u8>) -> Result<Done, Fault> {
    let Some(number) = number(view, from)? else {
        out.extend_from_slice(b"null");
        return Ok(Done::Made);
    };
    match bands.iter().find(|(below, _)| below.is_none_or(|below| number < below)) {
        Some((_, value)) => {
            out.extend_from_slice(value);
            Ok(Done::Made)
        }
        None => Err(fault("in_no_band", from, "is above the last band")),
    }
}

fn required(of: Slot, field: Field<'_>, blank: bool) -> Result<Done, Fault> {
    if field.is_null() {
        return Err(fault("no_value", of, "is NULL"));
    }
    let is_blank = |text: Cow<'_, str>| text.chars().all(char::is_whitespace);
    if !blank && field.is_string() && field.text().is_some_and(is_blank) {
        return Err(fault("no_value", of, "is blank"));
    }
    Ok(Done::Passed)
}

fn range(of: Slot, field: Field<'_>, min: Option<Limit>, max: Option<Limit>) -> Result<Done, Fault> {
    if field.is_null() {
        return Ok(Done::Passed);
    }
    let value = limit(field).ok_or_else(|| wrong_type(of, "is neither a number nor a time"))?;
    let out_of_range = |limit: Option<Limit>, wrong: Ordering| match limit {
        None => Ok(false),
        Some(limit) => value
            .against(limit)
            .map(|found| found == wrong)
            .ok_or_else(|| wrong_type(of, "is of another type than the bound")),
    };
    if out_of_range(min, Ordering::Less)? || out_of_range(max, Ordering::Greater)? {
        return Err(fault("out_of_range", of, "is out of the range that the rule names"));
    }
    Ok(Done::Passed)
}

/// A value as it is compared; `None` for what is neither a number nor a time.
fn limit(field: Field<'_>) -> Option<Limit> {
    if !field.is_string() {
        return Decimal::parse(field.raw()).map(Limit::Number);
    }
    Place::parse(&field.text()?).map(|(place, has_zone)| Limit::Time(place, has_zone))
}

impl Limit {
    /// `None` where they cannot be compared.
    fn against(self, other: Limit) -> Option<Ordering> {
        match (self, other) {
            (Limit::Number(a), Limit::Number(b)) => Some(a.cmp(&b)),
            (Limit::Time(a, zone_a), Limit::Time(b, zone_b)) => {
                // Of two clocks that nobody has set against each other nothing can be said.
                (zone_a.is_none() || zone_b.is_none() || zone_a == zone_b).then(|| a.cmp(&b))
            }
            _ => None,
        }
    }
}

fn compare(of: Slot, view: &View<'_>, is: Relation, other: Slot, out: &mut Vec<u8>) -> Result<Done, Fault> {
    let (a, b) = (view.field(of), view.field(other));
    if a.is_null() || b.is_null() {
        return Ok(Done::Passed);
    }
    let ordered = limit(a).zip(limit(b)).and_then(|(a, b)| a.against(b));
    let holds = match (ordered, is) {
        (Some(found), Relation::Less) => found.is_lt(),
        (Some(found), Relation::LessOrEqual) => found.is_le(),
        (Some(found), Relation::Equal) => found.is_eq(),
        (Some(found), Relation::GreaterOrEqual) => found.is_ge(),
        (Some(found), Relation::Greater) => found.is_gt(),
        (Some(found), Relation::NotEqual) => found.is_ne(),
        (None, Relation::Equal) => a.text() == b.text(),
        (None, Relation::NotEqual) => a.text() != b.text(),
        (None, _) => {
            return Err(wrong_type(
                of,
                "cannot be compared with the other column: both must be numbers, or both times",
            ));
        }
    };
    if holds {
        return Ok(Done::Passed);
    }
    out.extend_from_slice(b.raw().as_bytes());
    let words = "does not stand to the other column as the rule says";
    Err(Fault { has_right_value: is.holds_for_equals(), ..fault("wrong_relation", of, words) })
}

/// Holds a column against what it must be by others. Whatever is NULL says nothing.
fn reckoned(
    of: Slot,
    view: &View<'_>,
    right: Option<Decimal>,
    tolerance: Option<Decimal>,
    words: &'static str,
    out: &mut Vec<u8>,
) -> Result<Done, Fault> {
    let (Some(found), Some(right)) = (number(view, of)?, right) else { return Ok(Done::Passed) };
    let is_near = |tolerance| found.minus(right).is_some_and(|difference| difference.magnitude() <= tolerance);
    if found == right || tolerance.is_some_and(is_near) {
        return Ok(Done::Passed);
    }
    // With as many digits behind the point as the column has.
    let _ = write!(out, "{}", right.with_scale(found.scale()));
    Err(Fault { has_right_value: true, ..fault("not_equal", of, words) })
}

/// The names of a set or a map, by their spellings; `Err` holds two that fold into one and mean different things.
pub fn names<T: Clone + PartialEq>(
    values: impl IntoIterator<Item = (String, T)>,
    fold: Fold,
) -> Result<Names<T>, (String, String)> {
    let mut names = Names { exact: HashMap::new(), folded: HashMap::new(), fold };
    let mut written: HashMap<Box<str>, String> = HashMap::new();
    for (name, value) in values {
        let mut folded = String::new();
        fold.append(&name, &mut folded);
        let folded: Box<str> = folded.into();
        if let Some(other) = names.folded.insert(folded.clone(), value.clone())
            && other != value
        {
            return Err((written.remove(&folded).unwrap_or_default(), name));
        }
        written.insert(folded, name.clone());
        names.exact.insert(name.into(), value);
    }
    Ok(names)
}
