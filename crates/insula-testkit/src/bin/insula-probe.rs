//! Says what a process sees where it runs, as JSON on standard output.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::process::ExitCode;

use insula_testkit::ProbeReport;

fn main() -> ExitCode {
    match serde_json::to_string_pretty(&ProbeReport::of_this_process()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}
