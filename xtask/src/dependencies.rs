//! Third-party crates: their licences, and names that are fenced off.

use std::process::Command;

use crate::finding::Finding;
use crate::workspace;

/// Licences that may be linked in. An expression passes when every `AND` part has an allowed `OR` choice.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that were weighed and turned down.
const FENCED: [(&str, &str); 5] = [
    ("anyhow", "errors are typed (STYLE.md)"),
    ("openssl-sys", "TLS is rustls with ring"),
    ("aws-lc-sys", "costs 85 CPU-seconds of C and cmake; ring is the provider"),
    ("nix", "rustix is the one way to the kernel"),
    ("chrono", "jiff is the one way to time"),
];

/// Whether the licence expression can be met. Parentheses bind `OR` inside `AND`, as all expressions in use do.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], "");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

fn check_package(package: &serde_json::Value) -> Option<Finding> {
    let text = |key: &str| package.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    package.get("source").and_then(serde_json::Value::as_str)?;
    let place = format!("{} {}", text("name"), text("version"));
    if let Some((_, reason)) = FENCED.iter().find(|(name, _)| *name == text("name")) {
        return Some(Finding { place, message: format!("is fenced off: {reason}") });
    }
    let message = format!("licence `{}` is not among the allowed ones", text("license"));
    (!is_allowed(text("license"))).then_some(Finding { place, message })
}

/// Every dependency on Linux with a licence or name that is not allowed.
pub(crate) fn check() -> Vec<Finding> {
    let whole = |message: String| vec![Finding { place: "Cargo.lock".to_owned(), message }];
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(workspace::root())
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => return whole(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => return whole(format!("cargo metadata: {error}")),
    };
    match serde_json::from_slice::<serde_json::Value>(&output) {
        Ok(metadata) => {
            let packages = metadata.get("packages").and_then(serde_json::Value::as_array);
            packages.into_iter().flatten().filter_map(check_package).collect()
        }
        Err(error) => whole(format!("cargo metadata: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_part_by_part() {
        assert!(is_allowed("MIT OR GPL-3.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
        assert!(!is_allowed(""));
    }

    #[test]
    fn every_dependency_may_be_linked_in() {
        let findings: Vec<String> = check().iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
