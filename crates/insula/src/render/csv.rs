//! Comma-separated values as RFC 4180 has them, with line feeds.

use super::Table;

/// Header and rows.
pub(super) fn write(table: &Table) -> String {
    table.exact().map(line).collect()
}

/// Rows alone.
pub(super) fn write_rows(table: &Table) -> String {
    table.exact_rows().map(line).collect()
}

fn line(fields: Vec<String>) -> String {
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    fields.join(",") + "\n"
}

fn field(text: String) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
