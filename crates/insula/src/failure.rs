//! How a command ends when it does not succeed: what is said, what is advised, which exit code.

use std::io;
use std::path::PathBuf;

use insula_api::{Problem, ProblemCode};

use crate::client::{ClientError, StreamError};
use crate::foreground::ForegroundError;

/// A command that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The node, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A stream of the node's broke.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The container's standard streams.
    #[error(transparent)]
    Foreground(#[from] ForegroundError),
    /// Something given on the command line that only a look at the machine or a second thought shows to be wrong.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which.
        argument: String,
        /// What is wrong with it.
        reason: String,
        /// What to write instead, when there is something.
        remedy: Option<String>,
    },
    /// A local file.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted, such as `read`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Standard output is gone or full.
    #[error("write to standard output")]
    Output(#[source] io::Error),
    /// A long action of the node's failed.
    #[error(transparent)]
    Operation(Box<Problem>),
    /// Known, but not in this version or on this machine.
    #[error("{what} is not supported")]
    NotSupported {
        /// What was asked for.
        what: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A look at something found it wanting: damaged, not passed, not healthy.
    #[error("{finding}")]
    Negative {
        /// What was found.
        finding: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// What is waited for did not come in time.
    #[error("{name} is still {state} after the time-out")]
    TimedOut {
        /// Which container.
        name: String,
        /// Its state.
        state: String,
    },
    /// Several objects, not all done; each one's failure was said before.
    #[error("{failed} of {all} failed")]
    Partly {
        /// How many failed.
        failed: usize,
        /// Of how many.
        all: usize,
        /// Exit code of the first failure.
        first: u8,
    },
    /// The node daemon could not run; it said why.
    #[error("the node did not run")]
    Node(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A backup was not read into the store; nothing was changed.
    #[error("nothing was restored")]
    Restore(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The runtime of this program could not be set up.
    #[error("set up this program's event loop")]
    Runtime(#[source] io::Error),
}

impl Failure {
    /// Something wrong with an argument, without better advice.
    pub fn argument(argument: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Argument { argument: argument.into(), reason: reason.into(), remedy: None }
    }

    /// The stable code, when there is one.
    #[must_use]
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Client(ClientError::Refused(problem)) | Self::Operation(problem) => Some(problem.code),
            Self::Client(ClientError::Connect { source, .. })
            | Self::Foreground(ForegroundError::Connect { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some(ProblemCode::Denied)
            }
            Self::Foreground(error) => error.code(),
            Self::Argument { .. } => Some(ProblemCode::Invalid),
            Self::NotSupported { .. } => Some(ProblemCode::NotSupported),
            _ => None,
        }
    }

    /// Exit code of every command but foreground `run` and `exec`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // All failed alike: as if there had been one. Else: partly done.
            Self::Partly { failed, all, first } => {
                if failed == all {
                    *first
                } else {
                    8
                }
            }
            // Whoever read our output has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => self.code().map_or(1, ProblemCode::exit_code),
        }
    }

    /// Exit code of foreground `run` and `exec`.
    #[must_use]
    pub fn foreground_exit_code(&self) -> u8 {
        self.code().map_or(125, ProblemCode::foreground_exit_code)
    }

    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Client(ClientError::Refused(problem)) | Self::Operation(problem) => {
                problem.remedy.clone().or_else(|| remedy_of_versions(problem))
            }
            Self::Client(ClientError::Connect { source, .. })
            | Self::Foreground(ForegroundError::Connect { source, .. }) => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run it as root, or as a member of the group insula (which equals root)".to_owned()
                }
                _ => "start a node with `insula node run`, or name its socket with --socket or INSULA_SOCKET; the \
                      attach socket lies beside it"
                    .to_owned(),
            }),
            Self::Client(ClientError::Connection { .. }) | Self::Stream(StreamError::Broken(_)) => Some(
                "the node may have ended; its containers go on without it: look at its log, start it again".to_owned(),
            ),
            Self::Client(ClientError::Unexpected { .. } | ClientError::Foreign { .. })
            | Self::Stream(StreamError::Unexpected(_)) => {
                Some("compare both sides with `insula version`, and what listens at the socket".to_owned())
            }
            Self::Foreground(error) => error.remedy(),
            Self::Argument { remedy, .. } | Self::Negative { remedy, .. } => remedy.clone(),
            Self::NotSupported { remedy, .. } => Some((*remedy).to_owned()),
            _ => None,
        }
    }

    /// Whether there is nothing to say: the reader of our output went away.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// All causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// What this program asks for, a node of its own version knows. One that does not is an older one, which goes on
/// running when its program is replaced.
pub(crate) fn remedy_of_versions(problem: &Problem) -> Option<String> {
    let ours = ["request body: ", "attach request: ", "query: "];
    let of_ours = problem.code == ProblemCode::Invalid && ours.iter().any(|begin| problem.detail.starts_with(begin));
    (of_ours && problem.detail.contains("unknown ")).then(|| {
        "the node's program is older than this one (`insula version` shows both): restart the daemon, its containers go \
         on meanwhile"
            .to_owned()
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let links: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    links.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ProblemCode) -> Failure {
        Failure::Client(ClientError::Refused(Box::new(Problem::new(code, "x").with_remedy("do y"))))
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        for (code, plain, foreground) in [
            (ProblemCode::Invalid, 2, 125),
            (ProblemCode::NotFound, 3, 125),
            (ProblemCode::Conflict, 4, 125),
            (ProblemCode::Denied, 5, 125),
            (ProblemCode::Admission, 6, 125),
            (ProblemCode::NotSupported, 7, 125),
            (ProblemCode::StartFailed, 1, 125),
            (ProblemCode::CommandNotFound, 1, 127),
            (ProblemCode::CommandNotExecutable, 1, 126),
            (ProblemCode::Internal, 1, 125),
        ] {
            assert_eq!(
                (refused(code).exit_code(), refused(code).foreground_exit_code()),
                (plain, foreground),
                "{code}"
            );
        }
    }

    #[test]
    fn work_on_several_objects_is_partly_done_only_if_one_was() {
        assert_eq!(Failure::Partly { failed: 1, all: 2, first: 3 }.exit_code(), 8);
        assert_eq!(Failure::Partly { failed: 2, all: 2, first: 3 }.exit_code(), 3);
    }

    #[test]
    fn a_missing_node_is_named_with_its_socket_and_how_to_start_one() {
        let failure = Failure::Client(ClientError::Connect {
            socket: "/x/insula.sock".into(),
            source: io::Error::from_raw_os_error(2),
        });
        assert_eq!(failure.chain(), "no node answers at /x/insula.sock: No such file or directory (os error 2)");
        assert!(failure.remedy().unwrap().contains("insula node run"));
        assert_eq!((failure.exit_code(), failure.foreground_exit_code()), (1, 125));
        let denied = Failure::Client(ClientError::Connect {
            socket: "/x/insula.sock".into(),
            source: io::Error::from_raw_os_error(13),
        });
        assert_eq!(denied.exit_code(), 5);
    }

    #[test]
    fn a_node_that_does_not_know_our_words_is_to_be_restarted() {
        let remedy = |detail: &str| {
            Failure::Client(ClientError::Refused(Box::new(Problem::new(ProblemCode::Invalid, detail)))).remedy()
        };
        assert!(
            remedy("attach request: unknown field `run`, expected `token`").unwrap().contains("restart the daemon")
        );
        assert!(remedy("request body: unknown field `start`").unwrap().contains("restart the daemon"));
        assert_eq!(remedy("recipe: line 1: unknown field `nam`"), None);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::Output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(gone.is_silent());
        assert_eq!(gone.exit_code(), 0);
    }
}
