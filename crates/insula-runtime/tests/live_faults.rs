//! Workers that are killed at any time, and what a container does to directories that it shares with its host.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

mod harness;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use harness::{Node, Planned, Start, id, shell, wait_until};
use insula_model::ImageConfig;
use insula_plan::cgroup::{CgroupStep, IfAbsent};
use insula_plan::host_step::HostStep;
use insula_plan::plan::Plan;
use insula_plan::protocol::failure::FailureKind;
use insula_plan::protocol::launcher::{LauncherError, LauncherRequest};
use insula_plan::protocol::status::ExitStatus;
use insula_runtime::{Owner, VolumeKind, VolumeSource};

/// A step at which a worker stays for ever: opening a pipe that nobody reads.
fn endless_step(folder: &std::path::Path) -> HostStep {
    HostStep::Cgroup(CgroupStep::Write {
        dir: folder.to_owned(),
        file: "endless".to_owned(),
        value: "1".to_owned(),
        absent: IfAbsent::Fail,
    })
}

/// The launcher's child that waits for the pipe.
fn stuck_worker(launcher: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid: &u32| {
        let waits_in = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        waits_in.contains("wait_for_partner") || waits_in.contains("fifo_open")
    })
}

fn make_node(path: &std::path::Path, kind: &[&str]) {
    assert!(Command::new("mknod").arg(path).args(kind).status().unwrap().success());
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn live_a_worker_that_is_killed_at_any_step_leaves_nothing_and_is_reported() {
    let mut node = Node::start_routed();
    let key = node.image();
    make_node(&node.path("endless"), &["p"]);
    let spec = shell("true");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Plan { before, outside, .. } = node.plan(&key, id(1), &start).plan;
    let links = outside.iter().filter(|step| matches!(step, HostStep::Link(_)));
    assert_eq!(links.count(), 3, "connect, publish, forget connections: {outside:?}");
    for index in 0..=before.len() + outside.len() {
        let Planned { mut plan, fds, .. } = node.plan(&key, id(1), &start);
        let step = endless_step(&node.path(""));
        match index.checked_sub(before.len() + 1) {
            None => plan.before.insert(index, step),
            Some(index) => plan.outside.insert(index, step),
        }
        let op = node.carry_out(id(1), &plan.encode(), fds).unwrap();
        let launcher = node.client.launcher_pid();
        let mut worker = None;
        wait_until("the endless step", || {
            worker = stuck_worker(launcher);
            worker.is_some()
        });
        kill(worker.unwrap());
        let Err(LauncherError::Failed(failure)) = node.client.outcome(op) else { panic!("step {index}: no failure") };
        assert_eq!(failure.kind, FailureKind::WorkerLost, "step {index}: {failure}");
        node.sweep(id(1));
        node.assert_nothing_left(id(1));
    }
    // The launcher is as good as before.
    assert_eq!(node.run(&key, id(2), "exit 5").0, ExitStatus::Exited(5));
}

/// The worker that waits for the next start: the launcher's child that runs the launcher's program.
fn spare(launcher: u32) -> Option<u32> {
    let exe = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let mut workers = children.split_whitespace().map(|pid| pid.parse().unwrap());
    workers.find(|pid| exe(*pid).is_some_and(|program| Some(program) == exe(launcher)))
}

#[test]
fn live_a_start_takes_the_worker_that_waits_and_needs_none() {
    let mut node = Node::start();
    let key = node.image();
    let launcher = node.client.launcher_pid();
    let another = |before: Option<u32>| {
        wait_until("a worker waits", || spare(launcher).is_some_and(|pid| Some(pid) != before));
        spare(launcher).unwrap()
    };
    let first = another(None);
    wait_until("it holds its streams and its connection alone", || {
        std::fs::read_dir(format!("/proc/{first}/fd")).is_ok_and(|open| open.count() == 4)
    });
    assert_eq!(node.run(&key, id(1), "exit 5").0, ExitStatus::Exited(5));
    let second = another(Some(first));
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "it went with its start");
    kill(second);
    wait_until("the dead one is seen", || spare(launcher) != Some(second));
    assert_eq!(node.run(&key, id(2), "exit 6").0, ExitStatus::Exited(6));
    another(Some(second));
}

#[test]
fn live_a_first_process_that_is_killed_while_it_waits_is_reported() {
    let mut node = Node::start();
    let key = node.image();
    make_node(&node.path("endless"), &["p"]);
    let spec = shell("true");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Planned { mut plan, fds, .. } = node.plan(&key, id(3), &start);
    plan.outside.push(endless_step(&node.path("")));
    let op = node.carry_out(id(3), &plan.encode(), fds).unwrap();
    let launcher = node.client.launcher_pid();
    let mut worker = None;
    wait_until("the endless step", || {
        worker = stuck_worker(launcher);
        worker.is_some()
    });
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let in_own_space = |pid: &u32| {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        space(&pid.to_string()) != space("self")
    };
    let first = children.split_whitespace().map(|pid| pid.parse().unwrap()).find(in_own_space).unwrap();
    kill(first);
    // Somebody reads the pipe now, so the worker goes on, and finds nobody to hand over to.
    let _reader = std::fs::File::open(node.path("endless")).unwrap();
    let Err(LauncherError::Failed(failure)) = node.client.outcome(op) else { panic!("no failure") };
    assert_eq!(failure.kind, FailureKind::Step, "{failure}");
    node.sweep(id(3));
    node.assert_nothing_left(id(3));
}

#[test]
fn live_t08_set_user_id_programs_and_devices_on_shared_directories_have_no_effect() {
    let mut node = Node::start();
    let key = node.image();
    let source = node.path("shared");
    std::fs::create_dir(&source).unwrap();
    // A device that the host itself has put there is dead inside, too.
    make_node(&source.join("null"), &["c", "1", "3"]);
    std::os::unix::fs::chown(&source, Some(65_534), Some(65_534)).unwrap();
    let volume = VolumeSource { owner: Owner { uid: 65_534, gid: 65_534 }, kind: VolumeKind::Directory };
    let mut run = |number, user: &str, script: &str| {
        let mut spec = shell(script);
        spec.volumes = vec!["/srv/x:/data/shared".parse().unwrap()];
        spec.user = Some(user.to_owned());
        let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: vec![(source.clone(), volume)] };
        let mut running = node.start_container(&key, id(number), &start).unwrap();
        let mut output = String::new();
        running.output.read_to_string(&mut output).unwrap();
        node.end_of(id(number));
        output
    };
    let prepare = "for place in /data /data/shared; do \
             cp /bin/busybox $place/id && chmod 6755 $place/id || echo no copy; \
             mknod $place/disk b 8 0 2>/dev/null && echo made a device; \
             grep \" $place \" /proc/self/mountinfo | grep -q nosuid,nodev || echo not protected; done; \
         cat /data/shared/null 2>/dev/null && echo read a device; echo end";
    assert_eq!(run(4, "root", prepare), "end\n");
    let gain = "for place in /data /data/shared; do $place/id -u; $place/id -g; done";
    assert_eq!(run(5, "web", gain), "33\n33\n33\n33\n");
    // What it made in somebody's directory is that somebody's, not root's: set-user-id there leads to nobody else.
    let found = std::fs::metadata(node.path("shared/id")).unwrap();
    assert_eq!((found.uid(), found.gid()), (65_534, 65_534));
}

#[test]
fn live_a_daemon_that_goes_away_during_a_start_finds_the_container_or_nothing() {
    let mut node = Node::start();
    let key = node.image();
    let spec = shell("exit 9");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let Planned { plan, fds, .. } = node.plan(&key, id(6), &start);
    node.carry_out(id(6), &plan.encode(), fds).unwrap();
    node.reconnect();
    // Facts tell what happened while nobody listened.
    let ended = node.facts(id(6)).join("ended");
    wait_until("the fact of its end", || ended.exists());
    let list = node.client.call(LauncherRequest::List { after: None }, &[]).unwrap();
    assert!(format!("{:?}", list.message).contains("Exited(9)"), "{:?}", list.message);
    node.sweep(id(6));
    node.assert_nothing_left(id(6));
}

#[test]
fn live_a_process_1_that_was_moved_out_of_its_groups_ends_with_the_sweep() {
    let mut node = Node::start();
    let key = node.image();
    let spec = shell("echo up; sleep 1000");
    let start = Start { spec: &spec, config: &ImageConfig::default(), volumes: Vec::new() };
    let mut running = node.start_container(&key, id(7), &start).unwrap();
    running.output.read_exact(&mut [0; 3]).unwrap();
    let pid = running.process.pid.to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let procs = std::path::Path::new(mount.split(' ').nth(4).unwrap()).join("cgroup.procs");
        std::fs::write(procs, &pid).unwrap();
    }
    node.sweep(id(7));
    assert!(harness::is_gone(running.process.pid));
    node.assert_nothing_left(id(7));
}
