//! The table of acceptance rows (docs/acceptance.md): every row names files that have tests of its number.

use std::fs;

use crate::finding::Finding;
use crate::workspace;

/// Where the table is.
const TABLE: &str = "docs/acceptance.md";

/// A row of the table: its number and the files it names.
fn row(line: &str) -> Option<(&str, Vec<&str>)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let number = cells.next().filter(|cell| is_number(cell))?;
    Some((number, cells.next_back().and(cells.next_back())?.split('`').skip(1).step_by(2).collect()))
}

/// A letter and two digits.
fn is_number(cell: &str) -> bool {
    matches!(cell.as_bytes(), [b'A' | b'T', b'0'..=b'9', b'0'..=b'9'])
}

/// Whether `source` has a test whose name bears `number`.
fn has_test(source: &str, number: &str) -> bool {
    let mark = format!("_{}_", number.to_ascii_lowercase());
    let names = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
    names.filter_map(|rest| rest.split('(').next()).any(|name| format!("_{name}").contains(&mark))
}

fn check_rows(table: &str, read: impl Fn(&str) -> String) -> Vec<Finding> {
    let finding = |message: String| Finding { place: TABLE.to_owned(), message };
    let rows: Vec<_> = table.lines().filter_map(row).collect();
    if rows.is_empty() {
        return vec![finding("the table has no rows; each names a number, what must hold, and files".to_owned())];
    }
    let mut findings = Vec::new();
    for (number, files) in rows {
        if files.is_empty() {
            findings.push(finding(format!("{number} names no file with its tests")));
        }
        let without = files.into_iter().filter(|file| !has_test(&read(file), number));
        findings.extend(without.map(|file| finding(format!("{number}: `{file}` has no test that bears the number"))));
    }
    findings
}

/// Rows without a test in a file that they name.
pub(crate) fn check() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap_or_default();
    check_rows(&read(TABLE), read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_its_test_is_found() {
        let table =
            "| Row | What | Tests in |\n|---|---|---|\n| A05 | once | `a.rs`, `b.rs` |\n| T02 | none | soon |\n";
        let read = |path: &str| match path {
            "a.rs" => "#[test]\nfn live_a05_an_image_is_once_in_memory() {}\n".to_owned(),
            _ => "fn a05(number: u32) {}\n// live_a05_ is elsewhere\n".to_owned(),
        };
        let findings: Vec<String> = check_rows(table, read).iter().map(|finding| finding.message.clone()).collect();
        assert_eq!(findings, ["A05: `b.rs` has no test that bears the number", "T02 names no file with its tests"]);
        assert_eq!(check_rows("", read).len(), 1);
    }
}
