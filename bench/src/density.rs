//! How a node behaves with many idle containers: the list stays quick, a start costs what it costs alone, nothing of
//! ours stays beside a container but its process 1.

use std::time::Instant;

use crate::figure::Figure;
use crate::rounds;
use crate::stage::{Stage, StageError};
use crate::start;

/// Populations, ascending; the first is what the others are compared with.
const POPULATIONS: [u32; 4] = [1, 100, 400, 1_000];

/// Rounds per population.
const ROUNDS: u32 = 15;

/// Lists per population.
const LISTS: u32 = 15;

/// Longest list that was promised, in milliseconds, client and all.
pub(crate) const LIST_PROMISE_MS: f64 = 50.0;

/// How far a start may fall behind the floor's at the same population.
const DRIFT_PROMISE: f64 = 1.25;

/// Processes of ours that a container may have: its process 1.
const PROCESSES_PROMISE: f64 = 1.0;

/// What a reader has to know about the reference.
const NOTES: &str = "\
Both starts are measured in turn while the same idle containers exist, so both meet the same number of network
namespaces, links, routes, mounts and control groups in the kernel; those are ours, the floor holds none of its own.
";

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    println!("{NOTES}");
    with_population(stage, measure)
}

/// Measures with containers whose names `measure` adds to its list, and deletes them however it ends.
pub(crate) fn with_population(
    stage: &Stage,
    measure: impl FnOnce(&Stage, &mut Vec<String>) -> Result<Vec<Figure>, Box<dyn std::error::Error>>,
) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut population = Vec::new();
    let outcome = measure(stage, &mut population);
    // What went wrong first is told first.
    let deleted = delete(stage, &population);
    let figures = outcome?;
    deleted?;
    Ok(figures)
}

/// Deletes containers, many with one command.
fn delete(stage: &Stage, names: &[String]) -> Result<(), StageError> {
    for some in names.chunks(50) {
        let mut arguments = vec!["delete", "--force"];
        arguments.extend(some.iter().map(String::as_str));
        stage.insula_output(&arguments)?;
    }
    Ok(())
}

fn measure(stage: &Stage, population: &mut Vec<String>) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut figures = Vec::new();
    let mut alone = None;
    let before = stage.processes();
    for wanted in POPULATIONS {
        while population.len() < wanted as usize {
            let name = format!("idle-{}", population.len());
            stage.insula_output(&["run", "-d", "--name", &name, "bench@1", "sleep", "86400"])?;
            population.push(name);
        }
        figures.push(Figure {
            name: format!("list_{wanted}"),
            unit: "ms",
            ours: list(stage)?,
            reference: LIST_PROMISE_MS,
            reference_name: "promise".to_owned(),
            goal: 1.0,
        });
        let medians = rounds::medians(&mut [start::floor(stage), start::ours(stage)], ROUNDS)?;
        let ratio = medians[1] / medians[0];
        figures.push(Figure {
            name: format!("run_true_at_{wanted}"),
            unit: "ms",
            ours: medians[1],
            reference: medians[0],
            reference_name: "kernel floor".to_owned(),
            goal: start::FLOOR_PROMISE,
        });
        match alone {
            None => alone = Some(ratio),
            Some(alone) => figures.push(Figure {
                name: format!("run_true_drift_{wanted}"),
                unit: "x",
                ours: ratio,
                reference: alone,
                reference_name: "ratio at 1".to_owned(),
                goal: DRIFT_PROMISE,
            }),
        }
    }
    figures.push(Figure {
        name: "processes_of_a_container".to_owned(),
        unit: "x",
        ours: stage.processes().saturating_sub(before) as f64 / population.len() as f64,
        reference: PROCESSES_PROMISE,
        reference_name: "its process 1".to_owned(),
        goal: 1.0,
    });
    Ok(figures)
}

fn list(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for _ in 0..LISTS {
        times.push(list_once(stage)?);
    }
    Ok(rounds::median(times))
}

/// Milliseconds of one `insula list`, client and all.
pub(crate) fn list_once(stage: &Stage) -> Result<f64, StageError> {
    let begin = Instant::now();
    stage.insula_output(&["list", "--format", "json"])?;
    Ok(begin.elapsed().as_secs_f64() * 1_000.0)
}
