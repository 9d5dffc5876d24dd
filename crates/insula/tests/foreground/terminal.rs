//! The program on a real terminal.

use insula_testkit::{Screen, eventually};

use crate::fake_node::FakeNode;

#[test]
fn a_terminal_inside_has_our_size_and_its_output_and_code_come_back() {
    let node = FakeNode::start();
    for words in [&["run", "-it", "debian"][..], &["exec", "-it", "c"]] {
        let script = "test -t 0 && test -t 1 && until stty size | grep 33; do :; done; echo done; exit 7";
        let mut screen = Screen::open(&node.insula(&[words, &["sh", "-c", script]].concat()));
        assert_eq!(screen.code(), Some(7), "{}", screen.text());
        screen.expect("33 99\r\ndone\r\n");
        assert!(!screen.is_raw(), "the terminal was given back");
    }
}

#[test]
fn what_is_typed_goes_in_and_a_new_size_is_told() {
    let node = FakeNode::start();
    let script = "echo ready; while read line; do echo \"<$line>\"; stty size; done; echo end";
    let mut screen = Screen::open(&node.insula(&["run", "-it", "debian", "sh", "-c", script]));
    screen.expect("ready");
    assert!(screen.is_raw());
    screen.send(b"hello\r");
    screen.expect("<hello>");
    screen.resize(20, 60);
    // The program hears of the size by a signal; the lines show when it has passed it on.
    eventually("the new size is told", || {
        screen.send(b"again\r");
        screen.text().contains("20 60").then_some(())
    });
    screen.send(b"\x04");
    screen.expect("end");
    assert_eq!(screen.code(), Some(0));
}

#[test]
fn an_interrupt_key_goes_in_as_a_key() {
    let node = FakeNode::start();
    let script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.01; done";
    let mut screen = Screen::open(&node.insula(&["run", "-it", "debian", "sh", "-c", script]));
    screen.expect("ready");
    screen.send(b"\x03");
    screen.expect("interrupted");
    assert_eq!(screen.code(), Some(5));
    assert!(!node.requests().iter().any(|request| request.ends_with("/kill")));
}

#[test]
fn the_detach_keys_leave_the_command_running() {
    let node = FakeNode::start();
    let mut screen = Screen::open(&node.insula(&["run", "-it", "debian", "sh", "-c", "echo ready; exec sleep 1"]));
    screen.expect("ready");
    screen.send(b"\x10\x11");
    assert_eq!(screen.code(), Some(0));
    screen.expect("detached");
    assert!(!screen.is_raw());
}

#[test]
fn output_without_a_terminal_inside_is_copied_to_ours() {
    let node = FakeNode::start();
    let mut screen = Screen::open(&node.insula(&["run", "-i", "debian", "sh", "-c", "test -t 1 || echo piped; cat"]));
    screen.expect("piped");
    assert!(!screen.is_raw());
    screen.send(b"typed\r");
    screen.expect("typed\r\ntyped\r\n");
    screen.send(b"\x04");
    assert_eq!(screen.code(), Some(0));
}
