//! Process 1 of a container. See [`insula_init::pid1`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(insula_init::pid1::run())
}
