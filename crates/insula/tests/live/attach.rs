//! Clients of containers that run already.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use insula_testkit::{Node, Screen, eventually};

const ECHO_LINES: &str = "echo ready; while read line; do echo \"<$line>\"; stty size; done; echo end; exit 7";

fn node_with_busybox() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// A client without a terminal.
fn attach(node: &Node, words: &[&str]) -> Child {
    let mut command = node.insula([&["attach"], words].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn read_line(from: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).unwrap() == 1 && byte != [b'\n'] {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn live_a_terminal_that_nobody_looks_at_is_logged_and_never_stops_its_program() {
    let node = node_with_busybox();
    // Much more than a terminal holds.
    node.ok(["run", "-dt", "--name", "c", "busybox", "sh", "-c", "seq 100000; test -t 1 && echo on a terminal"]);
    assert_eq!(node.ok(["wait", "c"]).text(), "0");
    let logs = node.ok(["logs", "c"]);
    assert!(logs.stdout.ends_with("100000\r\non a terminal\r\n"), "{}", &logs.stdout[logs.stdout.len() - 99..]);
    assert_eq!((logs.stdout.lines().count(), logs.stderr.as_str()), (100_001, ""));
}

#[test]
fn live_a_flood_on_a_terminal_is_bounded_in_the_log_and_goes_on() {
    let node = node_with_busybox();
    node.ok(["run", "-dt", "--name", "c", "busybox", "sh", "-c", "head -c 40000000 /dev/zero; echo over > /data/over"]);
    assert_eq!(node.ok(["wait", "c"]).text(), "0");
}

#[test]
fn live_clients_attach_to_a_terminal_type_leave_and_come_back() {
    let node = node_with_busybox();
    node.ok(["run", "-dit", "--name", "c", "busybox", "sh", "-c", ECHO_LINES]);
    let mut first = Screen::open(&node.insula(["attach", "c"]));
    eventually("what is typed arrives", || {
        first.send(b"one\r");
        first.text().contains("<one>\r\n33 99").then_some(())
    });
    let second = Screen::open(&node.insula(["attach", "c"]));
    eventually("both see what one types", || {
        second.send(b"two\r");
        (first.text().contains("<two>") && second.text().contains("<two>")).then_some(())
    });
    first.send(b"\x10\x11");
    assert_eq!(first.code(), Some(0), "{}", first.text());
    first.expect("`insula attach c` comes back");
    assert!(!first.is_raw());
    let mut third = Screen::open(&node.insula(["attach", "--detach-keys", "ctrl-x", "c"]));
    eventually("a client comes back", || {
        third.send(b"three\r");
        third.text().contains("<three>").then_some(())
    });
    third.resize(20, 60);
    eventually("a new size is told", || {
        third.send(b"four\r");
        third.text().contains("20 60").then_some(())
    });
    third.send(b"\x04");
    assert_eq!(third.code(), Some(7), "{}", third.text());
    third.expect("end\r\n");
    eventually("the other sees the end", || second.text().contains("end\r\n").then_some(()));
    let logs = node.ok(["logs", "c"]).stdout;
    assert!(logs.contains("<one>") && logs.contains("<four>") && logs.ends_with("end\r\n"), "{logs}");
}

#[test]
fn live_a_run_that_was_left_is_logged_and_come_back_to() {
    let node = node_with_busybox();
    let mut screen = Screen::open(&node.insula(["run", "-it", "--name", "c", "busybox", "sh", "-c", ECHO_LINES]));
    screen.expect("ready");
    screen.send(b"\x10\x11");
    assert_eq!(screen.code(), Some(0), "{}", screen.text());
    let mut again = Screen::open(&node.insula(["attach", "c"]));
    eventually("what is typed arrives", || {
        again.send(b"again\r");
        again.text().contains("<again>").then_some(())
    });
    again.send(b"\x04");
    assert_eq!(again.code(), Some(7), "{}", again.text());
    assert!(node.ok(["logs", "c"]).stdout.starts_with("ready\r\n"));
}

#[test]
fn live_a_terminal_outlives_daemon_launcher_and_keeper() {
    let mut node = node_with_busybox();
    node.ok(["run", "-dit", "--name", "c", "busybox", "sh", "-c", ECHO_LINES]);
    let screen = Screen::open(&node.insula(["attach", "c"]));
    let typed_is_shown = |screen: &Screen, text: &str| {
        eventually(text, || {
            screen.send(format!("{text}\r").as_bytes());
            screen.text().contains(&format!("<{text}>")).then_some(())
        });
    };
    typed_is_shown(&screen, "before");
    for program in ["insula-keeper", "insula-launcher"] {
        let pid = node.servant(program).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        eventually(&format!("another {program}"), || node.servant(program).filter(|now| *now != pid));
        typed_is_shown(&screen, &format!("after {program}"));
    }
    node.kill_daemon();
    typed_is_shown(&screen, "without a daemon");
    node.start_daemon();
    let mut other = Screen::open(&node.insula(["attach", "c"]));
    typed_is_shown(&other, "with a new daemon");
    other.send(b"\x04");
    assert_eq!(other.code(), Some(7), "{}", other.text());
    let mut screen = screen;
    assert_eq!(screen.code(), Some(7), "{}", screen.text());
}

#[test]
fn live_without_a_terminal_outputs_come_apart_and_input_stays_open() {
    let mut node = node_with_busybox();
    let script = "while read line; do echo \"out $line\"; echo \"err $line\" >&2; done";
    node.ok(["run", "-di", "--name", "c", "busybox", "sh", "-c", script]);
    for turn in ["first", "second"] {
        let mut client = attach(&node, &["c"]);
        let mut input = client.stdin.take().unwrap();
        input.write_all(format!("{turn}\n").as_bytes()).unwrap();
        let (mut output, mut error) = (client.stdout.take().unwrap(), client.stderr.take().unwrap());
        assert_eq!(read_line(&mut output), format!("out {turn}"));
        assert_eq!(read_line(&mut error), format!("err {turn}"));
        // The end of one client's input is not the container's.
        drop(input);
        assert_eq!(node.show("c")["state"], "running");
        client.kill().unwrap();
        client.wait().unwrap();
        node.kill_daemon();
        node.start_daemon();
    }
    let mut client = attach(&node, &["--no-stdin", "c"]);
    eventually("it is attached", || is_attached(&client).then_some(()));
    let mut late = attach(&node, &["c"]);
    late.stdin.take().unwrap().write_all(b"third\n").unwrap();
    assert_eq!(read_line(late.stdout.as_mut().unwrap()), "out third");
    assert_eq!(read_line(client.stdout.as_mut().unwrap()), "out third");
    node.ok(["kill", "c"]);
    assert_eq!((client.wait().unwrap().code(), late.wait().unwrap().code()), (Some(137), Some(137)));
    assert_eq!(node.ok(["logs", "c"]).stdout, "out first\nout second\nout third\n");
}

#[test]
fn live_signals_of_an_attached_client_reach_the_container() {
    let node = node_with_busybox();
    let script = "trap 'echo got; exit 5' TERM; while :; do echo tick; sleep 0.05; done";
    node.ok(["run", "-d", "--no-log", "--name", "c", "busybox", "sh", "-c", script]);
    let mut client = attach(&node, &["c"]);
    assert_eq!(read_line(client.stdout.as_mut().unwrap()), "tick");
    Command::new("kill").args(["-s", "TERM", &client.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    client.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("got\n"), "{rest}");
    assert_eq!(client.wait().unwrap().code(), Some(5));
}

#[test]
fn live_what_does_not_run_is_not_attached_to_and_clients_are_bounded() {
    let node = node_with_busybox();
    node.ok(["create", "--name", "c", "busybox", "sleep", "1000"]);
    assert!(node.run(["attach", "c"]).with_code(125).stderr.contains("insula start c"));
    node.ok(["start", "c"]);
    node.ok(["pause", "c"]);
    assert!(node.run(["attach", "c"]).with_code(125).stderr.contains("insula resume c"));
    node.ok(["resume", "c"]);
    let _ = node.run(["attach", "missing"]).with_code(125);
    // Each takes two of the keeper's places for copies.
    let mut clients: Vec<Child> = (0..8).map(|_| attach(&node, &["c"])).collect();
    let refusal = eventually("one more client is refused", || {
        let mut one_more = attach(&node, &["c"]);
        let ended = eventually("it is refused or attached", || {
            one_more.try_wait().unwrap().map(|_| true).or_else(|| is_attached(&one_more).then_some(false))
        });
        if ended {
            let mut said = String::new();
            one_more.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            return Some(said);
        }
        clients.push(one_more);
        None
    });
    assert!(refusal.contains("16"), "{refusal}");
    for mut client in clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    eventually("there is room again", || {
        let mut client = attach(&node, &["c"]);
        let attached = eventually("it is refused or attached", || {
            client.try_wait().unwrap().map(|_| false).or_else(|| is_attached(&client).then_some(true))
        });
        client.kill().ok();
        client.wait().unwrap();
        attached.then_some(())
    });
}

/// A client makes descriptors for its copies when it is attached.
fn is_attached(client: &Child) -> bool {
    let is_event = |fd: &std::fs::DirEntry| {
        std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
    };
    let fds = std::fs::read_dir(format!("/proc/{}/fd", client.id()));
    fds.is_ok_and(|fds| fds.filter_map(Result::ok).filter(is_event).count() >= 4)
}
