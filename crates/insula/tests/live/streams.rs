//! Standard streams, exit codes and signals of commands in containers.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use insula_testkit::{Node, eventually};

fn node_with_busybox() -> Node {
    let node = Node::start();
    node.import_busybox();
    node
}

/// The same with two containers: `c`, whose process 1 is ours, and `s`, whose process 1 is the image's own.
fn node_with_two() -> Node {
    let node = node_with_busybox();
    node.import_system("exec sleep 1000");
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "s", "--init", "image", "system"]);
    node
}

#[test]
fn live_run_and_exec_give_output_and_exit_code_as_the_field_does() {
    let node = node_with_two();
    let runs = [&["run", "--rm", "busybox"][..], &["run", "--rm", "--no-log", "busybox"]];
    for verb in runs.into_iter().chain([&["exec", "c"][..], &["exec", "s"]]) {
        let run = |words: &[&str]| node.run([verb, words].concat());
        let finished = run(&["sh", "-c", "echo out; echo err >&2; exit 42"]).with_code(42);
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"), "{verb:?}");
        let _ = run(&["true"]).ok();
        let _ = run(&["sh", "-c", "kill -9 $$"]).with_code(137);
        let missing = run(&["no-such-program"]).with_code(127);
        assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
        let _ = run(&["/etc/passwd"]).with_code(126);
        let _ = run(&["/etc"]).with_code(126);
    }
    let _ = node.run(["run", "--rm", "missing", "true"]).with_code(125);
    let _ = node.run(["exec", "missing", "true"]).with_code(125);
    assert!(node.fails(3, ["stop", "missing"]).contains("missing"));
}

#[test]
fn live_ten_megabytes_go_in_and_come_out() {
    let node = node_with_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let sent = "0123456789abcde\n".repeat(640 * 1024);
    for words in [&["run", "--rm", "-i", "busybox", "cat"][..], &["exec", "-i", "c", "cat"]] {
        let finished = node.run_with_input(words, sent.as_bytes()).ok();
        assert!(finished.stdout == sent, "{words:?}: {} of {} bytes", finished.stdout.len(), sent.len());
    }
}

#[test]
fn live_a_slow_reader_gets_everything() {
    let node = node_with_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    for words in [&["run", "--rm", "busybox"][..], &["exec", "c"]] {
        let mut command = node.insula([words, &["sh", "-c", script]].concat());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = child.stdout.take().unwrap();
        // Reads so little at a time that every pipe on the way is full meanwhile.
        let mut all = Vec::new();
        let mut piece = [0; 512];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            all.extend_from_slice(&piece[..length]);
            std::thread::yield_now();
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.lines().count(), 20_000);
        assert!(text.ends_with("line 19999\n"));
    }
}

#[test]
fn live_a_reader_that_begins_after_the_removal_of_the_container_gets_everything() {
    let node = node_with_busybox();
    // Less than the three pipes on the way take, so that the container ends before anybody reads, and more than the two
    // of the program's, so that the keeper still has some of it then.
    let mut command = node.insula(["run", "--rm", "busybox", "head", "-c", "150000", "/dev/zero"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = child.stdout.take().unwrap();
    let mut all = vec![0; 1];
    reader.read_exact(&mut all).unwrap();
    eventually("the container is gone", || node.ok(["list", "-q"]).text().is_empty().then_some(()));
    reader.read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), child.wait().unwrap().code()), (150_000, Some(0)));
}

#[test]
fn live_an_exec_ends_with_its_process_though_a_child_lives_on_with_its_outputs() {
    let node = node_with_busybox();
    node.ok(["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
    let finished = node.ok(["exec", "c", "sh", "-c", "sleep 1000 & echo started; echo err >&2"]);
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("started\n", "err\n"));
    let count = "grep -lx sleep /proc/[0-9]*/comm | wc -l";
    assert_eq!(node.ok(["exec", "c", "sh", "-c", count]).text(), "2");
}

#[test]
fn live_a_file_is_complete_when_the_program_ends() {
    let node = node_with_busybox();
    for options in [&["--rm"][..], &["--rm", "--no-log"]] {
        let path = node.directory().join("output");
        let file = std::fs::File::create(&path).unwrap();
        let mut command = node.insula([&["run"], options, &["busybox", "seq", "50000"]].concat());
        assert!(command.stdin(Stdio::null()).stdout(file).status().unwrap().success());
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("\n50000\n"), "{options:?}");
    }
}

#[test]
fn live_signals_reach_the_command() {
    let node = node_with_two();
    for verb in [&["run", "--rm", "busybox"][..], &["exec", "c"], &["exec", "s"]] {
        for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("QUIT", 3)] {
            let script = format!("trap 'echo got; exit {number}' {signal}; echo ready; while :; do sleep 0.05; done");
            let mut command = node.insula([verb, &["sh", "-c", &script]].concat());
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
            let mut reader = child.stdout.take().unwrap();
            let mut ready = [0; 6];
            reader.read_exact(&mut ready).unwrap();
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
            let mut rest = String::new();
            reader.read_to_string(&mut rest).unwrap();
            assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got\n", Some(number)), "{verb:?} {signal}");
        }
    }
}

#[test]
fn live_without_i_there_is_no_input() {
    let node = node_with_busybox();
    let mut command = node.insula(["run", "--rm", "busybox", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // The pipe stays open: only end-of-file inside ends it.
    let mut pipe = child.stdin.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(pipe.write_all(b"x").is_err());
}

/// What runs may write before the program has heard that it runs. When it has, it makes descriptors for its copies.
fn wait_until_attached(program: u32) {
    let is_event = |fd: std::fs::DirEntry| {
        std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
    };
    eventually("the program is attached", || {
        let fds = std::fs::read_dir(format!("/proc/{program}/fd")).unwrap();
        (fds.filter_map(Result::ok).filter_map(|fd| is_event(fd).then_some(())).count() >= 4).then_some(())
    });
}

#[test]
fn live_a_foreground_run_and_exec_outlive_the_daemon() {
    let mut node = node_with_two();
    for words in [&["run", "--rm", "-i", "busybox"][..], &["exec", "-i", "c"], &["exec", "-i", "s"]] {
        let mut command = node.insula([words, &["sh", "-c", "echo ready; read x; echo $x; exit 9"]].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        reader.read_exact(&mut ready).unwrap();
        wait_until_attached(child.id());
        node.kill_daemon();
        child.stdin.take().unwrap().write_all(b"still here\n").unwrap();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("still here\n", Some(9)), "{words:?}");
        node.start_daemon();
    }
    eventually("only two are left", || (node.ok(["list", "-q"]).text() == "c\ns").then_some(()));
}
