//! Nothing leaks: what a container can list, open or signal is its own; no path, socket, object or number of a neighbour
//! or of the host.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

use insula_testkit::{Node, eventually};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// What a script says in a running container.
fn inside(node: &Node, container: &str, script: &str) -> String {
    node.ok(["exec", container, "sh", "-c", script]).text().to_owned()
}

#[test]
fn live_a16_nothing_of_the_host_is_visible() {
    let node = node();
    let report = node.probe_run(&[]);
    assert_eq!(report.processes.len(), 2, "process 1 and the probe: {:?}", report.processes);
    assert_eq!(report.init, "insula-init");
    assert_eq!(report.cwd, "/");
    assert_eq!(report.seccomp, 2);
    assert!(report.fds.keys().all(|fd| *fd <= 2), "{:?}", report.fds);
    for line in &report.cgroups {
        assert!(line.ends_with(":/"), "{line}");
    }
    let host_root = node.directory().to_str().unwrap();
    for mount in &report.mounts {
        for word in [&mount.source].into_iter().chain(&mount.superblock) {
            assert!(!word.contains(host_root), "{mount:?}");
        }
    }
    let allowed = [
        "console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    for device in &report.devices {
        assert!(allowed.contains(&device.as_str()), "/dev/{device}");
    }
}

#[test]
fn live_a16_a_neighbour_is_neither_seen_nor_reached() {
    let node = node();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
    }
    node.ok(["exec", "b", "sh", "-c", "hostname; nc -l -p 4242 </dev/null >/dev/null 2>&1 &"]);
    eventually("the neighbour listens", || {
        inside(&node, "b", "cat /proc/net/tcp /proc/net/tcp6").contains(":1092 ").then_some(())
    });
    let report = node.probe("a");
    assert_eq!(report.processes.len(), 3, "process 1, sleep and the probe: {:?}", report.processes);
    for table in ["tcp", "tcp6", "udp", "unix"] {
        let text = node.ok(["exec", "a", "cat", &format!("/proc/net/{table}")]).stdout;
        // Its own process 1 has sockets without a name.
        assert!(!text.contains(":1092 ") && !text.contains('@') && !text.contains("/run/"), "{table}: {text}");
    }
}

#[test]
fn live_a16_objects_of_a_neighbour_and_of_the_host_can_be_neither_listed_nor_opened() {
    let node = node();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
    }
    let pid_of_b = node.show("b")["pid"].to_string();
    // Made in the neighbour's spaces: System V memory, semaphores and a queue, a POSIX queue, sockets without a file.
    let make = ["--target", &pid_of_b, "--ipc", "ipcmk", "-M", "4096", "-S", "1", "-Q"];
    assert!(Command::new("nsenter").args(make).stdout(Stdio::null()).status().unwrap().success());
    inside(&node, "b", "touch /dev/mqueue/mine /dev/shm/mine");
    let name = format!("insula-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _of_the_host = UnixListener::bind_addr(&address).unwrap();
    let network_of_b = File::open(format!("/proc/{pid_of_b}/ns/net")).unwrap();
    let _of_b = std::thread::scope(|scope| {
        let bind = || {
            move_into_link_name_space(network_of_b.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            UnixListener::bind_addr(&address).unwrap()
        };
        scope.spawn(bind).join().unwrap()
    });
    let list = "for kind in shm sem msg; do tail -n +2 /proc/sysvipc/$kind | wc -l; done; \
                ls /dev/mqueue /dev/shm | grep -c mine; grep -c insula-test /proc/net/unix; cat /proc/keys; \
                ls /sys/class/net; ls /sys/fs/cgroup 2>/dev/null | grep -c insula; true";
    assert_eq!(inside(&node, "b", list), "1\n1\n1\n2\n1\neth0\nlo\n0");
    assert_eq!(inside(&node, "a", list), "0\n0\n0\n0\n0\neth0\nlo\n0");
}

#[test]
fn live_a16_a_signal_to_a_process_of_others_finds_nobody() {
    let node = node();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
    }
    let servants = ["insula-launcher", "insula-keeper", "insula-guest"].map(|name| node.servant(name).unwrap());
    let of_the_host = servants.into_iter().chain([node.daemon_pid()]).map(|pid| pid.as_raw_nonzero().to_string());
    for pid in of_the_host.chain([node.show("b")["pid"].to_string()]) {
        for signal in ["-0", "-KILL"] {
            let said = node.fails(1, ["exec", "a", "kill", signal, &pid]);
            assert!(said.contains("No such process"), "{pid}: {said}");
        }
        assert!(!node.run(["exec", "a", "ls", &format!("/proc/{pid}")]).stderr.is_empty());
    }
    // Everybody, as far as it reaches: all of the container that signals.
    let _ = node.run(["exec", "a", "kill", "-KILL", "-1"]);
    eventually("the command was killed", || (node.show("a")["state"] == "stopped").then_some(()));
    assert_eq!(inside(&node, "b", "echo alive"), "alive");
}

#[test]
fn live_a18_paths_of_a_process_are_those_of_its_container() {
    let node = node();
    let volume = node.directory().join("given");
    std::fs::create_dir(&volume).unwrap();
    let volume = format!("{}:/data/given", volume.display());
    let options = ["-d", "--name", "hidden-name", "-w", "/data", "-v", &volume];
    node.ok([&["run"], &options[..], &["busybox", "sleep", "1000"]].concat());
    let id = node.show("hidden-name")["id"].as_str().unwrap().to_owned();
    let paths = "pwd; readlink /proc/self/cwd; cp /bin/busybox /data/readlink; /data/readlink /proc/self/exe; \
                 cd /data/given && /bin/busybox pwd && readlink /proc/self/exe; readlink /proc/self/root";
    assert_eq!(inside(&node, "hidden-name", paths), "/data\n/data\n/data/readlink\n/data/given\n/bin/busybox\n/");
    let host = node.directory().to_str().unwrap();
    for file in ["maps", "environ", "cgroup", "mounts", "mountstats", "cmdline"] {
        let text = inside(&node, "hidden-name", &format!("cat /proc/self/{file} /proc/1/{file} 2>/dev/null; true"));
        assert!(!text.contains(host) && !text.contains("insula.slice"), "{file}: {text}");
    }
    // The kernel names the directory behind a mount from the root of the file system that it is on. Data is in a
    // directory that tells nothing; a volume is where the administrator said, and the software where the node has it.
    for mount in node.probe("hidden-name").mounts {
        let neutral = match mount.target.as_str() {
            "/data" => mount.root.ends_with(&format!("/state/v/{id}")),
            "/data/given" => mount.root.ends_with("/given"),
            "/sw" => mount.root.ends_with("/state/software"),
            _ => mount.kind == "proc" || ["/", "/null"].contains(&mount.root.as_str()),
        };
        assert!(neutral && !mount.root.contains("hidden-name"), "{mount:?}");
        assert!(!mount.source.contains(host), "{mount:?}");
    }
}
