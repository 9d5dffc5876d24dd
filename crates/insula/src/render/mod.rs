//! What commands print: data on standard output in the form that was asked for, everything else on standard error.

mod csv;
mod human;
mod table;
mod yaml;

use std::io::{self, Write};

use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;

pub use human::{age, size};
pub use table::{Cell, Table};

/// Writes a command's output.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// In which form.
    pub format: Format,
    /// Whether only names are wanted.
    pub quiet: bool,
}

impl Printer {
    /// Several objects: an array in JSON and YAML, `table` otherwise. Quiet: the table's first column.
    ///
    /// # Errors
    ///
    /// Standard output is gone or full.
    pub fn listing<T: Serialize>(&self, items: &[T], table: &Table) -> Result<(), Failure> {
        self.value(&items, table)
    }

    /// One object: itself in JSON and YAML, `table` otherwise.
    ///
    /// # Errors
    ///
    /// Standard output is gone or full.
    pub fn value<T: Serialize>(&self, item: &T, table: &Table) -> Result<(), Failure> {
        let text = match self.format {
            _ if self.quiet => table.first_column(),
            Format::Table => table.aligned(),
            Format::Csv => csv::write(table),
            Format::Json => json(item, Layout::Indented),
            Format::Yaml => yaml::write(&serde_json::to_value(item).unwrap_or_default()),
        };
        print(&text)
    }

    /// One record of a stream: a line of JSON, a YAML document, or the table's rows without header.
    ///
    /// # Errors
    ///
    /// Standard output is gone or full.
    pub fn record<T: Serialize>(&self, item: &T, table: &Table) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table.rows_aligned(),
            Format::Csv => csv::write_rows(table),
            Format::Json => json(item, Layout::OneLine),
            Format::Yaml => format!("---\n{}", yaml::write(&serde_json::to_value(item).unwrap_or_default())),
        };
        print(&text)
    }

    /// Whether columns for people are wanted.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        self.format == Format::Table && !self.quiet
    }
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Indented,
    OneLine,
}

fn json<T: Serialize>(item: &T, layout: Layout) -> String {
    // Wire types serialize without fail: their maps have text keys and nothing of theirs refuses.
    let mut text = match layout {
        Layout::Indented => serde_json::to_string_pretty(item),
        Layout::OneLine => serde_json::to_string(item),
    }
    .unwrap_or_default();
    text.push('\n');
    text
}

/// Writes `text` to standard output as it is.
///
/// # Errors
///
/// Standard output is gone or full.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes a line for people to standard error, at once: a command may write there, too. Where it is gone, there is
/// nobody to tell.
pub fn tell(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Says why a command failed, and what to do.
pub fn tell_failure(failure: &Failure) {
    if failure.is_silent() {
        return;
    }
    tell(&format!("insula: {}", failure.chain()));
    if let Some(remedy) = failure.remedy() {
        tell(&format!("hint: {remedy}"));
    }
}

#[cfg(test)]
mod tests;
