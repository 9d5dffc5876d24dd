//! Opening what lies below a directory without following anything that could lead out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::failure::{StepFailure, TargetProblem};

/// No link of any kind is followed on the way, and the way ends below `root`.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(NO_LINKS);
/// The same for absolute paths, which begin at `root`.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(NO_LINKS);
/// A link at the end of the way is refused too, but only without `O_NOFOLLOW`: together with `O_PATH` that flag asks for
/// the link itself, and these flags then let it through.
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` below `base`; `base` itself when it is empty.
pub(crate) fn open(base: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, StepFailure> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)
        .map_err(|errno| explain(path, errno))
}

/// Opens an absolute path of the root directory `root`.
pub(crate) fn open_target(root: BorrowedFd<'_>, target: &str, flags: OFlags) -> Result<OwnedFd, StepFailure> {
    rustix::fs::openat2(root, target, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT)
        .map_err(|errno| explain(Path::new(target), errno))
}

/// Opens `path` below `base` if nothing is mounted on the way; `EXDEV` says that something is.
pub(crate) fn open_on_one_mount(base: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH.union(ResolveFlags::NO_XDEV))
}

/// What an errno of a lookup says about the path.
fn explain(path: &Path, errno: Errno) -> StepFailure {
    let target = path.display().to_string();
    match errno {
        Errno::NOENT => StepFailure::Target { target, problem: TargetProblem::Missing },
        Errno::LOOP => StepFailure::Target { target, problem: TargetProblem::SymbolicLink },
        Errno::NOTDIR => StepFailure::Target { target, problem: TargetProblem::NotDirectory },
        errno => StepFailure::kernel(format!("openat2({target})"), errno),
    }
}

/// Whether the failure only says that nothing is there.
pub(crate) fn is_missing(failure: &StepFailure) -> bool {
    matches!(failure, StepFailure::Target { problem: TargetProblem::Missing, .. })
}

/// The parent directory of `path` below `base`, and the last name.
pub(crate) fn parent<'path>(
    base: BorrowedFd<'_>,
    path: &'path Path,
) -> Result<(OwnedFd, &'path std::ffi::OsStr), StepFailure> {
    let reason = || StepFailure::BadPlan { reason: format!("`{}` names no file", path.display()) };
    let name = path.file_name().ok_or_else(reason)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok((open(base, folder, OFlags::PATH | OFlags::DIRECTORY)?, name))
}

/// Makes `target` in `root` with all its parents: a directory, or an empty file.
pub(crate) fn make_target(root: BorrowedFd<'_>, target: &str, directory: bool) -> Result<(), StepFailure> {
    let names: Vec<&str> = target.split('/').filter(|name| !name.is_empty()).collect();
    let mut at = open(root, Path::new(""), OFlags::PATH | OFlags::DIRECTORY)?;
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        let made = if last && !directory {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(&at, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(&at, *name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(StepFailure::kernel(format!("make {target}"), errno)),
        }
        if !last {
            at = open(at.as_fd(), Path::new(name), OFlags::PATH | OFlags::DIRECTORY)?;
        }
    }
    Ok(())
}
