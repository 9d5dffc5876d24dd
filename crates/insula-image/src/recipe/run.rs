//! Commands of a recipe: what they are, and who runs them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use insula_kernel::loop_device::{DeviceAccess, LoopDevice};
use insula_model::Bytes;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use serde::Serialize;

/// What runs scripts; they end at the first command that fails.
pub(super) const SHELL: [&str; 2] = ["/bin/sh", "-ec"];
/// Name of the upper directory in a layer.
pub(super) const UPPER_DIR: &str = "u";
/// Name of the overlay's own directory in a layer.
pub(super) const WORK_DIR: &str = "w";
/// Name of the directory in a layer where the image below is attached for a moment.
const ATTACHED_DIR: &str = "attached";

/// A command that runs in the unfinished root, inside a container, as its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunStep {
    /// Command line; the first word is looked up in the `PATH` of `env`.
    pub command: Vec<String>,
    /// Whether it reaches the network.
    pub network: NetworkAccess,
    /// Longest time that it may take. A bound does not change what is built, so it is not part of the recipe's digest.
    #[serde(skip)]
    pub timeout: Duration,
}

impl RunStep {
    /// The command as the recipe says it: a script, or the words of the command line.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.command)
    }
}

fn shown(command: &[String]) -> String {
    match command {
        [shell, option, script] if [shell.as_str(), option] == SHELL => script.clone(),
        command => command.join(" "),
    }
}

/// Whether a command of a recipe reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkAccess {
    /// It has a loopback and nothing else.
    None,
    /// It has the network of a container.
    Outside,
}

/// The root that the commands of one build run in, one after another: they see what those before them left.
#[derive(Debug, Clone, Copy)]
pub struct UnfinishedRoot<'build> {
    /// The image file below: EROFS, complete, never written to.
    pub image: &'build Path,
    /// Directory on disk for what the commands write: its `u` is the upper directory of an overlay over the image,
    /// its `w` the overlay's own. Files in `u` belong to the ids of the image, unshifted.
    pub layer: &'build Path,
    /// Environment of the commands.
    pub env: &'build BTreeMap<String, String>,
    /// Most bytes that the commands together may leave in the layer.
    pub layer_bytes_max: Bytes,
}

/// A command could not be run or failed.
#[derive(Debug, thiserror::Error)]
pub enum RunStepError {
    /// It ran and did not exit 0.
    #[error("command `{}` ended with code {code}{}", shown(command).escape_debug(), last_words(output))]
    Failed {
        /// Command line.
        command: Vec<String>,
        /// Exit code; 128 and the signal's number when a signal ended it.
        code: i32,
        /// The end of what it wrote.
        output: String,
    },
    /// It did not end in time, and was ended.
    #[error("command `{}` was ended after {limit:?}; raise its timeout_ms", shown(command).escape_debug())]
    TimedOut {
        /// Command line.
        command: Vec<String>,
        /// The time it had.
        limit: Duration,
    },
    /// It wrote too much, or those before it had left too little; it was ended.
    #[error(
        "command `{}` brought what the commands have written to {found}, above {limit}; raise layer_size_max",
        shown(command).escape_debug()
    )]
    LayerFull {
        /// Command line.
        command: Vec<String>,
        /// What there was when it was looked at.
        found: Bytes,
        /// The bound.
        limit: Bytes,
    },
    /// The disk filled up while it ran, and it was ended.
    #[error("command `{}` was ended", shown(command).escape_debug())]
    DiskFull {
        /// Command line.
        command: Vec<String>,
        /// What is kept free, and what was.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The container could not be started, or its root not be read.
    #[error("run a command in the unfinished root")]
    Container(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The end of a command's output on one line.
fn last_words(output: &str) -> String {
    let lines: Vec<String> = output.trim_end().lines().map(|line| line.escape_debug().to_string()).collect();
    if lines.is_empty() { ", without a word".to_owned() } else { format!(": {}", lines.join(" | ")) }
}

/// Runs the commands of recipes in containers.
pub trait CommandRunner {
    /// Runs one command and waits for its end, or ends it when it takes too long or too much of the disk.
    ///
    /// # Errors
    ///
    /// When it does not exit 0, or the container cannot be started. The build ends then.
    fn run(&mut self, root: &UnfinishedRoot<'_>, step: &RunStep) -> Result<(), RunStepError>;

    /// Opens what the commands left: the overlay's merged directory with the ids of the image. Nothing runs in it any
    /// more. The mount lives as long as the descriptor.
    ///
    /// # Errors
    ///
    /// When it cannot be mounted.
    fn open_merged(&mut self, root: &UnfinishedRoot<'_>) -> Result<OwnedFd, RunStepError> {
        mount_merged(root).map_err(|error| RunStepError::Container(Box::new(error)))
    }
}

/// The unfinished root could not be mounted to be read.
#[derive(Debug, thiserror::Error)]
#[error("mount the unfinished root: {call}")]
pub struct MountMergedError {
    /// The call that failed.
    pub call: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Mounts the overlay of an unfinished root, attached nowhere: no mount namespace sees it.
///
/// # Errors
///
/// The kernel refuses a mount.
pub fn mount_merged(root: &UnfinishedRoot<'_>) -> Result<OwnedFd, MountMergedError> {
    mount_overlay(root, MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
}

fn failed(call: &'static str) -> impl Fn(Errno) -> MountMergedError {
    move |errno| MountMergedError { call, source: errno.into() }
}

/// Mounts the overlay with these attributes.
pub(super) fn mount_overlay(
    root: &UnfinishedRoot<'_>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountMergedError> {
    let image = mount_image(root.image)?;
    let by_descriptor = |overlay: BorrowedFd<'_>| fsconfig_set_fd(overlay, "lowerdir+", image.as_fd());
    overlay_over(root, attributes, by_descriptor).or_else(|_| overlay_over_attached(root, attributes, &image))
}

/// Before Linux 6.15 a mount that is attached nowhere is no layer of an overlay: then the image is attached in the layer's
/// directory for as long as the overlay takes to be made.
pub(super) fn overlay_over_attached(
    root: &UnfinishedRoot<'_>,
    attributes: MountAttrFlags,
    image: &OwnedFd,
) -> Result<OwnedFd, MountMergedError> {
    let place = root.layer.join(ATTACHED_DIR);
    std::fs::create_dir_all(&place).map_err(|source| MountMergedError { call: "mkdir", source })?;
    move_mount(image, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed("move_mount"))?;
    let name = format!("/proc/self/fd/{}", image.as_raw_fd());
    let overlay = overlay_over(root, attributes, |overlay| fsconfig_set_string(overlay, "lowerdir", &name));
    unmount(&place, UnmountFlags::DETACH).map_err(failed("umount2"))?;
    overlay
}

/// The image file, mounted and attached nowhere: by itself, or, before Linux 6.12, by a loop device.
pub(crate) fn mount_image(image: &Path) -> Result<OwnedFd, MountMergedError> {
    let mount = |source: &Path| {
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", source)?;
        fsconfig_set_flag(context.as_fd(), "ro")?;
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    match mount(image) {
        Err(Errno::NOTBLK) => {
            let file = File::open(image).map_err(|source| MountMergedError { call: "open", source })?;
            let device =
                LoopDevice::attach(file.as_fd(), DeviceAccess::ReadOnly).map_err(failed("ioctl(LOOP_CONFIGURE)"))?;
            mount(device.path()).map_err(failed("mount of a loop device"))
        }
        mounted => mounted.map_err(failed("mount of an image file")),
    }
}

fn overlay_over(
    root: &UnfinishedRoot<'_>,
    attributes: MountAttrFlags,
    set_lower: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<OwnedFd, MountMergedError> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen(overlay)"))?;
    set_lower(overlay.as_fd()).map_err(failed("fsconfig(lower layer)"))?;
    for (option, name) in [("upperdir", UPPER_DIR), ("workdir", WORK_DIR)] {
        let path = root.layer.join(name);
        fsconfig_set_string(overlay.as_fd(), option, path).map_err(failed("fsconfig(upperdir, workdir)"))?;
    }
    for option in ["index", "metacopy", "redirect_dir", "xino"] {
        fsconfig_set_string(overlay.as_fd(), option, "off").map_err(failed("fsconfig(overlay options)"))?;
    }
    fsconfig_create(overlay.as_fd()).map_err(failed("fsconfig(create overlay)"))?;
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount(overlay)"))
}
