//! Bytes of a file, read from an image by the placement that its tree records.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{BLOCK_BITS, BLOCK_BYTES, blocks_of};
use crate::tree::{FileContent, Placement};

/// Reads a file of an image from its beginning to its end; holes read as zeros. It keeps no buffer: read in pieces
/// of 64 KiB and more.
#[derive(Debug)]
pub struct ContentReader<'image> {
    image: &'image File,
    content: &'image FileContent,
    position: u64,
}

impl<'image> ContentReader<'image> {
    /// Reads `content`, which comes from the tree of `image`.
    #[must_use]
    pub fn new(image: &'image File, content: &'image FileContent) -> Self {
        Self { image, content, position: 0 }
    }
}

/// Whether every stored byte of `content` lies between the superblock's block and block `end`.
pub(crate) fn lies_before(content: &FileContent, end: u64) -> bool {
    let (first, stored) = match &content.placement {
        Placement::Blocks { first } => (*first, blocks_of(content.size)),
        Placement::Chunks(map) => {
            let chunk_blocks = 1u64 << (u32::from(map.chunk_bits) - u32::from(BLOCK_BITS));
            let stored = map.stored.iter().map(|run| u64::from(run.count).saturating_mul(chunk_blocks));
            (map.first, stored.fold(0, u64::saturating_add).min(blocks_of(content.size)))
        }
    };
    stored == 0 || first > 0 && u64::from(first).saturating_add(stored) <= end
}

/// A run of a file's bytes: where in the image, none for a hole; how many.
struct Run {
    offset: Option<u64>,
    length: u64,
}

/// The run that begins at `position` of a file, at most to the file's end.
fn run_at(content: &FileContent, position: u64) -> Run {
    let rest = content.size - position;
    match &content.placement {
        Placement::Blocks { first } => Run { offset: Some(u64::from(*first) * BLOCK_BYTES + position), length: rest },
        Placement::Chunks(map) => {
            let chunk_bytes = 1u64 << map.chunk_bits;
            let mut offset = u64::from(map.first) * BLOCK_BYTES;
            for run in &map.stored {
                let start = u64::from(run.start) * chunk_bytes;
                let end = start + u64::from(run.count) * chunk_bytes;
                if position < start {
                    return Run { offset: None, length: rest.min(start - position) };
                }
                if position < end {
                    return Run { offset: Some(offset + position - start), length: rest.min(end - position) };
                }
                offset += end - start;
            }
            Run { offset: None, length: rest }
        }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.content.size || buffer.is_empty() {
            return Ok(0);
        }
        let run = run_at(self.content, self.position);
        let length = usize::try_from(run.length).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        match run.offset {
            None => buffer.fill(0),
            Some(offset) => self.image.read_exact_at(buffer, offset)?,
        }
        self.position += u64::try_from(length).map_err(io::Error::other)?;
        Ok(length)
    }
}
