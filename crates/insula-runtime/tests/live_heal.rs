//! Launcher, keeper and daemon are killed, each alone, while containers run and log: nothing of theirs is lost.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Node, Start, id, is_gone, kernel_remembers, kill, launcher_program, shell, wait_until};
use insula_model::{ContainerId, ImageConfig};
use insula_plan::protocol::facts::{EndedFact, ProcessIdentity};
use insula_plan::protocol::failure::FailureKind;
use insula_plan::protocol::keeper::{KeeperRequest, LogBounds, LogStart, LogStream, TeeSpec, WhenSlow};
use insula_plan::protocol::launcher::{
    ContainerCondition, ImageKey, LauncherClient, LauncherError, LauncherEvent, LauncherOutcome, LauncherRequest,
};
use insula_plan::protocol::log::LogContent;
use insula_plan::protocol::log_reader::LogReader;
use insula_plan::protocol::status::ExitStatus;

/// Says that it is up, waits until its file is there, says that it goes, ends with 5.
fn script(name: &str) -> String {
    format!("echo up; while ! [ -e /data/{name} ]; do sleep 0.02; done; echo going; exit 5")
}

/// Starts a container whose output the keeper logs.
fn start(node: &mut Node, key: &ImageKey, id: ContainerId, name: &str) -> ProcessIdentity {
    let spec = shell(&script(name));
    let planned = node.plan(key, id, &Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() });
    let folder = node.path(name);
    std::fs::create_dir(&folder).unwrap();
    let folder = std::fs::File::open(folder).unwrap();
    let log =
        LogStart { container: id, streams: vec![LogStream::Output], tees: Vec::new(), files: Some(LogBounds::DEFAULT) };
    let request = LauncherRequest::Keep(KeeperRequest::LogStart(log));
    node.client.call(request, &[folder.as_fd(), planned.output.as_fd()]).unwrap();
    drop(planned.output);
    let op = node.carry_out(id, &planned.plan.encode(), planned.fds).unwrap();
    let LauncherOutcome::Started { process, .. } = node.client.outcome(op).unwrap().message else { panic!() };
    wait_until("the first line is logged", || log_text(node, name) == "up\n");
    process
}

fn log_text(node: &Node, name: &str) -> String {
    let mut text = String::new();
    let mut reader = LogReader::from_start(node.path(name));
    while reader
        .read(|record| {
            if let LogContent::Written { bytes, .. } = record.content {
                text.push_str(std::str::from_utf8(bytes).unwrap());
            }
        })
        .unwrap()
    {}
    text
}

fn let_go(node: &Node, name: &str) {
    std::fs::write(node.path("data").join(name), b"").unwrap();
}

fn list(node: &mut Node) -> (Vec<(ContainerId, ContainerCondition)>, Vec<OwnedFd>) {
    let listed = node.client.call(LauncherRequest::List { after: None }, &[]).unwrap();
    let LauncherOutcome::Containers { containers, more: false } = listed.message else { panic!() };
    (containers.into_iter().map(|entry| (entry.container, entry.condition)).collect(), listed.fds)
}

fn next_end(node: &mut Node, id: ContainerId) -> EndedFact {
    loop {
        if let LauncherEvent::Exited { container, end } = node.client.event().unwrap().message
            && container == id
        {
            return end;
        }
    }
}

#[test]
fn live_a_killed_launcher_is_replaced_and_every_end_is_known() {
    let mut node = Node::start();
    let key = node.image();
    let goes_on = start(&mut node, &key, id(11), "goes-on");
    let ends = start(&mut node, &key, id(12), "ends");
    let killed = start(&mut node, &key, id(13), "killed");
    let killed_later = start(&mut node, &key, id(14), "killed-later");
    let keeper = node.keeper_pid();
    node.kill_launcher();
    let_go(&node, "ends");
    kill(killed.pid);
    wait_until("both ended", || is_gone(ends.pid) && is_gone(killed.pid));

    node.start_launcher();
    assert_eq!(node.keeper_pid(), keeper, "the keeper is found again");
    let (listed, pidfds) = list(&mut node);
    let conditions: Vec<_> = listed.into_iter().map(|(_, condition)| condition).collect();
    let [ContainerCondition::Running(first), ContainerCondition::Ended(second), third, fourth] = &conditions[..] else {
        panic!("{conditions:?}")
    };
    assert_eq!(*first, goes_on);
    assert_eq!(second.status, Some(ExitStatus::Exited(5)));
    let ContainerCondition::Ended(third) = third else { panic!("{third:?}") };
    if kernel_remembers() {
        assert_eq!(third.status, Some(ExitStatus::Signaled(9)));
    } else {
        assert!(third.status.is_none() && third.unknown_because.is_some());
    }
    assert_eq!(*fourth, ContainerCondition::Running(killed_later));
    assert_eq!(pidfds.len(), 2);

    kill(killed_later.pid);
    let end = next_end(&mut node, id(14));
    assert!(!kernel_remembers() || end.status == Some(ExitStatus::Signaled(9)), "{end:?}");
    let_go(&node, "goes-on");
    assert_eq!(next_end(&mut node, id(11)).status, Some(ExitStatus::Exited(5)));
    for name in ["goes-on", "ends"] {
        wait_until("its output is logged", || log_text(&node, name) == "up\ngoing\n");
    }
    // The image is still the one mount: a new container runs from it.
    let (status, output) = node.run(&key, id(15), "echo new");
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "new\n"));
    for number in 11..=14 {
        node.sweep(id(number));
        node.assert_nothing_left(id(number));
    }
}

#[test]
fn live_a_killed_keeper_is_replaced_and_the_log_goes_on() {
    let mut node = Node::start();
    let key = node.image();
    start(&mut node, &key, id(21), "first");
    start(&mut node, &key, id(22), "second");
    for _ in 0..3 {
        let keeper = node.keeper_pid();
        kill(keeper);
        wait_until("the keeper is replaced", || {
            matches!(node.client.event().unwrap().message, LauncherEvent::KeeperRestarted)
        });
        assert_ne!(node.keeper_pid(), keeper);
    }
    let_go(&node, "first");
    assert_eq!(next_end(&mut node, id(21)).status, Some(ExitStatus::Exited(5)));
    wait_until("its output is logged", || log_text(&node, "first") == "up\ngoing\n");
    // And then the launcher, which takes everything from a keeper that was given everything.
    node.kill_launcher();
    let_go(&node, "second");
    wait_until("its output is logged", || log_text(&node, "second") == "up\ngoing\n");
    node.start_launcher();
    wait_until("its end is known", || {
        list(&mut node).0.iter().all(|(_, it)| matches!(it, ContainerCondition::Ended(_)))
    });
    for number in [21, 22] {
        node.sweep(id(number));
        node.assert_nothing_left(id(number));
    }
}

/// Bytes of a pipe that nobody has made larger.
const PIPE_BYTES: usize = 64 * 1024;

#[test]
fn live_a_keeper_that_is_killed_after_a_containers_end_loses_one_read_of_a_slow_client_at_most() {
    let mut node = Node::start();
    let key = node.image();
    // The client's pipe takes one pipe full, the keeper holds one read, and the rest stays in the container's own pipe.
    let written = 2 * PIPE_BYTES + 4096;
    let spec = shell(&format!("head -c {written} /dev/zero"));
    let planned = node.plan(&key, id(61), &Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() });
    let folder = std::fs::File::open(node.path("")).unwrap();
    let (mut client, tee) = std::io::pipe().unwrap();
    let log = LogStart {
        container: id(61),
        streams: vec![LogStream::Output],
        tees: vec![TeeSpec { stream: LogStream::Output, when_slow: WhenSlow::Block }],
        files: None,
    };
    let request = LauncherRequest::Keep(KeeperRequest::LogStart(log));
    node.client.call(request, &[folder.as_fd(), planned.output.as_fd(), tee.as_fd()]).unwrap();
    drop((planned.output, tee));
    let op = node.carry_out(id(61), &planned.plan.encode(), planned.fds).unwrap();
    node.client.outcome(op).unwrap();
    assert_eq!(next_end(&mut node, id(61)).status, Some(ExitStatus::Exited(0)));
    let remove = KeeperRequest::RemoveContainer { container: id(61) };
    node.client.call(LauncherRequest::Keep(remove), &[]).unwrap();
    kill(node.keeper_pid());
    wait_until("the keeper is replaced", || {
        matches!(node.client.event().unwrap().message, LauncherEvent::KeeperRestarted)
    });
    let mut came = Vec::new();
    client.read_to_end(&mut came).unwrap();
    assert!((written - PIPE_BYTES..=written).contains(&came.len()), "{} of {written} bytes", came.len());
    node.sweep(id(61));
    node.assert_nothing_left(id(61));
}

#[test]
fn live_a_keeper_that_dies_again_and_again_is_started_later_and_later_and_what_it_is_asked_waits() {
    let mut node = Node::start();
    let mut began = Vec::new();
    for _ in 0..4 {
        let keeper = node.keeper_pid();
        began.push(Instant::now());
        kill(keeper);
        wait_until("the keeper is replaced", || {
            matches!(node.client.event().unwrap().message, LauncherEvent::KeeperRestarted)
        });
    }
    let last = began[3].elapsed();
    assert!(last >= Duration::from_secs(1), "the fourth one came after {last:?}");
    let (key, name) = (node.image(), "pause");
    start(&mut node, &key, id(62), name);
    let dead = node.keeper_pid();
    kill(dead);
    let asked = Instant::now();
    wait_until("the next one answers", || node.ask_keeper().is_some_and(|pid| pid != dead));
    assert!(asked.elapsed() >= Duration::from_secs(4), "it was answered after {:?}", asked.elapsed());
    let_go(&node, name);
    wait_until("its output is logged", || log_text(&node, name) == "up\ngoing\n");
    assert_eq!(next_end(&mut node, id(62)).status, Some(ExitStatus::Exited(5)));
    node.sweep(id(62));
}

#[test]
fn live_a_daemon_that_was_away_finds_what_happened() {
    let mut node = Node::start();
    let key = node.image();
    let process = start(&mut node, &key, id(31), "ends");
    let launcher = node.client.launcher_pid();
    // The connection of a killed daemon closes; the next one takes its place.
    let second = LauncherClient::connect(&node.path("run/launcher.sock")).unwrap();
    assert!(node.client.event().is_err());
    drop(second);
    let_go(&node, "ends");
    wait_until("it ended", || is_gone(process.pid));
    node.client = LauncherClient::connect(&node.path("run/launcher.sock")).unwrap();
    assert_eq!(node.client.launcher_pid(), launcher);
    let (listed, _) = list(&mut node);
    let [(_, ContainerCondition::Ended(end))] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(end.status, Some(ExitStatus::Exited(5)));
    node.sweep(id(31));
    assert!(list(&mut node).0.is_empty());
    node.assert_nothing_left(id(31));
}

#[test]
fn live_a_launcher_becomes_another_build_in_place() {
    let mut node = Node::start();
    let key = node.image();
    start(&mut node, &key, id(41), "goes-on");
    let launcher = node.client.launcher_pid();
    let not_a_program = std::fs::File::open("/etc/passwd").unwrap();
    let refused = node.client.call(LauncherRequest::Upgrade, &[not_a_program.as_fd()]).unwrap_err();
    assert!(matches!(refused, LauncherError::Failed(failure) if failure.kind == FailureKind::Kernel));
    let program = std::fs::File::open(launcher_program()).unwrap();
    let done = node.client.call(LauncherRequest::Upgrade, &[program.as_fd()]).unwrap().message;
    assert_eq!(done, LauncherOutcome::Done);
    // Same process, same connection, still the containers' parent.
    let command = std::fs::read_to_string(format!("/proc/{launcher}/cmdline")).unwrap();
    assert!(command.contains("--resume"), "{command:?}");
    let (listed, pidfds) = list(&mut node);
    assert!(matches!(listed[..], [(_, ContainerCondition::Running(_))]) && pidfds.len() == 1);
    let_go(&node, "goes-on");
    assert_eq!(next_end(&mut node, id(41)).status, Some(ExitStatus::Exited(5)));
    wait_until("its output is logged", || log_text(&node, "goes-on") == "up\ngoing\n");
    let (status, _) = node.run(&key, id(42), "exit 3");
    assert_eq!(status, ExitStatus::Exited(3));
    wait_until("all dead children are reaped", || {
        let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        children.split_whitespace().all(|child| !is_gone(child.parse().unwrap()))
    });
    node.sweep(id(41));
}

#[test]
fn live_a_second_launcher_is_refused_while_one_runs() {
    let mut node = Node::start();
    let second = Command::new(launcher_program()).arg(node.path("run")).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another launcher runs here"), "{second:?}");
    list(&mut node);
}

#[test]
fn live_the_launcher_has_one_thread_and_little_beside_what_it_needs() {
    let node = Node::start();
    let pid = node.client.launcher_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Threads:\t1\n"), "{status}");
    assert!(
        Path::new(&format!("/proc/{pid}/ns/mnt")).read_link().unwrap()
            != Path::new("/proc/self/ns/mnt").read_link().unwrap()
    );
}
