//! A pair from its first range to its last, and what differs judged and traced.

use std::collections::HashMap;
use std::time::Instant;

use shared::failure::Failure;
use shared::generation::Fate;
use shared::pg::{TableName, refused};
use shared::position::Lsn;
use shared::record::time;
use sqlx::postgres::PgConnection;

use super::capture;
use super::chain::Waiting;
use super::judge::{Case, Look, Verdict};
use super::lost::Place;
use super::pair::Pair;
use super::parts::{Cut, Key, Range, Side, Sides, differing};
use super::places::{PlaceFinder, Searched};
use super::report::{ColumnShown, Difference, KeyShown, Kind, Report};
use super::sides::{Connections, close};
use crate::checkpoint::Place as Offsets;
use crate::settings::Settings;

/// What is said while it goes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub rows: u64,
    pub ranges: u64,
    pub candidates: u64,
    pub differences: usize,
}

/// A comparison with its connections.
pub struct Comparison<'c> {
    pub settings: &'c Settings,
    pub pair: &'c Pair,
    pub source: PgConnection,
    pub sink: PgConnection,
    pub fate: &'c Fate,
    pub progress: Progress,
    /// Told of each range.
    pub watch: &'c mut dyn FnMut(&Pair, &Progress),
}

/// A row that differs, and where it got lost.
struct Differing {
    key: Key,
    look: Look,
    /// `None` where the topics could not tell.
    place: Option<Place>,
}

/// What is known so far.
#[derive(Default)]
struct Judged {
    changing: Vec<Key>,
    differences: Vec<Differing>,
    /// Why the topics could not tell.
    untold: Option<String>,
    cut_short: bool,
    /// The chain has brought the sink what the source had when the comparison began.
    has_waited: bool,
}

impl<'c> Comparison<'c> {
    /// Compares all rows. With `heal`, rows that differ are read again, and judged once more.
    pub async fn run(&mut self, heal: bool) -> Result<Report, Failure> {
        let (begin, started_at) = (Instant::now(), time::milliseconds(time::now()));
        capture::whole(&self.settings.reconcile.capture, &self.pair.source_table.to_string()).await?;
        self.sides().hash_alike().await?;
        let at = self.sides().source_rows(&[]).await?.1;
        let mut judged = Judged::default();
        let (source_rows, sink_rows) = self.walk(&mut judged).await?;
        // Where rows were looked at again, that waited for a later position.
        if !judged.has_waited {
            self.passed(at).await?;
        }
        let mut differences: Vec<Difference> = judged.differences.iter().map(|row| self.difference(row)).collect();
        if heal {
            self.heal(&judged.differences, &mut differences).await?;
        }
        Ok(Report {
            pair: self.pair.name.clone(),
            source_table: self.pair.source_table.to_string(),
            sink_table: self.pair.sink_table.to_string(),
            started_at,
            seconds: begin.elapsed().as_secs_f64(),
            position: at.to_string(),
            source_rows,
            sink_rows,
            ranges: self.progress.ranges,
            candidates: self.progress.candidates,
            changing: judged.changing.iter().map(|key| self.shown(key)).collect(),
            differences,
            untold: judged.untold,
            cut_short: judged.cut_short,
        })
    }

    fn sides(&mut self) -> Connections<'_> {
        Connections::new(&mut self.source, &mut self.sink, self.pair)
    }

    fn shown(&self, key: &Key) -> KeyShown {
        self.pair.key.iter().zip(key).map(|(column, value)| (column.name.clone(), value.clone())).collect()
    }

    async fn passed(&mut self, at: Lsn) -> Result<(), Failure> {
        let Settings { input, kafka, reconcile, .. } = self.settings;
        let tables = self.settings.labels_of(&input.topic);
        let place = Offsets { group: input.group.clone(), topic: input.topic.clone(), tables };
        let waiting = Waiting { config: &reconcile.chain, kafka, place: &place, fate: self.fate };
        waiting.passed(&mut self.source, &mut self.sink, at).await
    }

    /// Where rows that differ are searched for, if it is known.
    fn finder(&self) -> Option<PlaceFinder<'c>> {
        let Comparison { settings, pair, fate, .. } = *self;
        Some(PlaceFinder { settings, pair, fate }).filter(PlaceFinder::has_chain)
    }

    /// How a range is cut.
    fn cut(&self) -> Cut {
        let reconcile = &self.settings.reconcile;
        let (range_rows, leaf_rows) = (u64::from(reconcile.range_rows), u64::from(reconcile.leaf_rows));
        let parts_max = if self.pair.is_indexed { range_rows.div_ceil(leaf_rows.max(1)) } else { 1 };
        Cut { leaf_rows, parts_max }
    }

    /// Range by range. Answers the rows of either side.
    async fn walk(&mut self, judged: &mut Judged) -> Result<(u64, u64), Failure> {
        let (settings, mut after, mut candidates) = (self.settings, None, Vec::new());
        let (mut source_rows, mut sink_rows) = (0, 0);
        loop {
            let cut = self.cut();
            let mut sides = self.sides();
            sides.begin().await?;
            let from = Range { after: after.take(), upto: None };
            let parts = next_parts(&mut sides, from, u64::from(settings.reconcile.range_rows), cut).await?;
            let upto = parts.last().and_then(|part| part.upto.clone());
            let sums = sides.sums(&parts).await?;
            source_rows += sums.iter().map(|sums| sums.source.rows).sum::<u64>();
            sink_rows += sums.iter().map(|sums| sums.sink.rows).sum::<u64>();
            let found = differing(&mut sides, parts.into_iter().zip(sums).collect(), cut).await?;
            sides.end().await?;
            let pause = settings.reconcile.pause(sides.source_worked);
            self.progress.rows = source_rows.max(sink_rows);
            self.progress.ranges += 1;
            self.progress.candidates += found.len() as u64;
            candidates.extend(found);
            let is_last = upto.is_none();
            let at_a_time = usize::try_from(settings.reconcile.candidates_max).unwrap_or(usize::MAX);
            while candidates.len() >= at_a_time || (is_last && !candidates.is_empty()) {
                let rest = candidates.split_off(at_a_time.min(candidates.len()));
                let part = std::mem::replace(&mut candidates, rest);
                self.settle(part, self.finder(), judged).await?;
                if judged.cut_short {
                    return Ok((source_rows, sink_rows));
                }
            }
            (self.watch)(self.pair, &self.progress);
            if is_last {
                return Ok((source_rows, sink_rows));
            }
            after = upto;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks at rows until each is judged. With a finder, the topics are searched for those that differ while they are looked at again.
    async fn settle(
        &mut self,
        keys: Vec<Key>,
        finder: Option<PlaceFinder<'_>>,
        judged: &mut Judged,
    ) -> Result<(), Failure> {
        let differences_max = usize::try_from(self.settings.reconcile.differences_max).unwrap_or(usize::MAX);
        let mut open: Vec<(Key, Case)> = keys.into_iter().map(|key| (key, Case::default())).collect();
        while !open.is_empty() {
            let keys: Vec<Key> = open.iter().map(|(key, _)| key.clone()).collect();
            let (looks, searched) = tokio::join!(self.look(&keys), searched(finder, &open));
            judged.has_waited = true;
            let (mut still, mut differing) = (Vec::new(), Vec::new());
            for ((key, mut case), look) in open.into_iter().zip(looks?) {
                match case.judge(&look, self.settings.reconcile.rounds_max) {
                    Verdict::Equal => {}
                    Verdict::Open => still.push((key, case)),
                    Verdict::Changing => judged.changing.push(key),
                    Verdict::Differs if judged.differences.len() + differing.len() >= differences_max => {
                        judged.cut_short = true;
                    }
                    Verdict::Differs => differing.push((key, look)),
                }
            }
            open = still;
            self.place(differing, searched, judged).await;
            self.progress.differences = judged.differences.len();
        }
        Ok(())
    }

    /// Notes rows that differ, each with where it got lost. They differ all the same where that cannot be told.
    async fn place(
        &mut self,
        rows: Vec<(Key, Look)>,
        searched: Option<Result<Searched<'_>, Failure>>,
        judged: &mut Judged,
    ) {
        let mut places = HashMap::new();
        if let Some(searched) = searched.filter(|_| !rows.is_empty()) {
            let found = match searched {
                Ok(searched) => searched.places(&mut self.sink, &rows).await,
                Err(failure) => Err(failure),
            };
            match found {
                Ok(found) => places = found,
                Err(failure) => judged.untold = Some(failure.chain()),
            }
        }
        let with_place = |(key, look): (Key, Look)| Differing { place: places.remove(&key), key, look };
        judged.differences.extend(rows.into_iter().map(with_place));
    }

    /// One look at rows on both sides, with the pipeline's whole way between. The source rests behind it.
    async fn look(&mut self, keys: &[Key]) -> Result<Vec<Look>, Failure> {
        let mut sides = self.sides();
        let (before, at) = sides.source_rows(keys).await?;
        let worked = sides.source_worked;
        self.passed(at).await?;
        let mut sides = self.sides();
        let sink = sides.sink_rows(keys).await?;
        let (after, _) = sides.source_rows(keys).await?;
        let worked = worked + sides.source_worked;
        tokio::time::sleep(self.settings.reconcile.pause(worked)).await;
        let looks = before.into_iter().zip(sink).zip(after);
        Ok(looks.map(|((source_before, sink), source_after)| Look { source_before, sink, source_after }).collect())
    }

    fn difference(&self, row: &Differing) -> Difference {
        let Differing { key, look, place } = row;
        let names: Vec<String> = self.pair.columns.iter().map(|column| column.name.clone()).collect();
        Difference {
            key: self.shown(key),
            kind: kind(look),
            columns: columns(&names, look),
            place: place.clone(),
            healed: false,
        }
    }

    /// Roll-ups do not know what was done to their table by hand, and would refuse what mends it: they are filled from the table as it is.
    async fn fill_rollups_anew(&self) -> Result<(), Failure> {
        let of_table = self.settings.rollups.values().filter(|set| TableName::parse(&set.of) == self.pair.sink_table);
        let labels: Vec<String> = of_table.map(|set| TableName::parse(&set.table).to_string()).collect();
        if labels.is_empty() {
            return Ok(());
        }
        let mut sink = self.settings.sink.connect("pg-sinker reconcile").await?;
        sqlx::query("DELETE FROM tidemill.rollups WHERE rollup = ANY($1)")
            .bind(labels)
            .execute(&mut sink)
            .await
            .map_err(|error| refused("the roll-ups of the table cannot be filled anew", error))?;
        close(sink).await;
        Ok(())
    }

    /// Has the rows read again, but for those that a stage would reject again, and marks those that are equal then.
    async fn heal(&mut self, found: &[Differing], differences: &mut [Difference]) -> Result<(), Failure> {
        let to_heal = found.iter().zip(differences.iter()).filter(|(_, difference)| !difference.is_rejected());
        let keys: Vec<Key> = to_heal.map(|(row, _)| row.key.clone()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let sink_table = self.pair.sink_table.to_string();
        let by_hand = |difference: &Difference| match &difference.place {
            Some(place) => place.first_without == sink_table && place.rejected.is_none(),
            None => true,
        };
        if differences.iter().any(by_hand) {
            self.fill_rollups_anew().await?;
        }
        let table = self.pair.source_table.to_string();
        capture::read_again(&self.settings.reconcile.capture, &table, &keys).await?;
        let mut again = Judged::default();
        self.settle(keys.clone(), None, &mut again).await?;
        let is_open = |key: &Key| again.changing.contains(key) || again.differences.iter().any(|row| row.key == *key);
        for (Differing { key, .. }, difference) in found.iter().zip(differences) {
            difference.healed = keys.contains(key) && !is_open(key);
        }
        Ok(())
    }
}

/// What the topics have of the rows that differed at the last look.
async fn searched<'c>(finder: Option<PlaceFinder<'c>>, open: &[(Key, Case)]) -> Option<Result<Searched<'c>, Failure>> {
    let suspects: Vec<Key> = open.iter().filter(|(_, case)| case.has_differed()).map(|(key, _)| key.clone()).collect();
    match finder {
        Some(finder) if !suspects.is_empty() => Some(finder.search(suspects).await),
        _ => None,
    }
}

/// The parts of the next range, which ends where the source has so many rows; the last range has no end.
async fn next_parts(
    sides: &mut Connections<'_>,
    from: Range,
    range_rows: u64,
    cut: Cut,
) -> Result<Vec<Range>, Failure> {
    let (count, every) = cut.parts(range_rows);
    let is_full = |marks: &Vec<Key>| marks.len() as u64 >= count;
    let mut marks = sides.marks(Side::Source, &from, every, count).await?;
    if !is_full(&marks) {
        // Behind the source's last rows the sink may have any number of its own.
        let of_sink = sides.marks(Side::Sink, &from, every, count).await?;
        marks = if is_full(&of_sink) { of_sink } else { marks };
    }
    let upto = if is_full(&marks) { marks.last().cloned() } else { None };
    Ok(Range { upto, ..from }.cut(marks))
}

fn kind(look: &Look) -> Kind {
    match (&look.source_after, &look.sink) {
        (Some(_), None) => Kind::Missing,
        (None, _) => Kind::Surplus,
        _ => Kind::Other,
    }
}

fn columns(names: &[String], look: &Look) -> Vec<ColumnShown> {
    let (Some(source), Some(sink)) = (&look.source_after, &look.sink) else { return Vec::new() };
    let values = names.iter().zip(source.texts.iter().zip(&sink.texts)).filter(|(_, (source, sink))| source != sink);
    let shown = |(name, (source, sink)): (&String, (&Option<String>, &Option<String>))| ColumnShown {
        name: name.clone(),
        source: Some(source.clone()),
        sink: Some(sink.clone()),
    };
    values.map(shown).collect()
}
