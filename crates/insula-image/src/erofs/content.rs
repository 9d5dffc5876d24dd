//! Bytes of a file, read from an image by the placement that its tree records.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{BLOCK_BYTES, blocks_of};
use crate::tree::{FileContent, ImageTree, InodeIndex, InodeKind, Placement};

/// Reads a file of an image from its beginning to its end; holes read as zeros. It keeps no buffer: read in pieces
/// of 64 KiB and more.
#[derive(Debug)]
pub struct ContentReader<'image> {
    image: &'image File,
    cursor: Cursor<'image>,
}

impl<'image> ContentReader<'image> {
    /// Reads `content`, which comes from the tree of `image`.
    #[must_use]
    pub fn new(image: &'image File, content: &'image FileContent) -> Self {
        Self { image, cursor: Cursor::new(content) }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(run) = self.cursor.run() else { return Ok(0) };
        let length = usize::try_from(run.length).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        match run.offset {
            None => buffer.fill(0),
            Some(offset) => self.image.read_exact_at(buffer, offset)?,
        }
        self.cursor.advance(u64::try_from(length).map_err(io::Error::other)?);
        Ok(length)
    }
}

/// A run of a file's bytes: where in the image, none for a hole; how many, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: Option<u64>,
    pub(super) length: u64,
}

/// A place in a file, which moves on from run to run.
#[derive(Debug)]
pub(super) struct Cursor<'tree> {
    content: &'tree FileContent,
    position: u64,
    /// Where in the image the next stored byte lies.
    offset: u64,
    /// How many stored runs lie before the position.
    runs_behind: usize,
}

impl<'tree> Cursor<'tree> {
    /// At the beginning.
    pub(super) fn new(content: &'tree FileContent) -> Self {
        Self { content, position: 0, offset: first_block(content) * BLOCK_BYTES, runs_behind: 0 }
    }

    /// What lies here, to the end of the run; none at the end of the file.
    pub(super) fn run(&self) -> Option<Run> {
        let rest = self.content.size - self.position;
        if rest == 0 {
            return None;
        }
        let (start, end) = match &self.content.placement {
            Placement::Blocks { .. } => (0, self.content.size),
            Placement::Chunks(map) => match map.stored.get(self.runs_behind) {
                None => return Some(Run { offset: None, length: rest }),
                Some(run) => {
                    let start = u64::from(run.start) << map.chunk_bits;
                    (start, start + (u64::from(run.count) << map.chunk_bits))
                }
            },
        };
        Some(if self.position < start {
            Run { offset: None, length: rest.min(start - self.position) }
        } else {
            Run { offset: Some(self.offset), length: rest.min(end - self.position) }
        })
    }

    /// Moves on by `bytes`, at most to the end of the run.
    pub(super) fn advance(&mut self, bytes: u64) {
        let Some(Run { offset, length }) = self.run() else { return };
        let bytes = bytes.min(length);
        self.position += bytes;
        if offset.is_some() {
            self.offset += bytes;
            self.runs_behind += usize::from(bytes == length);
        }
    }
}

fn first_block(content: &FileContent) -> u64 {
    match &content.placement {
        Placement::Blocks { first } => u64::from(*first),
        Placement::Chunks(map) => u64::from(map.first),
    }
}

/// Blocks of the image that are a content's own.
fn stored_blocks(content: &FileContent) -> u64 {
    let Placement::Chunks(map) = &content.placement else { return blocks_of(content.size) };
    let bytes = map.stored.iter().map(|run| {
        let start = u64::from(run.start) << map.chunk_bits;
        (start + (u64::from(run.count) << map.chunk_bits)).min(content.size) - start
    });
    blocks_of(bytes.sum())
}

/// The contents of a tree in the order in which they lie in the image. None when one lies, in whole or in part, outside
/// the blocks between the first one and block `end`, or on blocks of another one.
pub(crate) fn contents_in_order(tree: &ImageTree, end: u64) -> Option<Vec<(InodeIndex, &FileContent)>> {
    let files = (0..).map(InodeIndex).zip(tree.inodes()).filter_map(|(index, inode)| match &inode.kind {
        InodeKind::File(content) => Some((index, content)),
        _ => None,
    });
    let mut contents: Vec<_> = files.collect();
    contents.sort_by_key(|(_, content)| first_block(content));
    let mut free = 1;
    for (_, content) in contents.iter().filter(|(_, content)| stored_blocks(content) > 0) {
        if first_block(content) < free {
            return None;
        }
        free = first_block(content) + stored_blocks(content);
    }
    (free <= end).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::path::ImagePath;
    use crate::tree::{ChunkMap, ChunkRun, Inode, TreeEntry, UNREAD};

    fn content(size: u64, placement: Placement) -> FileContent {
        FileContent { size, sha256: UNREAD, placement }
    }

    /// In chunks of 64 KiB, of which these are stored.
    fn sparse(size: u64, first: u32, stored: &[(u32, u32)]) -> FileContent {
        let stored = stored.iter().map(|&(start, count)| ChunkRun { start, count }).collect();
        content(size, Placement::Chunks(Box::new(ChunkMap { first, chunk_bits: 16, stored })))
    }

    /// A tree of files with these contents.
    fn tree(contents: &[FileContent]) -> ImageTree {
        let inode = |kind| Inode { attributes: Attributes::of_root(0o644), kind };
        let entry = |path: &str, at| TreeEntry { path: ImagePath::parse(path).unwrap(), inode: InodeIndex(at) };
        let mut parts = (vec![entry("", 0)], vec![inode(InodeKind::Directory)]);
        for (content, at) in contents.iter().zip(1..) {
            parts.0.push(entry(&format!("{at}"), at));
            parts.1.push(inode(InodeKind::File(content.clone())));
        }
        ImageTree::from_parts(parts.0, parts.1).unwrap()
    }

    #[test]
    fn a_cursor_goes_from_run_to_run() {
        const CHUNK: u64 = 64 << 10;
        let stored = |block: u64, length| Run { offset: Some(block * BLOCK_BYTES), length };
        let hole = |length| Run { offset: None, length };
        for (content, expected) in [
            (content(0, Placement::EMPTY), vec![]),
            (content(5000, Placement::Blocks { first: 7 }), vec![stored(7, 5000)]),
            (sparse(CHUNK + 9, 0, &[]), vec![hole(CHUNK + 9)]),
            (
                sparse(3 * CHUNK + 9, 4, &[(1, 1), (3, 1)]),
                vec![hole(CHUNK), stored(4, CHUNK), hole(CHUNK), stored(20, 9)],
            ),
            (sparse(3 * CHUNK, 4, &[(0, 1), (1, 1)]), vec![stored(4, CHUNK), stored(20, CHUNK), hole(CHUNK)]),
        ] {
            let mut cursor = Cursor::new(&content);
            let mut runs = Vec::new();
            while let Some(run) = cursor.run() {
                runs.push(run);
                // In two steps, of which the second one wants more than there is.
                cursor.advance(1);
                cursor.advance(if run.length == 1 { 0 } else { u64::MAX });
            }
            assert_eq!(runs, expected, "{content:?}");
        }
    }

    #[test]
    fn contents_have_their_order_and_no_block_twice() {
        let plain = |first, size| content(size, Placement::Blocks { first });
        let holes_and_nine_bytes = sparse(65_536 + 9, 3, &[(1, 1)]);
        let fitting = tree(&[holes_and_nine_bytes.clone(), plain(1, 8192), content(0, Placement::EMPTY)]);
        let firsts = |contents: Vec<(InodeIndex, &FileContent)>| {
            contents.into_iter().map(|(_, content)| first_block(content)).collect::<Vec<_>>()
        };
        assert_eq!(contents_in_order(&fitting, 4).map(firsts), Some(vec![0, 1, 3]));
        assert_eq!(contents_in_order(&fitting, 3), None, "the last one lies beyond");
        for (what, contents) in [
            ("the same block", [plain(1, 8192), plain(2, 1)]),
            ("the same beginning", [plain(1, 1), plain(1, 1)]),
            ("the superblock", [plain(0, 1), plain(2, 1)]),
        ] {
            assert_eq!(contents_in_order(&tree(&contents), 9), None, "{what}");
        }
    }
}
