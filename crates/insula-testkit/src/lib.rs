//! Live tests: private nodes on this machine, a probe inside their containers, and what must not be left on the host.
//!
//! ```text
//! let node = Node::start();                          a daemon of its own, with directories of its own
//! node.import_busybox();                             image busybox@1, with the probe in it
//! let run = node.ok(["run", "--rm", "busybox", "echo", "hello"]);
//! drop(node);                                        ends everything, and fails if something is left
//! ```
//!
//! A node is cleaned up whatever happens: a failed test, a killed daemon. The programs are those beside the test's
//! own; live tests need root, and say so instead of passing without having looked.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a harness for tests: what fails here fails the test")]

mod busybox;
mod debian;
mod finished;
mod host;
mod node;
mod programs;
mod report;
mod screen;

pub use busybox::{BUSYBOX, archive};
pub use debian::debian_archive;
pub use finished::{Finished, finish_bounded, run_bounded};
pub use host::{Leftovers, Owned};
pub use node::{Node, NodeOptions};
pub use programs::{program, require_root};
pub use report::{ProbeMount, ProbeReport};
pub use screen::Screen;

use std::time::{Duration, Instant};

/// Whether the kernel's version is this one or a newer one.
///
/// # Panics
///
/// The kernel names no version.
#[must_use]
pub fn kernel_is_since(version: (u32, u32)) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= version
}

/// Longest that anything in a live test may take: an emulated machine needs ten times what a real one needs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Pause between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` gives a value.
///
/// # Panics
///
/// It gave none within [`PATIENCE`]; `what` is named.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not come true in {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
