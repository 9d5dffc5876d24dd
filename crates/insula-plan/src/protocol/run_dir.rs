//! The run directory: where a node's programs find each other and leave what they know.
//!
//! ```text
//!   <run>/                          tmpfs, root 0700
//!     launcher.sock  keeper.sock    SOCK_SEQPACKET listeners
//!     guest                         GuestFact, by the launcher, while there are guest services
//!     containers/<id>/              one per container that was started since boot
//!       exec.sock                   exec listener of its process 1
//!       started                     StartedFact, by the launcher, before anybody is told
//!       exit                        End of the main process, by process 1
//!       ended                       EndedFact, by the launcher
//!       join                        how to join it, by the launcher, if process 1 is the image's own
//! ```

use std::path::{Path, PathBuf};

use insula_model::ContainerId;

/// Paths below one node's run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The run directory at `path`, such as `/run/insula`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the launcher listens.
    #[must_use]
    pub fn launcher_socket(&self) -> PathBuf {
        self.path.join("launcher.sock")
    }

    /// Where the keeper listens.
    #[must_use]
    pub fn keeper_socket(&self) -> PathBuf {
        self.path.join("keeper.sock")
    }

    /// Fact: under which id the guest services run, by the launcher.
    #[must_use]
    pub fn guest_fact(&self) -> PathBuf {
        self.path.join("guest")
    }

    /// The directory of all containers.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }

    /// One container's directory.
    #[must_use]
    pub fn container(&self, id: ContainerId) -> PathBuf {
        self.containers().join(id.to_string())
    }

    /// Where a container's process 1 takes exec requests.
    #[must_use]
    pub fn exec_socket(&self, id: ContainerId) -> PathBuf {
        self.container(id).join("exec.sock")
    }

    /// Fact: who its process 1 is.
    #[must_use]
    pub fn started_fact(&self, id: ContainerId) -> PathBuf {
        self.container(id).join("started")
    }

    /// Fact: how its main process ended, written by its process 1.
    #[must_use]
    pub fn exit_fact(&self, id: ContainerId) -> PathBuf {
        self.container(id).join("exit")
    }

    /// Fact: how the container ended, written by the launcher.
    #[must_use]
    pub fn ended_fact(&self, id: ContainerId) -> PathBuf {
        self.container(id).join("ended")
    }

    /// How to join a container whose process 1 is the image's own: a [`Join`](crate::plan::Join).
    #[must_use]
    pub fn join_fact(&self, id: ContainerId) -> PathBuf {
        self.container(id).join("join")
    }
}
