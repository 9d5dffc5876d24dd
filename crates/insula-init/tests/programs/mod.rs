//! Starting our programs as their parents do, and waiting for what they do.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use insula_kernel::execute::execute;
use insula_kernel::fd_table;
use insula_kernel::fork::{Fork, exit_now, fork};
use rustix::process::{Pid, Signal, WaitOptions};

/// A child that is killed when it is dropped.
pub(crate) struct Program {
    pub(crate) pid: Pid,
    reaped: bool,
}

impl Program {
    /// Runs `path` with `fds` from number 3 on and nothing else but the standard streams.
    pub(crate) fn start(path: &str, arguments: &[&str], fds: &[BorrowedFd<'_>]) -> Self {
        let path = CString::new(path).unwrap();
        let mut argv = vec![path.clone()];
        argv.extend(arguments.iter().map(|argument| CString::new(*argument).unwrap()));
        let Fork::Parent(pid) = fork().unwrap() else {
            let standard = [0, 1, 2].map(|number| fd_table::numbered(number).unwrap());
            let all = [&standard[..], fds].concat();
            fd_table::replace(&all, all.len()).unwrap();
            let _errno = execute(&path, &argv, &[]);
            exit_now(99)
        };
        Self { pid, reaped: false }
    }

    /// `kill -9`, and waits for it.
    pub(crate) fn kill(mut self) {
        rustix::process::kill_process(self.pid, Signal::KILL).unwrap();
        self.reaped = true;
        rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).unwrap();
    }

    /// Waits for its end; gives its code.
    pub(crate) fn join(mut self) -> i32 {
        let pidfd = rustix::process::pidfd_open(self.pid, rustix::process::PidfdFlags::empty()).unwrap();
        wait_readable(&pidfd);
        self.reaped = true;
        let (_, status) = rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.reaped {
            rustix::process::kill_process(self.pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).ok();
        }
    }
}

/// Waits until a descriptor is readable or at its end.
pub(crate) fn wait_readable(fd: impl AsFd) {
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "nothing came in time");
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    insula_testkit::eventually(what, || holds().then_some(()));
}

/// A container's log as text, and how many bytes it says are missing.
pub(crate) fn read_log(directory: &Path) -> (String, u64) {
    use insula_plan::protocol::log::LogContent;
    let (mut text, mut lost) = (Vec::new(), 0);
    let mut reader = insula_plan::protocol::log_reader::LogReader::from_start(directory);
    while reader
        .read(|record| match record.content {
            LogContent::Written { bytes, .. } => text.extend_from_slice(bytes),
            LogContent::Lost { bytes } => lost += bytes,
        })
        .unwrap()
    {}
    (String::from_utf8(text).unwrap(), lost)
}
