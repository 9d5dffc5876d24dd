//! The life of a container from the command line, and what is left of it.

use insula_testkit::{Node, eventually};

#[test]
fn live_a_removed_run_leaves_nothing() {
    let node = Node::start();
    node.import_busybox();
    let nothing_is_listed = || node.ok(["list", "-q"]).text().is_empty().then_some(());
    // The first start mounts the image, which stays mounted.
    node.ok(["run", "--rm", "busybox", "true"]);
    eventually("the first container is gone", nothing_is_listed);
    let before = node.on_host().to_string();
    node.ok(["run", "--rm", "busybox", "true"]);
    let _ = node.run(["run", "--rm", "busybox", "no-such-program"]).with_code(127);
    eventually("the containers are gone", nothing_is_listed);
    eventually("the host is as before", || (node.on_host().to_string() == before).then_some(()));
}

#[test]
fn live_a_container_lives_as_the_contract_says() {
    let node = Node::start();
    node.import_busybox();
    let created = node.ok(["create", "--name", "web", "--label", "tier=front", "busybox", "sleep", "1000"]);
    assert_eq!(created.text(), "web");
    assert_eq!(node.show("web")["state"], "created");
    assert_eq!(node.ok(["start", "web"]).text(), "web");
    let shown = node.show("web");
    assert_eq!((&shown["state"], &shown["image"]), (&"running".into(), &"busybox@1".into()));
    for key in ["name", "id", "pid", "address", "created", "started", "uid_base", "cgroup"] {
        assert!(!shown[key].is_null(), "{key}: {shown}");
    }
    for key in ["previous_image", "exit_code"] {
        assert!(shown.as_object().unwrap().contains_key(key), "{key}");
    }
    assert!(node.fails(4, ["create", "--name", "web", "busybox"]).contains("web"));
    assert!(node.fails(4, ["delete", "web"]).contains("web"));
    node.ok(["pause", "web"]);
    assert_eq!(node.show("web")["state"], "paused");
    node.ok(["resume", "web"]);
    assert_eq!(node.ok(["list", "-q", "--filter", "label=tier:front"]).text(), "web");
    assert_eq!(node.ok(["list", "-q", "--filter", "state=stopped"]).text(), "");
    node.ok(["rename", "web", "site"]);
    node.ok(["stop", "-t", "1", "site"]);
    let stopped = node.show("site");
    assert_eq!((&stopped["state"], &stopped["pid"]), (&"stopped".into(), &serde_json::Value::Null));
    assert_eq!(node.ok(["wait", "site"]).text(), stopped["exit_code"].to_string());
    node.ok(["restart", "site"]);
    assert_eq!(node.show("site")["state"], "running");
    node.ok(["kill", "site"]);
    node.ok(["wait", "site"]);
    assert_eq!(node.show("site")["exit_code"], 137);
    assert_eq!(node.ok(["delete", "site"]).text(), "site");
    assert!(node.json(["list"]).as_array().unwrap().is_empty());
}

#[test]
fn live_several_names_are_done_and_a_part_is_8() {
    let node = Node::start();
    node.import_busybox();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
    }
    assert!(node.fails(8, ["delete", "--force", "a", "missing", "b"]).contains("missing"));
    assert!(node.json(["list"]).as_array().unwrap().is_empty());
}

#[test]
fn live_settings_on_the_command_line_act_on_the_first_start() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "--set", "memory.limit=64MiB", "busybox", "sleep", "1000"]);
    assert_eq!(node.show("c")["usage"]["memory_limit_bytes"], 64 * 1024 * 1024);
    let _ = node.fails(2, ["create", "--name", "d", "--set", "no.such=1", "busybox"]);
    assert_eq!(node.ok(["list", "-q"]).text(), "c");
}

#[test]
fn live_the_probe_sees_the_options_of_a_run() {
    let node = Node::start();
    node.import_busybox();
    let report = node.probe_run(&["-e", "A=b", "-w", "/tmp", "-u", "web", "--hostname", "h"]);
    assert_eq!((report.env["A"].as_str(), report.cwd.as_str(), report.hostname.as_str()), ("b", "/tmp", "h"));
    assert_eq!(report.uid, [33; 4]);
    assert_eq!(report.fds.keys().copied().collect::<Vec<u32>>(), [0, 1, 2], "{:?}", report.fds);
    assert_eq!(report.seccomp, 2);
}

#[test]
fn live_files_are_copied_both_ways() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let (from, back) = (node.directory().join("tree"), node.directory().join("back"));
    std::fs::create_dir_all(from.join("inner")).unwrap();
    // More than fits any buffer on the way.
    let content = "0123456789abcde\n".repeat(200_000);
    std::fs::write(from.join("inner/large"), &content).unwrap();
    std::os::unix::fs::symlink("inner/large", from.join("link")).unwrap();
    node.ok(["cp", from.to_str().unwrap(), "c:/tmp"]);
    assert_eq!(node.ok(["exec", "c", "readlink", "/tmp/tree/link"]).text(), "inner/large");
    assert_eq!(node.ok(["exec", "c", "stat", "-c", "%u:%g", "/tmp/tree/inner/large"]).text(), "0:0");
    node.ok(["cp", "c:/tmp/tree", back.to_str().unwrap()]);
    assert!(std::fs::read_to_string(back.join("link")).unwrap() == content);
    let archive = node.ok(["cp", "c:/etc/passwd", "-"]).stdout;
    let _ = node.run_with_input(["cp", "-", "c:/tmp"], archive.as_bytes()).ok();
    assert!(node.ok(["exec", "c", "cat", "/tmp/passwd"]).text().contains("root:x:0:0"));
    assert!(node.fails(3, ["cp", "c:/no/such/file", back.to_str().unwrap()]).contains("/no/such/file"));
    let _ = node.fails(2, ["cp", "a", "b"]);
}

#[test]
fn live_logs_are_kept_by_stream_and_in_order() {
    let node = Node::start();
    node.import_busybox();
    let script = "for i in 1 2 3; do echo out $i; done; echo err >&2; exit 3";
    node.ok(["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    assert_eq!(node.ok(["wait", "c"]).text(), "3");
    let logs = node.ok(["logs", "c"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out 1\nout 2\nout 3\n", "err\n"));
    // A container that has ended writes no more: following ends too.
    assert_eq!(node.ok(["logs", "-f", "c"]).stdout, "out 1\nout 2\nout 3\n");
    assert_eq!(node.ok(["logs", "--since", "1h", "c"]).stdout, "out 1\nout 2\nout 3\n");
}
