//! Random operations and random deaths for a while; afterwards nothing is left and everything still answers.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use insula_testkit::{Node, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// Seconds that it goes on; `make soak` sets it.
const SECONDS_VARIABLE: &str = "INSULA_SOAK_SECONDS";

/// Seconds when nothing is said.
const SECONDS_DEFAULT: u64 = 60;

/// Where a run's random numbers begin; a failed run says its own.
const SEED_VARIABLE: &str = "INSULA_SOAK_SEED";

/// Longest until nothing of what was deleted is left.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(20);

/// After so many operations that succeeded each kind has succeeded, too.
const ENOUGH: u32 = 1_000;

/// Names that the operations choose from.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Most that the daemon's resident memory may grow between the warm-up and the end, in KiB.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// A small generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn name(&mut self) -> &'static str {
        NAMES[usize::try_from(self.below(5)).unwrap()]
    }
}

/// Host ports that are published: none that the kernel gives out by itself.
const PORTS: std::ops::Range<u64> = 20_000..30_000;

/// Words of one operation. It may be refused for good reasons (no such container, busy, a program that was killed).
fn operation(random: &mut Random) -> Vec<String> {
    let name = random.name();
    let port = format!("127.0.0.1:{}:80", PORTS.start + random.below(PORTS.end - PORTS.start));
    let endless = "while :; do date; sleep 0.2; done";
    let words: &[&str] = match random.below(16) {
        0..=2 => &["run", "-d", "--name", name, "-p", &port, "busybox", "sh", "-c", endless],
        3 => &["run", "--rm", "busybox", "true"],
        4 => &["run", "--rm", "--root", "writable", "busybox", "touch", "/data/x", "/usr/x"],
        5 => &["exec", name, "true"],
        6 => &["stop", "--timeout", "0", name],
        7 => &["start", name],
        8 => &["restart", "--timeout", "0", name],
        9 => &["kill", name],
        10 => &["run", "-d", "--name", name, "--restart", "on-failure:3", "busybox", "sh", "-c", "sleep 0.1; exit 1"],
        11 => &["delete", "--force", name],
        12 => &["run", "-d", "--rm", "--name", name, "-p", &port, "busybox", "sh", "-c", endless],
        13 => &["pause", name],
        14 => &["resume", name],
        _ => &["list"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Operations at the same time; one of the node's programs dies when some of them are done. All must end, and none as
/// a bug of ours.
fn operate(node: &mut Node, random: &mut Random, done: &mut BTreeMap<String, u32>) {
    let mut operations: Vec<_> = (0..4).map(|_| operation(random)).collect();
    // A process in a container that is paused right then waits until somebody resumes it.
    let pauses = operations.iter().any(|words| words[0] == "pause");
    operations.retain(|words| words[0] != "exec" || !pauses);
    let clients = operations.into_iter().map(|words| {
        let mut client = node.insula(&words);
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        (words, client.spawn().unwrap())
    });
    let mut clients: Vec<_> = clients.collect();
    let dies_after = random.below(12);
    for index in 0..=clients.len() {
        if u64::try_from(index).unwrap() == dies_after {
            match random.below(3) {
                0 => node.kill_daemon(),
                1 => kill(node.servant("insula-launcher")),
                _ => kill(node.servant("insula-keeper")),
            }
        }
        let Some((words, client)) = clients.get_mut(index) else { break };
        let ended = eventually(&format!("{words:?} ends"), || client.try_wait().unwrap());
        let mut said = String::new();
        client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!said.contains("panicked") && !said.contains("For more information"), "{words:?}: {said}");
        *done.entry(words[0].clone()).or_default() += u32::from(ended.success());
    }
    if !node.has_daemon() {
        node.start_daemon();
    }
}

/// What of a node is there whatever containers come and go: nothing in here may grow.
fn held(node: &Node) -> Vec<(String, usize)> {
    let entries = |path: PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
    let on_host = node.on_host();
    let mut held = vec![
        ("processes".to_owned(), on_host.processes.len()),
        ("mounts".to_owned(), on_host.mounts.len()),
        ("control groups".to_owned(), on_host.cgroups.len()),
        ("links".to_owned(), on_host.links.len()),
        ("data directories".to_owned(), entries(node.state_dir().join("v"))),
        ("other directories".to_owned(), entries(node.state_dir().join("containers"))),
        ("facts".to_owned(), entries(node.run_dir().join("containers"))),
        ("elements of the table".to_owned(), node.table_elements()),
    ];
    for servant in ["insula-launcher", "insula-keeper"] {
        let Some(pid) = node.servant(servant) else { continue };
        let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        held.push((format!("descriptors of {servant}"), entries(folder.join("fd"))));
        let mounts = std::fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
        let own = |line: &&str| line.contains(" - erofs ") || line.contains(node.name());
        held.push((format!("mounts of {servant}"), mounts.lines().filter(own).count()));
    }
    held
}

/// What the descriptors of launcher and keeper are, for the words of a failure.
fn descriptors(node: &Node) -> String {
    let mut text = String::new();
    for servant in ["insula-launcher", "insula-keeper"] {
        let Some(pid) = node.servant(servant) else { continue };
        let folder = PathBuf::from(format!("/proc/{}/fd", pid.as_raw_nonzero()));
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let mut targets: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
        targets.sort();
        text += &format!("{servant}: {targets:?}\n");
    }
    text
}

fn kill(pid: Option<Pid>) {
    if let Some(pid) = pid {
        // It may have ended this moment.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn resident_kib(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

#[test]
fn live_random_operations_and_deaths_leave_nothing() {
    let seconds = std::env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS_DEFAULT);
    let seed = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()));
    println!("{SEED_VARIABLE}={seed}");
    let mut random = Random(seed | 1);
    let mut node = Node::start();
    node.import_busybox();
    node.ok(["run", "--rm", "busybox", "true"]);
    let (before, descriptors_before) = (held(&node), descriptors(&node));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut done = BTreeMap::new();
    let mut base = None;
    let mut daemon = node.daemon_pid();
    while Instant::now() < end {
        operate(&mut node, &mut random, &mut done);
        if daemon != node.daemon_pid() {
            (daemon, base) = (node.daemon_pid(), None);
        }
        let base = *base.get_or_insert_with(|| resident_kib(daemon));
        let grown = resident_kib(daemon).saturating_sub(base);
        assert!(grown <= GROWTH_KIB_MAX, "the daemon grew by {grown} KiB");
    }
    println!("{done:?}");
    let is_enough = done.values().sum::<u32>() > ENOUGH;
    assert!(!is_enough || done.values().all(|count| *count > 0), "an operation never worked: {done:?}");
    eventually("starts work", || (node.run(["run", "--rm", "busybox", "true"]).code == 0).then_some(()));
    for container in node.json(["list"]).as_array().unwrap() {
        let name = container["name"].as_str().unwrap();
        let done = node.run(["delete", "--force", name]);
        assert!([0, 3].contains(&done.code), "{name} is deleted, unless it went by itself: {}", done.stderr);
    }
    let at_most_before = || held(&node).iter().zip(&before).all(|((_, now), (_, before))| now <= before);
    eventually_or(at_most_before, || {
        let now = (held(&node), descriptors(&node), node.on_host());
        format!("before {before:?}\n{descriptors_before}now {:?}\n{}{}", now.0, now.1, now.2)
    });
}

/// Waits for `condition`; what `explain` says is in the panic when it does not come.
fn eventually_or(mut condition: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let end = Instant::now() + SETTLE_TIME_MAX;
    while !condition() {
        assert!(Instant::now() < end, "something is left: {}", explain());
        std::thread::yield_now();
    }
}

#[test]
fn live_containers_outlive_each_of_the_nodes_programs() {
    let mut node = Node::start();
    node.import_busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i >>/data/count; echo line $i; sleep 0.05; done";
    node.ok(["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
    let pid = node.show("c")["pid"].clone();
    let data = node.show("c")["data_path"].as_str().unwrap().to_owned();
    let count = || std::fs::read_to_string(format!("{data}/count")).map_or(0, |text| text.lines().count());
    for victim in ["daemon", "insula-launcher", "insula-keeper"] {
        if victim == "daemon" {
            node.kill_daemon();
            node.start_daemon();
        } else {
            let found = node.servant(victim);
            assert!(found.is_some(), "{victim} runs");
            kill(found);
            eventually("another takes its place", || node.servant(victim).filter(|pid| Some(*pid) != found));
        }
        let before = count();
        eventually("it goes on", || (count() > before + 2).then_some(()));
        assert_eq!(node.show("c")["pid"], pid, "after {victim}");
        eventually("exec works", || (node.run(["exec", "c", "true"]).code == 0).then_some(()));
    }
    node.ok(["stop", "--timeout", "0", "c"]);
    assert_eq!(node.show("c")["state"], "stopped");
}
