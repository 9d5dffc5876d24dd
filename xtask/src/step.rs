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
    perform(title, Command::new(program).args(arguments))
}

fn perform(title: &str, command: &mut Command) -> Result<(), StepError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    println!("── {title}: {program} {}", arguments.join(" "));
    let begin = Instant::now();
    let status = command.current_dir(workspace::root()).status();
    let status = status.map_err(|source| StepError::Start { title: title.to_owned(), program, source })?;
    println!("── {title}: {status} after {:.1} s", begin.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(StepError::Failed { title: title.to_owned(), status }) }
}

/// `cargo` with `arguments` and further `variables` in its environment.
pub(crate) fn cargo_with(title: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Result<(), StepError> {
    perform(title, Command::new(env!("CARGO")).args(arguments).envs(variables.iter().copied()))
}

/// `cargo` with `arguments`.
pub(crate) fn cargo(title: &str, arguments: &[&str]) -> Result<(), StepError> {
    run(title, env!("CARGO"), arguments)
}
