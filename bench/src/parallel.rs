//! Many containers started at once: all of them run in the end, and the node answers meanwhile.

use std::process::Stdio;
use std::time::Instant;

use crate::density::{self, LIST_PROMISE_MS};
use crate::figure::Figure;
use crate::rounds;
use crate::stage::{Stage, StageError};

/// Containers that are started at once, by a client each.
const CONTAINERS: usize = 200;

/// Containers that are started one after another for comparison.
const ONE_BY_ONE: usize = 20;

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    density::with_population(stage, measure)
}

fn measure(stage: &Stage, names: &mut Vec<String>) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    for number in 0..ONE_BY_ONE {
        let name = format!("single-{number}");
        stage.insula_output(&["run", "-d", "--name", &name, "bench@1", "sleep", "86400"])?;
        names.push(name);
    }
    let one_by_one = begin.elapsed().as_secs_f64() * 1_000.0 / ONE_BY_ONE as f64;
    let all: Vec<String> = (0..CONTAINERS).map(|number| format!("parallel-{number}")).collect();
    names.extend_from_slice(&all);
    let begin = Instant::now();
    let mut lists = Vec::new();
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| start_at_once(stage, &all));
        while !starter.is_finished() {
            lists.push(density::list_once(stage)?);
        }
        starter.join().map_err(|_| StageError::Helper {
            program: "starting at once".to_owned(),
            outcome: "ended early".to_owned(),
        })?
    })?;
    let each = begin.elapsed().as_secs_f64() * 1_000.0 / CONTAINERS as f64;
    let running = running(stage)?;
    println!(
        "{} lists were answered while {CONTAINERS} containers started; the slowest took {:.1} ms.\n",
        lists.len(),
        lists.iter().copied().fold(0.0, f64::max)
    );
    let figure = |name: &str, unit, ours, reference, reference_name: &str| Figure {
        name: name.to_owned(),
        unit,
        ours,
        reference,
        reference_name: reference_name.to_owned(),
        goal: 1.0,
    };
    Ok(vec![
        figure("list_while_200_start", "ms", rounds::median(lists), LIST_PROMISE_MS, "promise"),
        figure("start_when_200_at_once", "ms", each, one_by_one, "one after another"),
        figure("wanted_containers", "", names.len() as f64, running as f64, "running ones"),
    ])
}

/// Starts all containers, a client for each, none of which waits for another.
fn start_at_once(stage: &Stage, names: &[String]) -> Result<(), StageError> {
    let failed = |outcome: String| StageError::Helper { program: "insula run -d".to_owned(), outcome };
    let start = |name: &String| {
        let mut command = stage.insula();
        command.args(["run", "-d", "--name", name, "bench@1", "sleep", "86400"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    let clients: Result<Vec<_>, _> = names.iter().map(start).collect();
    for client in clients.map_err(|error| failed(error.to_string()))? {
        let output = client.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    Ok(())
}

/// Containers that the node says are running.
fn running(stage: &Stage) -> Result<usize, Box<dyn std::error::Error>> {
    let listed: serde_json::Value = serde_json::from_str(&stage.insula_output(&["list", "--format", "json"])?)?;
    let containers = listed.as_array().into_iter().flatten();
    Ok(containers.filter(|container| container["state"] == "running").count())
}
