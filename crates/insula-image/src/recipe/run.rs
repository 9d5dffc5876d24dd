//! Commands of a recipe: what they are, and who runs them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use serde::Serialize;

/// Name of the upper directory in a layer.
pub(super) const UPPER_DIR: &str = "u";
/// Name of the overlay's own directory in a layer.
pub(super) const WORK_DIR: &str = "w";

/// A command that runs in the unfinished root, inside a container, as its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunStep {
    /// Command line; the first word is looked up in the `PATH` of `env`.
    pub command: Vec<String>,
    /// Whether it reaches the network.
    pub network: NetworkAccess,
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
}

/// A command could not be run or failed.
#[derive(Debug, thiserror::Error)]
pub enum RunStepError {
    /// It ran and did not exit 0.
    #[error("command `{}` ended with code {code}{}", command.join(" ").escape_debug(), last_words(output))]
    Failed {
        /// Command line.
        command: Vec<String>,
        /// Exit code; 128 and the signal's number when a signal ended it.
        code: i32,
        /// The end of what it wrote.
        output: String,
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
    /// Runs one command and waits for its end.
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
/// Before Linux 6.12 an image file is no source of a mount, and before 6.15 a mount that is attached nowhere is no
/// layer of an overlay.
pub fn mount_merged(root: &UnfinishedRoot<'_>) -> Result<OwnedFd, MountMergedError> {
    mount_overlay(root, MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Mounts the overlay with these attributes.
pub(super) fn mount_overlay(
    root: &UnfinishedRoot<'_>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, MountMergedError> {
    let failed = |call| move |error: Errno| MountMergedError { call, source: error.into() };
    let image = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen(erofs)"))?;
    fsconfig_set_string(image.as_fd(), "source", root.image).map_err(failed("fsconfig(source)"))?;
    fsconfig_set_flag(image.as_fd(), "ro").map_err(failed("fsconfig(ro)"))?;
    fsconfig_create(image.as_fd()).map_err(failed("fsconfig(create erofs)"))?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let image = fsmount(image.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, read_only).map_err(failed("fsmount(erofs)"))?;
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen(overlay)"))?;
    fsconfig_set_fd(overlay.as_fd(), "lowerdir+", image.as_fd()).map_err(failed("fsconfig(lowerdir+)"))?;
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
