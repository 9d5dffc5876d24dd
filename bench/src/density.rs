//! How a node behaves with many idle containers: the list stays quick, and a start costs what it costs alone.

use std::time::Instant;

use crate::figure::Figure;
use crate::rounds;
use crate::stage::Stage;
use crate::start;

/// Populations, ascending; the first is what the others are compared with.
const POPULATIONS: [u32; 3] = [1, 100, 400];

/// Rounds per population.
const ROUNDS: u32 = 15;

/// Lists per population.
const LISTS: u32 = 15;

/// Longest list that was promised, in milliseconds, client and all.
const LIST_PROMISE_MS: f64 = 50.0;

/// How far a start may fall behind the floor's at the same population.
const DRIFT_PROMISE: f64 = 1.25;

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut population = 0;
    let outcome = measure(stage, &mut population);
    for number in 0..population {
        stage.insula_output(&["delete", "--force", &name(number)])?;
    }
    outcome
}

fn name(number: u32) -> String {
    format!("idle-{number}")
}

fn measure(stage: &Stage, population: &mut u32) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut figures = Vec::new();
    let mut alone = None;
    for wanted in POPULATIONS {
        while *population < wanted {
            stage.insula_output(&["run", "-d", "--name", &name(*population), "bench@1", "sleep", "86400"])?;
            *population += 1;
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
    Ok(figures)
}

fn list(stage: &Stage) -> Result<f64, Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begin = Instant::now();
        stage.insula_output(&["list", "--format", "json"])?;
        times.push(begin.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(rounds::median(times))
}
