//! `docs/cli.md` and the command line are the same.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "a test program")]

use std::path::Path;

#[test]
fn the_command_reference_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let made = insula_cli::command::reference();
    assert!(written == made, "docs/cli.md is stale; write it anew with: insula reference > docs/cli.md");
}
