//! Random operations and random deaths for a while; afterwards nothing is left and everything still answers.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "an integration test is one module")]

use std::time::{Duration, Instant};

use insula_testkit::{Node, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// Seconds that it goes on; `make soak` sets it.
const SECONDS_VARIABLE: &str = "INSULA_SOAK_SECONDS";

/// Seconds when nothing is said.
const SECONDS_DEFAULT: u64 = 30;

/// Names that the operations choose from.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Most that the daemon's resident memory may grow between the warm-up and the end, in KiB.
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// A small generator; the seed is printed, so that a failed run can be repeated.
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

/// One operation. It may be refused for good reasons (no such container, busy); it must end, and not as a bug of ours.
fn operate(node: &Node, random: &mut Random) {
    let name = random.name();
    let words: &[&str] = match random.below(11) {
        0..=2 => &["run", "-d", "--name", name, "busybox", "sh", "-c", "while :; do date; sleep 0.2; done"],
        3 => &["run", "--rm", "busybox", "true"],
        4 => &["exec", name, "true"],
        5 => &["stop", "--timeout", "0", name],
        6 => &["start", name],
        7 => &["restart", "--timeout", "0", name],
        8 => &["kill", name],
        9 => &["delete", "--force", name],
        _ => &["list"],
    };
    let done = node.run(words);
    assert!(!done.stderr.contains("panicked"), "{done:?}");
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
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut random = Random(u64::from(seed) | 1);
    let mut node = Node::start();
    node.import_busybox();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut base = None;
    while Instant::now() < end {
        for _ in 0..8 {
            operate(&node, &mut random);
        }
        base.get_or_insert_with(|| resident_kib(node.daemon_pid()));
        if random.below(4) == 0 {
            node.kill_daemon();
            node.start_daemon();
        }
    }
    let grown = resident_kib(node.daemon_pid()).saturating_sub(base.unwrap_or_default());
    assert!(grown <= GROWTH_KIB_MAX, "the daemon grew by {grown} KiB");
    for name in NAMES {
        let _ = node.run(["delete", "--force", name]);
    }
    assert_eq!(node.json(["list"]).as_array().unwrap().len(), 0);
    eventually("nothing of the containers is left", || node.on_host().links.is_empty().then_some(()));
    node.ok(["run", "--rm", "busybox", "true"]);
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
