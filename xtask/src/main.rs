//! Checks and chores of the workspace, as `cargo xtask NAME`.
//!
//! What CI runs is `cargo xtask ci` and nothing else; the checks of the sources themselves (`layers`, `tidy`,
//! `dependencies`) are also ordinary tests of this crate.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal of a developer")]

mod acceptance;
mod build;
mod ci;
mod clean_host;
mod dependencies;
mod finding;
mod fuzz;
mod layers;
mod packages;
mod step;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  ci            everything CI runs, in its order
  build         release programs into target/release/
  packages      install the Debian packages that building and testing need
  layers        check the arrows between the crates
  tidy          check the house rules that a compiler does not
  dependencies  check licences and fences of third-party crates
  vm-test [6.1] [6.12] [NAME]
                live tests (whose names contain NAME) on those kernels, with cgroup version 2 alone;
                NAME `systemd` boots systemd there and checks an installed node
  fuzz [SECONDS]
                property tests of what reads foreign bytes, with new seeds, so long (60 s)
  clean-host    remove what a crashed test may have left on this machine";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["ci"] => ci::run(),
        ["build"] => build::release(),
        ["packages"] => packages::install(),
        ["layers"] => finding::report(layers::check()),
        ["tidy"] => finding::report(tidy::check()),
        ["dependencies"] => finding::report(dependencies::check()),
        ["vm-test", rest @ ..] => {
            let (kernels, names): (Vec<&str>, Vec<&str>) = rest.iter().partition(|word| word.starts_with("6."));
            let task = match names.first() {
                Some(&"systemd") => vm::Task::Systemd,
                Some(filter) => vm::Task::Tests(filter),
                None => vm::Task::Tests("live_"),
            };
            vm::run(&kernels, task)
        }
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["clean-host"] => clean_host::run(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
