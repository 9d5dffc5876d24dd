//! Spaces of containers: what is a container's own, what it reaches, what it must not see.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use insula_testkit::{Node, PATIENCE, ProbeReport, eventually, run_bounded};

/// Kinds of namespaces that every container has of its own.
const OWN_KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// A container that serves its name on port 80.
fn start_web(node: &Node, name: &str, options: &[&str]) -> String {
    let script = format!("echo {name} >/tmp/index.html; exec httpd -f -p 80 -h /tmp");
    node.ok([&["run", "-d", "--name", name], options, &["busybox", "sh", "-c", &script]].concat());
    node.show(name)["address"].as_str().unwrap().to_owned()
}

/// What is served at an address, when it is.
fn get(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split("\r\n\r\n").nth(1)?.trim().to_owned())
}

#[test]
fn live_a13_every_namespace_is_the_containers_own() {
    let node = node();
    let host = ProbeReport::of_this_process();
    // Both at once: the kernel gives the number of a namespace that is gone to the next one.
    for name in ["one", "other"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
    }
    let (one, other) = (node.probe("one"), node.probe("other"));
    for kind in OWN_KINDS {
        assert_ne!(one.namespaces[kind], host.namespaces[kind], "{kind}");
        assert_ne!(one.namespaces[kind], other.namespaces[kind], "{kind}");
    }
    assert_eq!(one.uid_map.len(), 1);
    let map: Vec<u32> = one.uid_map[0].split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!((map[0], map[2]), (0, 65_536));
    assert!(map[1] >= 65_536, "{map:?}");
    assert_eq!(one.interfaces.iter().collect::<BTreeSet<_>>().len(), 2, "lo and eth0: {:?}", one.interfaces);
}

#[test]
fn live_a14_two_containers_serve_port_80_on_their_own_addresses() {
    let node = node();
    let (a, b) = (start_web(&node, "a", &[]), start_web(&node, "b", &[]));
    assert_ne!(a, b);
    for (name, address) in [("a", &a), ("b", &b)] {
        eventually("the host reaches it", || (get(&format!("{address}:80"))? == name).then_some(()));
    }
    for (from, to, address) in [("a", "b", &b), ("b", "a", &a)] {
        let got = node.ok(["exec", from, "wget", "-q", "-O", "-", &format!("http://{address}/index.html")]);
        assert_eq!(got.text(), to);
    }
    let six = node.show("b")["address6"].as_str().unwrap().to_owned();
    let got = node.ok(["exec", "a", "wget", "-q", "-O", "-", &format!("http://[{six}]/index.html")]);
    assert_eq!(got.text(), "b");
}

#[test]
fn live_a21_a_container_reaches_the_host_and_not_the_management_socket() {
    let node = node();
    let report = node.probe_run(&[]);
    assert!(report.mounts.iter().all(|mount| !mount.target.contains("insula")));
    let said = node.run(["run", "--rm", "busybox", "ls", "/run/insula"]);
    assert_ne!(said.code, 0);
    // No daemon of ours listens on a network.
    let pid = node.daemon_pid().as_raw_nonzero().to_string();
    let listening = run_bounded(
        {
            let mut command = Command::new("ss");
            command.args(["-Hlntup"]);
            command
        },
        b"",
        PATIENCE,
    );
    assert!(!listening.stdout.contains(&format!("pid={pid},")), "{}", listening.stdout);
}

#[test]
fn live_a_published_port_leads_to_the_container() {
    let node = node();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:80");
    let address = start_web(&node, "web", &["-p", &publish]);
    eventually("the port answers", || (get(&format!("127.0.0.1:{port}"))? == "web").then_some(()));
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "the port is reserved");
    assert_eq!(node.ok(["port", "web"]).stdout.lines().last().unwrap(), publish);
    let said = node.run(["run", "--rm", "-p", &publish, "busybox", "true"]);
    assert_eq!(said.code, 125, "{}", said.stderr);
    assert!(said.stderr.contains(&port.to_string()), "{}", said.stderr);
    for question in [format!("127.0.0.1:{port}"), address, node.show("web")["pid"].to_string()] {
        assert_eq!(node.json(["whois", &question])["name"], "web", "{question}");
    }
    node.ok(["delete", "--force", "web"]);
    assert!(get(&format!("127.0.0.1:{port}")).is_none());
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "the port is free again");
}

#[test]
fn live_a20_who_is_it_is_answered_from_every_trace() {
    let node = node();
    for name in ["a", "b"] {
        node.ok(["run", "-d", "--name", name, "busybox", "sleep", "1000"]);
        let shown = node.show(name);
        let pid = shown["pid"].to_string();
        let address = shown["address"].as_str().unwrap().to_owned();
        let data = shown["data_path"].as_str().unwrap().to_owned();
        let gid = (shown["uid_base"].as_u64().unwrap() + 33).to_string();
        for question in [["--pid", &pid], ["--address", &address], ["--path", &data], ["--gid", &gid]] {
            assert_eq!(node.json(["whois", question[0], question[1]])["name"], name, "{question:?}");
        }
    }
    let _ = node.fails(3, ["whois", "--pid", "1"]);
    let _ = node.fails(3, ["whois", "--address", "127.0.0.1:1"]);
}

#[test]
fn live_a15_a_container_has_exactly_its_addresses() {
    let node = node();
    let (a, b) = (start_web(&node, "a", &[]), start_web(&node, "b", &[]));
    eventually("b serves", || get(&format!("{b}:80")));
    // With the right to set addresses, a container still reaches nobody under another's.
    let said = node.run(["exec", "a", "ip", "addr", "add", &format!("{b}/32"), "dev", "eth0"]);
    if said.code == 0 {
        node.ok(["exec", "a", "ip", "addr", "del", &format!("{a}/32"), "dev", "eth0"]);
    }
    assert_eq!(get(&format!("{b}:80")).as_deref(), Some("b"));
}

#[test]
fn live_users_of_the_container_are_not_those_of_the_host() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    assert_eq!(node.ok(["exec", "-u", "web", "c", "id", "-u"]).text(), "33");
    let shown = node.show("c");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shown["pid"])).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let uid: u64 = uid.split_ascii_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(uid, shown["uid_base"].as_u64().unwrap());
    for command in [
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /",
        "mknod /tmp/disk b 8 0",
        "echo 1 >/proc/sys/kernel/sysrq",
        "echo x >/proc/sysrq-trigger",
        "head -c 1 /proc/kcore | wc -c | grep -q 1",
        "dmesg",
        "chroot /proc/1/root true",
    ] {
        assert_ne!(node.run(["exec", "c", "sh", "-c", command]).code, 0, "{command}");
    }
}
