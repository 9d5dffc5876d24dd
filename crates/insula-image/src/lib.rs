//! Images: build, import, store, verify, stages, export, garbage collection.

pub mod archive;
pub mod attributes;
pub mod collect;
pub mod convert;
pub mod diff;
mod direct;
mod draft;
pub mod erofs;
pub mod manifest;
pub mod mount_target;
pub mod oci;
pub mod path;
pub mod progress;
#[cfg(test)]
mod property_cases;
pub mod recipe;
pub mod signature;
pub mod store;
pub mod time_zone;
pub mod tree;

pub use draft::{DraftError, NewEntry, NewKind, PresentKind, TreeLimits};
