//! Everything CI runs, in its order: cheap checks first.

use crate::vm::{self, Task};
use crate::{clean_host, packages, step};

/// Kernels of the test machine.
const VM_KERNELS: [&str; 1] = ["6.12"];
/// Of its tests those of images and starts, a few minutes; `cargo xtask vm-test` runs all.
const VM_TESTS: &str = "live_a0";

/// Runs all of it; the first failure ends it, after the host was cleaned.
pub(crate) fn run() -> Result<(), Box<dyn std::error::Error>> {
    packages::install()?;
    let outcome = steps();
    clean_host::run()?;
    outcome
}

fn steps() -> Result<(), Box<dyn std::error::Error>> {
    step::cargo("format", &["fmt", "--all", "--check"])?;
    step::cargo("sources", &["test", "--locked", "--quiet", "--package=xtask"])?;
    step::cargo("lint", &["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny=warnings"])?;
    step::cargo("programs", &["build", "--locked", "--workspace", "--bins"])?;
    step::cargo("tests", &["nextest", "run", "--locked", "--workspace", "--no-fail-fast"])?;
    vm::run(&VM_KERNELS, Task::Tests(VM_TESTS))?;
    vm::run(&VM_KERNELS, Task::Systemd)
}
