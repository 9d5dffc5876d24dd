//! Columns for people, and the same cells exactly for programs.

use comfy_table::{ContentArrangement, presets};

/// Rows under a header.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One value in both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    human: String,
    exact: String,
}

impl Cell {
    /// Shown as `human` in columns, as `exact` in CSV.
    pub fn two(human: impl Into<String>, exact: impl Into<String>) -> Self {
        Self { human: human.into(), exact: exact.into() }
    }

    /// A value that may be absent: `-` in columns, empty in CSV.
    pub fn optional<T: ToString>(value: Option<T>) -> Self {
        value.map_or_else(|| Self::two("-", ""), |value| Self::from(value.to_string()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { human: text.clone(), exact: text }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl Table {
    /// No rows yet. Titles are upper case with spaces; CSV has them lower case with underscores.
    pub fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    /// Appends a row, which has a cell per title.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = row.into_iter().collect();
        debug_assert_eq!(row.len(), self.header.len(), "a cell per title");
        self.rows.push(row);
    }

    /// Titles and rows in columns that are as wide as their widest cell.
    pub(super) fn aligned(&self) -> String {
        let header = self.header.iter().map(|title| (*title).to_owned()).collect();
        arrange(std::iter::once(header).chain(self.human_rows()))
    }

    /// Rows alone, separated by two spaces: for streams, where later rows are not known.
    pub(super) fn rows_aligned(&self) -> String {
        arrange(self.human_rows())
    }

    /// The first cell of each row, a line each.
    pub(super) fn first_column(&self) -> String {
        self.rows.iter().filter_map(|row| row.first()).map(|cell| format!("{}\n", visible(&cell.exact))).collect()
    }

    /// Titles and rows for programs.
    pub(super) fn exact(&self) -> impl Iterator<Item = Vec<String>> {
        let header = self.header.iter().map(|title| title.to_ascii_lowercase().replace(' ', "_")).collect();
        std::iter::once(header).chain(self.exact_rows())
    }

    /// Rows for programs.
    pub(super) fn exact_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.rows.iter().map(|row| row.iter().map(|cell| cell.exact.clone()).collect())
    }

    fn human_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.rows.iter().map(|row| row.iter().map(|cell| visible(&cell.human)).collect())
    }
}

fn arrange(rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Text that a terminal shows and does not obey: names and command lines come from containers.
fn visible(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
    } else {
        text.to_owned()
    }
}
