//! Finding and becoming the program: `PATH` and the codes 126 and 127 as shells have them.

use std::ffi::{CStr, CString};

use insula_kernel::execute::execute;
use insula_plan::protocol::process::SpawnFailure;
use rustix::io::Errno;

/// Where programs are searched when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes `argv[0]`; returns only with the reason why not.
pub(super) fn run(argv: &[CString], env: &[CString]) -> SpawnFailure {
    let Some(program) = argv.first() else {
        return SpawnFailure::Unusable { reason: "the command line is empty".to_owned() };
    };
    let search = !program.as_bytes().contains(&b'/');
    let candidates = if search { candidates(program, env) } else { vec![program.clone()] };
    let mut denied = None;
    for candidate in &candidates {
        match execute(candidate, argv, env) {
            Errno::NOENT | Errno::NOTDIR => {}
            // Another directory may have one that can be run.
            errno @ (Errno::ACCESS | Errno::NOEXEC | Errno::PERM) if search => {
                denied = denied.or(Some((candidate, errno)));
            }
            errno => return not_executable(candidate, errno),
        }
    }
    match denied {
        Some((candidate, errno)) => not_executable(candidate, errno),
        None => SpawnFailure::NotFound { program: super::shown(program), searched: search },
    }
}

fn not_executable(program: &CStr, errno: Errno) -> SpawnFailure {
    SpawnFailure::NotExecutable { program: super::shown(program), errno: errno.raw_os_error() }
}

fn candidates(program: &CStr, env: &[CString]) -> Vec<CString> {
    if program.is_empty() {
        return Vec::new();
    }
    let path = super::variable(env, b"PATH").unwrap_or(DEFAULT_PATH);
    path.split(|&byte| byte == b':')
        .filter_map(|directory| {
            // An empty entry is the working directory (environ(7)).
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", program.to_bytes()].concat()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_searched_in_order_and_its_empty_entry_is_here() {
        let env = [c"PATH=/old".to_owned(), c"PATH=/a::/b".to_owned()];
        let found = candidates(c"x", &env);
        assert_eq!(found, [c"/a/x".to_owned(), c"./x".to_owned(), c"/b/x".to_owned()]);
        assert_eq!(candidates(c"x", &[]).len(), 6);
    }

    #[test]
    fn what_is_absent_is_not_found_and_what_cannot_run_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("plain"), b"x").unwrap();
        let env = [CString::new(format!("PATH=/nonexistent:{}", scratch.path().display())).unwrap()];
        let absent = run(&[c"absent".to_owned()], &env);
        assert_eq!(absent, SpawnFailure::NotFound { program: "absent".into(), searched: true });
        let plain = run(&[c"plain".to_owned()], &env);
        let program = scratch.path().join("plain").display().to_string();
        assert_eq!(plain, SpawnFailure::NotExecutable { program, errno: 13 });
        assert_eq!(run(&[c"/nonexistent/x".to_owned()], &env).exit_code(), 127);
        assert_eq!(run(&[c"/tmp".to_owned()], &env).exit_code(), 126);
        assert_eq!(run(&[c"".to_owned()], &env).exit_code(), 127);
    }
}
