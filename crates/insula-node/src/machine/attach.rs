//! Clients of running containers: the keeper copies output to them, and what they type goes in by the descriptor that
//! the keeper holds. Neither the daemon nor the keeper is on the way of what is typed.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use insula_api::{Problem, ProblemCode};
use insula_model::StdinMode;
use insula_plan::protocol::keeper::{FdName, KeeperRequest, LogStream, TeeSpec, WhenSlow};
use insula_plan::protocol::launcher::LauncherRequest;

use super::{Machine, console, lock};
use crate::host::{AttachOrder, Onlooker};

/// Name of the writing end of a standard input that stays open.
pub(super) const STDIN: &str = "stdin";

impl Machine {
    /// Lets a client see a running container, and type into it.
    ///
    /// # Errors
    ///
    /// It has ended, there are too many clients, or launcher or keeper are gone.
    pub(super) async fn look_on(self: Arc<Self>, order: AttachOrder) -> Result<Onlooker, Problem> {
        let pidfd = lock(&self.pidfds).get(&order.id).cloned();
        let pidfd = pidfd.ok_or_else(|| failed(&order, ProblemCode::Conflict, &"it has ended"))?;
        let pidfd = pidfd.try_clone().map_err(|error| failed(&order, ProblemCode::Internal, &error))?;
        let mut follow = vec![pidfd];
        follow.extend(File::open(self.run.exit_fact(order.id)).map(OwnedFd::from));
        let mut warnings = Vec::new();
        let outputs = [(LogStream::Output, &order.stdout), (LogStream::Error, &order.stderr)];
        for (stream, fd) in outputs.into_iter().filter_map(|(stream, fd)| Some((stream, fd.as_ref()?))) {
            let tee = TeeSpec { stream, when_slow: WhenSlow::Block };
            let request = LauncherRequest::Keep(KeeperRequest::Tee { container: order.id, tee });
            match self.link.call(request, &[fd.as_fd()]).await {
                // Closed by the container, or handed out by a foreground run that is not logged.
                Err(problem) if problem.code == ProblemCode::NotSupported => {
                    warnings = vec![format!("output of container {} does not go through the node", order.name)];
                }
                Err(problem) => return Err(failed(&order, problem.code, &problem.detail)),
                Ok(_) => {}
            }
        }
        let input = match (order.spec.tty, order.spec.stdin) {
            (true, _) => Some(console::TERMINAL),
            (false, StdinMode::Open) => Some(STDIN),
            (false, StdinMode::Closed) => None,
        };
        let input = match input {
            Some(part) => self.take_input(&order, part).await?,
            None => None,
        };
        if order.spec.tty && input.is_none() {
            return Err(failed(&order, ProblemCode::Conflict, &"its terminal is not kept by the node"));
        }
        Ok(Onlooker { follow, input, warnings })
    }

    async fn take_input(&self, order: &AttachOrder, part: &str) -> Result<Option<OwnedFd>, Problem> {
        let name = FdName::of_container(order.id, part);
        let name = name.map_err(|error| failed(order, ProblemCode::Internal, &error))?;
        match self.link.call(LauncherRequest::Keep(KeeperRequest::Take { name }), &[]).await {
            Ok(taken) => Ok(taken.fds.into_iter().next()),
            Err(problem) if problem.code == ProblemCode::NotSupported => Ok(None),
            Err(problem) => Err(failed(order, problem.code, &problem.detail)),
        }
    }
}

fn failed(order: &AttachOrder, code: ProblemCode, why: &dyn std::fmt::Display) -> Problem {
    Problem::new(code, format!("attach to container {}: {why}", order.name))
}
