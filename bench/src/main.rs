//! Figures against a kernel floor and peers, measured side by side in one run: `make bench [NAME=…]`.
//!
//! Machines and hours differ by a factor of two and more, so no figure stands alone: each program here runs ours and
//! its reference in turn and prints the ratio, as a table and as one JSON line per figure.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod crun;
mod density;
mod engines;
mod exec;
mod figure;
mod import;
mod memory;
mod parallel;
mod peak;
mod peers;
mod rounds;
mod stage;
mod start;
mod switch;
mod world;

use std::process::ExitCode;

use stage::Stage;

/// What a benchmark does with its stage.
type Measure = fn(&Stage) -> Result<Vec<figure::Figure>, Box<dyn std::error::Error>>;

/// A benchmark: what it is called, what it measures.
type Bench = (&'static str, Measure);

/// In this order: what is bound by the disk comes before the populations, whose spaces the kernel goes on taking down for
/// a while.
const BENCHES: [Bench; 7] = [
    ("start", start::run),
    ("exec", exec::run),
    ("switch", switch::run),
    ("import", import::run),
    ("memory", memory::run),
    ("density", density::run),
    ("parallel", parallel::run),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !BENCHES.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("bench: `{unknown}` is unknown; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let chosen = BENCHES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name));
    let mut outcome = ExitCode::SUCCESS;
    for (name, bench) in chosen {
        println!("── {name}");
        // One that fails does not keep the others from being measured.
        if let Err(error) = run(*bench) {
            eprintln!("bench: {name}: {}", chain(&*error));
            outcome = ExitCode::FAILURE;
        }
    }
    outcome
}

/// Runs one on a stage of its own.
fn run(bench: Measure) -> Result<(), Box<dyn std::error::Error>> {
    let stage = Stage::set()?;
    let figures = bench(&stage)?;
    print!("{}", figure::table(&figures));
    for figure in &figures {
        println!("{}", figure.json());
    }
    Ok(())
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
