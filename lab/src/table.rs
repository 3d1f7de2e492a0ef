//! Tables and bars for a terminal. Widths are columns on the screen: a Chinese character takes two.

use unicode_width::UnicodeWidthStr as _;

/// Rows under headings.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

/// Space between two columns.
const GAP: &str = "  ";

impl Table {
    pub fn new<S: ToString>(headings: &[S]) -> Self {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    pub fn row<S: ToString>(&mut self, cells: &[S]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    /// The headings and the rows, aligned: columns of numbers to the right, others to the left.
    pub fn lines(&self) -> Vec<String> {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let columns: Vec<(usize, bool)> =
            (0..count).map(|column| (self.width(column), self.is_number(column))).collect();
        self.rows.iter().map(|row| line(row, &columns)).collect()
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &String> {
        self.rows.iter().filter_map(move |row| row.get(column))
    }

    fn width(&self, column: usize) -> usize {
        self.cells(column).map(|cell| cell.width()).max().unwrap_or(0)
    }

    fn is_number(&self, column: usize) -> bool {
        let mut numbers = self.cells(column).skip(1).filter(|cell| !cell.is_empty()).peekable();
        numbers.peek().is_some() && numbers.all(|cell| cell.replace(',', "").parse::<f64>().is_ok())
    }
}

fn line(row: &[String], columns: &[(usize, bool)]) -> String {
    let cells = row.iter().zip(columns).map(|(cell, &(width, right))| {
        let space = " ".repeat(width.saturating_sub(cell.width()));
        if right { format!("{space}{cell}") } else { format!("{cell}{space}") }
    });
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

/// A bar of at most `longest` columns; what is not nothing is seen.
pub fn bar(count: usize, most: usize, longest: usize) -> String {
    if count == 0 || most == 0 {
        return String::new();
    }
    "█".repeat((count * longest / most).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        let mut table = Table::new(&["user", "amount", "city"]);
        table.row(&["张三", "5999.00", "北京"]);
        table.row(&["Unknown User", "9.00", ""]);
        let wanted = ["user           amount  city", "张三          5999.00  北京", "Unknown User     9.00"];
        assert_eq!(table.lines(), wanted);
    }

    #[test]
    fn a_bar_is_never_too_long_and_never_hides_one() {
        assert_eq!(bar(200, 200, 4), "████");
        assert_eq!(bar(1, 200, 4), "█");
        assert_eq!(bar(0, 200, 4), "");
        assert_eq!(bar(0, 0, 4), "");
    }
}
