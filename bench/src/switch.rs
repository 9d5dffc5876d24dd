//! Another image for a running container: `set image=…` and `restart`, until both answered.

use std::time::Instant;

use crate::figure::Figure;
use crate::rounds;
use crate::stage::Stage;

/// Switches that count.
const ROUNDS: u32 = 20;

/// Longest switch that was promised, in milliseconds, without the application's own start.
const PROMISE_MS: f64 = 60.0;

const NAME: &str = "switch-bench";

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    stage.import("bench@2", &stage.path("root.tar"))?;
    stage.insula_output(&["run", "-d", "--name", NAME, "bench@1", "sleep", "86400"])?;
    let outcome = measure(stage);
    stage.insula_output(&["delete", "--force", NAME])?;
    outcome
}

fn measure(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for round in 0..rounds::at_most(ROUNDS) {
        let image = if round % 2 == 0 { "image=bench@2" } else { "image=bench@1" };
        let begin = Instant::now();
        stage.insula_output(&["set", NAME, image])?;
        stage.insula_output(&["restart", NAME])?;
        times.push(begin.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(vec![Figure {
        name: "switch_image_and_restart".to_owned(),
        unit: "ms",
        ours: rounds::median(times),
        reference: PROMISE_MS,
        reference_name: "promise".to_owned(),
        goal: 1.0,
    }])
}
