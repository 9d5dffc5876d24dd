//! podman and docker in their world.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rounds::Contender;
use crate::stage::{self, StageError};
use crate::world::{self, World};

/// Longest time that docker's daemon may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Gives podman the stage's root as the image `bench`.
pub(crate) fn podman_import(world: &World) -> Result<(), StageError> {
    stage::run(world.command("podman").args(["import", &format!("{}/root.tar", world::STAGE), "bench"]))
}

/// `podman run --rm` with its bridge.
pub(crate) fn podman_run(world: &World) -> Contender<'_> {
    let command = Box::new(|_| -> Command {
        let mut command = world.command("podman");
        // This machine's groups of version 2 may have no controllers, so nothing can be limited.
        command.args(["run", "--rm", "--pids-limit", "0", "bench", "true"]);
        command
    });
    Contender { name: "podman run", command }
}

/// docker's daemon, which ends with the world.
pub(crate) struct Docker<'a> {
    world: &'a World,
    daemon: Child,
}

impl<'a> Docker<'a> {
    /// Starts the daemon and gives it the stage's root as the image `bench`.
    pub(crate) fn start(world: &'a World, log: &std::path::Path) -> Result<Self, StageError> {
        let file = |source| StageError::File { what: "start docker's daemon", source };
        let output = std::fs::File::create(log).map_err(file)?;
        let mut command = world.command("dockerd");
        command.args(["--bip=10.88.77.1/24"]).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(file)?).stderr(output);
        let docker = Self { world, daemon: command.spawn().map_err(file)? };
        let begin = Instant::now();
        while stage::run(world.command("docker").arg("version")).is_err() {
            if begin.elapsed() > READY_WITHIN {
                return Err(StageError::NotReady { log: std::fs::read_to_string(log).unwrap_or_default() });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        stage::run(world.command("docker").args(["import", &format!("{}/root.tar", world::STAGE), "bench"]))?;
        Ok(docker)
    }

    /// `docker run --rm` with its bridge.
    pub(crate) fn run(&self) -> Contender<'_> {
        let command = Box::new(|_| -> Command {
            let mut command = self.world.command("docker");
            command.args(["run", "--rm", "bench", "true"]);
            command
        });
        Contender { name: "docker run", command }
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // The daemon is a child of the command that entered the world.
        stage::run(self.world.command("sh").args(["-c", "kill $(cat /run/docker.pid)"])).unwrap_or_default();
        let begin = Instant::now();
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if begin.elapsed() > READY_WITHIN {
                // The world's end ends the daemon itself.
                self.daemon.kill().unwrap_or_default();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
