//! Programs that people run, on a Debian image: web servers, databases, a whole system with systemd.
//!
//! The image is made once, see [`debian_archive`].
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use insula_testkit::{Node, debian_archive, eventually};

fn node() -> Node {
    let archive = debian_archive();
    let node = Node::start();
    node.ok(["image", "import", "debian@12", archive.to_str().unwrap()]);
    node
}

/// The first bytes of what an address answers to `question`.
fn ask(address: &str, question: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn address(node: &Node, container: &str) -> String {
    node.show(container)["address"].as_str().unwrap().to_owned()
}

fn answers(address: &str, question: &str, expected: &str) {
    eventually(&format!("{address} answers {expected}"), || {
        ask(address, question).filter(|answer| answer.contains(expected)).map(drop)
    });
}

#[test]
fn live_debian_servers_serve() {
    let node = node();
    let run = |name: &str, words: &[&str]| node.ok([&["run", "-d", "--name", name, "debian"], words].concat());
    run("nginx", &["nginx", "-g", "daemon off;"]);
    run("redis", &["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]);
    run("python", &["python3", "-m", "http.server", "80"]);
    let get = "GET / HTTP/1.0\r\n\r\n";
    answers(&format!("{}:80", address(&node, "nginx")), get, "200 OK");
    answers(&format!("{}:80", address(&node, "python")), get, "200 OK");
    let redis = format!("{}:6379", address(&node, "redis"));
    answers(&redis, "SET key value\r\n", "+OK");
    answers(&redis, "GET key\r\n", "value");
}

/// Answers every datagram with its text in upper case.
const DATAGRAMS: &str = "import socket\n\
                         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                         s.bind(('', 53))\n\
                         while True:\n \
                         text, asker = s.recvfrom(512)\n \
                         s.sendto(text.upper(), asker)";

#[test]
fn live_debian_a_published_port_of_datagrams_leads_to_the_container() {
    let node = node();
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:53/udp");
    node.ok(["run", "-d", "--name", "c", "-p", &publish, "debian", "python3", "-c", DATAGRAMS]);
    assert_eq!(node.ok(["port", "c"]).stdout.lines().last().unwrap(), publish);
    let ask = || {
        asker.send_to(b"hello", ("127.0.0.1", port)).ok()?;
        let mut answer = [0; 16];
        let length = asker.recv(&mut answer).ok()?;
        Some(answer[..length].to_vec())
    };
    assert_eq!(eventually("the container answers", ask), b"HELLO");
    // The flow that is known already finds the container that comes after a restart, too.
    node.ok(["restart", "c"]);
    assert_eq!(eventually("the container answers again", ask), b"HELLO");
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_err(), "the port is reserved");
    node.ok(["delete", "--force", "c"]);
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok(), "the port is free again");
}

/// Asks the kernel for the number of the session keyring; prints it, or the error's.
const KEYRING: &str = "import ctypes\n\
                       libc = ctypes.CDLL(None, use_errno=True)\n\
                       number = libc.syscall(250, 0, -3, 0)\n\
                       print(number if number > 0 else -ctypes.get_errno())";

#[test]
fn live_debian_a16_a_container_has_no_keys_but_its_own() {
    // The node's programs inherit it, as from a login or a service manager.
    insula_kernel::session_keyring::begin_anew().unwrap();
    let node = node();
    let ask = |options: &[&str]| -> i64 {
        let words = [&["run", "--rm"], options, &["debian", "python3", "-c", KEYRING]].concat();
        node.ok(words).text().parse().unwrap()
    };
    assert_eq!(ask(&[]), -i64::from(rustix::io::Errno::NOSYS.raw_os_error()), "there are none to ask for");
    // One that may have keys has a keyring that neither the host's programs nor its neighbours have.
    let [one, two] = [0; 2].map(|_| ask(&["--cap-add", "SYS_ADMIN"]));
    assert!(one > 0 && two > 0 && one != two, "{one} {two}");
}

#[test]
fn live_debian_postgres_keeps_its_data_over_a_restart() {
    let node = node();
    let script = "install -d -o postgres /data/pg && exec sleep 1000";
    node.ok(["run", "-d", "--name", "c", "debian", "sh", "-c", script]);
    eventually("the folder is there", || (node.run(["exec", "c", "test", "-d", "/data/pg"]).code == 0).then_some(()));
    let psql = |prepare: &str, statement: &str| {
        let script = format!(
            "set -e; bin=/usr/lib/postgresql/15/bin; {prepare}; \
             $bin/pg_ctl -D /data/pg/db -o '-k /tmp' -w -l /tmp/log start >/dev/null 2>&1 </dev/null; \
             psql -h /tmp -Atqc \"{statement}\"; $bin/pg_ctl -D /data/pg/db -m fast stop >/dev/null"
        );
        node.ok(["exec", "--user", "postgres", "c", "sh", "-c", &script]).text().to_owned()
    };
    let prepare = "$bin/initdb -D /data/pg/db >/dev/null 2>&1";
    psql(prepare, "create table kept as select generate_series(1, 1000) as n");
    node.ok(["restart", "c"]);
    assert_eq!(psql("true", "select sum(n) from kept"), "500500");
}

#[test]
fn live_debian_a_package_is_installed_in_a_writable_root() {
    let node = node();
    let script = "set -e; mkdir -p /tmp/p/DEBIAN /tmp/p/opt; echo from-package >/tmp/p/opt/own; \
                  printf 'Package: own\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: d\\n' \
                  >/tmp/p/DEBIAN/control; dpkg-deb --build /tmp/p /tmp/own.deb >/dev/null; \
                  apt-get --quiet=2 install /tmp/own.deb >/dev/null 2>&1; cat /opt/own; dpkg-query --show own";
    let run = node.ok(["run", "--rm", "--root", "writable", "debian", "sh", "-c", script]);
    assert_eq!(run.text(), "from-package\nown\t1");
}

#[test]
fn live_debian_systemd_boots_a_whole_system_and_stops() {
    let node = Node::start();
    let recipe = node.directory().join("system.toml");
    let base = format!("[base]\ntar = \"{}\"\n", debian_archive().display());
    std::fs::write(&recipe, format!("name = \"system\"\nversion = \"1\"\n{base}[config]\ninit = \"systemd\"\n"))
        .unwrap();
    node.ok(["image", "build", recipe.to_str().unwrap()]);
    node.ok(["run", "-d", "--name", "system", "system"]);
    let wait_until_started = || {
        eventually("all is started", || {
            let said = node.run(["exec", "system", "systemctl", "is-system-running"]).stdout;
            ["running", "degraded"].contains(&said.trim()).then_some(())
        });
    };
    wait_until_started();
    assert_eq!(node.ok(["exec", "system", "cat", "/proc/1/comm"]).text(), "systemd");
    answers(&format!("{}:22", address(&node, "system")), "SSH-2.0-test\r\n", "SSH-2.0-OpenSSH");
    answers(&format!("{}:80", address(&node, "system")), "GET / HTTP/1.0\r\n\r\n", "200 OK");
    let logs = node.ok(["logs", "system"]).stdout;
    assert!(logs.contains("Reached target"), "the console is the log: {logs}");
    // Its host keys are its own, and stay though `/etc` is reset.
    let host_key = || node.ok(["exec", "system", "cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).text().to_owned();
    let key = host_key();
    node.ok(["restart", "--timeout", "50", "system"]);
    wait_until_started();
    answers(&format!("{}:22", address(&node, "system")), "SSH-2.0-test\r\n", "SSH-2.0-OpenSSH");
    assert_eq!(host_key(), key);
    node.ok(["run", "--rm", "system", "sh", "-c", "! ls /etc/ssh/ssh_host_*"]);
    // However long it takes on this machine: one that is killed ends with 137.
    node.ok(["stop", "--timeout", "50", "system"]);
    let shown = node.show("system");
    // The kernel reports the halt of a process tree's first process as its end by SIGINT.
    assert_eq!((&shown["state"], &shown["exit_code"]), (&"stopped".into(), &130.into()));
}
