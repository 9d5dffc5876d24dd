//! `insula exec c true` against a bare join of the same namespaces.

use crate::figure::Figure;
use crate::rounds::{self, Contender};
use crate::stage::Stage;

/// Rounds that count.
const ROUNDS: u32 = 150;

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    stage.insula_output(&["run", "-d", "--name", "exec-bench", "bench@1", "sleep", "3600"])?;
    let outcome = measure(stage);
    stage.insula_output(&["delete", "--force", "exec-bench"])?;
    outcome
}

fn measure(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let shown: serde_json::Value =
        serde_json::from_str(&stage.insula_output(&["show", "--format", "json", "exec-bench"])?)?;
    let pid = shown["pid"].to_string();
    let nsenter = Contender {
        name: "nsenter",
        command: Box::new(move |_| {
            let mut command = std::process::Command::new("nsenter");
            command.args(["--all", "--target", &pid, "/bin/true"]);
            command
        }),
    };
    let ours = Contender {
        name: "insula",
        command: Box::new(|_| {
            let mut command = stage.insula();
            command.args(["exec", "exec-bench", "true"]);
            command
        }),
    };
    let medians = rounds::medians(&mut [nsenter, ours], ROUNDS)?;
    Ok(vec![Figure {
        name: "exec_true_over_nsenter".to_owned(),
        unit: "ms",
        ours: medians[1],
        reference: medians[0],
        reference_name: "nsenter".to_owned(),
        goal: 2.0,
    }])
}
