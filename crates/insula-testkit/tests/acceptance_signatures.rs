//! Who vouches for an image: signatures of versions, checked before the first mount.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use insula_testkit::Node;

/// Builds `small@VERSION` over busybox, with a check that passes.
fn build(node: &Node, version: &str) {
    let path = node.directory().join(format!("{version}.toml"));
    let text = format!(
        "name = \"small\"\nversion = \"{version}\"\n[base]\nscratch = \"busybox\"\n[config]\nchecks = [[\"true\"]]\n"
    );
    std::fs::write(&path, text).unwrap();
    node.ok(["image", "build", path.to_str().unwrap()]);
}

fn directory(node: &Node, version: &str) -> PathBuf {
    node.state_dir().join("images/small").join(version)
}

/// This node's own key for a stage.
fn key(node: &Node, stage: &str) -> String {
    let keys = node.json(["image", "keys"]);
    let own = keys["keys"].as_array().unwrap().iter().find(|key| key["stage"] == stage && key["own"] == true);
    own.unwrap()["key"].as_str().unwrap().to_owned()
}

/// Changes the last byte of the record: of the signature, which comes last in it.
fn tamper(record: &Path) {
    let mut bytes = std::fs::read(record).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(record, bytes).unwrap();
}

#[test]
fn live_a01_a_build_is_signed_and_its_digest_does_not_depend_on_the_key() {
    let nodes = [Node::start(), Node::start()];
    let shown = [0, 1].map(|index: usize| {
        let node = &nodes[index];
        build(node, "1");
        let shown = node.json(["image", "show", "small@1"]);
        assert_eq!(shown["signature"]["state"], "valid");
        assert_eq!(shown["signature"]["own"], true);
        assert_eq!(shown["signature"]["key"].as_str(), Some(key(node, "testing").as_str()));
        assert_eq!(node.json(["image", "verify", "small@1"])["signature"]["accepted"], true);
        for stage in ["testing", "production"] {
            let path = node.state_dir().join(format!("keys/image-{stage}.key"));
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        shown
    });
    assert_ne!(shown[0]["signature"]["key"], shown[1]["signature"]["key"]);
    assert_eq!(shown[0]["digest"], shown[1]["digest"]);
}

#[test]
fn live_a02_promotion_signs_with_the_key_of_production() {
    let node = Node::start();
    build(&node, "1");
    node.ok(["image", "test", "small@1"]);
    node.ok(["image", "promote", "small@1"]);
    let shown = node.json(["image", "show", "small@1"]);
    assert_eq!(shown["signature"]["key"].as_str(), Some(key(&node, "production").as_str()));
    assert_ne!(key(&node, "production"), key(&node, "testing"));
    assert_eq!(node.ok(["run", "--rm", "small", "echo", "ok"]).text(), "ok");
}

#[test]
fn live_a01_an_image_whose_record_was_changed_does_not_start_before_somebody_vouches_for_it() {
    let mut node = Node::start();
    build(&node, "1");
    let record = directory(&node, "1").join("stage");
    let good = std::fs::read(&record).unwrap();
    tamper(&record);
    let said = node.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains("small@1") && said.contains("is wrong") && said.contains("image sign"), "{said}");
    let said = node.fails(1, ["image", "verify", "small@1"]);
    assert!(said.contains("wrong") && said.contains("image sign small@1"), "{said}");
    // Also for a daemon that finds it so.
    node.stop_daemon();
    node.start_daemon();
    assert_eq!(node.json(["image", "show", "small@1"])["signature"]["state"], "wrong");
    let said = node.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains("is wrong"), "{said}");
    assert!(node.run(["doctor"]).stdout.contains("small@1"), "the doctor tells");
    node.ok(["image", "sign", "small@1"]);
    node.ok(["run", "--rm", "small", "true"]);
    assert_ne!(std::fs::read(&record).unwrap().len(), 0);
    std::fs::write(&record, good).unwrap();
    assert_eq!(node.json(["image", "verify", "small@1"])["signature"]["state"], "valid");
}

/// Copies a version from one node's store into another's, whose daemon does not run.
fn copy_version(from: &Node, to: &Node, version: &str) {
    let (source, target) = (directory(from, version), directory(to, version));
    std::fs::create_dir_all(&target).unwrap();
    for file in ["root.erofs", "manifest.cbor", "manifest.json", "stage"] {
        std::fs::copy(source.join(file), target.join(file)).unwrap();
    }
}

#[test]
fn live_a01_an_image_signed_by_a_foreign_key_starts_only_where_that_key_is_trusted() {
    let (maker, mut user) = (Node::start(), Node::start());
    build(&maker, "1");
    let foreign = key(&maker, "testing");
    user.stop_daemon();
    copy_version(&maker, &user, "1");
    user.start_daemon();
    let said = user.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains(&foreign) && said.contains("images.trusted_testing"), "{said}");
    let trust = |user: &mut Node, list: &str| {
        user.stop_daemon();
        let path = user.directory().join("node.toml");
        let config = std::fs::read_to_string(&path).unwrap();
        let config = config.split("[images]").next().unwrap().to_owned();
        std::fs::write(&path, format!("{config}[images]\n{list} = [\"{foreign}\"]\n")).unwrap();
        user.start_daemon();
    };
    trust(&mut user, "trusted_production");
    let said = user.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains("images.trusted_testing"), "a key counts for its stage only: {said}");
    trust(&mut user, "trusted_testing");
    assert_eq!(user.ok(["run", "--rm", "small", "echo", "ok"]).text(), "ok");
    let shown = user.json(["image", "show", "small@1"]);
    assert_eq!(
        (shown["signature"]["state"].as_str(), shown["signature"]["own"].as_bool()),
        (Some("valid"), Some(false))
    );
}

#[test]
fn live_a01_images_of_a_node_without_keys_stay_usable() {
    let mut node = Node::start();
    build(&node, "1");
    node.stop_daemon();
    std::fs::remove_dir_all(node.state_dir().join("keys")).unwrap();
    node.start_daemon();
    node.ok(["run", "--rm", "small", "true"]);
    assert_eq!(node.json(["image", "show", "small@1"])["signature"]["own"], true);
}
