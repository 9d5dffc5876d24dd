//! Terminals in containers, from a real terminal.

use insula_testkit::{Node, Screen, eventually};

/// A node with two containers: `c`, whose process 1 is ours, and `s`, whose process 1 is the image's own.
fn node_with_two() -> Node {
    let node = Node::start();
    node.import_busybox();
    node.import_system("exec sleep 1000");
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "s", "--init", "image", "system"]);
    node
}

#[test]
fn live_a_terminal_inside_is_a_terminal_of_its_own_with_our_size() {
    let node = node_with_two();
    for words in [&["run", "--rm", "-it", "busybox"][..], &["exec", "-it", "c"], &["exec", "-it", "s"]] {
        // The size is set as soon as there is a terminal, which the command may be quicker to look at.
        let script = "test -t 0 && test -t 1 && test -t 2 && tty && until stty size | grep 33; do :; done; exit 7";
        let mut screen = Screen::open(&node.insula([words, &["sh", "-c", script]].concat()));
        assert_eq!(screen.code(), Some(7), "{}", screen.text());
        screen.expect("33 99");
        assert!(screen.text().contains("/dev/pts/") || screen.text().contains("/dev/console"), "{}", screen.text());
        assert!(!screen.is_raw(), "the terminal was given back");
    }
}

#[test]
fn live_what_is_typed_goes_in_and_a_new_size_is_told() {
    let node = node_with_two();
    for words in [&["run", "--rm", "-it", "busybox"][..], &["exec", "-it", "c"], &["exec", "-it", "s"]] {
        let script = "echo ready; while read line; do echo \"<$line>\"; stty size; done; echo end";
        let mut screen = Screen::open(&node.insula([words, &["sh", "-c", script]].concat()));
        screen.expect("ready");
        // The size is set as soon as there is a terminal, which the command may be quicker to look at.
        eventually("the size is told", || {
            screen.send(b"hello\r");
            screen.text().contains("<hello>\r\n33 99").then_some(())
        });
        screen.resize(20, 60);
        // The program hears of the size by a signal; the lines show when it has passed it on.
        eventually("the new size is told", || {
            screen.send(b"again\r");
            screen.text().contains("20 60").then_some(())
        });
        screen.send(b"\x04");
        screen.expect("end");
        assert_eq!(screen.code(), Some(0), "{}", screen.text());
    }
}

#[test]
fn live_control_c_interrupts_what_runs_inside() {
    let node = node_with_two();
    for words in [&["run", "--rm", "-it", "busybox"][..], &["exec", "-it", "c"], &["exec", "-it", "s"]] {
        let script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done";
        let mut screen = Screen::open(&node.insula([words, &["sh", "-c", script]].concat()));
        screen.expect("ready");
        screen.send(b"\x03");
        assert_eq!(screen.code(), Some(5), "{}", screen.text());
        screen.expect("interrupted");
    }
}

#[test]
fn live_the_detach_keys_leave_the_container_running() {
    let node = Node::start();
    node.import_busybox();
    let script = "echo ready; exec sleep 1000";
    let mut screen = Screen::open(&node.insula(["run", "-it", "--name", "c", "busybox", "sh", "-c", script]));
    screen.expect("ready");
    screen.send(b"\x10\x11");
    assert_eq!(screen.code(), Some(0), "{}", screen.text());
    assert!(!screen.is_raw());
    assert_eq!(node.show("c")["state"], "running");
}

#[test]
fn live_no_key_hangs_a_further_command_up_unless_it_was_named() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let script = "echo ready; read line; echo got it; exit 5";
    let mut screen = Screen::open(&node.insula(["exec", "-it", "c", "sh", "-c", script]));
    screen.expect("ready");
    screen.send(b"\x10\x11x\r");
    assert_eq!(screen.code(), Some(5), "{}", screen.text());
    screen.expect("got it");
    let keys = ["exec", "-it", "--detach-keys", "ctrl-p,ctrl-q", "c", "sh", "-c", script];
    let mut screen = Screen::open(&node.insula(keys));
    screen.expect("ready");
    screen.send(b"\x10\x11");
    assert_eq!(screen.code(), Some(0), "{}", screen.text());
    screen.expect("hung up");
}

#[test]
fn live_a_shell_is_found_and_used() {
    let node = Node::start();
    node.import_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let mut screen = Screen::open(&node.insula(["shell", "c"]));
    screen.send(b"echo $((40 + 2)); exit 3\r");
    assert_eq!(screen.code(), Some(3), "{}", screen.text());
    screen.expect("42");
    // Without a terminal it reads commands from standard input.
    let finished = node.run_with_input(["shell", "c"], b"echo from a pipe; exit 4\n").with_code(4);
    assert_eq!(finished.stdout, "from a pipe\n");
}

#[test]
fn live_readings_on_a_terminal_take_the_place_of_those_before() {
    let node = node_with_two();
    let mut screen = Screen::open(&node.insula(["stats", "--interval", "0.1", "c"]));
    eventually("the third reading is there", || {
        (screen.text().matches("\x1b[H\x1b[2JNAME").count() >= 3).then_some(())
    });
    screen.send(b"\x03");
    assert_eq!(screen.code(), None, "the signal ended it");
}
