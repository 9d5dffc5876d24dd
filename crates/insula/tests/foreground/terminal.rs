//! The program on a real terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::eventually;
use crate::fake_node::FakeNode;

/// A terminal with `insula` on it.
struct Screen {
    master: OwnedFd,
    slave: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn open(node: &FakeNode, words: &[&str]) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let inner = node.insula(words);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shown, mut reader) = (seen.clone(), File::from(master.try_clone().unwrap()));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { master, slave, child, seen }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn expect(&self, what: &str) {
        eventually(what, || self.text().contains(what));
    }

    fn send(&self, keys: &[u8]) {
        File::from(self.master.try_clone().unwrap()).write_all(keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_terminal_inside_has_our_size_and_its_output_and_code_come_back() {
    let node = FakeNode::start();
    for words in [&["run", "-it", "debian"][..], &["exec", "-it", "c"]] {
        let script = "test -t 0 && test -t 1 && stty size; echo done; exit 7";
        let mut screen = Screen::open(&node, &[words, &["sh", "-c", script]].concat());
        assert_eq!(screen.code(), Some(7), "{}", screen.text());
        screen.expect("33 99\r\ndone\r\n");
        assert!(!screen.is_raw(), "the terminal was given back");
    }
}

#[test]
fn what_is_typed_goes_in_and_a_new_size_is_told() {
    let node = FakeNode::start();
    let script = "trap 'stty size' WINCH; echo ready; while read line; do echo \"<$line>\"; done; echo end";
    let mut screen = Screen::open(&node, &["run", "-it", "debian", "sh", "-c", script]);
    screen.expect("ready");
    assert!(screen.is_raw());
    screen.send(b"hello\r");
    screen.expect("<hello>");
    let size = Winsize { ws_row: 20, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen.master, size).unwrap();
    // The shell runs its trap when `read` was interrupted or got its line.
    screen.send(b"again\r");
    screen.expect("20 60");
    screen.send(b"\x04");
    screen.expect("end");
    assert_eq!(screen.code(), Some(0));
}

#[test]
fn an_interrupt_key_goes_in_as_a_key() {
    let node = FakeNode::start();
    let script = "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.01; done";
    let mut screen = Screen::open(&node, &["run", "-it", "debian", "sh", "-c", script]);
    screen.expect("ready");
    screen.send(b"\x03");
    screen.expect("interrupted");
    assert_eq!(screen.code(), Some(5));
    assert!(!node.requests().iter().any(|request| request.ends_with("/kill")));
}

#[test]
fn the_detach_keys_leave_the_command_running() {
    let node = FakeNode::start();
    let mut screen = Screen::open(&node, &["run", "-it", "debian", "sh", "-c", "echo ready; exec sleep 1"]);
    screen.expect("ready");
    screen.send(b"\x10\x11");
    assert_eq!(screen.code(), Some(0));
    screen.expect("detached");
    assert!(!screen.is_raw());
}

#[test]
fn output_without_a_terminal_inside_is_copied_to_ours() {
    let node = FakeNode::start();
    let mut screen = Screen::open(&node, &["run", "-i", "debian", "sh", "-c", "test -t 1 || echo piped; cat"]);
    screen.expect("piped");
    assert!(!screen.is_raw());
    screen.send(b"typed\r");
    screen.expect("typed\r\ntyped\r\n");
    screen.send(b"\x04");
    assert_eq!(screen.code(), Some(0));
}
