//! Containers whose image brings its own init: its console, and processes that join from outside.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use harness::{Node, Running, Start, id, is_gone, read_until, shell_process, wait_until};
use insula_model::{ContainerId, ContainerSpec, ImageConfig, InitKind};
use insula_plan::protocol::channel::{Channel, Wait};
use insula_plan::protocol::facts::ProcessIdentity;
use insula_plan::protocol::failure::FailureKind;
use insula_plan::protocol::init::{InitEvent, InitRequest, OnClose};
use insula_plan::protocol::launcher::{ImageKey, LauncherError, LauncherOutcome, LauncherRequest};
use insula_plan::protocol::process::{ProcessSpec, SpawnFailure, Stdio, WindowSize};
use insula_plan::protocol::status::ExitStatus;

/// An init of a few lines: says that it is up, reaps, and ends with code 3 when it is told to.
const INIT: &str = "#!/bin/sh\ntrap 'exit 3' TERM\necho up as $$\nwhile true; do sleep 1000 & wait $!; done\n";

fn node_with_init() -> (Node, ImageKey) {
    let mut node = Node::start();
    let key = node.image_with("init", |root| {
        std::fs::write(root.join("sbin/init"), INIT).unwrap();
        std::fs::set_permissions(root.join("sbin/init"), std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    (node, key)
}

fn boot(node: &mut Node, key: &ImageKey, id: ContainerId) -> Running {
    let mut spec = ContainerSpec::new("init".parse().unwrap());
    spec.init = Some(InitKind::Image);
    let config = ImageConfig { init: Some("/sbin/init".to_owned()), ..ImageConfig::default() };
    let start = Start { spec: &spec, config: &config, volumes: Vec::new() };
    let running = node.start_container(key, id, &start).unwrap();
    let said = read_until(running.console.as_ref().unwrap(), "up as 1");
    assert!(said.contains("up as 1"), "{said}");
    running
}

/// Runs a process by joining: its exit status and its output.
fn join(node: &mut Node, id: ContainerId, process: ProcessSpec) -> Result<(ExitStatus, String), LauncherError> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(), writer.as_fd(), writer.as_fd()];
    let (_, joined) = begin_join(node, id, (process, OnClose::Leave), &fds)?;
    drop(writer);
    assert_eq!(joined.len(), 1);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    Ok((end_told(&joined[0]), output))
}

/// Runs a process by joining: which it is, and what came beside that.
fn begin_join(
    node: &mut Node,
    id: ContainerId,
    (process, on_close): (ProcessSpec, OnClose),
    fds: &[BorrowedFd<'_>],
) -> Result<(ProcessIdentity, Vec<OwnedFd>), LauncherError> {
    let joined = node.client.call(LauncherRequest::Join { container: id, process, on_close }, fds)?;
    let LauncherOutcome::Joined { process } = joined.message else { panic!("{:?}", joined.message) };
    Ok((process, joined.fds))
}

/// How a process ended, as its connection tells.
fn end_told(connection: &OwnedFd) -> ExitStatus {
    let channel = Channel::from_socket(connection.try_clone().unwrap());
    match channel.receive::<InitEvent>(Wait::Forever).unwrap().message {
        InitEvent::Ended(end) => end.status,
        other => panic!("{other:?}"),
    }
}

fn tell_to_end(running: &Running) {
    let pid = running.process.pid.to_string();
    assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
}

fn end(node: &mut Node, id: ContainerId, running: &Running) -> ExitStatus {
    tell_to_end(running);
    node.end_of(id).status.unwrap()
}

#[test]
fn live_an_images_own_init_runs_as_process_1_on_a_console_and_can_be_joined() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(1));
    let mut process = shell_process("id -u; hostname; echo $MARK; cat /proc/1/comm; pwd; exit 7");
    process.env.push(c"MARK=here".to_owned());
    process.cwd = c"/tmp".to_owned();
    process.user = "web".parse().unwrap();
    let (status, output) = join(&mut node, id(1), process).unwrap();
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(7), "33\nweb\nhere\ninit\n/tmp\n"));
    assert_eq!(end(&mut node, id(1), &running), ExitStatus::Exited(3));
    node.assert_nothing_left(id(1));
}

#[test]
fn live_t11_a_joined_process_is_in_every_namespace_and_group_and_holds_nothing_of_the_host() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(2));
    let null = std::fs::File::open("/dev/null").unwrap();
    let sleep = (shell_process("sleep 1000"), OnClose::Leave);
    let (process, _) = begin_join(&mut node, id(2), sleep, &[null.as_fd(); 3]).unwrap();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let space = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(space(process.pid), space(running.process.pid), "{kind}");
    }
    let script = "ls /proc/self/fd; cat /proc/self/uid_map; grep -E '^(Seccomp|CapBnd):' /proc/self/status; \
         cat /proc/self/cgroup";
    let (status, output) = join(&mut node, id(2), shell_process(script)).unwrap();
    assert_eq!(status, ExitStatus::Exited(0), "{output}");
    // 3 is the directory that `ls` itself reads.
    assert!(output.starts_with("0\n1\n2\n3\n"), "{output}");
    assert!(output.contains("268435456"), "{output}");
    assert!(output.contains("Seccomp:\t2\n"), "{output}");
    assert!(output.contains("0::/insula-join\n"), "{output}");
    end(&mut node, id(2), &running);
}

#[test]
fn live_a_joined_process_may_have_a_terminal_and_a_missing_program_is_said_to_be_missing() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(3));
    let mut process = shell_process("test -t 0 && echo a terminal; exit 4");
    process.stdio = Stdio::Terminal(WindowSize::DEFAULT);
    let (_, fds) = begin_join(&mut node, id(3), (process, OnClose::Leave), &[]).unwrap();
    assert!(read_until(&fds[1], "a terminal").contains("a terminal"));
    assert_eq!(end_told(&fds[0]), ExitStatus::Exited(4));
    let mut missing = shell_process("");
    missing.argv = vec![c"nowhere".to_owned()];
    let Err(LauncherError::Failed(failure)) = join(&mut node, id(3), missing) else { panic!("it ran") };
    assert!(matches!(failure.kind, FailureKind::Spawn(SpawnFailure::NotFound { .. })), "{failure}");
    end(&mut node, id(3), &running);
}

#[test]
fn live_a_joined_process_ends_with_its_container_and_an_ended_one_is_not_joined() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(4));
    let null = std::fs::File::open("/dev/null").unwrap();
    let sleep = (shell_process("sleep 1000"), OnClose::Leave);
    let (_, joined) = begin_join(&mut node, id(4), sleep, &[null.as_fd(); 3]).unwrap();
    tell_to_end(&running);
    assert_eq!(end_told(&joined[0]), ExitStatus::Signaled(9));
    assert_eq!(node.end_of(id(4)).status, Some(ExitStatus::Exited(3)));
    let Err(LauncherError::Failed(failure)) = join(&mut node, id(4), shell_process("true")) else { panic!("it ran") };
    assert_eq!(failure.kind, FailureKind::Unknown);
}

#[test]
fn live_a_joined_process_gets_signals_over_its_connection_and_is_left_or_ended_as_asked_when_that_closes() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(5));
    let null = std::fs::File::open("/dev/null").unwrap();
    let sleep = |on_close| (shell_process("sleep 1000 & wait"), on_close);
    let (_, told) = begin_join(&mut node, id(5), sleep(OnClose::Leave), &[null.as_fd(); 3]).unwrap();
    Channel::from_socket(told[0].try_clone().unwrap()).send(&InitRequest::Signal(15), &[], Wait::Never).unwrap();
    assert_eq!(end_told(&told[0]), ExitStatus::Signaled(15));

    let (left, connection) = begin_join(&mut node, id(5), sleep(OnClose::Leave), &[null.as_fd(); 3]).unwrap();
    drop(connection);
    let (killed, connection) = begin_join(&mut node, id(5), sleep(OnClose::Kill), &[null.as_fd(); 3]).unwrap();
    let mut child = None;
    wait_until("it has a child", || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", killed.pid)).unwrap();
        child = children.split_whitespace().next().map(|pid| pid.parse().unwrap());
        child.is_some()
    });
    drop(connection);
    // Reaped, not only ended; and what it had started ends with it.
    wait_until("it is gone", || killed.open().is_none());
    wait_until("its child is gone", || is_gone(child.unwrap()));
    assert!(left.open().is_some());
    end(&mut node, id(5), &running);
}

#[test]
fn live_a_joined_process_is_followed_by_the_launchers_next_build_and_by_one_that_takes_a_dead_ones_place() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(6));
    let null = std::fs::File::open("/dev/null").unwrap();
    let script = |code: u8| (shell_process(&format!("trap 'exit {code}' TERM; sleep 1000 & wait")), OnClose::Leave);
    let tell = |connection: &OwnedFd| {
        let channel = Channel::from_socket(connection.try_clone().unwrap());
        channel.send(&InitRequest::Signal(15), &[], Wait::Never).unwrap();
    };
    let (first_process, first) = begin_join(&mut node, id(6), script(8), &[null.as_fd(); 3]).unwrap();
    let (second_process, second) = begin_join(&mut node, id(6), script(9), &[null.as_fd(); 3]).unwrap();
    // Until the trap is set the signal ends the shell: its child comes after that.
    wait_until("both are ready", || {
        let children = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        [first_process, second_process].iter().all(|process| !children(process.pid).is_empty())
    });
    node.become_again();
    tell(&second[0]);
    assert_eq!(end_told(&second[0]), ExitStatus::Exited(9), "the launcher is still its parent");
    node.kill_launcher();
    node.start_launcher();
    tell(&first[0]);
    let channel = Channel::from_socket(first[0].try_clone().unwrap());
    match channel.receive::<InitEvent>(Wait::Forever).unwrap().message {
        InitEvent::Ended(end) => assert_eq!(end.status, ExitStatus::Exited(8)),
        InitEvent::EndedUnseen => assert!(!harness::kernel_remembers()),
        other => panic!("{other:?}"),
    }
    let (status, output) = join(&mut node, id(6), shell_process("echo again")).unwrap();
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "again\n"));
    // Its parent is gone: what it ended with is known for certain only where the kernel keeps it.
    tell_to_end(&running);
    assert!(node.end_of(id(6)).status.is_some() || !harness::kernel_remembers());
}

#[test]
fn live_a_container_has_256_joined_processes_at_most_and_room_again_when_one_ended() {
    let (mut node, key) = node_with_init();
    let running = boot(&mut node, &key, id(7));
    let keeper = node.keeper_pid();
    let null = std::fs::File::open("/dev/null").unwrap();
    let sleep = |on_close| (shell_process("exec sleep 1000"), on_close);
    let mut connections: Vec<_> =
        (0..256).map(|_| begin_join(&mut node, id(7), sleep(OnClose::Leave), &[null.as_fd(); 3]).unwrap().1).collect();
    let Err(LauncherError::Failed(failure)) = begin_join(&mut node, id(7), sleep(OnClose::Leave), &[null.as_fd(); 3])
    else {
        panic!("one more ran")
    };
    assert_eq!(failure.kind, FailureKind::Spawn(SpawnFailure::Busy { limit: 256 }));
    // One that nobody follows any more does not count.
    connections.pop();
    wait_until("there is room", || begin_join(&mut node, id(7), sleep(OnClose::Kill), &[null.as_fd(); 3]).is_ok());
    end(&mut node, id(7), &running);
    // All of them ended at once, and the keeper was told of each.
    assert_eq!(node.keeper_pid(), keeper);
}
