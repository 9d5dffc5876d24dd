//! The image as a property: changed, tried, taken back.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use insula_testkit::{Node, archive, eventually};

/// Between two moments at which the daemon dies in the middle of an upgrade.
const STEP: Duration = Duration::from_millis(7);

/// A node with busybox in versions 1 and 2; what they are is in `/etc/version`.
fn node() -> Node {
    let node = Node::start();
    for version in ["1", "2"] {
        let path = node.directory().join(format!("{version}.tar"));
        std::fs::write(&path, with_version(version)).unwrap();
        node.ok(["image", "import", &format!("box@{version}"), path.to_str().unwrap()]);
    }
    node
}

/// The small image and one more file.
fn with_version(version: &str) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut header = entry.header().clone();
        let path = entry.path().unwrap().into_owned();
        match entry.link_name().unwrap().map(std::borrow::Cow::into_owned) {
            Some(target) => out.append_link(&mut header, path, target).unwrap(),
            None => out.append_data(&mut header, path, &mut entry).unwrap(),
        }
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(version.len()).unwrap());
    header.set_mode(0o644);
    out.append_data(&mut header, "etc/version", version.as_bytes()).unwrap();
    out.into_inner().unwrap()
}

fn version(node: &Node, container: &str) -> String {
    node.ok(["exec", container, "cat", "/etc/version"]).text().to_owned()
}

#[test]
fn live_a08_a_set_image_runs_after_the_restart_and_rolls_back() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "box@1", "sleep", "1000"]);
    node.ok(["exec", "c", "sh", "-c", "echo kept >/data/mark"]);
    node.ok(["set", "c", "image=box@2"]);
    let shown = node.show("c");
    assert_eq!((&shown["image"], &shown["next_image"]), (&"box@1".into(), &"box@2".into()));
    assert_eq!(version(&node, "c"), "1");
    node.ok(["restart", "c"]);
    assert_eq!(version(&node, "c"), "2");
    // It is tried for a while before it counts.
    eventually("the new version proved good", || (node.show("c")["previous_image"] == "box@1").then_some(()));
    assert_eq!(node.show("c")["image"], "box@2");
    node.ok(["rollback", "c"]);
    assert_eq!(version(&node, "c"), "1");
    assert_eq!(node.show("c")["image"], "box@1");
    assert_eq!(node.ok(["exec", "c", "cat", "/data/mark"]).text(), "kept");
    let _ = node.fails(3, ["set", "c", "image=box@9"]);
}

#[test]
fn live_a08_an_upgrade_that_is_not_healthy_is_taken_back_with_its_reason() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "box@1", "sleep", "1000"]);
    node.ok(["exec", "c", "sh", "-c", "echo kept >/data/mark"]);
    let health = ["--health", "grep -q 1 /etc/version", "--deadline", "1"];
    let said = node.run([&["upgrade", "c", "--image", "box@2"], &health[..]].concat());
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("healthy"), "{}", said.stderr);
    assert_eq!(version(&node, "c"), "1");
    let shown = node.show("c");
    assert_eq!((&shown["state"], &shown["image"]), (&"running".into(), &"box@1".into()));
    assert!(shown["previous_image"].is_null(), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("box@2")), "{shown}");
    assert_eq!(node.ok(["exec", "c", "cat", "/data/mark"]).text(), "kept");

    node.ok(["upgrade", "c", "--image", "box@2", "--health", "grep -q 2 /etc/version", "--deadline", "10"]);
    let shown = node.show("c");
    assert_eq!((&shown["image"], &shown["previous_image"]), (&"box@2".into(), &"box@1".into()));
}

#[test]
fn live_a08_an_upgrade_whose_command_ends_is_taken_back() {
    let node = node();
    let script = "test $(cat /etc/version) = 1 || exit 5; exec sleep 1000";
    node.ok(["run", "-d", "--name", "c", "box@1", "sh", "-c", script]);
    let said = node.run(["upgrade", "c", "--image", "box@2"]);
    assert_ne!(said.code, 0, "{}", said.stderr);
    assert_eq!(version(&node, "c"), "1");
    let _ = node.fails(3, ["upgrade", "c", "--image", "box@9"]);
    assert_eq!(version(&node, "c"), "1");
}

#[test]
fn live_a08_a_set_image_whose_init_fails_is_taken_back_by_itself_with_its_cause() {
    let node = node();
    let script = "test $(cat /etc/version) = 1 || exit 5; exec sleep 1000";
    node.ok(["run", "-d", "--name", "c", "box@1", "sh", "-c", script]);
    node.ok(["exec", "c", "sh", "-c", "echo kept >/data/mark"]);
    node.ok(["set", "c", "image=box@2"]);
    // It may run for a moment, or be known to fail already.
    let _ = node.run(["restart", "c"]);
    let shown = eventually("the last good image runs again", || {
        let shown = node.show("c");
        let is_back = shown["state"] == "running" && shown["image"] == "box@1" && shown["next_image"].is_null();
        (is_back && shown["reason"].is_string()).then_some(shown)
    });
    let cause = shown["reason"].as_str().unwrap();
    assert!(cause.contains("box@2") && cause.contains('5'), "{cause}");
    assert_eq!(version(&node, "c"), "1");
    assert_eq!(node.ok(["exec", "c", "cat", "/data/mark"]).text(), "kept");
}

#[test]
fn live_a08_an_upgrade_whose_daemon_is_killed_at_any_moment_is_finished_or_undone() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "c", "box@1", "sleep", "1000"]);
    node.ok(["exec", "c", "sh", "-c", "echo kept >/data/mark"]);
    let mut finished = 0;
    for round in 0..12 {
        let from = version(&node, "c");
        let to = if from == "1" { "2" } else { "1" };
        let check = format!("grep -q {to} /etc/version");
        let image = format!("box@{to}");
        let mut upgrade = node.insula(["upgrade", "c", "--image", &image, "--health", &check, "--deadline", "60s"]);
        let mut client = upgrade.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(STEP * round);
        node.kill_daemon();
        client.wait().unwrap();
        node.start_daemon();
        let shown = eventually("it runs and nothing is pending", || {
            let shown = node.show("c");
            (shown["state"] == "running" && shown["next_image"].is_null()).then_some(shown)
        });
        let now = version(&node, "c");
        assert!(now == from || now == to, "{now}");
        assert_eq!(shown["image"], format!("box@{now}"), "{shown}");
        finished += usize::from(now == to);
        assert_eq!(node.ok(["exec", "c", "cat", "/data/mark"]).text(), "kept");
    }
    println!("{finished} of 12 were finished");
}

#[test]
fn live_a08_a_trial_goes_on_under_the_next_daemon() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "c", "box@1", "sleep", "1000"]);
    for (is_well, version_after) in [(false, "1"), (true, "2")] {
        let check = ["--health", "test -e /data/well", "--deadline", "2s"];
        let mut upgrade = node.insula([&["upgrade", "c", "--image", "box@2"], &check[..]].concat());
        let mut client = upgrade.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("the new version runs", || {
            (node.run(["exec", "c", "grep", "-q", "2", "/etc/version"]).code == 0).then_some(())
        });
        node.kill_daemon();
        assert_ne!(client.wait().unwrap().code(), Some(0), "it cannot know");
        node.start_daemon();
        if is_well {
            node.ok(["exec", "c", "touch", "/data/well"]);
        }
        let shown = eventually("the trial is over", || {
            let shown = node.show("c");
            let is_over = shown["state"] == "running" && shown["next_image"].is_null();
            let image = format!("box@{version_after}");
            (is_over && shown["image"] == image && (!is_well || shown["previous_image"] == "box@1")).then_some(shown)
        });
        assert_eq!(version(&node, "c"), version_after);
        assert_eq!(shown["reason"].is_string(), !is_well, "{shown}");
    }
}

#[test]
fn live_a04_a_new_default_is_for_new_containers_and_for_others_when_asked() {
    let node = node();
    node.ok(["run", "-d", "--name", "old", "box", "sleep", "1000"]);
    assert_eq!(version(&node, "old"), "1");
    assert_eq!(node.ok(["run", "--rm", "box@2", "cat", "/etc/version"]).text(), "2", "a valid version is used");
    node.ok(["image", "default", "box", "2"]);
    assert_eq!(node.ok(["run", "--rm", "box", "cat", "/etc/version"]).text(), "2");
    node.ok(["restart", "old"]);
    assert_eq!(version(&node, "old"), "1");
    node.ok(["set", "old", "image=box"]);
    assert_eq!(version(&node, "old"), "1");
    node.ok(["restart", "old"]);
    assert_eq!(version(&node, "old"), "2");
}

#[test]
fn live_a_damaged_image_file_is_found() {
    let node = node();
    node.ok(["image", "verify", "box@1"]);
    let files = Path::new("images");
    let image = largest_file(&node.state_dir().join(files));
    let mut bytes = std::fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The store's files are immutable until somebody with the right asks otherwise.
    let _ = std::process::Command::new("chattr").arg("-i").arg(&image).status().unwrap();
    let written = std::fs::write(&image, bytes);
    assert!(written.is_ok(), "{}: {written:?}", image.display());
    let verdicts = ["box@1", "box@2"].map(|image| node.run(["image", "verify", image]).code);
    assert!(verdicts.contains(&1) && verdicts.contains(&0), "{verdicts:?}");
}

fn largest_file(folder: &Path) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    let mut found = (0, std::path::PathBuf::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.len() > found.0 {
                found = (meta.len(), entry.path());
            }
        }
    }
    found.1
}

#[test]
fn live_a_rollback_of_a_change_on_trial_goes_back_to_what_ran_before() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "box@1", "sleep", "1000"]);
    // On trial for as long as the check has not passed.
    node.ok(["set", "c", "image=box@2", "health.command=test -e /data/well", "health.deadline=60s"]);
    node.ok(["restart", "c"]);
    assert_eq!(version(&node, "c"), "2");
    node.ok(["exec", "c", "touch", "/data/well"]);
    node.ok(["rollback", "c"]);
    assert_eq!(version(&node, "c"), "1");
    assert_eq!(node.show("c")["image"], "box@1");
}
