//! Images: build, import, store, verify, stages, export, garbage collection.

pub mod archive;
pub mod attributes;
mod draft;
pub mod erofs;
pub mod manifest;
pub mod path;
pub mod tree;

pub use draft::{DraftError, NewEntry, NewKind, PresentKind, TreeLimits};
