//! Locks: a build is held to the packages of an earlier one.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::path::PathBuf;

use insula_testkit::Node;

fn recipe(node: &Node, text: &str) -> PathBuf {
    let path = node.directory().join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// What a build said and its exit code, however long it took: a bootstrap has no bound of its own.
fn bootstrap(node: &Node, words: &[&str]) -> (Option<i32>, String) {
    let ended = node.insula([&["image", "build"], words].concat()).output().unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

fn digest(node: &Node, image: &str) -> String {
    node.json(["image", "show", image])["digest"].as_str().unwrap().to_owned()
}

const DEBIAN: &str =
    "name = \"debian\"\nversion = \"1\"\npackages = [\"ed\"]\n[base]\nsuite = \"bookworm\"\nvariant = \"apt\"\n";

#[test]
fn live_debian_a01_a_build_with_the_lock_of_an_earlier_one_has_the_same_digest() {
    let (first, second) = (Node::start(), Node::start());
    let (code, said) = bootstrap(&first, &[recipe(&first, DEBIAN).to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    for step in ["downloading packages", "extracting packages", "installing essential packages"] {
        assert!(said.lines().any(|line| line == format!("bootstrapping: {step}")), "{said}");
    }
    let lock = first.ok(["image", "lock", "debian@1"]).stdout;
    let packages: Vec<_> = lock.lines().filter(|line| line.starts_with("    \"")).collect();
    assert!(packages.len() > 30, "{lock}");
    assert!(packages.iter().all(|line| line.contains(" sha256:")), "every file's digest is known: {lock}");
    assert!(packages.iter().any(|line| line.starts_with("    \"ed ")), "{lock}");
    let path = recipe(&second, DEBIAN);
    std::fs::write(second.directory().join("debian.lock"), &lock).unwrap();
    let (code, said) = bootstrap(&second, &["--locked", path.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(digest(&second, "debian@1"), digest(&first, "debian@1"));
    assert_eq!(second.ok(["image", "lock", "debian@1"]).stdout, lock);
    // Nothing of the pins is in it.
    let pins = second.ok(["run", "--rm", "debian", "ls", "/etc/apt/preferences.d"]);
    assert_eq!(pins.text(), "");
}

#[test]
fn live_debian_a01_a_lock_that_the_mirror_cannot_keep_is_refused_by_the_packages_name() {
    let node = Node::start();
    let digest = format!("sha256:{}", "0".repeat(64));
    let lock = format!("format = 1\npackages = [\"ed 0.0.1-impossible amd64 {digest}\"]\n");
    std::fs::write(node.directory().join("own.lock"), lock).unwrap();
    let path = recipe(&node, &format!("lock = \"own.lock\"\n{DEBIAN}"));
    let (code, said) = bootstrap(&node, &[path.to_str().unwrap()]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("the mirror has no ed 0.0.1-impossible (it has 1.19"), "{said}");
    assert!(said.contains("is not in the lock"), "packages that nobody locked are named too: {said}");
    assert!(node.json(["image", "list"]).as_array().unwrap().is_empty());
}

#[test]
fn live_a01_a_lock_that_is_not_there_or_none_is_refused_before_any_work() {
    let node = Node::start();
    let path = recipe(&node, "name = \"small\"\nversion = \"1\"\n[base]\nscratch = \"busybox\"\n");
    let path = path.to_str().unwrap();
    let said = node.fails(3, ["image", "build", "--locked", path]);
    assert!(said.contains("small.lock") && said.contains("image lock small@1 >"), "{said}");
    std::fs::write(node.directory().join("small.lock"), "format = 1\npackages = [\"--purge 1 all -\"]\n").unwrap();
    let said = node.fails(2, ["image", "build", "--locked", path]);
    assert!(said.contains("--purge 1 all -"), "{said}");
    // A root without packages is held to having none.
    std::fs::write(node.directory().join("small.lock"), "format = 1\npackages = [\"own 1 all -\"]\n").unwrap();
    let said = node.fails(4, ["image", "build", "--locked", path]);
    assert!(said.contains("own 1"), "{said}");
    node.ok(["image", "build", path]);
    let said = node.fails(7, ["image", "lock", "small@1"]);
    assert!(said.contains("nothing to lock"), "{said}");
}
