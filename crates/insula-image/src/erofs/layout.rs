//! Where every inode of a tree stands in the metadata region: pure arithmetic over the tree.
//!
//! Inodes stand in the order of the tree, so the root is first and its number fits the 16 bits that the superblock
//! has for it. Three rules of the kernel decide the gaps: an inode begins on a slot of 32 bytes; what is inline lies
//! in one block together with its inode; number 0 would be a directory entry that readers skip, so slot 0 is empty.

use super::{BLOCK_BYTES, DIRENT_BYTES, INODE_BYTES, SLOT_BYTES, blocks_of};
use crate::attributes::Xattrs;
use crate::attributes::split_name;
use crate::tree::{ImageTree, InodeKind, Placement};

/// Where the body of a directory or link target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Slot of the inode.
    pub(super) slot: u32,
    /// First block of the body, counted from the end of the inodes.
    pub(super) body_block: u32,
    /// Whole blocks of the body.
    pub(super) body_blocks: u32,
    /// The rest of the body stands behind the inode.
    pub(super) is_inline: bool,
}

/// Places of all inodes of a tree, and the directories' entries.
#[derive(Debug)]
pub(super) struct Layout {
    /// By inode index.
    pub(super) places: Vec<Place>,
    /// Blocks of the inodes, before the bodies' blocks.
    pub(super) inode_blocks: u64,
    /// Blocks of the bodies.
    pub(super) body_blocks: u64,
    /// By inode index: number of paths, or for directories 2 and one for each directory in them.
    pub(super) links: Vec<u32>,
    children: Children,
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirent<'tree> {
    pub(super) name: &'tree [u8],
    /// Index of the inode it names.
    pub(super) inode: u32,
}

/// Entries of every directory: indexes of tree entries, grouped by directory.
#[derive(Debug)]
struct Children {
    /// By inode index: where its group begins; one more at the end.
    starts: Vec<u32>,
    grouped: Vec<u32>,
    /// By inode index: inode of the directory above; the root's own is itself.
    parents: Vec<u32>,
}

impl Layout {
    pub(super) fn new(tree: &ImageTree) -> Self {
        let (children, links) = group_children(tree);
        let mut layout =
            Self { places: Vec::with_capacity(tree.inodes().len()), inode_blocks: 0, body_blocks: 0, links, children };
        let mut position = SLOT_BYTES;
        for (index, inode) in tree.inodes().iter().enumerate() {
            let xattrs = xattr_bytes(&inode.attributes.xattrs);
            let body = layout.body_bytes(tree, index);
            let tail = body % BLOCK_BYTES;
            let has_body = matches!(inode.kind, InodeKind::Directory | InodeKind::Symlink(_));
            let is_inline = has_body && tail > 0 && INODE_BYTES + xattrs + tail <= BLOCK_BYTES;
            let inline = if is_inline { INODE_BYTES + xattrs + tail } else { INODE_BYTES };
            position = position.next_multiple_of(SLOT_BYTES);
            if position % BLOCK_BYTES + inline > BLOCK_BYTES {
                position = position.next_multiple_of(BLOCK_BYTES);
            }
            let whole = match (has_body, is_inline) {
                (false, _) => 0,
                (true, true) => body / BLOCK_BYTES,
                (true, false) => blocks_of(body),
            };
            layout.places.push(Place {
                slot: narrow(position / SLOT_BYTES),
                body_block: narrow(layout.body_blocks),
                body_blocks: narrow(whole),
                is_inline,
            });
            layout.body_blocks += whole;
            position += INODE_BYTES + xattrs + if is_inline { tail } else { 0 } + chunk_map_bytes(&inode.kind);
        }
        layout.inode_blocks = blocks_of(position);
        layout
    }

    /// Bytes of a directory's entries or a link's target.
    pub(super) fn body_bytes(&self, tree: &ImageTree, index: usize) -> u64 {
        match &tree.inodes()[index].kind {
            InodeKind::Directory => {
                let mut bytes = 0;
                let mut blocks = 0;
                for_each_block(&self.dirents(tree, index), |_, used| {
                    blocks += 1;
                    bytes = (blocks - 1) * BLOCK_BYTES + u64::try_from(used).expect("at most a block");
                });
                bytes
            }
            InodeKind::Symlink(target) => u64::try_from(target.len()).expect("at most 4095 bytes"),
            _ => 0,
        }
    }

    /// All entries of a directory with `.` and `..`, in the order of their names' bytes.
    pub(super) fn dirents<'tree>(&self, tree: &'tree ImageTree, index: usize) -> Vec<Dirent<'tree>> {
        let group =
            &self.children.grouped[to_usize(self.children.starts[index])..to_usize(self.children.starts[index + 1])];
        let mut dirents = Vec::with_capacity(group.len() + 2);
        dirents.extend(group.iter().map(|child| {
            let entry = &tree.entries()[to_usize(*child)];
            Dirent { name: entry.path.name(), inode: entry.inode.0 }
        }));
        let this = u32::try_from(index).expect("inodes are counted in 32 bits");
        for (name, inode) in [(&b"."[..], this), (b"..", self.children.parents[index])] {
            let at = dirents.partition_point(|dirent| dirent.name < name);
            dirents.insert(at, Dirent { name, inode });
        }
        dirents
    }

    /// Blocks of the whole metadata region.
    pub(super) fn blocks(&self) -> u64 {
        self.inode_blocks + self.body_blocks
    }
}

/// Cuts a directory's entries into blocks: calls back with each block's entries and the bytes they use.
pub(super) fn for_each_block<'a, 'tree>(
    dirents: &'a [Dirent<'tree>],
    mut block: impl FnMut(&'a [Dirent<'tree>], usize),
) {
    let block_bytes = usize::try_from(BLOCK_BYTES).expect("4096");
    let mut start = 0;
    let mut used = 0;
    for (index, dirent) in dirents.iter().enumerate() {
        let bytes = DIRENT_BYTES + dirent.name.len();
        if used + bytes > block_bytes {
            block(&dirents[start..index], used);
            start = index;
            used = 0;
        }
        used += bytes;
    }
    block(&dirents[start..], used);
}

fn group_children(tree: &ImageTree) -> (Children, Vec<u32>) {
    let count = tree.inodes().len();
    let mut starts = vec![0u32; count + 1];
    let mut parents = vec![0u32; count];
    let mut links: Vec<u32> =
        tree.inodes().iter().map(|inode| if inode.kind == InodeKind::Directory { 2 } else { 0 }).collect();
    let mut above = Vec::with_capacity(tree.entries().len());
    let mut guess = 0;
    for entry in tree.entries() {
        if entry.path.is_root() {
            above.push(0);
            continue;
        }
        guess = tree.parent_from(entry, guess).expect("a tree is complete");
        let parent = tree.entries()[guess].inode;
        above.push(parent.0);
        starts[parent.get() + 1] += 1;
        if tree.inode(entry.inode).kind == InodeKind::Directory {
            parents[entry.inode.get()] = parent.0;
            links[parent.get()] += 1;
        } else {
            links[entry.inode.get()] += 1;
        }
    }
    for index in 0..count {
        starts[index + 1] += starts[index];
    }
    let mut next = starts.clone();
    let mut grouped = vec![0u32; tree.entries().len() - 1];
    for (index, parent) in above.iter().enumerate().skip(1) {
        let at = &mut next[to_usize(*parent)];
        grouped[to_usize(*at)] = u32::try_from(index).expect("entries are counted in 32 bits");
        *at += 1;
    }
    (Children { starts, grouped, parents }, links)
}

/// Bytes of the attributes behind an inode: a header of 12 and the entries, each on 4; none without attributes.
pub(super) fn xattr_bytes(xattrs: &Xattrs) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    let entry = |(name, value): (&[u8], &[u8])| {
        let suffix = split_name(name).map_or(name.len(), |(_, suffix)| suffix.len());
        (4 + suffix + value.len()).next_multiple_of(4)
    };
    12 + u64::try_from(xattrs.iter().map(entry).sum::<usize>()).expect("at most 128 KiB")
}

/// Chunks of a file with holes.
pub(super) fn chunk_count(size: u64, chunk_bits: u8) -> u64 {
    size.div_ceil(1 << chunk_bits)
}

fn chunk_map_bytes(kind: &InodeKind) -> u64 {
    match kind {
        InodeKind::File(content) => match &content.placement {
            Placement::Chunks(map) => 4 * chunk_count(content.size, map.chunk_bits),
            Placement::Blocks { .. } => 0,
        },
        _ => 0,
    }
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).expect("entries and names are bounded far below 2^32 slots")
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).expect("usize has at least 32 bits")
}
