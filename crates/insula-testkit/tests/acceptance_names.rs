//! Names: containers find each other and the world, and nothing that one of them does keeps the others from it.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;

use insula_testkit::{Node, NodeOptions, PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// How often a resolver asks before it gives up.
const TRIES: u32 = 5;

fn node() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// A container that sleeps, with its addresses of both families.
fn start(node: &Node, name: &str, options: &[&str]) -> (IpAddr, IpAddr) {
    node.ok([&["run", "-d", "--name", name], options, &["busybox", "sleep", "1000"]].concat());
    let shown = node.show(name);
    let address = |key: &str| shown[key].as_str().unwrap().parse().unwrap();
    (address("address"), address("address6"))
}

/// The node's own address, where its containers ask.
fn own_address(node: &Node, container: &str) -> Ipv4Addr {
    let file = node.ok(["exec", container, "cat", "/etc/resolv.conf"]).stdout;
    let server = file.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap();
    assert_eq!(file.matches("nameserver").count(), 1, "{file}");
    server.parse().unwrap()
}

/// What a container learns about a name; nothing when there is no such name.
fn looked_up(node: &Node, container: &str, name: &str) -> BTreeSet<IpAddr> {
    let told = node.run(["exec", container, "nslookup", name]).stdout;
    // What comes before the first empty line is about the server.
    let answer = told.split_once("\n\n").map_or("", |(_, answer)| answer);
    let words = answer.split_whitespace().filter_map(|word| word.parse().ok());
    words.collect()
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len().try_into().unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes
}

/// Code and number of answers.
fn outcome(answer: &[u8]) -> (u8, u16) {
    assert_eq!(&answer[..2], b"\x12\x34");
    (answer[3] & 0xf, u16::from_be_bytes([answer[6], answer[7]]))
}

/// Asks the service as the node itself, as resolvers do: again when nothing comes.
fn ask(server: Ipv4Addr, name: &str, kind: u16) -> (u8, u16) {
    let socket = UdpSocket::bind((server, 0)).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = [0; 1500];
    for _ in 0..TRIES {
        socket.send(&question(name, kind)).unwrap();
        if let Ok(length) = socket.recv(&mut answer) {
            return outcome(&answer[..length]);
        }
    }
    panic!("no answer about {name} in {TRIES} tries");
}

fn ask_by_connection(server: Ipv4Addr, name: &str) -> (u8, u16) {
    let mut stream = TcpStream::connect((server, 53)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = question(name, A);
    stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    outcome(&answer)
}

/// An answer with `count` addresses to a question, whatever it asks.
fn upstream_answer(question: &[u8], count: u16) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    answer[8..12].fill(0);
    for last in 0..count {
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02");
        answer.push(u8::try_from(last % 250).unwrap() + 1);
    }
    answer
}

/// A name server on a loopback address of its own. Names that begin with `silent` are not answered, `forged` ones get
/// wrong answers first, `big` ones are only whole over a connection.
fn upstream() -> Ipv4Addr {
    let pid = std::process::id();
    let address = Ipv4Addr::new(127, 77, u8::try_from(pid / 250 % 250).unwrap(), u8::try_from(pid % 250).unwrap() + 1);
    let (packets, listener) = (UdpSocket::bind((address, 53)).unwrap(), TcpListener::bind((address, 53)).unwrap());
    // Both end with the test's process.
    std::thread::spawn(move || {
        let mut question = [0; 1500];
        while let Ok((length, from)) = packets.recv_from(&mut question) {
            let question = &question[..length];
            let begins = |word: &[u8]| question[13..].starts_with(word);
            let mut answer = upstream_answer(question, 1);
            if begins(b"silent") {
                continue;
            }
            if begins(b"big") {
                answer[2] |= 2;
            }
            if begins(b"forged") {
                let mut wrong_id = upstream_answer(question, 9);
                wrong_id[0] ^= 0xff;
                let mut wrong_name = upstream_answer(question, 9);
                wrong_name[13] = b'x';
                for wrong in [&wrong_id[..], &wrong_name, b"", &[0xff; 100]] {
                    packets.send_to(wrong, from).unwrap();
                }
            }
            packets.send_to(&answer, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut length) = (stream.unwrap(), [0; 2]);
            if stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = upstream_answer(&question, 200);
                stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        }
    });
    address
}

fn service(node: &Node) -> Pid {
    eventually("the name service runs", || node.servant("insula-guest"))
}

#[test]
fn live_containers_find_each_other_by_name_in_both_families() {
    let node = node();
    let a = start(&node, "a", &[]);
    let b = start(&node, "b", &["--hostname", "shop"]);
    let both = |(v4, v6): (IpAddr, IpAddr)| BTreeSet::from([v4, v6]);
    for name in ["b", "b.insula", "shop", "B.Insula"] {
        eventually(name, || (looked_up(&node, "a", name) == both(b)).then_some(()));
    }
    eventually("itself", || (looked_up(&node, "a", "a") == both(a)).then_some(()));
    let server = own_address(&node, "a");
    let IpAddr::V4(v4) = b.0 else { panic!() };
    let [one, two, three, four] = v4.octets();
    assert_eq!(ask(server, &format!("{four}.{three}.{two}.{one}.in-addr.arpa"), PTR), (0, 1));
    assert_eq!(ask(server, "b", AAAA), (0, 1));
    assert_eq!(ask_by_connection(server, "b"), (0, 1));
    assert_eq!(ask(server, "never.insula", A), (3, 0));
}

#[test]
fn live_names_follow_rename_stop_start_and_delete() {
    let node = node();
    start(&node, "a", &[]);
    let (b, _) = start(&node, "b", &[]);
    let server = own_address(&node, "a");
    let until = |name: &str, wanted: (u8, u16)| {
        eventually(&format!("{name}: {wanted:?}"), || (ask(server, name, A) == wanted).then_some(()));
    };
    until("b", (0, 1));
    node.ok(["rename", "b", "c"]);
    until("c", (0, 1));
    until("b.insula", (3, 0));
    node.ok(["stop", "--timeout", "0", "c"]);
    until("c", (3, 0));
    node.ok(["start", "c"]);
    until("c", (0, 1));
    assert!(looked_up(&node, "a", "c").contains(&b), "its address stays its own");
    node.ok(["delete", "--force", "c"]);
    until("c.insula", (3, 0));
}

#[test]
fn live_all_else_is_asked_of_the_hosts_name_servers_and_only_true_answers_are_believed() {
    let upstream = upstream();
    let config = format!("[network]\nresolvers = [\"{upstream}\"]\n");
    let node = Node::start_with(&NodeOptions { config });
    node.import_busybox();
    start(&node, "a", &[]);
    let server = own_address(&node, "a");
    eventually("the first question", || (ask(server, "www.example.org", A) == (0, 1)).then_some(()));
    let found = looked_up(&node, "a", "www.example.org");
    assert!(found.contains(&IpAddr::from([192, 0, 2, 1])), "{found:?}");
    assert_eq!(ask(server, "forged.example.org", A), (0, 1), "nine addresses are the forged answer");
    assert_eq!(ask_by_connection(server, "big.example.org"), (0, 200));
    // Nobody answers: after all tries the container is told so, and others were served meanwhile.
    let silent = std::thread::spawn(move || {
        let socket = UdpSocket::bind((server, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question("silent.example.org", A), (server, 53)).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        outcome(&answer[..length])
    });
    assert_eq!(ask(server, "www.example.org", A), (0, 1));
    assert_eq!(silent.join().unwrap(), (2, 0));
}

#[test]
fn live_a_killed_service_is_replaced_and_questions_go_on() {
    let mut node = node();
    start(&node, "a", &[]);
    let server = own_address(&node, "a");
    eventually("the name", || (ask(server, "a", A) == (0, 1)).then_some(()));
    let asked = std::thread::spawn(move || (0..2_000).filter(|_| ask(server, "a", A) == (0, 1)).count());
    let mut killed = BTreeSet::new();
    for _ in 0..4 {
        let pid = service(&node);
        killed.insert(pid.as_raw_nonzero());
        kill_process(pid, Signal::KILL).unwrap();
        eventually("another one", || node.servant("insula-guest").filter(|next| *next != pid));
    }
    assert_eq!(asked.join().unwrap(), 2_000);
    assert_eq!(killed.len(), 4);

    // Nobody is needed for it: the table and the sockets are the keeper's, the launcher starts it.
    node.kill_daemon();
    kill_process(node.servant("insula-launcher").unwrap(), Signal::KILL).unwrap();
    eventually("the service ends with its launcher", || node.servant("insula-guest").is_none().then_some(()));
    node.start_daemon();
    service(&node);
    assert_eq!(ask(server, "a", A), (0, 1));
    node.kill_daemon();
    kill_process(service(&node), Signal::KILL).unwrap();
    assert_eq!(ask(server, "a", A), (0, 1), "without a daemon");
    node.start_daemon();
    start(&node, "late", &[]);
    eventually("a new name after all this", || (ask(server, "late", A) == (0, 1)).then_some(()));
}

/// Sends whatever it can to the service, from inside.
fn flood(node: &Node, container: &str, server: Ipv4Addr) -> Child {
    let mut command = node.insula(["exec", container, "insula-probe", "flood", &format!("{server}:53")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn live_a_container_that_floods_the_service_does_not_stop_anothers_questions() {
    let node = node();
    start(&node, "quiet", &[]);
    start(&node, "loud", &[]);
    let server = own_address(&node, "quiet");
    eventually("the name", || (looked_up(&node, "quiet", "loud").len() == 2).then_some(()));
    let before = service(&node);
    let mut floods = [flood(&node, "loud", server), flood(&node, "loud", server)];
    eventually("the flood runs", || {
        let received = node.ok(["exec", "loud", "cat", "/sys/class/net/eth0/statistics/tx_packets"]).stdout;
        (received.trim().parse::<u64>().unwrap() > 10_000).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(looked_up(&node, "quiet", "loud").len(), 2);
    }
    assert_eq!(service(&node), before, "it never ended");
    for flood in &mut floods {
        flood.kill().unwrap();
        flood.wait().unwrap();
    }
}

#[test]
fn live_the_service_has_no_right_and_doctor_says_that_it_answers() {
    let node = node();
    start(&node, "a", &[]);
    let server = own_address(&node, "a");
    eventually("the name", || (ask(server, "a", A) == (0, 1)).then_some(()));
    let pid = service(&node).as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    for key in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(key), "0000000000000000", "{key}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:"), line("Threads:")), ("1".into(), "2".into(), "1".into()));
    let own = node.show("a")["uid_base"].as_u64().unwrap().to_string();
    let uids = line("Uid:");
    let uid = uids.split_whitespace().next().unwrap();
    assert!(uid != "0" && uid != own && uid.parse::<u32>().unwrap() >= 65_536, "{uids}");
    assert!(line("Groups:").is_empty());
    let doctor = node.ok(["doctor"]).stdout;
    assert!(doctor.contains(&format!("answers at {server}")), "{doctor}");
}

#[test]
fn live_who_asks_for_other_servers_gets_them_and_a_node_without_the_service_has_none() {
    let node = node();
    let file = |options: &[&str]| {
        node.ok([&["run", "--rm"], options, &["busybox", "cat", "/etc/resolv.conf"]].concat()).stdout
    };
    let asked = file(&["--dns", "192.0.2.9"]);
    assert!(asked.contains("nameserver 192.0.2.9") && !asked.contains("insula"), "{asked}");
    let plain = file(&[]);
    assert!(plain.contains("search insula"), "{plain}");
    drop(node);
    let node = Node::start_with(&NodeOptions { config: "[network]\nnames = false\n".to_owned() });
    node.import_busybox();
    let off = node.ok(["run", "--rm", "busybox", "cat", "/etc/resolv.conf"]).stdout;
    assert!(!off.contains("insula") && node.servant("insula-guest").is_none(), "{off}");
}

#[test]
fn live_a_service_that_is_turned_off_ends_though_containers_run_and_begins_again_when_it_is_turned_on() {
    let mut node = node();
    node.ok(["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]);
    let is_there = |node: &Node| node.servant("insula-guest").is_some();
    for names in [false, true, false] {
        node.kill_daemon();
        node.configure(&NodeOptions { config: format!("[network]\nnames = {names}\n") });
        node.start_daemon();
        eventually(&format!("names = {names} counts"), || (is_there(&node) == names).then_some(()));
        let asked = node.ok(["run", "--rm", "busybox", "cat", "/etc/resolv.conf"]).stdout;
        assert_eq!(asked.contains("search insula"), names, "{asked}");
    }
    // And not by a launcher that begins anew, either.
    let launcher = node.servant("insula-launcher").unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    eventually("the next launcher starts containers", || {
        (node.run(["run", "--rm", "busybox", "true"]).code == 0).then_some(())
    });
    assert!(!is_there(&node));
}
