//! Plots as SVG without a colour of their own: the page gives them its colours, light, dark and in print.

use plotters::coord::ranged1d::IntoSegmentedCoord as _;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use shared::failure::{Failure, FailureKind};
use unicode_width::UnicodeWidthChar as _;

use super::figures::{Kind, Section};
use super::words::short;

/// A width that a plot is drawn in; the page shows the one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Wide,
    Narrow,
}

/// Stand-ins, replaced by classes of the page.
const INK: RGBColor = RGBColor(1, 2, 3);
const FAINT: RGBColor = RGBColor(1, 2, 4);
const BAR: RGBColor = RGBColor(1, 2, 5);
const CLASSES: [(RGBColor, &str); 3] = [(INK, "ink"), (FAINT, "faint"), (BAR, "bar")];

const FONT: &str = "system-ui, sans-serif";
const TEXT: u32 = 13;
/// Height of a lying bar with the space around it.
const ROW: u32 = 26;
const COLUMNS_HEIGHT: u32 = 230;

impl Size {
    fn width(self) -> u32 {
        match self {
            Size::Wide => 600,
            Size::Narrow => 330,
        }
    }

    /// Room for names beside lying bars, and how many signs go into it.
    fn names(self) -> (u32, usize) {
        match self {
            Size::Wide => (150, 20),
            Size::Narrow => (104, 13),
        }
    }

    /// Room for the values behind lying bars.
    fn values(self) -> f64 {
        match self {
            Size::Wide => 0.30,
            Size::Narrow => 0.62,
        }
    }

    /// Names under standing columns.
    fn ticks(self) -> usize {
        match self {
            Size::Wide => 8,
            Size::Narrow => 4,
        }
    }
}

/// The plot of a section; `None` where there is nothing to draw.
pub fn svg(section: &Section, size: Size) -> Result<Option<String>, Failure> {
    let (Some(plot), Some(values)) = (section.plot, section.values()) else { return Ok(None) };
    if values.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    let drawn = match plot.kind {
        Kind::Bars => lying(&mut svg, section, &values, size),
        Kind::Columns => standing(&mut svg, section, &values, size),
    };
    drawn.map_err(|why| {
        Failure::new(FailureKind::Broken, format!("a plot of {:?} cannot be drawn: {why}", section.title))
    })?;
    Ok(Some(classed(svg)))
}

/// Colours become classes.
fn classed(mut svg: String) -> String {
    for (RGBColor(red, green, blue), class) in CLASSES {
        for (attribute, prefix) in [("fill", "f"), ("stroke", "s")] {
            let colour = format!("{attribute}=\"#{red:02X}{green:02X}{blue:02X}\"");
            svg = svg.replace(&colour, &format!("class=\"{prefix}-{class}\""));
        }
    }
    svg
}

fn name(section: &Section, at: usize) -> &str {
    section.rows.get(at).and_then(|row| row.first()).map_or("", String::as_str)
}

/// A name of at most so many columns of the screen.
fn cut(text: &str, columns: usize) -> String {
    let mut width = 0;
    let mut out = String::new();
    for character in text.chars() {
        width += character.width().unwrap_or(0);
        if width > columns {
            out.pop();
            return out + "…";
        }
        out.push(character);
    }
    out
}

/// Where a segment ends.
fn end(segment: usize, count: usize) -> SegmentValue<usize> {
    if segment + 1 == count { SegmentValue::Last } else { SegmentValue::Exact(segment + 1) }
}

type Drawn = Result<(), String>;

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Lying bars, the first on top, with their names and values.
fn lying(svg: &mut String, section: &Section, values: &[f64], size: Size) -> Drawn {
    let count = values.len();
    let rows = u32::try_from(count).map_err(said)?;
    let root = SVGBackend::with_string(svg, (size.width(), rows * ROW + 8)).into_drawing_area();
    let most = values.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let (room, signs) = size.names();
    let mut chart = ChartBuilder::on(&root)
        .margin(4)
        .set_label_area_size(LabelAreaPosition::Left, room)
        .build_cartesian_2d(0.0..most * (1.0 + size.values()), (0..count - 1).into_segmented())
        .map_err(said)?;
    let from_top = |at: usize| count - 1 - at;
    let label = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(at) if *at < count => cut(name(section, from_top(*at)), signs),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_x_axis()
        .y_labels(count)
        .y_label_formatter(&label)
        .axis_style(FAINT)
        .y_label_style((FONT, TEXT).into_font().color(&INK))
        .draw()
        .map_err(said)?;
    let bars = values.iter().enumerate().map(|(at, value)| {
        let place = from_top(at);
        let corners = [(0.0, SegmentValue::Exact(place)), (value.max(0.0), end(place, count))];
        let mut bar = Rectangle::new(corners, BAR.filled());
        bar.set_margin(4, 4, 0, 0);
        bar
    });
    chart.draw_series(bars).map_err(said)?;
    let style = (FONT, TEXT).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let column = section.plot.map_or(0, |plot| plot.value);
    let texts = values.iter().enumerate().map(|(at, value)| {
        let text = section.rows.get(at).and_then(|row| row.get(column)).cloned().unwrap_or_default();
        let place = (value.max(0.0), SegmentValue::CenterOf(from_top(at)));
        EmptyElement::at(place) + Text::new(text, (6, 0), style.clone())
    });
    chart.draw_series(texts).map_err(said)?;
    root.present().map_err(said)
}

/// Standing columns, in the order of time.
fn standing(svg: &mut String, section: &Section, values: &[f64], size: Size) -> Drawn {
    let count = values.len();
    let root = SVGBackend::with_string(svg, (size.width(), COLUMNS_HEIGHT)).into_drawing_area();
    let most = values.iter().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.05 } else { 1.0 };
    let mut chart = ChartBuilder::on(&root)
        .margin(6)
        .set_label_area_size(LabelAreaPosition::Left, 46)
        .set_label_area_size(LabelAreaPosition::Bottom, 28)
        .build_cartesian_2d((0..count - 1).into_segmented(), 0.0..top)
        .map_err(said)?;
    let label = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(at) if *at < count => name(section, *at).to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .x_labels(size.ticks())
        .y_labels(5)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| short(*value))
        .x_label_style((FONT, TEXT).into_font().color(&INK))
        .y_label_style((FONT, TEXT).into_font().color(&INK))
        .draw()
        .map_err(said)?;
    let gap = if count > 40 { 0 } else { 1 };
    let columns = values.iter().enumerate().map(|(at, value)| {
        let corners = [(SegmentValue::Exact(at), 0.0), (end(at, count), value.max(0.0))];
        let mut column = Rectangle::new(corners, BAR.filled());
        column.set_margin(0, 0, gap, gap);
        column
    });
    chart.draw_series(columns).map_err(said)?;
    root.present().map_err(said)
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::example;
    use super::*;

    #[test]
    fn names_and_values_are_in_the_plot_and_no_colour() {
        let section = example(Kind::Bars, &[("北京 <b>", "2,000.00"), ("a very long name of a city", "500")]);
        for size in [Size::Wide, Size::Narrow] {
            let svg = svg(&section, size).unwrap().unwrap();
            for part in ["<svg", "北京 &lt;b&gt;", "2,000.00", "class=\"f-bar\"", "class=\"f-ink\""] {
                assert!(svg.contains(part), "{part} is not in {svg}");
            }
            assert!(!svg.contains("<b>") && !svg.contains("#0102"), "{svg}");
        }
        assert!(svg(&section, Size::Narrow).unwrap().unwrap().contains("a very long …"));
    }

    #[test]
    fn columns_stand_for_each_value() {
        let rows: Vec<(String, String)> =
            (0..24).map(|hour| (format!("{hour:02}"), (hour * 100).to_string())).collect();
        let rows: Vec<(&str, &str)> = rows.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let svg = svg(&example(Kind::Columns, &rows), Size::Wide).unwrap().unwrap();
        assert_eq!(svg.matches("class=\"f-bar\"").count(), 24);
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_zeros_are_no_error() {
        assert!(svg(&example(Kind::Bars, &[]), Size::Wide).unwrap().is_none());
        assert!(svg(&example(Kind::Columns, &[("a", "0")]), Size::Wide).unwrap().is_some());
        assert!(svg(&example(Kind::Bars, &[("a", "0")]), Size::Wide).unwrap().is_some());
    }

    #[test]
    fn a_wide_sign_counts_twice() {
        assert_eq!(
            (cut("北京上海", 8), cut("北京上海广", 8), cut("abc", 2)),
            ("北京上海".into(), "北京上…".into(), "a…".into())
        );
    }
}
