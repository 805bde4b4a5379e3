//! Tables for people: columns padded with blanks, headings in capitals, no lines; `awk` reads them too.

use super::plain::WITHHELD;

/// Blanks between columns.
const GAP: usize = 3;

/// A table with headings.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`, so that every line has as many words as there are columns. What somebody
    /// else chose a name for does not make lines of its own.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown =
            |cell: String| if cell.is_empty() { "-".to_owned() } else { cell.replace('\n', &WITHHELD.to_string()) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The text, without a newline at its end.
    pub(crate) fn render(&self) -> String {
        render(&self.rows)
    }
}

/// Names and values below each other, as `describe` shows them. Values may have several lines.
pub(crate) fn fields(list: &[(&str, String)]) -> String {
    let mut rows = Vec::new();
    for (name, value) in list {
        for (index, line) in value.lines().chain(value.is_empty().then_some("-")).enumerate() {
            let name = if index == 0 { format!("{name}:") } else { String::new() };
            rows.push(vec![name, line.to_owned()]);
        }
    }
    render(&rows)
}

fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
        }
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_are_shown() {
        let mut table = Table::new(&["ID", "KEY"]);
        table.row(["node-1".to_owned(), String::new()]);
        table.row(["n".to_owned(), "ab\nc".to_owned()]);
        assert_eq!(table.render(), "ID       KEY\nnode-1   -\nn        ab\u{fffd}c");
    }

    #[test]
    fn fields_keep_their_lines_together() {
        let text = fields(&[("Phase", "verify".to_owned()), ("Nodes", "a\nb".to_owned()), ("Ended", String::new())]);
        assert_eq!(text, "Phase:   verify\nNodes:   a\n         b\nEnded:   -");
    }
}
