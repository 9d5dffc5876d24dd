//! Copies from and to containers that do not run.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::process::Stdio;

use insula_testkit::{Node, eventually};

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// `NAME:PATH`
fn inside(name: &str, path: &str) -> String {
    format!("{name}:{path}")
}

#[test]
fn live_files_of_a_container_that_never_ran_are_copied_both_ways_and_no_program_of_it_runs() {
    let node = node();
    let local = node.directory().join("note");
    std::fs::write(&local, "from outside").unwrap();
    let local = local.to_str().unwrap();
    node.ok(["create", "--name", "idle", "busybox", "sh", "-c", "touch /data/ran; cat /data/note"]);
    let out = node.directory().join("busybox");
    node.ok(["cp", &inside("idle", "/bin/busybox"), out.to_str().unwrap()]);
    assert!(out.metadata().unwrap().len() > 1_000);
    node.ok(["cp", local, &inside("idle", "/data/note")]);
    let missing = node.fails(3, ["cp", &inside("idle", "/data/ran"), "-"]);
    assert!(missing.contains("/data/ran"), "{missing}");
    assert_eq!(node.show("idle")["state"], "created");
    assert_eq!(node.ok(["start", "--attach", "idle"]).text(), "from outside");
    let copied = node.directory().join("ran");
    node.ok(["cp", &inside("idle", "/data/ran"), copied.to_str().unwrap()]);
    assert!(copied.exists());
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 1);
    node.ok(["delete", "--force", "idle"]);
}

#[test]
fn live_what_a_start_makes_anew_and_what_is_the_images_is_refused_by_name() {
    let node = node();
    let local = node.directory().join("note");
    std::fs::write(&local, "note").unwrap();
    let local = local.to_str().unwrap();
    node.ok(["run", "--name", "ended", "busybox", "true"]);
    let place = node.fails(4, ["cp", local, &inside("ended", "/tmp/note")]);
    assert!(place.contains("/tmp") && place.contains("insula start ended"), "{place}");
    let image = node.fails(4, ["cp", local, &inside("ended", "/bin/note")]);
    assert!(image.contains("read-only") && image.contains("--root writable"), "{image}");
    node.ok(["delete", "--force", "ended"]);
}

#[test]
fn live_a_writable_roots_layer_is_read_and_written_while_its_container_rests() {
    let node = node();
    let local = node.directory().join("note");
    std::fs::write(&local, "note").unwrap();
    let script = "cat /srv-note 2>/dev/null || echo first > /first";
    node.ok(["run", "--root", "writable", "--name", "layer", "busybox", "sh", "-c", script]);
    let first = node.directory().join("first");
    node.ok(["cp", &inside("layer", "/first"), first.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(first).unwrap(), "first\n");
    node.ok(["cp", local.to_str().unwrap(), &inside("layer", "/srv-note")]);
    assert_eq!(node.ok(["start", "--attach", "layer"]).text(), "note");
    node.ok(["delete", "--force", "layer"]);
}

#[test]
fn live_a_copy_that_its_daemon_does_not_outlive_leaves_a_container_that_starts() {
    let mut node = node();
    node.ok(["create", "--root", "writable", "--name", "rests", "busybox", "cat", "/data/note"]);
    // The copy lasts as long as its input stays open.
    let mut copy = node.insula(["cp", "-", &inside("rests", "/data")]);
    let mut copy = copy.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let facts = node.run_dir().join("containers");
    eventually("the files are lent", || facts.read_dir().ok()?.next().map(drop));
    let busy = node.fails(4, ["start", "rests"]);
    assert!(busy.contains("being copied"), "{busy}");
    node.kill_daemon();
    drop(copy.stdin.take());
    copy.wait().unwrap();
    node.start_daemon();
    assert_eq!(node.show("rests")["state"], "created");
    let local = node.directory().join("note");
    std::fs::write(&local, "note").unwrap();
    node.ok(["cp", local.to_str().unwrap(), &inside("rests", "/data/note")]);
    assert_eq!(node.ok(["start", "--attach", "rests"]).text(), "note");
    node.ok(["delete", "--force", "rests"]);
}

#[test]
fn live_bounded_data_and_volumes_are_copied_to_and_from_whether_their_container_runs_or_rests() {
    let node = node();
    let (note, volume) = (node.directory().join("note"), node.directory().join("volume"));
    std::fs::write(&note, "note").unwrap();
    std::fs::create_dir(&volume).unwrap();
    let note = note.to_str().unwrap();
    let share = format!("{}:/srv", volume.display());
    node.ok(["create", "--name", "c", "--set", "data.size=16MiB", "-v", &share, "busybox", "sleep", "600"]);
    let copy_both_ways = |round: &str| {
        for folder in ["/data", "/srv"] {
            let place = inside("c", &format!("{folder}/{round}"));
            node.ok(["cp", note, &place]);
            let back = node.directory().join(format!("{round}{}", folder.replace('/', "-")));
            node.ok(["cp", &place, back.to_str().unwrap()]);
            assert_eq!(std::fs::read_to_string(back).unwrap(), "note", "{round} {folder}");
        }
    };
    copy_both_ways("at-rest");
    node.ok(["start", "c"]);
    copy_both_ways("running");
    let all = node.ok(["exec", "c", "sh", "-c", "cat /data/at-rest /data/running /srv/at-rest /srv/running"]);
    assert_eq!(all.text(), "notenotenotenote");
    assert_eq!(std::fs::read_to_string(volume.join("at-rest")).unwrap(), "note");
    // What does not fit is refused, and the container goes on.
    let large = node.directory().join("large");
    std::fs::write(&large, vec![7; 32 << 20]).unwrap();
    let full = node.run(["cp", large.to_str().unwrap(), &inside("c", "/data/large")]);
    assert!(full.code == 1 && full.stderr.contains("No space left on device"), "{}: {}", full.code, full.stderr);
    assert_eq!(node.ok(["exec", "c", "cat", "/srv/running"]).text(), "note");
    node.ok(["delete", "--force", "c"]);
}
