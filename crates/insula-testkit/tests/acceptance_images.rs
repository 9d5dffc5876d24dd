//! Images from recipes, and their way into production.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::path::PathBuf;

use insula_testkit::{Node, eventually};

/// Writes `text` with the base of busybox as a recipe for `small@VERSION` into the node's directory.
fn recipe(node: &Node, version: &str, text: &str) -> PathBuf {
    let path = node.directory().join(format!("{version}.toml"));
    let head = format!("name = \"small\"\nversion = \"{version}\"\n");
    std::fs::write(&path, format!("{head}{text}\n[base]\nscratch = \"busybox\"\n")).unwrap();
    path
}

fn build(node: &Node, version: &str, text: &str) {
    let path = recipe(node, version, text);
    let _ = node.ok(["image", "build", path.to_str().unwrap()]);
}

/// What a container of `small` prints.
fn prints(node: &Node, words: &[&str]) -> String {
    node.ok([&["run", "--rm", "small"], words].concat()).text().to_owned()
}

/// Nothing of an operation on images is left in the state directory.
fn assert_no_operation_left(node: &Node) {
    eventually("no unfinished image is left", || {
        let left = std::fs::read_dir(node.state_dir().join("images/.incoming")).unwrap().count();
        let containers = std::fs::read_dir(node.state_dir().join("containers")).map_or(0, Iterator::count);
        (left == 0 && containers == 0).then_some(())
    });
}

const EVERYTHING: &str = r#"
timezone = "Europe/Rome"

[env]
GREETING = "hello"

[[files]]
path = "/etc/motd"
content = "from the recipe"
mode = 0o640
gid = 7

[[files]]
path = "/etc/hosts"
content = "127.0.0.1 of-the-image\n"

[[files]]
path = "/srv/beside"
source = "beside.txt"

[[users]]
name = "app"
uid = 1234
home = "/home/app"

[[run]]
shell = "echo $GREETING from $(id -u) on $(hostname) > /srv/said; echo first line; echo second >&2"

[[run]]
command = ["chown", "app", "/srv/said"]

[[run]]
shell = "rm /srv/beside; mkdir -p /opt/tool; echo tool > /opt/tool/own; ln -s own /opt/tool/link; touch /dev/x /data/x /etc/x"

[[places]]
path = "/etc"
size = "5MiB"

[[places]]
path = "/var"
size = "8MiB"

[[places]]
path = "/tmp"
size = "6MiB"
content = "empty"
"#;

#[test]
fn live_a01_what_a_recipe_says_is_what_a_container_sees() {
    let node = Node::start();
    std::fs::write(node.directory().join("beside.txt"), "beside").unwrap();
    let path = recipe(&node, "1", EVERYTHING);
    let built = node.ok(["image", "build", path.to_str().unwrap()]);
    assert_eq!(built.text(), "small@1");
    for line in ["first line", "second", "$ chown app /srv/said"] {
        assert!(built.stderr.lines().any(|shown| shown == line), "{line}: {}", built.stderr);
    }
    assert_no_operation_left(&node);
    assert_eq!(prints(&node, &["cat", "/srv/said"]), "hello from 0 on build");
    assert_eq!(prints(&node, &["stat", "-c", "%u %a", "/srv/said"]), "1234 644");
    assert_eq!(prints(&node, &["stat", "-c", "%g %a", "/etc/motd"]), "7 640");
    assert_eq!(
        prints(&node, &["sh", "-c", "cat /opt/tool/link; ls /srv /data /etc/x; ls /dev/x 2>&1 | wc -l"]),
        "tool\n/etc/x\n\n/data:\nservice\n\n/srv:\nsaid\n1"
    );
    assert_eq!(
        prints(&node, &["sh", "-c", "echo $GREETING; cat /etc/timezone; id -u app; ls -d ~app"]),
        "hello\nEurope/Rome\n1234\n/home/app"
    );
    let sizes = prints(&node, &["sh", "-c", "df -k /etc /var /tmp | awk 'NR > 1 {print $2}'"]);
    assert_eq!(sizes.lines().last(), Some("6144"), "{sizes}");
    let full = prints(
        &node,
        &[
            "sh",
            "-c",
            "dd if=/dev/zero of=/var/x bs=1M count=9 2>/dev/null; stat -c %s /var/x; touch /usr/x 2>/dev/null || echo refused",
        ],
    );
    let (size, root) = full.split_once('\n').unwrap();
    assert!(size.parse::<u64>().unwrap() <= 8 << 20 && root == "refused", "{full}");
    let shown = node.json(["image", "show", "small@1"]);
    assert_eq!(shown["mount_plan"]["places"][0]["path"], "/etc");
    assert_eq!(shown["stage"], "testing");
}

#[test]
fn live_a01_two_builds_of_the_same_recipe_have_the_same_digest() {
    let digests = [(), ()].map(|()| {
        let node = Node::start();
        std::fs::write(node.directory().join("beside.txt"), "beside").unwrap();
        build(&node, "1", EVERYTHING);
        node.json(["image", "show", "small@1"])["digest"].as_str().unwrap().to_owned()
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn live_a01_an_existing_version_is_refused_before_any_work() {
    let node = Node::start();
    build(&node, "1", "");
    let digest = node.json(["image", "show", "small@1"])["digest"].clone();
    let again = recipe(&node, "1", "[[run]]\nshell = \"echo ran\"\n");
    let said = node.fails(4, ["image", "build", again.to_str().unwrap()]);
    assert!(said.contains("small@1 exists already") && !said.contains("ran"), "{said}");
    assert_eq!(node.json(["image", "show", "small@1"])["digest"], digest);
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_a_recipe_that_is_none_is_refused_with_the_nearest_field() {
    let node = Node::start();
    let path = recipe(&node, "1", "timezon = \"UTC\"\n");
    let said = node.fails(2, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("line 3") && said.contains("timezone"), "{said}");
    assert_no_operation_left(&node);
}

#[test]
fn live_a01_a_failing_command_fails_the_build_with_its_step_code_and_last_words() {
    let node = Node::start();
    let path = recipe(&node, "1", "[[run]]\nshell = \"true\"\n[[run]]\nshell = \"echo oh no; exit 7\"\n");
    let said = node.fails(1, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("step 2 of 2") && said.contains("code 7: oh no"), "{said}");
    let path = recipe(&node, "1", "[[run]]\ncommand = [\"no-such-program\"]\n");
    let said = node.fails(1, ["image", "build", path.to_str().unwrap()]);
    assert!(said.contains("code 127") && said.contains("no-such-program"), "{said}");
    assert_eq!(node.json(["image", "list"]).as_array().unwrap().len(), 0);
    assert_no_operation_left(&node);
}
