//! A container as small as can be for process 1: namespaces, ids, a root of busybox, and nothing else.
//!
//! Everything it makes hangs on processes: the mounts are in a mount namespace of their own, the files in a
//! temporary directory, and what is left of the processes is killed when the value is dropped.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use insula_init::sealed;
use insula_kernel::execute::execute_file;
use insula_kernel::fd_table;
use insula_kernel::fork::{Fork, exit_now, fork};
use insula_plan::protocol::channel::{self, Channel, ReceiveError, Wait};
use insula_plan::protocol::init::{ExecRequest, InitClient, InitConfig, InitEvent, OnClose, RunningExec, StdioFds};
use insula_plan::protocol::process::{CapabilityMask, CapabilityRule, ProcessSpec};
use insula_plan::protocol::status::{End, ExitStatus};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::UnshareFlags;

/// First host id of the test's range.
pub(crate) const ID_BASE: u32 = 2_000_000_000;

/// The capabilities that root of a container has by default in the field.
pub(crate) const RIGHTS: CapabilityRule =
    CapabilityRule { bounding: CapabilityMask(0xa804_25fb), ambient: CapabilityMask(0) };

pub(crate) struct Container {
    /// The helper that is its parent on the host.
    helper: Pid,
    /// Process 1 on the host.
    pub(crate) init: Pid,
    pub(crate) status: Channel,
    pub(crate) output: OwnedFd,
    pub(crate) directory: tempfile::TempDir,
    ended: bool,
}

/// A shell command as root in `/`.
pub(crate) fn shell(script: &str) -> ProcessSpec {
    let argv = ["sh", "-c", script].map(|word| CString::new(word).unwrap());
    let mut spec = ProcessSpec::new(argv.into(), RIGHTS);
    spec.env = vec![c"PATH=/bin".to_owned()];
    spec
}

impl Container {
    /// Starts one whose main process is `main`; its output goes to a pipe.
    pub(crate) fn start(main: ProcessSpec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        make_root(&root);
        // The container's root must be able to reach its root directory, and nobody else its socket.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let guarded = directory.path().join("run");
        std::fs::create_dir(&guarded).unwrap();
        std::fs::set_permissions(&guarded, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let listener = channel::listen(&guarded.join("exec.sock")).unwrap();
        let exit_fact = std::fs::File::create(guarded.join("exit")).unwrap();
        let config = sealed::data("config", &channel::encode(&InitConfig::new(Some(main)))).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_insula-init")).to_owned();
        let elsewhere = std::env::var_os("INSULA_PROGRAM_DIR").map(|folder| Path::new(&folder).join("insula-init"));
        let program = sealed::program(&elsewhere.unwrap_or(built)).unwrap();
        let (status, theirs) = Channel::pair().unwrap();
        let (output, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let (go_read, go_write) = rustix::pipe::pipe().unwrap();
        let (pid_read, pid_write) = rustix::pipe::pipe().unwrap();
        let fds = [
            null.as_fd(),
            write_end.as_fd(),
            write_end.as_fd(),
            config.as_fd(),
            theirs.as_fd(),
            listener.as_fd(),
            exit_fact.as_fd(),
            null.as_fd(),
            null.as_fd(),
        ];
        let Fork::Parent(helper) = fork().unwrap() else {
            let kinds = UnshareFlags::NEWUSER | UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWUTS;
            // SAFETY is the callee's: this child has one thread and shares nothing but memory that it will not use.
            must(insula_kernel::namespace::unshare(kinds));
            must(rustix::io::write(&pid_write, b"u"));
            must(rustix::io::read(&go_read, &mut [0]));
            match must(fork()) {
                Fork::Child => {
                    enter(&root);
                    must(fd_table::replace(&[&fds[..], &[program.as_fd()]].concat(), 9));
                    let program = must(fd_table::numbered(9));
                    let _errno = execute_file(program, &[c"insula-init".to_owned()], &[]);
                    exit_now(99)
                }
                Fork::Parent(init) => {
                    must(rustix::io::write(&pid_write, &init.as_raw_nonzero().get().to_ne_bytes()));
                    // Nothing of the container's may stay open here.
                    must(fd_table::replace(&[null.as_fd()], 1));
                    let (_, status) = must(rustix::process::waitpid(Some(init), WaitOptions::empty())).unwrap();
                    exit_now(ExitStatus::from_wait(status).map_or(98, ExitStatus::code))
                }
            }
        };
        must(rustix::io::read(&pid_read, &mut [0]));
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", helper.as_raw_nonzero());
            std::fs::write(path, format!("0 {ID_BASE} 65536")).unwrap();
        }
        rustix::io::write(&go_write, b"g").unwrap();
        let mut number = [0; 4];
        assert_eq!(rustix::io::read(&pid_read, &mut number), Ok(4));
        let init = Pid::from_raw(i32::from_ne_bytes(number)).unwrap();
        Self { helper, init, status, output, directory, ended: false }
    }

    /// The next event about the main process.
    pub(crate) fn event(&self) -> (InitEvent, Vec<OwnedFd>) {
        wait_readable(&self.status);
        let received = self.status.receive(Wait::Never).unwrap();
        (received.message, received.fds)
    }

    /// Waits until the main process runs; gives its number inside.
    pub(crate) fn started(&self) -> u32 {
        match self.event() {
            (InitEvent::Started { pid }, _) => pid,
            (other, _) => panic!("{other:?}"),
        }
    }

    pub(crate) fn main_end(&self) -> End {
        match self.event() {
            (InitEvent::Ended(end), _) => end,
            (other, _) => panic!("{other:?}"),
        }
    }

    pub(crate) fn exec_socket(&self) -> PathBuf {
        self.directory.path().join("run/exec.sock")
    }

    pub(crate) fn exit_fact(&self) -> PathBuf {
        self.directory.path().join("run/exit")
    }

    pub(crate) fn client(&self) -> InitClient {
        InitClient::connect(&self.exec_socket()).unwrap()
    }

    /// Runs a shell command by request, with its output in a pipe.
    pub(crate) fn exec(&self, process: ProcessSpec, on_close: OnClose) -> (RunningExec, OwnedFd) {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (output, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let fds = StdioFds { input: null.as_fd(), output: write_end.as_fd(), error: write_end.as_fd() };
        let running = self.client().exec(ExecRequest { process, on_close }, Some(fds)).unwrap();
        (running, output)
    }

    /// Runs a shell command to its end; gives its output and how it ended.
    pub(crate) fn exec_to_end(&self, script: &str) -> (String, ExitStatus) {
        let (running, output) = self.exec(shell(script), OnClose::Kill);
        let text = read_to_end(&output);
        wait_readable(&running);
        (text, running.wait().unwrap().status)
    }

    /// Waits for the end of process 1; gives its code.
    pub(crate) fn join(mut self) -> i32 {
        let pidfd = rustix::process::pidfd_open(self.helper, rustix::process::PidfdFlags::empty()).unwrap();
        wait_readable(&pidfd);
        self.ended = true;
        let (_, status) = rustix::process::waitpid(Some(self.helper), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status().unwrap()
    }

    pub(crate) fn signal(&self, number: u8) {
        insula_kernel::signals::send(insula_kernel::signals::Recipient::Process(self.init), number).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            rustix::process::kill_process(self.init, rustix::process::Signal::KILL).ok();
            rustix::process::waitpid(Some(self.helper), WaitOptions::empty()).ok();
        }
    }
}

/// Ends a forked child that cannot go on.
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        let text = format!("harness: {error:?}\n");
        rustix::io::write(fd_table::numbered(2).unwrap(), text.as_bytes()).ok();
        exit_now(97)
    })
}

fn make_root(root: &Path) {
    for directory in ["", "bin", "etc", "proc", "dev", "dev/pts", "tmp", "home"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "id", "ls", "kill", "ps", "stty", "tty", "grep", "true", "echo", "env", "pwd"]
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("bin/plain"), b"no program").unwrap();
    std::fs::write(root.join("etc/passwd"), b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\n").unwrap();
    std::fs::write(root.join("dev/null"), b"").unwrap();
    std::fs::write(root.join("etc/group"), b"root:x:0:\nweb:x:33:\naudio:x:29:web\n").unwrap();
    std::os::unix::fs::chown(root.join("tmp"), Some(ID_BASE), Some(ID_BASE)).unwrap();
    std::os::unix::fs::chown(root.join("home"), Some(ID_BASE), Some(ID_BASE)).unwrap();
}

fn enter(root: &Path) {
    let zero = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    must(rustix::thread::set_thread_res_gid(zero.1, zero.1, zero.1));
    must(rustix::thread::set_thread_groups(&[]));
    must(rustix::thread::set_thread_res_uid(zero.0, zero.0, zero.0));
    must(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    must(rustix::mount::mount("proc", root.join("proc"), "proc", flags, None::<&std::ffi::CStr>));
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    must(rustix::mount::mount("devpts", root.join("dev/pts"), "devpts", flags, options));
    must(rustix::mount::mount_bind("/dev/null", root.join("dev/null")));
    must(rustix::process::chdir(root));
    must(rustix::process::chroot("."));
    rustix::process::umask(Mode::from_bits_truncate(0o022));
}

/// Waits until a descriptor is readable or at its end.
pub(crate) fn wait_readable(fd: impl AsFd) {
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "nothing came in time");
}

/// Reads until the end, or a terminal's hang-up.
pub(crate) fn read_to_end(fd: impl AsFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        wait_readable(&fd);
        match rustix::io::read(&fd, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => return String::from_utf8(text).unwrap(),
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// Reads until `end` was read.
pub(crate) fn read_until(fd: impl AsFd, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        wait_readable(&fd);
        let length = rustix::io::read(&fd, &mut buffer).unwrap();
        assert!(length > 0, "ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    insula_testkit::eventually(what, || holds().then_some(()));
}

/// Whether a connection was closed by process 1 without an answer.
pub(crate) fn closed(channel: &Channel) -> bool {
    wait_readable(channel);
    matches!(channel.receive::<InitEvent>(Wait::Never), Err(ReceiveError::Closed))
}
