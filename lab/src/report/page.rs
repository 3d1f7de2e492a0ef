//! The report as one file of HTML: nothing is loaded from anywhere, and no script runs.

use shared::failure::Failure;

use super::figures::{Kind, Report, Section};
use super::plot::{Size, svg};

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn html(report: &Report) -> Result<String, Failure> {
    let tiles: String = report
        .tiles
        .iter()
        .map(|tile| {
            format!("<div class=\"tile\"><dt>{}</dt><dd>{}</dd></div>\n", escaped(tile.name), escaped(&tile.value))
        })
        .collect();
    let warnings: String =
        report.warnings.iter().map(|text| format!("<p class=\"warning\">{}</p>\n", escaped(text))).collect();
    let sections: String = report.sections.iter().map(section).collect::<Result<_, _>>()?;
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Order analysis · {at}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Order analysis</h1>\n<p>{at}</p>\n{warnings}\
         <dl class=\"tiles\">\n{tiles}</dl>\n</header>\n<main>\n{sections}</main>\n\
         <footer><p>Sales are orders that are neither cancelled nor refunded. All figures are of one moment, from the views of schema ads.</p>\
         </footer>\n</body>\n</html>\n",
        at = escaped(&report.at),
    ))
}

fn section(section: &Section) -> Result<String, Failure> {
    let mut out = format!("<section>\n<h2>{}</h2>\n", escaped(section.title));
    if !section.note.is_empty() {
        out += &format!("<p>{}</p>\n", escaped(section.note));
    }
    if section.rows.is_empty() {
        return Ok(out + "<p>nothing yet</p>\n</section>\n");
    }
    for (size, class) in [(Size::Wide, "wide"), (Size::Narrow, "narrow")] {
        if let Some(svg) = svg(section, size)? {
            let title = escaped(section.title);
            out += &format!("<figure class=\"{class}\" role=\"img\" aria-label=\"{title}\">{svg}</figure>\n");
        }
    }
    // Many days or hours are read from the plot; their figures are there when they are asked for.
    let is_long = section.plot.is_some_and(|plot| plot.kind == Kind::Columns);
    let (open, close) = if is_long { ("<details>\n<summary>figures</summary>\n", "</details>\n") } else { ("", "") };
    Ok(out + open + &table(section) + close + "</section>\n")
}

fn table(section: &Section) -> String {
    let is_number = |column: usize| {
        let cells = || section.rows.iter().filter_map(move |row| row.get(column));
        cells().all(|cell| cell.starts_with(|first: char| first.is_ascii_digit() || "-–".contains(first))) && column > 0
    };
    let class = |column| if is_number(column) { " class=\"number\"" } else { "" };
    let cells = |tag: &str, texts: &mut dyn Iterator<Item = &str>| -> String {
        texts.enumerate().map(|(at, text)| format!("<{tag}{}>{}</{tag}>", class(at), escaped(text))).collect()
    };
    let mut out = format!(
        "<div class=\"table\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n",
        cells("th", &mut section.headings.iter().copied())
    );
    for row in &section.rows {
        out += &format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)));
    }
    out + "</tbody></table></div>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::figures::Tile;
    use super::super::figures::tests::example;
    use super::*;

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let report = Report {
            at: "2026-11-26 10:00:00 UTC".into(),
            tiles: vec![Tile { name: "sales", value: "¥1,000.00".into() }],
            warnings: vec!["a <script> is text".into()],
            sections: vec![
                example(Kind::Bars, &[("<script>alert(1)</script>", "1,000.00")]),
                example(Kind::Columns, &[]),
            ],
        };
        let page = html(&report).unwrap();
        assert!(
            !page.contains("<script") && !page.contains("src=") && !page.contains("url(") && !page.contains("@import")
        );
        // The one address names SVG, and is not asked.
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
        for part in [
            "¥1,000.00",
            "class=\"number\">1,000.00",
            "nothing yet",
            "viewport",
            "prefers-color-scheme: dark",
            "@media print",
        ] {
            assert!(page.contains(part), "{part} is not in the page");
        }
    }
}
