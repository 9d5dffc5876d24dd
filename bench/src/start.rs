//! `insula run --rm IMAGE true` end to end: client, daemon, isolation with a network of its own, tear-down.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::crun::{self, Features};
use crate::engines::{self, Docker};
use crate::figure::Figure;
use crate::rounds::{self, Contender};
use crate::stage::Stage;
use crate::world::{Layout, World};

/// Rounds that count.
const ROUNDS: u32 = 40;

/// Most that a start may cost, in times of the floor's.
pub(crate) const FLOOR_PROMISE: f64 = 2.0;

/// Most that a start may cost, in times of an engine's.
const ENGINE_PROMISE: f64 = 1.0 / 15.0;

/// What a reader has to know about the references.
const NOTES: &str = "\
crun: the newest, with a user namespace, the field's system call filter, its 14 capabilities and the mounts of the
standard. Its user and network namespaces are made by the floor's program (`floor net`), which gives it a veth pair with
addresses, routes and neighbours as ours has and is part of crun's time. The image is mounted already; crun idmaps
nothing, keeps no log, resolves no image and asks no daemon.
  same: in the control groups that this machine has, with a limit of processes and device rules, and a file system in
        memory on each writable place (ours: overlays, and the image's contents beneath).
  plain: in version 2 groups without any limit, no writable places.
podman, docker: the newest, a bridge each, image imported before, state on disk as ours; their control groups are of
version 2 and without limits where this machine's controllers are all of version 1.
What entering the peers' namespaces costs is measured in the same run and taken off their times.
";

pub(crate) fn run(stage: &Stage) -> Result<Vec<Figure>, Box<dyn std::error::Error>> {
    let machine = World::make(stage, Layout::Machine, &[])?;
    let version2 = World::make(stage, Layout::Version2, &[])?;
    crun::bundle(stage, &machine, "bundle-same", Features::Same)?;
    crun::bundle(stage, &version2, "bundle-plain", Features::Plain)?;
    engines::podman_import(&version2)?;
    let docker = Docker::start(&version2, &stage.path("dockerd.log"))?;
    println!("{NOTES}");
    let mut contenders = [
        floor(stage),
        ours(stage),
        version2.enter_only(),
        crun::run("crun run, same", &machine, "bundle-same"),
        crun::run("crun run, plain", &version2, "bundle-plain"),
        engines::podman_run(&version2),
        docker.run(),
    ];
    let medians = rounds::medians(&mut contenders, ROUNDS)?;
    let [floor, ours, enter, same, plain, podman, docker] = medians[..] else {
        unreachable!("one median for each contender")
    };
    let figure = |name: &str, reference, reference_name: &str, goal| {
        Figure::milliseconds(name, ours, (reference_name, reference), goal)
    };
    Ok(vec![
        figure("run_true_over_floor", floor, "kernel floor", FLOOR_PROMISE),
        figure("run_true_over_crun", same - enter, "crun run, same", 1.0),
        figure("run_true_over_plain_crun", plain - enter, "crun run, plain", 1.0),
        figure("run_true_over_podman", podman - enter, "podman run, bridge", ENGINE_PROMISE),
        figure("run_true_over_docker", docker - enter, "docker run, bridge", ENGINE_PROMISE),
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
