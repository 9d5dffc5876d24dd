//! A container through the real launcher, keeper and process 1: the plan of a start, carried out.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use harness::{Node, id};
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
