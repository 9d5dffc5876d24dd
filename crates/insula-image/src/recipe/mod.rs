//! Recipes: from a TOML file to an image, the same one each time.
//!
//! ```text
//!  base ──▶ normaliser ──▶ files, users ──▶ image ──── no commands ────▶ published
//!  (mmdebstrap, directory,                    │
//!   tar, busybox, image)                      └─ commands, each in a container over it ──▶ merged view
//!                                                                   ──▶ normaliser ──▶ image ──▶ published
//! ```
//!
//! Nothing is unpacked on the host: the base streams into an image file. Where a recipe has commands, that image is
//! the lower layer of a writable root, each command runs in a container over it, and what the containers then see is
//! walked into the final image. Whoever runs containers implements [`CommandRunner`]; this crate starts none.
//!
//! The digest of what is built depends on the recipe, the packages that the mirror has, and the files that the
//! recipe names: on no clock, no host name and no order of directory entries. With a lock it does not depend on the
//! mirror either: what the mirror does not have any more refuses the build.

mod accounts;
mod archive_lists;
mod assembly;
mod bounds;
mod build;
mod busybox;
mod debian;
mod layer;
mod lock;
mod normalise;
mod packages;
mod parse;
pub(crate) mod run;
mod systemd;
#[cfg(test)]
mod tests;

pub use accounts::{AccountError, User};
pub use build::{BuildCause, BuildError, BuildRequest, Built};
pub use busybox::BusyboxError;
pub use debian::{BootstrapError, DebianBase};
pub use layer::layer_bytes;
pub use lock::{LOCK_BYTES_MAX, LockDifference, LockMismatch, PackageLock, ParseLockError};
pub use parse::{Base, FileContent, FileEntry, ParseRecipeError, Recipe, RecipeValueError};
pub use run::{CommandRunner, MountMergedError, NetworkAccess, RunStep, RunStepError, UnfinishedRoot, mount_merged};
