//! Where the programs under test are.

use std::path::PathBuf;

/// Names the folder of the programs when they are not beside the tests.
const FOLDER_VARIABLE: &str = "INSULA_PROGRAMS";

/// The program `name` of the same build as the running test.
///
/// # Panics
///
/// It was not built; the message has the command that builds it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // A test is in `deps/` of the folder that has the programs.
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let named = std::env::var_os(FOLDER_VARIABLE).map(|folder| PathBuf::from(folder).join(name));
    let found = named.into_iter().chain(beside).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is not built; run: cargo build --workspace --bins (or name its folder in {FOLDER_VARIABLE})")
    })
}

/// Fails a test that cannot look at what it is about.
///
/// # Panics
///
/// The test does not run as root.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "live tests need root; run: sudo --preserve-env=PATH,CARGO_HOME,RUSTUP_HOME cargo nextest run live_"
    );
}
