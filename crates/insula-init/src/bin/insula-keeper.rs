//! The keeper. See [`insula_init::keeper`].

use std::process::ExitCode;

fn main() -> ExitCode {
    insula_init::exit_code("insula-keeper", insula_init::keeper::run())
}
