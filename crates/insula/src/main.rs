//! The program: parse, execute, say why not, return the exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use insula_cli::args::Cli;
use insula_cli::command::{Codes, execute};
use insula_cli::render::tell_failure;

fn main() -> ExitCode {
    // A node starts its own program under this name for every import.
    if std::env::args_os().next().is_some_and(|name| name == insula_node::IMPORT_WORKER) {
        return insula_node::serve_import();
    }
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let codes = Codes::of(&cli.command);
    match execute(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            tell_failure(&failure);
            ExitCode::from(codes.code(&failure))
        }
    }
}

/// Shows help or what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    // Help goes to standard output, the rest to standard error; a reader that went away has seen enough.
    let _ = match error.kind() {
        // Who names no command has to choose one.
        ErrorKind::MissingSubcommand => {
            write!(std::io::stderr(), "{}", Cli::help_of(std::env::args_os()).render_help())
        }
        _ => error.print(),
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    ExitCode::from(Codes::of_words(words.iter().map(String::as_str)).usage_code())
}
