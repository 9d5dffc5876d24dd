//! House rules that a compiler does not check (STYLE.md).

use std::fs;
use std::path::Path;

use crate::acceptance;
use crate::finding::Finding;
use crate::fuzz;
use crate::workspace;

/// File names that say nothing about their content.
const BAGS: [&str; 10] =
    ["util", "utils", "common", "helpers", "misc", "types", "traits", "errors", "manager", "prelude"];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 600;

/// Files that were longer when the rule came, with their length then: they may shrink, not grow.
const GIANTS: [(&str, usize); 0] = [];

/// Marks of unfinished work, put together so that this file does not find itself.
fn unfinished_marks() -> [String; 5] {
    ["todo!", "dbg!", "unimplemented!", "FIXME", "XXX"].map(|mark| {
        let (front, back) = mark.split_at(2);
        format!("{front}{back}")
    })
}

fn lines_before_tests(text: &str) -> usize {
    text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or_else(|| text.lines().count())
}

fn check_source(place: &str, text: &str) -> Vec<Finding> {
    let finding = |place: String, message: &str| Finding { place, message: message.to_owned() };
    let mut findings = Vec::new();
    let stem = Path::new(place).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if BAGS.contains(&stem.as_str()) {
        findings.push(finding(place.to_owned(), "name the file by what it is about, not by a bag or a kind of item"));
    }
    if !text.starts_with("//!") && !text.contains("\n//!") {
        findings.push(finding(place.to_owned(), "a module opens with //!: what it is for, what it is not for"));
    }
    let lines = lines_before_tests(text);
    let allowed = GIANTS.iter().find(|(giant, _)| *giant == place).map_or(FILE_LINES_MAX, |&(_, lines)| lines);
    if lines > allowed {
        let message = format!("{lines} lines before the tests, {allowed} are allowed; split it by meaning");
        findings.push(Finding { place: place.to_owned(), message });
    }
    for (index, line) in text.lines().enumerate() {
        let at = || format!("{place}:{}", index + 1);
        let unfinished = unfinished_marks().iter().any(|mark| line.contains(mark.as_str()));
        if unfinished && !place.starts_with("xtask/") {
            findings.push(finding(at(), "unfinished work does not land"));
        }
        if line.contains("Other(String)") && !place.starts_with("xtask/") {
            findings.push(finding(at(), "an error variant says what happened; no catch-all"));
        }
        if line.contains("#[ignore") && !place.starts_with("xtask/") {
            findings.push(finding(at(), "a test that does not run proves nothing"));
        }
    }
    findings
}

fn check_manifest(folder: &Path) -> Option<Finding> {
    let manifest = workspace::manifest(folder);
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    (inherits != Some(true)).then(|| Finding {
        place: workspace::relative(&folder.join("Cargo.toml")),
        message: "write `[lints]` with `workspace = true`".to_owned(),
    })
}

/// Paths in ARCHITECTURE.md, written in backticks, that are not there.
fn check_map() -> Vec<Finding> {
    let map = fs::read_to_string(workspace::root().join("ARCHITECTURE.md")).unwrap_or_default();
    let named = map.split('`').skip(1).step_by(2).filter(|word| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
        plain && ["crates/", "docs/", "xtask/", "bench/", "tests/"].iter().any(|front| word.starts_with(front))
    });
    named
        .filter(|path| !workspace::root().join(path).exists())
        .map(|path| Finding { place: "ARCHITECTURE.md".to_owned(), message: format!("`{path}` does not exist") })
        .collect()
}

/// Every broken rule of the workspace.
pub(crate) fn check() -> Vec<Finding> {
    let mut findings = check_map();
    findings.extend(acceptance::check());
    findings.extend(fuzz::check());
    for folder in workspace::crate_folders() {
        findings.extend(check_manifest(&folder));
        for path in workspace::files(&folder, "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            findings.extend(check_source(&workspace::relative(&path), &text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings: Vec<String> = check().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }

    #[test]
    fn broken_rules_are_found() {
        assert!(check_source("crates/a/src/good.rs", "//! Good.\n").is_empty());
        assert_eq!(check_source("crates/a/src/utils.rs", "//! Bag.\n").len(), 1);
        assert_eq!(check_source("crates/a/src/bare.rs", "fn a() {}\n").len(), 1);
        let long = format!("//! Long.\n{}", "//\n".repeat(FILE_LINES_MAX));
        assert_eq!(check_source("crates/a/src/long.rs", &long).len(), 1);
        let unfinished = format!("//! A.\nfn a() {{ {}() }}\n", unfinished_marks()[0]);
        assert_eq!(check_source("crates/a/src/a.rs", &unfinished).len(), 1);
    }
}
