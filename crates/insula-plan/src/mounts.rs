//! Performing [`MountStep`]s: mounts that are attached nowhere yet.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use insula_kernel::clone::{CloneRequest, Cloned, NEW_USER, Parent, clone_process};
use insula_kernel::file_ids::FileIds;
use insula_kernel::fork::exit_now;
use insula_kernel::mount_attributes::set_attributes;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::process::{Gid, Uid, WaitOptions, waitpid};

use crate::beneath;
use crate::failure::StepFailure;
use crate::host_step::{
    Depth, Durability, IdExtent, IdShift, LayerNames, MountAttributes, MountStep, Overlay, OverlayWorker, Owner, Tmpfs,
};
use crate::slot::{FdSlot, Slots};
use crate::workshop::{Visit, Workshop};

/// What a mount step has to know of the container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'fd> {
    /// Its user namespace, whose map was written.
    pub(crate) userns: BorrowedFd<'fd>,
    /// Its root, in ids of the host.
    pub(crate) root: Owner,
    /// Where older kernels need mounts to be attached.
    pub(crate) workshop: &'fd Workshop,
}

/// Does one step.
pub(crate) fn perform(step: &MountStep, slots: &mut Slots, container: Container<'_>) -> Result<(), StepFailure> {
    let (mount, into): (OwnedFd, FdSlot) = match step {
        MountStep::Clone { from, depth, attributes, idmap, into } => {
            let base = slots.get(from.base)?;
            let mount = clone_anything((base, &from.path), *depth, container.workshop)?;
            let shift = id_shift(*idmap, slots, container)?;
            change(mount.as_fd(), (*attributes, shift), || place(base, &from.path))?;
            (mount, *into)
        }
        MountStep::Memory { tmpfs, into } => (memory(tmpfs)?, *into),
        MountStep::Overlay { overlay, into } => (merge(overlay, slots, container)?, *into),
        MountStep::IdMap { uids, gids, into } => (id_map(uids, gids)?, *into),
        MountStep::Change { mount, source, attributes, idmap } => {
            let shift = id_shift(*idmap, slots, container)?;
            return change(slots.get(*mount)?, (*attributes, shift), || source.clone());
        }
    };
    Ok(slots.put(into, mount)?)
}

/// Gives a detached mount attributes and a shift of ids; `path` is whose mount it is, for people.
fn change(
    mount: BorrowedFd<'_>,
    (attributes, shift): (MountAttributes, Option<BorrowedFd<'_>>),
    path: impl Fn() -> String,
) -> Result<(), StepFailure> {
    set_attributes(mount, attributes.0, shift).map_err(|errno| match (errno, shift) {
        (Errno::INVAL, Some(_)) => StepFailure::NotIdmappable { path: path() },
        _ => StepFailure::kernel(format!("mount_setattr({})", path()), errno),
    })
}

/// The user namespace by whose map ids are shifted.
fn id_shift<'fd>(
    shift: IdShift,
    slots: &'fd Slots,
    container: Container<'fd>,
) -> Result<Option<BorrowedFd<'fd>>, StepFailure> {
    Ok(match shift {
        IdShift::None => None,
        IdShift::Container => Some(container.userns),
        IdShift::By(slot) => Some(slots.get(slot)?),
    })
}

/// The path on the host of what lies below a directory.
fn place(base: BorrowedFd<'_>, path: &Path) -> String {
    let directory = rustix::fs::readlink(format!("/proc/self/fd/{}", base.as_raw_fd()), Vec::new());
    directory
        .map_or_else(|_| PathBuf::new(), |name| PathBuf::from(OsString::from_vec(name.into_bytes())))
        .join(path)
        .display()
        .to_string()
}

/// A detached copy of what is mounted at a place.
pub(crate) fn clone_tree(base: BorrowedFd<'_>, path: &Path, depth: Depth) -> Result<OwnedFd, StepFailure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let wrong = |errno| StepFailure::kernel(format!("open_tree({})", path.display()), errno);
    if path.as_os_str().is_empty() {
        return open_tree(base, "", flags).map_err(wrong);
    }
    let place = beneath::open(base, path, OFlags::PATH)?;
    open_tree(&place, "", flags).map_err(wrong)
}

/// The same, also of a mount that is attached nowhere, which kernels before 6.15 refuse.
fn clone_anything(
    (base, path): (BorrowedFd<'_>, &Path),
    depth: Depth,
    workshop: &Workshop,
) -> Result<OwnedFd, StepFailure> {
    match clone_tree(base, path, depth) {
        Err(refused) if refused.errno() == Some(Errno::INVAL.raw_os_error()) => {
            let visit = workshop.enter()?;
            // What is attached elsewhere cannot be placed; then the first answer is the one that says what is wrong.
            visit.place(base).map_err(|_| refused)?;
            clone_tree(base, path, depth)
        }
        cloned => cloned,
    }
}

fn attributes(bits: MountAttributes) -> MountAttrFlags {
    MountAttrFlags::from_bits_retain(bits.0)
}

fn configure(context: &OwnedFd, filesystem: &str, options: &[(&str, String)]) -> Result<(), StepFailure> {
    for (key, value) in options {
        fsconfig_set_string(context, *key, value.as_str())
            .map_err(|errno| StepFailure::kernel(format!("fsconfig({filesystem}, {key}={value})"), errno))?;
    }
    Ok(())
}

/// A file system in memory.
pub(crate) fn memory(tmpfs: &Tmpfs) -> Result<OwnedFd, StepFailure> {
    let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong("fsopen(tmpfs)"))?;
    let mut options = vec![
        ("size", tmpfs.size.to_string()),
        ("mode", format!("{:o}", tmpfs.mode)),
        ("uid", tmpfs.owner.uid.to_string()),
        ("gid", tmpfs.owner.gid.to_string()),
    ];
    if tmpfs.inodes != 0 {
        options.push(("nr_inodes", tmpfs.inodes.to_string()));
    }
    configure(&context, "tmpfs", &options)?;
    fsconfig_create(&context).map_err(wrong("fsconfig(create tmpfs)"))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(tmpfs.attributes)).map_err(wrong("fsmount(tmpfs)"))
}

/// One directory over another.
fn merge(overlay: &Overlay, slots: &Slots, container: Container<'_>) -> Result<OwnedFd, StepFailure> {
    let root = container.root;
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    let lower = beneath::open(slots.get(overlay.lower.base)?, &overlay.lower.path, folder)?;
    let upper = beneath::open(slots.get(overlay.upper.base)?, &overlay.upper.path, folder)?;
    let work = beneath::open(slots.get(overlay.work.base)?, &overlay.work.path, folder)?;
    let visit = match overlay.layers {
        LayerNames::Descriptors => None,
        LayerNames::Paths => Some(container.workshop.enter()?),
    };
    let paths = visit.as_ref().map(|visit| layer_paths(visit, overlay, slots)).transpose()?;
    // Overlayfs works with the credentials of whoever makes it. Dropped when the mount is made.
    let _ids = match overlay.worker {
        OverlayWorker::HostRoot => None,
        OverlayWorker::ContainerRoot => Some(FileIds::become_ids(Uid::from_raw(root.uid), Gid::from_raw(root.gid))),
    };
    let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong("fsopen(overlay)"))?;
    match &paths {
        None => {
            fsconfig_set_fd(&context, "lowerdir+", &lower).map_err(wrong("fsconfig(overlay, lowerdir+)"))?;
            fsconfig_set_fd(&context, "upperdir", &upper).map_err(wrong("fsconfig(overlay, upperdir)"))?;
            fsconfig_set_fd(&context, "workdir", &work).map_err(wrong("fsconfig(overlay, workdir)"))?;
        }
        Some(paths) => configure(&context, "overlay", paths)?,
    }
    let off = ["index", "metacopy", "redirect_dir", "xino"].map(|key| (key, "off".to_owned()));
    configure(&context, "overlay", &off)?;
    if overlay.durability == Durability::Volatile {
        fsconfig_set_flag(&context, "volatile").map_err(wrong("fsconfig(overlay, volatile)"))?;
    }
    fsconfig_create(&context).map_err(wrong("fsconfig(create overlay)"))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(overlay.attributes))
        .map_err(wrong("fsmount(overlay)"))?;
    let state = rustix::fs::fstatvfs(&mount).map_err(wrong("fstatvfs(overlay)"))?;
    if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StepFailure::OverlayReadOnly);
    }
    Ok(mount)
}

/// An overlay's layers in the workshop; upper and work are of one mount there, as the kernel wants it.
fn layer_paths(
    visit: &Visit<'_>,
    overlay: &Overlay,
    slots: &Slots,
) -> Result<[(&'static str, String); 3], StepFailure> {
    let (below, above) = (visit.place(slots.get(overlay.lower.base)?)?, visit.place(slots.get(overlay.upper.base)?)?);
    let path = |path: &Path| path.display().to_string();
    let lower: PathBuf = below.iter().chain(&overlay.lower.path).collect();
    let (upper, work) = (above.join(&overlay.upper.path), above.join(&overlay.work.path));
    Ok([("lowerdir", path(&lower)), ("upperdir", path(&upper)), ("workdir", path(&work))])
}

/// A user namespace with nobody in it: a process is made in it, its maps are written, and only its namespace is kept.
fn id_map(uids: &[IdExtent], gids: &[IdExtent]) -> Result<OwnedFd, StepFailure> {
    let wrong = |call: &'static str| move |errno| StepFailure::kernel(call, errno);
    let (wait, go) = rustix::pipe::pipe().map_err(wrong("pipe"))?;
    let request = CloneRequest { namespaces: NEW_USER, parent: Parent::Caller, cgroup: None };
    let Cloned::Before { pid, .. } = clone_process(&request).map_err(wrong("clone3(user)"))? else {
        drop(go);
        // The end of the pipe is all that is waited for.
        let _end: Result<usize, Errno> = rustix::io::read(&wait, &mut [0]);
        exit_now(0)
    };
    let namespace = write_maps(pid, uids, gids).and_then(|()| open_namespace(pid, "user"));
    drop(go);
    waitpid(Some(pid), WaitOptions::empty()).map_err(wrong("waitpid"))?;
    namespace
}

/// Writes the maps of a new process's user namespace.
pub(crate) fn write_maps(pid: rustix::process::Pid, uids: &[IdExtent], gids: &[IdExtent]) -> Result<(), StepFailure> {
    for (file, extents) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        let lines: Vec<String> =
            extents.iter().map(|extent| format!("{} {} {}\n", extent.disk, extent.host, extent.count)).collect();
        // The kernel takes a map in one write only.
        std::fs::write(&path, lines.concat()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            StepFailure::kernel(format!("write({path})"), errno)
        })?;
    }
    Ok(())
}

/// A handle on a namespace of a process.
pub(crate) fn open_namespace(pid: rustix::process::Pid, kind: &str) -> Result<OwnedFd, StepFailure> {
    let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| StepFailure::kernel(format!("open({path})"), errno))
}
