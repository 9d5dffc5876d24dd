//! The digests of an image's contents, from its bytes as they stream by from the first to the last, and whether these are
//! the bytes that were written.
//!
//! ```text
//!  block 0 ┐           contents, one after another            ┌ metadata region
//!  ────────┴──────────────────────────────────────────────────┴────────────────
//!     └──── one digest of both ─────────────────────────────────────┘
//!                         one sum of it all
//!             each its own digest, then zeros to the block's end
//! ```
//!
//! Sum and metadata are those that the writer of the image names, so this finds what the disk holds otherwise. Blocks of
//! no content (of an entry that a later one replaced) are in the sum alone.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_model::Sha256Digest;
use sha2::{Digest, Sha256};

use super::BLOCK_BYTES;
use super::content::{Cursor, contents_in_order};
use super::contents_sum::{ContentsSum, ContentsSummer};
use crate::manifest::ImageFile;
use crate::tree::{FileContent, ImageTree, InodeIndex};

/// Zeros of a hole that are hashed between two looks at whether to go on.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Digest of a file's content.
pub(crate) type ContentDigest = (InodeIndex, Sha256Digest);

/// What came so far.
pub(crate) struct StreamDigests<'image> {
    file: &'image ImageFile,
    expected: ContentsSum,
    /// Where in the image the next bytes lie.
    offset: u64,
    metadata: Sha256,
    summer: ContentsSummer,
    current: Option<ContentInProgress<'image>>,
    coming: std::vec::IntoIter<(InodeIndex, &'image FileContent)>,
    digests: Vec<ContentDigest>,
    is_right: bool,
    given_up: &'image AtomicBool,
}

/// A content of which some bytes may have come.
struct ContentInProgress<'image> {
    inode: InodeIndex,
    cursor: Cursor<'image>,
    hash: Sha256,
}

impl<'image> StreamDigests<'image> {
    /// Begins with an image's first byte. Once `given_up`, it comes to no result any more.
    pub(crate) fn new(
        tree: &'image ImageTree,
        file: &'image ImageFile,
        expected: ContentsSum,
        given_up: &'image AtomicBool,
    ) -> Self {
        let contents = contents_in_order(tree, file.metadata_offset / BLOCK_BYTES);
        let is_right = contents.is_some();
        let mut coming = contents.unwrap_or_default().into_iter();
        let current = coming.next().map(ContentInProgress::new);
        let (metadata, summer, digests) = (Sha256::new(), ContentsSummer::default(), Vec::new());
        Self { file, expected, offset: 0, metadata, summer, current, coming, digests, is_right, given_up }
    }

    /// Takes the next bytes, which are whole blocks.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let here = self.offset..self.offset + length_of(bytes);
        let contents = BLOCK_BYTES..self.file.metadata_offset;
        for part in [0..contents.start, contents.end..self.file.bytes] {
            self.metadata.update(overlap(bytes, &here, &part));
        }
        self.summer.update(overlap(bytes, &here, &contents));
        while let Some(content) = &mut self.current {
            let Some(ended) = content.update(bytes, &here, self.given_up) else { break };
            self.digests.push((content.inode, ended.sha256));
            self.is_right &= ended.is_padded;
            self.current = self.coming.next().map(ContentInProgress::new);
        }
        self.offset = here.end;
    }

    /// The digests of all contents, when all bytes came and were right.
    pub(crate) fn finish(self) -> Option<Vec<ContentDigest>> {
        let metadata = Sha256Digest(self.metadata.finalize().into());
        let is_right = self.is_right
            && self.current.is_none()
            && self.offset == self.file.bytes
            && self.summer.sum() == self.expected
            && metadata == self.file.metadata_sha256;
        is_right.then_some(self.digests)
    }
}

/// A content that came as a whole.
struct Ended {
    sha256: Sha256Digest,
    /// Whether zeros follow it, to the end of its last block.
    is_padded: bool,
}

impl<'image> ContentInProgress<'image> {
    fn new((inode, content): (InodeIndex, &'image FileContent)) -> Self {
        Self { inode, cursor: Cursor::new(content), hash: Sha256::new() }
    }

    /// Takes what belongs to this content of the image's bytes at `here`; none while more of it is to come.
    fn update(&mut self, bytes: &[u8], here: &Range<u64>, given_up: &AtomicBool) -> Option<Ended> {
        let mut padding: &[u8] = &[];
        while let Some(run) = self.cursor.run() {
            let taken = match run.offset {
                None => {
                    if given_up.load(Ordering::Relaxed) {
                        return None;
                    }
                    let zeros = overlap(&ZEROS, &(0..length_of(&ZEROS)), &(0..run.length));
                    self.hash.update(zeros);
                    length_of(zeros)
                }
                Some(offset) => {
                    let end = offset + run.length;
                    let stored = overlap(bytes, here, &(offset..end));
                    if stored.is_empty() {
                        return None;
                    }
                    self.hash.update(stored);
                    padding = overlap(bytes, here, &(end..end.next_multiple_of(BLOCK_BYTES)));
                    length_of(stored)
                }
            };
            self.cursor.advance(taken);
        }
        let sha256 = Sha256Digest(self.hash.finalize_reset().into());
        Some(Ended { sha256, is_padded: padding.iter().all(|&byte| byte == 0) })
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
