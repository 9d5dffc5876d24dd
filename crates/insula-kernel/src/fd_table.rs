//! The descriptor table of this process as a whole: what was inherited, and what a program about to start gets.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// `fcntl(number, F_SETFD, FD_CLOEXEC)`
///
/// Takes over a descriptor that this process was started with. Once per number, at the start of `main`, before
/// anything else opens descriptors: after that the number may be somebody else's.
///
/// # Errors
///
/// - `EBADF`: no descriptor has this number.
///
/// Source: fcntl(2).
pub fn take_inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes integers and touches no memory of ours.
    let ret = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if ret != 0 {
        return Err(last_errno());
    }
    // SAFETY: the number is open (fcntl succeeded), and the caller promises that it is inherited and taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `dup3` of each to 0, 1, 2 … in order, `close_range` of all others
///
/// The table then holds exactly `fds`, of which the first `inherited` stay open over exec and the rest do not. Every
/// handle that was made before is void: only for a forked child that goes on to [`execute`](crate::execute::execute)
/// or [`exit_now`](crate::fork::exit_now) and uses no descriptor but by the numbers given here.
///
/// # Errors
///
/// - `EMFILE`: the table has no room for the detour; the table is then in no defined state.
///
/// Source: dup(2), `close_range(2)` (Linux 5.9).
pub fn replace(fds: &[BorrowedFd<'_>], inherited: usize) -> Result<(), Errno> {
    let count = RawFd::try_from(fds.len()).map_err(|_| Errno::MFILE)?;
    // Others first: the detour has to find room below the limit of open files, which may be a low one by now.
    close_all_but(fds)?;
    // Then out of the way: a source may have the number of another's target.
    let mut aside = Vec::with_capacity(fds.len());
    for fd in fds {
        // SAFETY: the call takes integers and makes a new descriptor, numbered `count` or above.
        let ret = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, count) };
        if ret < 0 {
            return Err(last_errno());
        }
        aside.push(ret);
    }
    for (target, source) in (0..count).zip(aside) {
        let flags = if usize::try_from(target).is_ok_and(|target| target < inherited) { 0 } else { libc::O_CLOEXEC };
        // SAFETY: the call takes integers; what had the target's number is given up, as documented.
        let ret = unsafe { libc::dup3(source, target, flags) };
        if ret < 0 {
            return Err(last_errno());
        }
    }
    close_from(count)
}

/// `dup3(stand_in, number, O_CLOEXEC)`
///
/// Puts something harmless in a descriptor's place, so that what it was is closed and its number is not given to the
/// next one that is opened. Handles to `number` mean the stand-in afterwards.
///
/// # Errors
///
/// None are expected.
///
/// Source: dup(2).
pub fn occupy(number: RawFd, stand_in: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes integers; that handles to `number` change their meaning is documented.
    let ret = unsafe { libc::dup3(stand_in.as_raw_fd(), number, libc::O_CLOEXEC) };
    if ret < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `close_range(first, ~0, 0)`
///
/// Every handle to a descriptor numbered `first` or above is void afterwards: for the start of a program that closes
/// what it was not meant to inherit, and for children about to exec.
///
/// # Errors
///
/// None are expected on Linux 5.9 or newer.
///
/// Source: `close_range(2)`.
pub fn close_from(first: RawFd) -> Result<(), Errno> {
    let first = libc::c_uint::try_from(first).map_err(|_| Errno::INVAL)?;
    // SAFETY: the call takes integers; that handles become void is this function's documented meaning.
    let ret = unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// `close_range` over every gap between these, from 3 up
///
/// For a new process that was born with all its parent's descriptors: it keeps the standard streams and `kept`. Every
/// handle to another one is void afterwards.
///
/// # Errors
///
/// None are expected on Linux 5.9 or newer.
///
/// Source: `close_range(2)`.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut numbers: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).filter(|number| *number > 2).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if first < number {
            let range = [first, number - 1].map(|end| libc::c_uint::try_from(end).unwrap_or(libc::c_uint::MAX));
            // SAFETY: the call takes integers; that handles become void is this function's documented meaning.
            let ret = unsafe { libc::close_range(range[0], range[1], 0) };
            if ret != 0 {
                return Err(last_errno());
            }
        }
        first = number + 1;
    }
    close_from(first)
}

/// The descriptor with this number in a process whose table was just arranged by [`replace`].
///
/// # Errors
///
/// - `EBADF`: no descriptor has this number.
///
/// Source: fcntl(2).
pub fn numbered(number: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    // SAFETY: the call takes integers and touches no memory of ours.
    let ret = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if ret < 0 {
        return Err(last_errno());
    }
    // SAFETY: the number is open, and the table that `replace` made is changed by nobody until exec or exit.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{Fork, exit_now, fork};
    use crate::rlimit::{Limit, Resource, set_limit};
    use rustix::process::{WaitOptions, waitpid};
    use std::os::fd::AsFd;

    #[test]
    fn what_is_not_kept_is_closed_around_what_is() {
        let files: Vec<std::fs::File> = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let Fork::Parent(child) = fork().unwrap() else {
            let open = |index: usize| numbered(files[index].as_raw_fd()).is_ok();
            let done = close_all_but(&[files[5].as_fd(), files[2].as_fd(), files[5].as_fd()]);
            let good =
                done.is_ok() && (0..8).all(|index| open(index) == [2, 5].contains(&index)) && numbered(2).is_ok();
            exit_now(if good { 0 } else { 1 })
        };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_replaced_table_holds_the_given_ones_in_order_and_nothing_else() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let Fork::Parent(child) = fork().unwrap() else {
            // Sources in an order that collides with the targets: 1 to 0, 0 to 1.
            let good = replace(&[writer.as_fd(), reader.as_fd(), writer.as_fd()], 2).is_ok()
                && numbered(2).is_ok()
                && numbered(3).is_err()
                && numbered(0).is_ok_and(|fd| rustix::io::write(fd, b"x") == Ok(1))
                && numbered(1).is_ok_and(|fd| rustix::io::read(fd, &mut [0]) == Ok(1))
                && numbered(1).is_ok_and(|fd| rustix::io::fcntl_getfd(fd) == Ok(rustix::io::FdFlags::empty()))
                && numbered(2).is_ok_and(|fd| rustix::io::fcntl_getfd(fd) == Ok(rustix::io::FdFlags::CLOEXEC));
            exit_now(if good { 0 } else { 1 })
        };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_table_is_replaced_under_a_limit_that_is_lower_than_what_was_open() {
        let files: Vec<std::fs::File> = (0..40).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let Fork::Parent(child) = fork().unwrap() else {
            let limited = set_limit(Resource::NOFILE, Limit { soft: 32, hard: 32 });
            let fds: Vec<_> = files[30..].iter().map(AsFd::as_fd).collect();
            let good = limited.is_ok() && replace(&fds, fds.len()).is_ok() && numbered(9).is_ok();
            exit_now(if good { 0 } else { 1 })
        };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }
}
