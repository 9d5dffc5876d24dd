//! The sum that goes with an image's contents from whoever writes them to whoever reads them back from the disk.
//!
//! It finds what a disk loses or changes, as fast as memory is read. It is no digest: what an image is known by is made
//! of the bytes that came back, by whoever publishes it.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// XXH3, of 64 bits, of an image from its second block to its metadata region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentsSum(pub u64);

/// A sum in the making.
#[derive(Default)]
pub(super) struct ContentsSummer(XxHash3_64);

impl ContentsSummer {
    /// Adds the bytes that come next.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The sum of all that came.
    pub(super) fn sum(&self) -> ContentsSum {
        ContentsSum(self.0.finish())
    }
}
