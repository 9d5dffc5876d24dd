//! Steps on control groups: what a start, a sweep and a node's own set-up do below the control group mounts.
//!
//! A step is plain data with absolute paths of the host; [`CgroupStep::perform`] does it. Every step may be done again
//! after a crash: what is there already, or gone already, is no failure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_kernel::cgroup;
use insula_kernel::device_filter::{self, DeviceProgram};
use minicbor::{Decode, Encode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

/// One step on a control group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CgroupStep {
    /// Makes the directory; its parent exists.
    #[n(0)]
    MakeDir {
        /// Absolute path.
        #[n(0)]
        dir: PathBuf,
    },
    /// Writes one value to one file.
    #[n(1)]
    Write {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// File name such as `memory.max`.
        #[n(1)]
        file: String,
        /// Written at once, without a newline.
        #[n(2)]
        value: String,
        /// What it means that the file is not there.
        #[n(3)]
        absent: IfAbsent,
    },
    /// Copies a file's value from the parent group when it is empty, as version 1's `cpuset` needs.
    #[n(2)]
    Inherit {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// File name such as `cpuset.cpus`.
        #[n(1)]
        file: String,
    },
    /// Gives the directory (`file` absent) or one file of it to a user and group of the host.
    #[n(3)]
    Own {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// File name, or nothing for the directory itself.
        #[n(1)]
        file: Option<String>,
        /// Host user id.
        #[n(2)]
        uid: u32,
        /// Host group id.
        #[n(3)]
        gid: u32,
    },
    /// Moves another process into the group: the one that is named to [`CgroupStep::perform`]. Where the mover could
    /// be the moved, [`CgroupStep::Enter`] is a hundred times as fast.
    #[n(4)]
    Attach {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
    },
    /// Restricts devices of a version 2 group by a program of [`insula_kernel::device_filter`].
    #[n(5)]
    FilterDevices {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// Bytes of the program.
        #[cbor(n(1), with = "minicbor::bytes")]
        program: Vec<u8>,
    },
    /// Kills every process in the group and below it, and waits for their end.
    #[n(6)]
    Kill {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// Longest wait in milliseconds.
        #[n(1)]
        within_ms: u32,
    },
    /// Removes the group and everything below it.
    #[n(7)]
    Remove {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
        /// Longest wait for it to become empty, in milliseconds.
        #[n(1)]
        within_ms: u32,
    },
    /// Moves the calling thread, whose process has no other, into the group; its children are born there.
    ///
    /// In version 1 the kernel spares a thread that moves itself (`0` to `tasks`) the lock over all of the machine's
    /// threads, and with it the RCU grace period of 5 to 10 ms that moving any other process begins with. In version 2
    /// there is no such way but being born into the group.
    #[n(8)]
    Enter {
        /// The group's directory.
        #[n(0)]
        dir: PathBuf,
    },
}

/// What it means that a control file does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum IfAbsent {
    /// The limit cannot be set: the step fails.
    #[n(0)]
    Fail,
    /// This kernel has no such file, and the plan works without.
    #[n(1)]
    Skip,
}

/// A step on a control group failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupStepError {
    /// The kernel refused.
    #[error("{call}")]
    Kernel {
        /// The call with its target: `write(/sys/fs/cgroup/…/memory.max, 1048576)`.
        call: String,
        /// Why.
        #[source]
        errno: Errno,
    },
    /// Processes outlived their kill; one in an uninterruptible wait does.
    #[error("processes of {} did not end within {within_ms} ms", dir.display())]
    StillPopulated {
        /// The group's directory.
        dir: PathBuf,
        /// How long was waited, in milliseconds.
        within_ms: u32,
    },
    /// An attach step stands before the process was made.
    #[error("no process to move into {}", dir.display())]
    NothingToAttach {
        /// The group's directory.
        dir: PathBuf,
    },
}

impl CgroupStep {
    /// Does the step. `attached` is the process that [`CgroupStep::Attach`] moves, as its caller's pid namespace
    /// numbers it.
    ///
    /// # Errors
    ///
    /// Names the call, its target and the reason.
    pub fn perform(&self, attached: Option<Pid>) -> Result<(), CgroupStepError> {
        let done = match self {
            Self::MakeDir { dir } => cgroup::ensure_dir(dir),
            Self::Write { dir, file, value, absent } => write(dir, file, value, *absent),
            Self::Inherit { dir, file } => inherit(dir, file),
            Self::Own { dir, file, uid, gid } => own(dir, file.as_deref(), *uid, *gid),
            Self::Attach { dir } => {
                let pid = attached.ok_or_else(|| CgroupStepError::NothingToAttach { dir: dir.clone() })?;
                cgroup::write(dir, "cgroup.procs", &pid.as_raw_nonzero().to_string())
            }
            Self::Enter { dir } => enter(dir),
            Self::FilterDevices { dir, program } => filter_devices(dir, program),
            Self::Kill { dir, within_ms } => match cgroup::kill_tree(dir, deadline(*within_ms)) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    return Err(CgroupStepError::StillPopulated { dir: dir.clone(), within_ms: *within_ms });
                }
                Err(errno) => Err(errno),
            },
            Self::Remove { dir, within_ms } => cgroup::remove_tree(dir, deadline(*within_ms)),
        };
        done.map_err(|errno| CgroupStepError::Kernel { call: self.to_string(), errno })
    }
}

impl fmt::Display for CgroupStep {
    /// The call with its target.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeDir { dir } => write!(f, "mkdir({})", dir.display()),
            Self::Write { dir, file, value, .. } => write!(f, "write({}, {value})", dir.join(file).display()),
            Self::Inherit { dir, file } => write!(f, "write({}, its parent's)", dir.join(file).display()),
            Self::Own { dir, file, uid, gid } => {
                write!(f, "chown({}, {uid}, {gid})", named(dir, file.as_deref()).display())
            }
            Self::Attach { dir } => write!(f, "write({}/cgroup.procs)", dir.display()),
            Self::Enter { dir } => write!(f, "write({}/tasks, 0)", dir.display()),
            Self::FilterDevices { dir, .. } => write!(f, "bpf(BPF_PROG_ATTACH, {})", dir.display()),
            Self::Kill { dir, .. } => write!(f, "write({}/cgroup.kill)", dir.display()),
            Self::Remove { dir, .. } => write!(f, "rmdir({})", dir.display()),
        }
    }
}

fn deadline(within_ms: u32) -> Instant {
    Instant::now() + Duration::from_millis(u64::from(within_ms))
}

fn named(dir: &Path, file: Option<&str>) -> PathBuf {
    file.map_or_else(|| dir.to_owned(), |file| dir.join(file))
}

fn write(dir: &Path, file: &str, value: &str, absent: IfAbsent) -> Result<(), Errno> {
    match (cgroup::write(dir, file, value), absent) {
        // A controller file may exist and still answer EOPNOTSUPP where its mechanism is compiled out.
        (Err(Errno::NOENT | Errno::OPNOTSUPP), IfAbsent::Skip) => Ok(()),
        (done, _) => done,
    }
}

fn enter(dir: &Path) -> Result<(), Errno> {
    match cgroup::write(dir, "tasks", "0") {
        // Version 2 has no such file.
        Err(Errno::NOENT) => cgroup::write(dir, "cgroup.procs", "0"),
        done => done,
    }
}

fn inherit(dir: &Path, file: &str) -> Result<(), Errno> {
    if !cgroup::read(dir, file)?.trim().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().ok_or(Errno::INVAL)?;
    let value = cgroup::read(parent, file)?;
    cgroup::write(dir, file, value.trim())
}

fn own(dir: &Path, file: Option<&str>, uid: u32, gid: u32) -> Result<(), Errno> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(rustix::fs::CWD, named(dir, file), Some(uid), Some(gid), flags)
}

fn filter_devices(dir: &Path, program: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let group = rustix::fs::open(dir, flags, Mode::empty())?;
    device_filter::attach(rustix::fd::AsFd::as_fd(&group), &DeviceProgram::from_bytes(program.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_step() -> Vec<CgroupStep> {
        let dir = PathBuf::from("/sys/fs/cgroup/insula.slice/n/c");
        vec![
            CgroupStep::MakeDir { dir: dir.clone() },
            CgroupStep::Write {
                dir: dir.clone(),
                file: "pids.max".to_owned(),
                value: "512".to_owned(),
                absent: IfAbsent::Skip,
            },
            CgroupStep::Inherit { dir: dir.clone(), file: "cpuset.cpus".to_owned() },
            CgroupStep::Own { dir: dir.clone(), file: Some("cgroup.procs".to_owned()), uid: 1 << 20, gid: 1 << 20 },
            CgroupStep::Attach { dir: dir.clone() },
            CgroupStep::FilterDevices { dir: dir.clone(), program: vec![1, 2, 3] },
            CgroupStep::Kill { dir: dir.clone(), within_ms: 10 },
            CgroupStep::Remove { dir: dir.clone(), within_ms: 10 },
            CgroupStep::Enter { dir },
        ]
    }

    #[test]
    fn every_step_round_trips_through_its_encoding() {
        for step in every_step() {
            let bytes = minicbor::to_vec(&step).unwrap();
            assert_eq!(minicbor::decode::<CgroupStep>(&bytes).unwrap(), step);
        }
    }

    #[test]
    fn an_error_names_the_call_and_leaves_the_reason_to_its_source() {
        let step = CgroupStep::MakeDir { dir: PathBuf::from("/nonexistent/insula/x") };
        let error = step.perform(None).unwrap_err();
        assert_eq!(error.to_string(), "mkdir(/nonexistent/insula/x)");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn removing_and_killing_what_is_gone_is_done_already() {
        let dir = PathBuf::from("/nonexistent/insula/x");
        CgroupStep::Kill { dir: dir.clone(), within_ms: 1 }.perform(None).unwrap();
        CgroupStep::Remove { dir: dir.clone(), within_ms: 1 }.perform(None).unwrap();
        assert!(matches!(CgroupStep::Attach { dir }.perform(None), Err(CgroupStepError::NothingToAttach { .. })));
    }

    #[test]
    fn a_missing_file_fails_the_step_unless_it_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |absent| CgroupStep::Write {
            dir: dir.path().to_owned(),
            file: "memory.max".to_owned(),
            value: "1".to_owned(),
            absent,
        };
        assert!(write(IfAbsent::Fail).perform(None).is_err());
        write(IfAbsent::Skip).perform(None).unwrap();
        assert!(!dir.path().join("memory.max").exists());
    }
}
