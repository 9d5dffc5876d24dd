//! Running the programs that a chore consists of.

use std::process::{Command, ExitStatus};
use std::time::Instant;

use crate::workspace;

/// A step of a chore did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The program could not be started.
    #[error("step `{title}`: run {program}")]
    Start {
        title: String,
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// The program ended with a failure; its own output says why.
    #[error("step `{title}`: {status}")]
    Failed { title: String, status: ExitStatus },
}

/// Runs `program` with `arguments` in the workspace's root, its output on this terminal, and says how long it took.
pub(crate) fn run(title: &str, program: &str, arguments: &[&str]) -> Result<(), StepError> {
    println!("── {title}: {program} {}", arguments.join(" "));
    let begin = Instant::now();
    let status = Command::new(program).args(arguments).current_dir(workspace::root()).status();
    let status =
        status.map_err(|source| StepError::Start { title: title.to_owned(), program: program.to_owned(), source })?;
    println!("── {title}: {status} after {:.1} s", begin.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(StepError::Failed { title: title.to_owned(), status }) }
}

/// `cargo` with `arguments`.
pub(crate) fn cargo(title: &str, arguments: &[&str]) -> Result<(), StepError> {
    run(title, env!("CARGO"), arguments)
}
