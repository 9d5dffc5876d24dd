//! The arrows between the crates: each depends on lower layers only, or on a sibling that is named here.

use crate::finding::Finding;
use crate::workspace;

/// Crate, layer, siblings of the same layer it may use.
const TABLE: [(&str, u8, &[&str]); 15] = [
    ("insula-model", 0, &[]),
    ("insula-kernel", 1, &[]),
    ("insula-api", 1, &[]),
    ("insula-plan", 1, &["insula-kernel"]),
    ("insula-image", 2, &[]),
    ("insula-network", 2, &[]),
    ("insula-resources", 2, &[]),
    ("insula-runtime", 2, &["insula-network", "insula-resources"]),
    ("insula-guest", 3, &[]),
    ("insula-init", 3, &[]),
    ("insula-node", 3, &[]),
    ("insula", 4, &[]),
    ("insula-testkit", 5, &[]),
    ("insula-bench", 5, &[]),
    ("xtask", 5, &[]),
];

/// The small rooms may use nothing of ours but these.
const NARROW: [(&str, &[&str]); 3] = [
    ("insula-guest", &["insula-kernel", "insula-plan"]),
    ("insula-init", &["insula-kernel", "insula-plan"]),
    ("insula-kernel", &[]),
];

/// Third-party crates that only the upper layers may use.
const ASYNC: [&str; 6] = ["tokio", "hyper", "hyper-util", "axum", "tower", "tokio-util"];

/// Raw system calls are made in one crate.
const RAW: [&str; 1] = ["libc"];

fn layer_of(name: &str) -> Option<(u8, &'static [&'static str])> {
    TABLE.iter().find(|(known, ..)| *known == name).map(|&(_, layer, siblings)| (layer, siblings))
}

fn check_dependency(name: &str, dependency: &str) -> Option<String> {
    let (layer, siblings) = layer_of(name)?;
    if let Some((below, _)) = layer_of(dependency) {
        if below > layer || (below == layer && !siblings.contains(&dependency)) {
            return Some(format!("layer {layer} must not depend on {dependency} of layer {below}"));
        }
        let narrow = NARROW.iter().find(|(known, _)| *known == name);
        if narrow.is_some_and(|(_, allowed)| !allowed.contains(&dependency)) {
            return Some(format!("may not depend on {dependency}: the room is kept narrow"));
        }
    }
    if ASYNC.contains(&dependency) && layer < 3
        || ASYNC.contains(&dependency) && matches!(name, "insula-guest" | "insula-init")
    {
        return Some(format!("{dependency} is for the daemon and the client; below them code blocks"));
    }
    if RAW.contains(&dependency) && name != "insula-kernel" {
        return Some(format!("{dependency} is for insula-kernel alone"));
    }
    None
}

/// All arrows that point the wrong way, and crates without a layer.
pub(crate) fn check() -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in workspace::crate_folders() {
        let manifest = workspace::manifest(&folder);
        let place = workspace::relative(&folder.join("Cargo.toml"));
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
        let Some(name) = name.filter(|name| layer_of(name).is_some()) else {
            let message = "the crate has no layer; add it to xtask/src/layers.rs with a reason".to_owned();
            findings.push(Finding { place, message });
            continue;
        };
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let wrong = dependencies.keys().filter_map(|dependency| check_dependency(name, dependency));
        findings.extend(wrong.map(|message| Finding { place: place.clone(), message }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arrows_of_the_workspace_point_down() {
        assert_eq!(check(), []);
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        assert!(check_dependency("insula-model", "insula-kernel").is_some());
        assert!(check_dependency("insula-image", "insula-network").is_some());
        assert!(check_dependency("insula-init", "insula-model").is_some());
        assert!(check_dependency("insula-image", "tokio").is_some());
        assert!(check_dependency("insula-node", "libc").is_some());
        assert!(check_dependency("insula-runtime", "insula-network").is_none());
    }
}
