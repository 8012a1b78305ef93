use std::fmt;

/// Columns under each other, for people. Columns of numbers are aligned to the right.
#[derive(Clone, Debug)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(ToString::to_string).collect(),
            rows: vec![],
        }
    }

    /// Adds a row; cells that are missing stay empty.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.head.len(), String::new());
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<(usize, bool)> = self
            .head
            .iter()
            .enumerate()
            .map(|(index, head)| {
                let cells = || self.rows.iter().map(|row| row[index].as_str());
                let width = cells().chain([head.as_str()]).map(width).max();
                (width.unwrap_or(0), cells().all(is_number))
            })
            .collect();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::new();
            for (cell, (wide, right)) in row.iter().zip(&columns) {
                let blanks = " ".repeat(wide - width(cell));
                if *right {
                    line.push_str(&format!("{blanks}{cell}  "));
                } else {
                    line.push_str(&format!("{cell}{blanks}  "));
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn is_number(cell: &str) -> bool {
    cell == "-" || cell.chars().all(|c| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["stream", "messages", "leader"]);
        table.row(["EVENTS".into(), "12".into(), "n1".into()]);
        table.row(["JOBS".into(), "-".into()]);
        assert_eq!(
            table.to_string(),
            "stream  messages  leader\nEVENTS        12  n1\nJOBS           -\n"
        );
    }
}
