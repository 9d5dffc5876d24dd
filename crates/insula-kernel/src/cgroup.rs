//! Control groups as directories: reading and writing their files, emptying and removing them.
//!
//! Nothing here knows which version or controllers a hierarchy has; callers name the files.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Most bytes read from one control file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most levels below a group that [`remove_tree`] descends.
const DEPTH_MAX: usize = 64;

/// `open(dir/file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW)` and one `write`
///
/// # Errors
///
/// - `ENOENT`: the group or the file does not exist; the controller may be off.
/// - `EINVAL`, `ERANGE`: the kernel refuses the value.
/// - `EBUSY`: what is in the group forbids it.
///
/// Source: cgroups(7).
pub fn write(dir: &Path, file: &str, value: &str) -> Result<(), Errno> {
    // O_TRUNC and O_CREAT stay away: a missing file must be ENOENT, and each write is one command.
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(dir.join(file), flags, Mode::empty())?;
    let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes()))?;
    if written == value.len() { Ok(()) } else { Err(Errno::IO) }
}

/// `open(dir/file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)` and `read` to the end, 1 MiB at most
///
/// # Errors
///
/// - `ENOENT`, `ENODEV`: the group or the file does not exist.
/// - `EILSEQ`: the content is not UTF-8.
///
/// Source: cgroups(7).
pub fn read(dir: &Path, file: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(dir.join(file), flags, Mode::empty())?;
    read_to_end(std::fs::File::from(fd))
}

fn read_to_end(file: std::fs::File) -> Result<String, Errno> {
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(Errno::ILSEQ),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// `mkdir(dir, 0755)`, content with a group that exists
///
/// # Errors
///
/// - `ENOENT`: the parent does not exist.
/// - `EAGAIN`: a limit on the number of groups (`cgroup.max.descendants`).
///
/// Source: cgroups(7).
pub fn ensure_dir(dir: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Process ids in the group itself (not below it), as the reader's pid namespace shows them; 0 stands for a process of
/// another pid namespace and is left out.
///
/// # Errors
///
/// - `ENOENT`, `ENODEV`: the group does not exist.
///
/// Source: cgroups(7), `cgroup.procs`.
pub fn processes(dir: &Path) -> Result<Vec<Pid>, Errno> {
    let text = read(dir, "cgroup.procs")?;
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw).collect())
}

/// Process ids in the group and everything below it.
///
/// # Errors
///
/// As [`processes`]; groups that vanish meanwhile are passed over.
pub fn processes_of_tree(dir: &Path) -> Result<Vec<Pid>, Errno> {
    let mut found = processes(dir)?;
    for child in descendants(dir)? {
        match processes(&child) {
            Ok(more) => found.extend(more),
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Every group below `dir`, parents before children.
///
/// # Errors
///
/// - `ELOOP`: more than 64 levels.
/// - `ENOENT`: `dir` does not exist.
pub fn descendants(dir: &Path) -> Result<Vec<std::path::PathBuf>, Errno> {
    let mut found = Vec::new();
    let mut level = vec![dir.to_owned()];
    for depth in 0.. {
        if level.is_empty() {
            break;
        }
        if depth > DEPTH_MAX {
            return Err(Errno::LOOP);
        }
        let mut below = Vec::new();
        for parent in &level {
            match children(parent) {
                Ok(more) => below.extend(more),
                Err(Errno::NOENT) if parent != dir => {}
                Err(errno) => return Err(errno),
            }
        }
        found.extend(below.iter().cloned());
        level = below;
    }
    Ok(found)
}

/// The groups directly below `dir`.
///
/// # Errors
///
/// - `ENOENT`: `dir` does not exist.
pub fn children(dir: &Path) -> Result<Vec<std::path::PathBuf>, Errno> {
    let to_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(to_errno)? {
        let entry = entry.map_err(to_errno)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Waits until `key` in the version 2 group's `cgroup.events` has `value`, by `poll(POLLPRI)`; `false` when `deadline`
/// comes first.
///
/// # Errors
///
/// - `ENOENT`, `ENODEV`: the group does not exist, or is of version 1.
///
/// Source: kernel's cgroup-v2 document, `cgroup.events`.
pub fn wait_for_event(dir: &Path, key: &str, value: &str, deadline: Instant) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(dir.join("cgroup.events"), flags, Mode::empty())?;
    loop {
        let mut buffer = [0; 256];
        // The kernel counts an event as seen when it is read from the beginning.
        let length = rustix::io::pread(&fd, &mut buffer, 0)?;
        let text = std::str::from_utf8(&buffer[..length]).map_err(|_| Errno::ILSEQ)?;
        if text.lines().any(|line| line.split_once(' ') == Some((key, value))) {
            return Ok(true);
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
        poll_within(&mut [PollFd::new(&fd, PollFlags::PRI)], left)?;
    }
}

/// `poll` that a signal does not fail.
fn poll_within(fds: &mut [PollFd<'_>], left: Duration) -> Result<(), Errno> {
    let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    match rustix::event::poll(fds, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Kills every process in the group and below it, and waits until the last has ended; `false` when `deadline` comes
/// first. A group that does not exist is empty.
///
/// Version 2 does it at once and atomically (`cgroup.kill`); elsewhere every member is killed by pidfd, again until
/// none is left.
///
/// # Errors
///
/// Whatever the files answer, except that they vanish.
///
/// Source: kernel's cgroup-v2 document, `cgroup.kill`; `pidfd_send_signal`(2).
pub fn kill_tree(dir: &Path, deadline: Instant) -> Result<bool, Errno> {
    let answer = match write(dir, "cgroup.kill", "1") {
        Ok(()) => wait_for_event(dir, "populated", "0", deadline),
        Err(Errno::NOENT) => kill_members(dir, deadline),
        Err(errno) => Err(errno),
    };
    match answer {
        Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        answer => answer,
    }
}

fn kill_members(dir: &Path, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let members = processes_of_tree(dir)?;
        if members.is_empty() {
            return Ok(true);
        }
        let mut opened = Vec::new();
        for pid in members {
            match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => opened.push((pid, pidfd)),
                Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        // Between the listing and the opening a member may have ended and its number gone to a stranger; who is
        // listed after its pidfd was opened is the one that the pidfd holds.
        let still = processes_of_tree(dir)?;
        opened.retain(|(pid, _)| still.contains(pid));
        for (_, pidfd) in &opened {
            match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        for (_, pidfd) in &opened {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
            poll_within(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], left)?;
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// `rmdir` of the group and everything below it, children first; again while it is busy, until `deadline`. A group
/// that does not exist is removed already.
///
/// # Errors
///
/// - `EBUSY`: there are still processes in it at `deadline`.
///
/// Source: cgroups(7).
pub fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), Errno> {
    let mut pause = Duration::from_micros(500);
    loop {
        match remove_tree_once(dir) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            answer => return answer,
        }
        // The members have been killed; what makes it busy is their last instants. There is nothing to wait on in
        // version 1, hence growing pauses.
        let left = deadline.checked_duration_since(Instant::now()).ok_or(Errno::BUSY)?;
        poll_within(&mut [], left.min(pause))?;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn remove_tree_once(dir: &Path) -> Result<(), Errno> {
    // Nearly always there is nothing below.
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(errno),
    }
    let below = match descendants(dir) {
        Err(Errno::NOENT) => return Ok(()),
        below => below?,
    };
    for group in below.iter().rev().map(std::path::PathBuf::as_path).chain([dir]) {
        match rustix::fs::rmdir(group) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Stops (`1`) or continues (`0`) every process of the version 2 group and waits for it; `false` when `deadline` comes
/// first, in which case the kernel goes on trying.
///
/// # Errors
///
/// - `ENOENT`: the group does not exist, or is of version 1.
///
/// Source: kernel's cgroup-v2 document, `cgroup.freeze`.
pub fn set_frozen(dir: &Path, frozen: Frozen, deadline: Instant) -> Result<bool, Errno> {
    let value = match frozen {
        Frozen::Frozen => "1",
        Frozen::Running => "0",
    };
    write(dir, "cgroup.freeze", value)?;
    wait_for_event(dir, "frozen", value, deadline)
}

/// Whether the processes of a group run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// Stopped where they are; only a kill ends that besides thawing.
    Frozen,
    /// Running.
    Running,
}
