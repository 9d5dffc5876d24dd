//! Whether the bytes of an image, streaming by from its first to its last, are those that its manifest names.
//!
//! ```text
//!  block 0 ┐           contents, one after another            ┌ metadata region
//!  ────────┴──────────────────────────────────────────────────┴────────────────
//!     └──── one digest of both ─────────────────────────────────────┘
//!             each its own digest, then zeros to the block's end
//! ```
//!
//! The digests were made of the bytes in memory that were written, so this finds what the disk holds otherwise, and a tree
//! whose digests are not those of its contents. Blocks of no content (of an entry that a later one replaced) are
//! nobody's, and no matter what they are.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::BLOCK_BYTES;
use super::content::{Cursor, contents_in_order};
use crate::manifest::ImageFile;
use crate::tree::{FileContent, ImageTree};

/// Zeros of a hole that are hashed between two looks at whether to go on.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The comparison so far.
pub(crate) struct StreamCheck<'image> {
    file: &'image ImageFile,
    /// Where in the image the next bytes lie.
    offset: u64,
    metadata: Sha256,
    current: Option<ContentCheck<'image>>,
    coming: std::vec::IntoIter<&'image FileContent>,
    is_right: bool,
    given_up: &'image AtomicBool,
}

/// A content of which some bytes may have been seen.
struct ContentCheck<'image> {
    cursor: Cursor<'image>,
    hash: Sha256,
}

impl<'image> StreamCheck<'image> {
    /// Begins with an image's first byte. Once `given_up`, it comes to no result any more.
    pub(crate) fn new(tree: &'image ImageTree, file: &'image ImageFile, given_up: &'image AtomicBool) -> Self {
        let contents = contents_in_order(tree, file.metadata_offset / BLOCK_BYTES);
        let is_right = contents.is_some();
        let mut coming = contents.unwrap_or_default().into_iter();
        let current = coming.next().map(ContentCheck::new);
        Self { file, offset: 0, metadata: Sha256::new(), current, coming, is_right, given_up }
    }

    /// Takes the next bytes, which are whole blocks.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let here = self.offset..self.offset + length_of(bytes);
        for part in [0..BLOCK_BYTES, self.file.metadata_offset..self.file.bytes] {
            self.metadata.update(overlap(bytes, &here, &part));
        }
        while let Some(content) = &mut self.current {
            match content.update(bytes, &here, self.given_up) {
                Verdict::Unfinished => break,
                Verdict::Right => {}
                Verdict::Wrong => self.is_right = false,
            }
            self.current = self.coming.next().map(ContentCheck::new);
        }
        self.offset = here.end;
    }

    /// Whether all bytes came and were right.
    pub(crate) fn agrees(self) -> bool {
        let metadata = Sha256Digest(self.metadata.finalize().into());
        self.is_right
            && self.current.is_none()
            && self.offset == self.file.bytes
            && metadata == self.file.metadata_sha256
    }
}

enum Verdict {
    Unfinished,
    Right,
    Wrong,
}

impl<'image> ContentCheck<'image> {
    fn new(content: &'image FileContent) -> Self {
        Self { cursor: Cursor::new(content), hash: Sha256::new() }
    }

    /// Takes what belongs to this content of the image's bytes at `here`.
    fn update(&mut self, bytes: &[u8], here: &Range<u64>, given_up: &AtomicBool) -> Verdict {
        let mut padding: &[u8] = &[];
        while let Some(run) = self.cursor.run() {
            let taken = match run.offset {
                None => {
                    if given_up.load(Ordering::Relaxed) {
                        return Verdict::Unfinished;
                    }
                    let zeros = overlap(&ZEROS, &(0..length_of(&ZEROS)), &(0..run.length));
                    self.hash.update(zeros);
                    length_of(zeros)
                }
                Some(offset) => {
                    let end = offset + run.length;
                    let stored = overlap(bytes, here, &(offset..end));
                    if stored.is_empty() {
                        return Verdict::Unfinished;
                    }
                    self.hash.update(stored);
                    padding = overlap(bytes, here, &(end..end.next_multiple_of(BLOCK_BYTES)));
                    length_of(stored)
                }
            };
            self.cursor.advance(taken);
        }
        let digest = Sha256Digest(self.hash.finalize_reset().into());
        let is_right = digest == self.cursor.content().sha256 && padding.iter().all(|&byte| byte == 0);
        if is_right { Verdict::Right } else { Verdict::Wrong }
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes")
}

/// The part of `bytes`, which lie at `here`, that lies at `wanted`; empty when nothing does.
fn overlap<'bytes>(bytes: &'bytes [u8], here: &Range<u64>, wanted: &Range<u64>) -> &'bytes [u8] {
    let within = |offset: u64| usize::try_from(offset.clamp(here.start, here.end) - here.start).unwrap_or(bytes.len());
    &bytes[within(wanted.start)..within(wanted.end)]
}
