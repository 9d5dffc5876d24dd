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
//! recipe names: on no clock, no host name and no order of directory entries.

mod accounts;
mod assembly;
mod build;
mod busybox;
mod debian;
mod normalise;
mod packages;
mod parse;
pub(crate) mod run;
#[cfg(test)]
mod tests;

pub use accounts::{AccountError, User};
pub use build::{BuildCause, BuildError, BuildRequest, Built};
pub use busybox::BusyboxError;
pub use debian::{BootstrapError, DebianBase};
pub use parse::{Base, FileContent, FileEntry, ParseRecipeError, Recipe, RecipeValueError};
pub use run::{CommandRunner, MountMergedError, NetworkAccess, RunStep, RunStepError, UnfinishedRoot, mount_merged};
