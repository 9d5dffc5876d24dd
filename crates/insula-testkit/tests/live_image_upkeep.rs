//! What a node does for mounted images by itself: finds damage, gives back memory that holds them twice.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;

use insula_testkit::{Node, NodeOptions, eventually, kernel_is_since};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

fn node(images: &str) -> Node {
    Node::start_with(&NodeOptions { config: format!("[images]\n{images}\n") })
}

/// Content of `/usr/big` in the images here: more than any read-ahead.
const CONTENT: &[u8] = &[b'x'; 4 << 20];

fn build(node: &Node) -> PathBuf {
    std::fs::write(node.directory().join("big"), CONTENT).unwrap();
    let path = node.directory().join("small.toml");
    let text = "name = \"small\"\nversion = \"1\"\n[base]\nscratch = \"busybox\"\n\
                [[files]]\npath = \"/usr/big\"\nsource = \"big\"\n";
    std::fs::write(&path, text).unwrap();
    node.ok(["image", "build", path.to_str().unwrap()]);
    node.state_dir().join("images/small/1/root.erofs")
}

fn log(node: &Node) -> String {
    std::fs::read_to_string(node.directory().join("daemon.log")).unwrap()
}

fn usage(node: &Node) -> (u64, u64) {
    let usage = node.json(["image", "usage", "small@1"]);
    let bytes = |key: &str| usage[0][key].as_u64().unwrap();
    (bytes("cached_bytes"), bytes("mount_cached_bytes"))
}

/// Before `cachestat` nobody knows what is in memory, and nobody says so.
fn tell_that_memory_is_not_counted() {
    let node = node("");
    build(&node);
    let usage = node.json(["image", "usage", "small@1"]);
    assert!(usage[0]["cached_bytes"].is_null() && usage[0]["disk_bytes"].as_u64() > Some(0), "{usage}");
}

#[test]
fn live_what_was_read_is_in_memory_once_and_not_twice() {
    if !kernel_is_since((6, 5)) {
        return tell_that_memory_is_not_counted();
    }
    let big = u64::try_from(CONTENT.len()).unwrap();
    // Only the drop some time after a mount can have done it.
    let mut node = node("cache_drop_after_ms = 3000\ncache_drop_interval_ms = 3600000");
    build(&node);
    node.ok(["run", "-d", "--name", "c", "small", "sleep", "1000"]);
    node.ok(["exec", "c", "md5sum", "/usr/big"]);
    let (file, mount) = usage(&node);
    assert!(file >= big && mount >= big, "twice before: file {file}, mount {mount}");
    eventually("the file's part is given back", || (usage(&node).0 < big / 4).then_some(()));
    assert!(usage(&node).1 >= big, "the mount's part stays");
    node.ok(["exec", "c", "md5sum", "/usr/big"]);
    assert!(usage(&node).0 < big / 4, "reading it again does not bring it back");
    // Another daemon finds the mount; only the periodic drop can do it for what is read behind its back.
    node.stop_daemon();
    let config = "log = \"debug\"\n[images]\ncache_drop_after_ms = 3600000\ncache_drop_interval_ms = 500\n";
    std::fs::write(node.directory().join("node.toml"), config).unwrap();
    std::fs::read(node.state_dir().join("images/small/1/root.erofs")).unwrap();
    node.start_daemon();
    eventually("what others read is given back too", || (usage(&node).0 < big / 4).then_some(()));
}

#[test]
fn live_damage_of_a_mounted_image_is_found_told_and_keeps_new_containers_away() {
    let node = node("scrub_interval_s = 1\nscrub_rate = \"256MiB\"");
    let path = build(&node);
    node.ok(["run", "-d", "--name", "c", "small", "sleep", "1000"]);
    let mut events = node.insula(["events", "--format", "json"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    eventually("sound images are checked in turn", || log(&node).contains("every byte is right").then_some(()));
    assert!(node.json(["image", "show", "small@1"])["damaged"].is_null());
    let image = std::fs::read(&path).unwrap();
    let at = image.windows(CONTENT.len()).position(|bytes| bytes == CONTENT).unwrap() + 1_000_000;
    let flags = ioctl_getflags(File::open(&path).unwrap()).unwrap();
    ioctl_setflags(File::open(&path).unwrap(), flags - IFlags::IMMUTABLE).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"y", at.try_into().unwrap()).unwrap();
    file.sync_all().unwrap();
    let event = lines.find(|line| line.as_ref().unwrap().contains("\"damaged\"")).unwrap().unwrap();
    assert!(event.contains("small@1") && event.contains("/usr/big"), "{event}");
    let said = node.fails(125, ["run", "--rm", "small", "true"]);
    assert!(said.contains("small@1 is damaged"), "{said}");
    let doctor = node.run(["doctor"]);
    assert!(doctor.stdout.contains("/usr/big") && doctor.stdout.contains("image verify small@1"), "{}", doctor.stdout);
    assert!(log(&node).contains("no container starts from it any more"));
    assert_eq!(node.show("c")["state"], "running", "who runs from it goes on");
    events.kill().unwrap();
    events.wait().unwrap();
}
