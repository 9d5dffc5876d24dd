//! Spaces of containers: what is a container's own, what it reaches, what it must not see.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use insula_testkit::{Node, PATIENCE, ProbeReport, eventually, run_bounded};
use rustix::fs::SealFlags;

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
    let sockets = [node.socket(), node.run_dir().join("attach.sock"), node.run_dir().join("launcher.sock")];
    for socket in &sockets {
        assert!(socket.exists(), "{}", socket.display());
    }
    assert!(UnixStream::connect(&sockets[0]).is_ok(), "it answers on the host");
    let look = sockets.iter().map(|socket| format!("test -e {} && echo there;", socket.display())).collect::<String>();
    // What is listed with an @ has no file, and a network namespace is all that keeps one from it.
    let look = format!("{look} grep -c '@.*insula' /proc/net/unix");
    for options in [&[][..], &["--privileged"], &["--network", "host"], &["--network", "host", "--privileged"]] {
        let report = node.probe_run(options);
        assert!(report.mounts.iter().all(|mount| !mount.target.contains("insula")), "{options:?}");
        let said = node.run([&["run", "--rm"], options, &["busybox", "sh", "-c", &look]].concat());
        assert_eq!((said.code, said.text()), (1, "0"), "{options:?}");
    }
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
fn live_a20_a_published_port_is_the_hosts_own_and_a_volume_is_found_behind_its_link() {
    let node = node();
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let (real, link) = (node.directory().join("real"), node.directory().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("file"), "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let volume = format!("{}:/data/volume", link.display());
    let publish = format!("{port}:80");
    node.ok(["run", "-d", "--name", "first", "-p", &publish, "-v", &volume, "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "second", "busybox", "sleep", "1000"]);
    let second = node.show("second")["address"].as_str().unwrap().to_owned();
    let file = real.join("file").display().to_string();
    for (question, name) in [
        (format!("127.0.0.1:{port}"), "first"),
        (format!("0.0.0.0:{port}"), "first"),
        // The port is the other's, the address is not.
        (format!("{second}:{port}"), "second"),
        (file, "first"),
    ] {
        assert_eq!(node.json(["whois", &question])["name"], name, "{question}");
    }
    let _ = node.fails(3, ["whois", &format!("192.0.2.250:{port}")]);
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

/// The host's own address in a container's network.
fn gateway6(container: &str) -> String {
    let address: std::net::Ipv6Addr = container.parse().unwrap();
    std::net::Ipv6Addr::from((u128::from(address) >> 64 << 64) + 1).to_string()
}

#[test]
fn live_a15_forged_frames_and_packets_of_a_container_with_raw_sockets_reach_no_one() {
    let node = node();
    let start = |name: &str, words: &[&str]| {
        node.ok([&["run", "-d", "--name", name, "--cap-add", "NET_RAW", "busybox"], words].concat());
        let shown = node.show(name);
        ["address", "address6"].map(|key| shown[key].as_str().unwrap().to_owned())
    };
    let listener = start("listener", &["/bin/insula-probe", "hear"]);
    let victim = start("victim", &["sleep", "1000"]);
    let thief = start("thief", &["sleep", "1000"]);
    let heard = || node.ok(["logs", "listener"]).text().to_owned();
    let mac = node.ok(["exec", "victim", "cat", "/sys/class/net/eth0/address"]).text().to_owned();
    let host = std::net::UdpSocket::bind(("::", 7_777)).unwrap();
    host.set_nonblocking(true).unwrap();
    let forge = |from: &str, to: &str, text: &str, mac: &[&str]| {
        node.ok([&["exec", "thief", "/bin/insula-probe", "forge", from, to, text], mac].concat());
    };
    // The same past the link: the kernel finds the way, the header is the thief's.
    let forge_packet = |from: &str, to: &str, text: &str| {
        node.run(["exec", "thief", "/bin/insula-probe", "forge-packet", from, to, text])
    };
    // Frames and packets of this form do arrive when they say the truth.
    for (own, to) in thief.iter().zip(&listener) {
        forge(own, to, "honest", &[]);
        eventually("an honest frame arrives", || heard().contains(&format!("honest from {own}")).then_some(()));
        let sent = forge_packet(own, to, "upright");
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        eventually("an honest packet arrives", || heard().contains(&format!("upright from {own}")).then_some(()));
    }
    let invented = ["203.0.113.9", "2001:db8::9"];
    let gateway = node
        .ok(["exec", "thief", "sh", "-c", "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'"])
        .text()
        .to_owned();
    let gateway6 = gateway6(&thief[1]);
    let targets = [listener.clone(), victim.clone(), [gateway, gateway6]];
    for family in [0, 1] {
        for from in [victim[family].as_str(), invented[family], &listener[family]] {
            for to in targets.iter().map(|addresses| &addresses[family]) {
                forge(from, to, "forged", &[]);
                forge(from, to, "forged", &[&mac]);
                // Its own kernel may refuse what another's would drop.
                forge_packet(from, to, "forged");
            }
        }
        // A hardware address alone makes nobody another one.
        forge(&thief[family], &listener[family], "masked", &[&mac]);
        forge(&thief[family], &listener[family], "last", &[]);
        eventually("the last frame arrives", || {
            heard().contains(&format!("last from {}", thief[family])).then_some(())
        });
    }
    let heard = heard();
    assert!(!heard.contains("forged"), "{heard}");
    let masked = heard.lines().filter(|line| line.starts_with("masked"));
    masked.for_each(|line| assert!(thief.iter().any(|own| line.ends_with(own.as_str())), "{line}"));
    assert!(host.recv(&mut [0; 16]).is_err(), "the host heard something");
}

#[test]
fn live_t01_root_with_the_right_to_trace_reaches_no_process_1() {
    let node = node();
    for (name, right) in [("tracer", "SYS_PTRACE"), ("almighty", "ALL")] {
        node.ok(["run", "-d", "--name", name, "--cap-add", right, "busybox", "sleep", "1000"]);
        let attempts = |pid: &str| node.ok(["exec", name, "/bin/insula-probe", "trace", pid]).text().to_owned();
        let own = attempts("2");
        assert_eq!(own.lines().filter(|line| line.ends_with(": done")).count(), 5, "of a process of its own: {own}");
        let first = attempts("1");
        assert!(first.lines().count() == 5 && !first.contains(": done"), "{first}");
        assert_eq!(node.show(name)["state"], "running");
    }
}

#[test]
fn live_t01_our_program_run_again_through_proc_can_be_changed_by_nobody() {
    let node = node();
    node.ok(["run", "-d", "--name", "c", "--cap-add", "ALL", "busybox", "sleep", "1000"]);
    let first = format!("/proc/{}/exe", node.show("c")["pid"]);
    let program = std::fs::File::open(&first).unwrap();
    let seals = rustix::fs::fcntl_get_seals(&program).unwrap();
    for seal in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
        assert!(seals.contains(seal), "{seals:?}");
    }
    assert!(std::fs::File::options().write(true).open(&first).is_err(), "not even for the host's root");
    let before = std::fs::read(&first).unwrap();
    // What a command is until it is the image's program is ours; the link leads there, and runs it once more, inside.
    for words in [["run", "--rm", "--cap-add", "ALL", "busybox"].as_slice(), &["exec", "c"]] {
        for program in ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/0", "/proc/thread-self/exe"] {
            let said = node.run([words, &[program, "/bin/sh", "-c", "echo ran"]].concat());
            assert!(said.code != 0 && !said.stdout.contains("ran"), "{program}: {said:?}");
        }
        let attack = "for f in /proc/[0-9]*/exe; do case $(readlink $f) in /*) ;; *) \
            echo x 2>/dev/null >$f && echo wrote $f; cat $f >/dev/null 2>&1 && echo read $f;; esac; done; echo end";
        assert_eq!(node.ok([words, &["sh", "-c", attack]].concat()).text(), "end");
    }
    assert!(std::fs::read(&first).unwrap() == before, "it is what it was");
    assert_eq!(node.ok(["exec", "c", "echo", "well"]).text(), "well");
}

/// An init that takes hold of every process that appears.
const HUNTER: &str = "/bin/insula-probe hunt >/tmp/seen; mv /tmp/seen /tmp/done; while :; do sleep 1000; done";

#[test]
fn live_t11_no_process_that_joins_is_held_before_it_is_a_program_of_the_image() {
    let node = Node::start();
    node.import_system(HUNTER);
    node.ok(["run", "-d", "--name", "c", "--cap-add", "SYS_PTRACE", "--init", "image", "system"]);
    for _ in 0..50 {
        node.ok(["exec", "c", "sh", "-c", "true; true"]);
    }
    node.ok(["exec", "c", "touch", "/tmp/enough"]);
    eventually("the hunt is over", || (node.run(["exec", "c", "test", "-e", "/tmp/done"]).code == 0).then_some(()));
    let seen = node.ok(["exec", "c", "cat", "/tmp/done"]).text().to_owned();
    assert!(!seen.contains("held"), "{seen}");
    assert!(seen.starts_with("hunted ") && seen != "hunted 0", "it held some, of those that were programs: {seen}");
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

/// Asks the node itself, on one connection: the commands' own start would take longer than the answers.
struct Asker(BufReader<UnixStream>);

impl Asker {
    fn of(node: &Node) -> Self {
        let stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The name of the container, or none.
    fn whois(&mut self, question: &str) -> Option<String> {
        write!(self.0.get_mut(), "GET /v1/whois?{question} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the connection goes on");
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        answer["name"].as_str().map(str::to_owned)
    }
}

#[test]
fn live_a20_ten_thousand_random_questions_are_answered_right() {
    let node = node();
    let mut questions = vec![("pid=1".to_owned(), None), ("address=192.0.2.9".to_owned(), None)];
    for number in 0..5 {
        let name = format!("c{number}");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let publish = format!("127.0.0.1:{port}:80");
        node.ok(["run", "-d", "--name", &name, "-p", &publish, "busybox", "sh", "-c", "sleep 1000 & sleep 1000"]);
        let shown = node.show(&name);
        let base = shown["uid_base"].as_u64().unwrap();
        let text = |key: &str| shown[key].as_str().unwrap().to_owned();
        let (address, data) = (text("address"), text("data_path"));
        let mut own = vec![format!("address=127.0.0.1:{port}"), format!("address={address}:80")];
        own.extend([format!("address={address}"), format!("address={}", text("address6"))]);
        own.extend([format!("path={data}"), format!("path={data}/service")]);
        own.extend((0..20).map(|step| format!("gid={}", base + step * 3_449)));
        own.extend(node.json(["top", &name]).as_array().unwrap().iter().map(|row| format!("pid={}", row["pid"])));
        questions.extend(own.into_iter().map(|question| (question, Some(name.clone()))));
        questions.push((format!("gid={}", base.wrapping_sub(1).min(65_535)), None));
    }
    let mut asker = Asker::of(&node);
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    for _ in 0..10_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let index = usize::try_from(random % u64::try_from(questions.len()).unwrap()).unwrap();
        let (question, expected) = &questions[index];
        assert_eq!(asker.whois(question), *expected, "{question}");
    }
}

#[test]
fn live_a14_sockets_and_routes_of_a_container_are_its_own() {
    let node = node();
    let (a, b) = (start_web(&node, "a", &[]), start_web(&node, "b", &[]));
    for address in [&a, &b] {
        eventually("it serves", || get(&format!("{address}:80")));
    }
    node.ok(["exec", "b", "sh", "-c", "nc -l -p 4242 </dev/null >/dev/null 2>&1 &"]);
    let listening = |name: &str| {
        let listed = node.ok(["exec", name, "netstat", "-l", "-t", "-u", "-n"]).stdout;
        let lines = listed.lines().filter(|line| line.contains("LISTEN"));
        lines.map(|line| line.split_ascii_whitespace().nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("the other listener is there", || (listening("b").len() == 2).then_some(()));
    assert_eq!(listening("a"), [":::80"]);
    // What the host sees in the container's network is the same, and nothing of it is in the host's own.
    let pid = node.show("a")["pid"].to_string();
    let mut ss = Command::new("nsenter");
    ss.args(["--target", &pid, "--net", "ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric"]);
    assert_eq!(run_bounded(ss, b"", PATIENCE).ok().stdout.lines().count(), 1);
    for (name, address) in [("a", &a), ("b", &b)] {
        let routes = node.ok(["exec", name, "ip", "route"]).stdout;
        assert!(routes.contains("default via 169.254.1.1"), "{routes}");
        let own = node.ok(["exec", name, "ip", "-o", "-4", "address", "show", "eth0"]).stdout;
        assert!(own.contains(&format!("{address}/32")), "{own}");
    }
}
