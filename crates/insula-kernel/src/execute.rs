//! Becoming another program.
#![allow(unsafe_code, reason = "insula-kernel is the only crate that may")]

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::capability::last_errno;

/// `execve(path, argv, envp)`
///
/// Returns only when the program did not start, with the reason:
///
/// - `ENOENT`, `ENOTDIR`: the program, or the interpreter that it names, is not there.
/// - `EACCES`: a directory, a file without execute permission, or one on a mount without exec.
/// - `ENOEXEC`: the kernel knows no such format.
/// - `E2BIG`: arguments and environment are too long.
///
/// Source: execve(2).
#[must_use]
pub fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let argv = Pointers::to(argv);
    let env = Pointers::to(env);
    // SAFETY: the path and both lists are NUL-terminated, the lists' strings outlive the call (`Pointers` borrows
    // them); on success nothing of this process is left to be wrong.
    unsafe { libc::execve(path.as_ptr(), argv.list.as_ptr(), env.list.as_ptr()) };
    last_errno()
}

/// `execveat(file, "", argv, envp, AT_EMPTY_PATH)`
///
/// As [`execute`], but the program is an open file (`O_PATH` is enough).
///
/// Source: execveat(2).
#[must_use]
pub fn execute_file(file: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> Errno {
    let argv = Pointers::to(argv);
    let env = Pointers::to(env);
    // SAFETY: the empty path and both lists are NUL-terminated, the lists' strings outlive the call (`Pointers`
    // borrows them); on success nothing of this process is left to be wrong.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.list.as_ptr(),
            env.list.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// A NULL-terminated list of pointers to strings that it borrows.
struct Pointers<'text> {
    list: Vec<*const c_char>,
    _strings: std::marker::PhantomData<&'text [CString]>,
}

impl<'text> Pointers<'text> {
    fn to(strings: &'text [CString]) -> Self {
        let list = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { list, _strings: std::marker::PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{Fork, exit_now, fork};
    use rustix::process::{WaitOptions, waitpid};

    #[test]
    fn a_program_that_is_not_there_returns_the_reason() {
        assert_eq!(execute(c"/nonexistent", &[c"x".to_owned()], &[]), Errno::NOENT);
        assert_eq!(execute(c"/", &[c"x".to_owned()], &[]), Errno::ACCESS);
    }

    #[test]
    fn a_program_runs_with_its_arguments_by_path_and_by_file() {
        let argv = [c"sh".to_owned(), c"-c".to_owned(), c"exit $CODE".to_owned()];
        let env = [c"CODE=9".to_owned()];
        let shell = std::fs::File::open("/bin/sh").unwrap();
        for by_file in [false, true] {
            let Fork::Parent(child) = fork().unwrap() else {
                let _errno = if by_file {
                    execute_file(std::os::fd::AsFd::as_fd(&shell), &argv, &env)
                } else {
                    execute(c"/bin/sh", &argv, &env)
                };
                exit_now(1)
            };
            let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(9), "by file: {by_file}");
        }
    }
}
