//! A new terminal of the devpts that is mounted at `/dev/pts` of this process's root.

use std::os::fd::OwnedFd;

use insula_plan::protocol::process::{SpawnFailure, WindowSize};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Device number of the multiplexer that hands out terminals: character device 5:2.
const MULTIPLEXER: (u32, u32) = (5, 2);

/// Both ends of a terminal. Nothing but this pair is ever opened by name.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens one of the given size.
///
/// The multiplexer is opened by a name that the container may have replaced, so it is checked before it is used;
/// the slave comes from the master by ioctl, not by name.
pub(super) fn open(size: WindowSize) -> Result<Terminal, SpawnFailure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(failed("open(/dev/pts/ptmx)"))?;
    let stat = rustix::fs::fstat(&master).map_err(failed("fstat(/dev/pts/ptmx)"))?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || device != MULTIPLEXER {
        return Err(failed("open(/dev/pts/ptmx)")(Errno::NOTTY));
    }
    rustix::pty::unlockpt(&master).map_err(failed("ioctl(TIOCSPTLCK)"))?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).map_err(failed("ioctl(TIOCGPTPEER)"))?;
    resize(&master, size).map_err(failed("ioctl(TIOCSWINSZ)"))?;
    Ok(Terminal { master, slave })
}

/// Tells a terminal its size; its processes get `SIGWINCH`.
pub(crate) fn resize(master: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size)
}

fn failed(call: &'static str) -> impl Fn(Errno) -> SpawnFailure {
    move |errno| SpawnFailure::Kernel { call: call.to_owned(), errno: errno.raw_os_error() }
}
