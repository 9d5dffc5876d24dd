//! The small programs with one thread each: launcher, keeper, and process 1 of a container.
//!
//! Each is a blocking loop over one epoll set. Below them are only the kernel and the plan: no policy, no
//! configuration files, no network.

pub mod keeper;
pub mod launcher;
pub mod pid1;
pub mod sealed;
mod spawn;

use std::error::Error;
use std::process::ExitCode;

/// What a program of ours ends with: 0, or 1 with the error and its causes on standard error.
#[must_use]
pub fn exit_code<E: Error + 'static>(program: &str, result: Result<(), E>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut text = format!("{program}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.push('\n');
    // Nobody is left to be told if this fails.
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap_or_default();
    ExitCode::FAILURE
}
