//! `insula run --rm IMAGE true` end to end: client, daemon, isolation with a network of its own, tear-down.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::figure::Figure;
use crate::peers;
use crate::rounds::{self, Contender};
use crate::stage::Stage;

/// Rounds that count.
const ROUNDS: u32 = 40;

/// Most that a start may cost, in times of the floor's.
pub(crate) const FLOOR_PROMISE: f64 = 2.0;

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let bundle = peers::crun_bundle(stage)?;
    let world = peers::GroupsWorld::make()?;
    let mut contenders = [floor(stage), ours(stage), world.crun_run(&bundle), world.enter_only()];
    let medians = rounds::medians(&mut contenders, ROUNDS)?;
    let figure = |name: &str, reference, reference_name: &str, goal| Figure {
        name: name.to_owned(),
        unit: "ms",
        ours: medians[1],
        reference,
        reference_name: reference_name.to_owned(),
        goal,
    };
    Ok(vec![
        figure("run_true_over_floor", medians[0], "kernel floor", FLOOR_PROMISE),
        figure("run_true_over_crun", medians[2] - medians[3], "crun run", 1.0),
    ])
}

/// The floor program's start of `true`.
pub(crate) fn floor(stage: &Stage) -> Contender<'_> {
    // Names of links are free again only some time after their namespace's end.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Contender {
        name: "kernel floor",
        command: Box::new(|_| {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
            let mut command = stage.floor();
            command.arg("run").arg(stage.path("image")).arg(number).arg("/bin/true");
            command
        }),
    }
}

/// Our start of `true`, in the foreground.
pub(crate) fn ours(stage: &Stage) -> Contender<'_> {
    Contender {
        name: "insula",
        command: Box::new(|_| {
            let mut command = stage.insula();
            command.args(["run", "--rm", "bench@1", "true"]);
            command
        }),
    }
}
