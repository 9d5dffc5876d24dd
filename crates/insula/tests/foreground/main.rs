//! The program against a node that runs plain processes: streams, terminals, signals, exit codes. No root needed.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod fake_node;
mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake_node::FakeNode;

fn output(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn output_and_exit_code_are_the_commands() {
    let node = FakeNode::start();
    for verb in [&["run", "debian"][..], &["run", "--no-log", "debian"], &["exec", "c"]] {
        let mut words = verb.to_vec();
        words.extend(["sh", "-c", "echo out; echo err >&2; exit 42"]);
        let output = output(node.insula(&words));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(42), "out\n".to_owned()), "{words:?}");
        // The node's warnings come with the answer to a start, so before or after what the command writes.
        assert!(text(&output.stderr).lines().any(|line| line == "err"), "{words:?}");
    }
}

#[test]
fn a_signals_code_is_128_and_its_number() {
    let node = FakeNode::start();
    for verb in [["run", "debian"], ["exec", "c"]] {
        let output = output(node.insula(&[&verb[..], &["sh", "-c", "kill -9 $$"]].concat()));
        assert_eq!(output.status.code(), Some(137));
    }
}

#[test]
fn our_own_failures_are_125_to_127() {
    let node = FakeNode::start();
    assert_eq!(output(node.insula(&["run", "missing"])).status.code(), Some(125));
    assert_eq!(output(node.insula(&["run", "debian", "no-such-program"])).status.code(), Some(127));
    let refused = output(node.insula(&["exec", "c", "no-such-program"]));
    assert_eq!(refused.status.code(), Some(127));
    assert_eq!(text(&refused.stderr), "insula: program `no-such-program` is not in the container\n");
}

#[test]
fn what_the_node_says_is_shown_with_its_remedy() {
    let node = FakeNode::start();
    let refused = output(node.insula(&["delete", "gone"]));
    assert_eq!(text(&refused.stderr), "insula: container gone does not exist\nhint: do something else\n");
    assert_eq!(refused.status.code(), Some(3));
    let run = output(node.insula(&["run", "debian", "true"]));
    assert_eq!(text(&run.stderr), "warning: version 11 is unknown; 12 runs\n");
}

#[test]
fn several_names_are_all_tried_and_a_part_is_8() {
    let node = FakeNode::start();
    let partly = output(node.insula(&["delete", "a", "gone", "b", "busy"]));
    assert_eq!((text(&partly.stdout), partly.status.code()), ("a\nb\n".to_owned(), Some(8)));
    assert!(text(&partly.stderr).ends_with("insula: 2 of 4 failed\n"), "{}", text(&partly.stderr));
    assert_eq!(output(node.insula(&["delete", "gone", "busy"])).status.code(), Some(3));
    assert_eq!(output(node.insula(&["delete", "a", "b"])).status.code(), Some(0));
}

#[test]
fn logs_go_to_the_streams_they_came_from() {
    let node = FakeNode::start();
    let logs = output(node.insula(&["logs", "-f", "--tail", "2", "c"]));
    assert_eq!((text(&logs.stdout), text(&logs.stderr)), ("to out\n".to_owned(), "to err\n".to_owned()));
}

#[test]
fn ten_megabytes_go_in_and_come_out() {
    let node = FakeNode::start();
    let sent: Vec<u8> = (0..10_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    for words in [&["run", "-i", "debian", "cat"][..], &["exec", "-i", "c", "cat"]] {
        let mut child =
            node.insula(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || input.write_all(&copy).unwrap());
        let mut arrived = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut arrived).unwrap();
        writer.join().unwrap();
        assert!(arrived == sent, "{words:?}: {} bytes", arrived.len());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn without_i_there_is_no_input() {
    let node = FakeNode::start();
    let mut child = node.insula(&["run", "debian", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_file_gets_everything_before_the_program_ends() {
    let node = FakeNode::start();
    for verb in [&["run", "debian"][..], &["run", "--no-log", "debian"], &["exec", "c"]] {
        let mut file = tempfile::tempfile().unwrap();
        let words = [verb, &["seq", "100000"]].concat();
        let status = node.insula(&words).stdout(file.try_clone().unwrap()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
        use std::io::Seek;
        file.rewind().unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert!(content.ends_with("\n100000\n"), "{words:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let node = FakeNode::start();
    for words in [&["run", "debian", "yes"][..], &["exec", "c", "yes"]] {
        let mut child = node.insula(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = [0; 2];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        // The command's write fails: 1 by its own word, or 141 by SIGPIPE.
        assert!(matches!(child.wait().unwrap().code(), Some(1 | 141)), "{words:?}");
    }
}

#[test]
fn a_child_that_keeps_the_output_open_does_not_hold_exec_up() {
    let node = FakeNode::start();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let started = Instant::now();
    // A terminal as output makes the program copy; a device does too.
    let zero = File::options().write(true).open("/dev/full").unwrap();
    let script = "sleep 30 & echo $! >&2";
    let status = node.insula(&["exec", "c", "sh", "-c", script]).stdout(zero).stderr(write).status();
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut pid = [0; 16];
    let length = rustix::io::read(&read, &mut pid).unwrap();
    Command::new("kill").arg(text(&pid[..length]).trim()).status().unwrap();
}

#[test]
fn signals_are_passed_on() {
    let node = FakeNode::start();
    for words in [&["run", "debian"][..], &["exec", "c"]] {
        for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("QUIT", 3)] {
            let script = format!("trap 'echo got; exit {number}' {signal}; echo ready; while :; do sleep 0.01; done");
            let words = [words, &["sh", "-c", &script]].concat();
            let mut child = node.insula(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut out = child.stdout.take().unwrap();
            let mut ready = [0; 6];
            out.read_exact(&mut ready).unwrap();
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
            let mut rest = String::new();
            out.read_to_string(&mut rest).unwrap();
            assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got\n", Some(number)), "{words:?}");
        }
    }
    assert!(node.requests().iter().any(|request| request == "POST /v1/containers/c/kill"));
}

#[test]
fn a_run_takes_one_message_unless_it_is_too_large_for_it() {
    let long = "x".repeat(100_000);
    for (word, seen) in [("short", &["run"][..]), (&long, &["POST /v1/containers"])] {
        let node = FakeNode::start();
        let run = output(node.insula(&["run", "debian", "echo", word]));
        assert_eq!((text(&run.stdout), run.status.code()), (format!("{word}\n"), Some(0)));
        assert_eq!(node.requests(), seen);
        assert_eq!(text(&run.stderr), "warning: version 11 is unknown; 12 runs\n");
    }
}

#[test]
fn a_detached_run_prints_the_name() {
    let node = FakeNode::start();
    let run = output(node.insula(&["run", "-d", "debian"]));
    assert_eq!((text(&run.stdout), run.status.code()), ("c\n".to_owned(), Some(0)));
    let json = output(node.insula(&["run", "-d", "--format", "json", "debian"]));
    assert!(text(&json.stdout).contains("\"image\": \"debian@12\""));
}

#[test]
fn a_missing_node_is_named() {
    for (words, socket, code) in [(&["list"][..], "insula.sock", 1), (&["run", "debian"], "attach.sock", 125)] {
        let mut command = Command::new(fake_node::insula());
        command.args(["--socket", "/nonexistent/insula.sock"]).args(words);
        let refused = output(command);
        assert_eq!(refused.status.code(), Some(code));
        let said = text(&refused.stderr);
        assert!(said.contains(&format!("/nonexistent/{socket}")) && said.contains("insula node run"), "{said}");
    }
}
