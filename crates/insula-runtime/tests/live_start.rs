//! A container through the real launcher, keeper and process 1: the plan of a start, carried out.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::io::Read;
use std::path::Path;

use harness::{Node, Start, id, shell, wait_until};
use insula_model::ImageConfig;
use insula_plan::host_step::LayerNames;
use insula_plan::protocol::status::ExitStatus;

#[test]
fn live_a_container_runs_in_spaces_of_its_own() {
    let mut node = Node::start();
    let key = node.image();
    let (status, output) =
        node.run(&key, id(1), "id -u; hostname; cat /proc/self/uid_map /etc/resolv.conf; echo $$; exit 7");
    assert_eq!(status, ExitStatus::Exited(7), "{output}");
    let lines: Vec<String> = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["0", "web", "0 268435456 65536", "nameserver 192.0.2.1", "2"]);
}

#[test]
fn live_places_are_writable_and_reset_the_root_is_not_and_data_stays() {
    let mut node = Node::start();
    let key = node.image();
    let script = "touch /etc/a /var/a /tmp/a /run/a /data/a /data/service/a && ! touch /a 2>/dev/null && ! touch /sw/a 2>/dev/null && echo done";
    let (status, output) = node.run(&key, id(2), script);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "done\n"));
    let (_, output) = node.run(&key, id(3), "ls -d /etc/a /var/a /tmp/a /run/a /data/a 2>/dev/null");
    assert_eq!(output, "/data/a\n");
}

#[test]
fn live_layers_named_by_path_as_older_kernels_need_it_work_the_same() {
    let mut node = Node::start();
    node.layers = LayerNames::Paths;
    let key = node.image();
    let script =
        "touch /etc/a /var/a && cat /etc/hostname && ls /tmp && grep -c -E 'lowerdir=/tmp/[0-9]+,' /proc/mounts";
    let (status, output) = node.run(&key, id(4), script);
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "web\n4\n"));
    node.assert_nothing_left(id(4));
}

/// Whether the launcher has a handle on a namespace, given as links to namespaces are shown.
fn launcher_holds(node: &Node, namespace: &str) -> bool {
    let fds = format!("/proc/{}/fd", node.client.launcher_pid());
    let shows = |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|link| link == Path::new(namespace));
    std::fs::read_dir(fds).unwrap().filter_map(Result::ok).any(shows)
}

#[test]
fn live_what_a_container_mounted_goes_with_its_sweep_and_not_with_its_end() {
    let mut node = Node::start();
    let key = node.image();
    let spec = shell("readlink /proc/self/ns/mnt");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let mut running = node.start_container(&key, id(5), &start).unwrap();
    let mut space = String::new();
    running.output.read_to_string(&mut space).unwrap();
    let process = format!("/proc/{}", running.process.pid);
    wait_until("process 1 is gone", || !Path::new(&process).exists());
    assert!(launcher_holds(&node, space.trim()), "{space}");
    node.end_of(id(5));
    assert!(!launcher_holds(&node, space.trim()), "{space}");
}
