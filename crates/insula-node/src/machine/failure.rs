//! Failures of other processes, as problems of the API.

use insula_api::{Problem, ProblemCode};
use insula_plan::protocol::failure::{Failure, FailureKind};
use insula_plan::protocol::init::ExecError;
use insula_plan::protocol::process::SpawnFailure;

/// Name of the step that writes one of the container's kernel settings.
const SETTING_STEP: &str = "setting";

/// The launcher or keeper is not there.
pub(super) fn lost(why: &str) -> Problem {
    Problem::new(ProblemCode::Internal, why).with_remedy("the daemon starts it again; try once more")
}

/// What a failure of the launcher or keeper means to a user.
pub(super) fn failure_problem(failure: &Failure) -> Problem {
    let code = match &failure.kind {
        FailureKind::Spawn(spawn) => spawn_code(spawn),
        FailureKind::Step | FailureKind::WorkerLost => ProblemCode::StartFailed,
        FailureKind::Busy | FailureKind::Exists => ProblemCode::Conflict,
        FailureKind::Unknown | FailureKind::Version => ProblemCode::NotSupported,
        FailureKind::Malformed | FailureKind::Ending | FailureKind::KeeperLost | FailureKind::Kernel => {
            ProblemCode::Internal
        }
    };
    let mut problem = Problem::new(code, failure.to_string());
    problem.step = failure.step.as_deref().map(Into::into);
    let remedy = match &failure.kind {
        FailureKind::Spawn(spawn) => spawn_remedy(spawn),
        FailureKind::Step if failure.step.as_deref() == Some(SETTING_STEP) => {
            Some("/proc/sys in a container shows which settings it has; name one of them, and a value that it takes")
        }
        FailureKind::WorkerLost => {
            Some("try once more; if it fails each time, its memory or a --ulimit may be too little for any program")
        }
        _ => None,
    };
    problem.remedy = remedy.map(str::to_owned);
    problem
}

fn spawn_code(failure: &SpawnFailure) -> ProblemCode {
    match failure {
        SpawnFailure::NotFound { .. } => ProblemCode::CommandNotFound,
        SpawnFailure::NotExecutable { .. } | SpawnFailure::WorkingDirectory { .. } => ProblemCode::CommandNotExecutable,
        SpawnFailure::UserUnknown { .. } | SpawnFailure::GroupUnknown { .. } => ProblemCode::Invalid,
        SpawnFailure::Busy { .. } | SpawnFailure::Ending => ProblemCode::Conflict,
        SpawnFailure::Kernel { .. } | SpawnFailure::Unusable { .. } => ProblemCode::StartFailed,
    }
}

/// What can be done about a program that did not become one.
fn spawn_remedy(failure: &SpawnFailure) -> Option<&'static str> {
    match failure {
        SpawnFailure::NotFound { .. } => {
            Some("give the whole path of a program that the image has, or add it to the image")
        }
        SpawnFailure::NotExecutable { .. } => {
            Some("a program is a file with an x bit, and its interpreter has to be in the image")
        }
        SpawnFailure::WorkingDirectory { .. } => {
            Some("name another with --workdir, or make the directory in the image or a volume")
        }
        SpawnFailure::UserUnknown { .. } | SpawnFailure::GroupUnknown { .. } => {
            Some("give a number, or a name that the image's /etc/passwd and /etc/group have")
        }
        SpawnFailure::Busy { .. } => Some("wait until other commands in the container have ended"),
        SpawnFailure::Ending => Some("start it again first"),
        SpawnFailure::Kernel { .. } | SpawnFailure::Unusable { .. } => None,
    }
}

/// What a failed exec means to a user.
pub(super) fn exec_problem(error: &ExecError) -> Problem {
    match error {
        ExecError::Refused(failure) => {
            let problem = Problem::new(spawn_code(failure), failure.to_string());
            Problem { remedy: spawn_remedy(failure).map(str::to_owned), ..problem }
        }
        ExecError::Connect(_) => Problem::from_chain(ProblemCode::Conflict, error),
        ExecError::Send(_) | ExecError::Receive(_) | ExecError::OutOfOrder => {
            Problem::from_chain(ProblemCode::StartFailed, error)
        }
    }
}
