//! The tree of an image: every path, what is there, and where its bytes lie in the image file.
//!
//! ```text
//!  entries, sorted by path bytes        inodes, in the order of their first path
//!  (root)       ───────────────────────▶ 0  directory 0755
//!  bin          ───────────────────────▶ 1  symlink usr/bin
//!  usr          ───────────────────────▶ 2  directory
//!  usr/bin      ───────────────────────▶ 3  directory
//!  usr/bin/perl ───────────────────────▶ 4  file, size, SHA-256, blocks 17..
//!  usr/bin/perl5.36 ─── (hard link) ────▲
//! ```
//!
//! A tree is complete: the root is the first entry, every other entry's parent is there and is a directory, every
//! inode has a path, a directory exactly one. [`ImageTree::from_parts`] checks it; nobody else makes one.
//!
//! Building one from entries that arrive in any order is the `draft` module's work, writing it as a file system
//! that of [`crate::erofs`].

use insula_model::Sha256Digest;

use crate::attributes::{Attributes, Device};
use crate::path::ImagePath;

/// Index of an inode in its tree: [`ImageTree::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeIndex(pub u32);

impl InodeIndex {
    pub(crate) fn get(self) -> usize {
        usize::try_from(self.0).expect("usize has at least 32 bits")
    }
}

/// A path of a tree and the inode it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Where it is.
    pub path: ImagePath,
    /// What is there.
    pub inode: InodeIndex,
}

/// What a path of an image names: attributes and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Mode, owner, time, extended attributes.
    pub attributes: Attributes,
    /// Kind and content.
    pub kind: InodeKind,
}

/// Kind of an inode with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// Directory; its entries are those whose paths lie directly beneath it.
    Directory,
    /// Regular file.
    File(FileContent),
    /// Symbolic link to these bytes, 1 to 4095, never resolved by us.
    Symlink(Box<[u8]>),
    /// Character device.
    CharDevice(Device),
    /// Block device.
    BlockDevice(Device),
    /// Named pipe.
    Fifo,
    /// Socket's name.
    Socket,
}

/// Bytes of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Bytes of the file, holes counted.
    pub size: u64,
    /// Digest of these bytes; [`UNREAD`] until the image is published.
    pub sha256: Sha256Digest,
    /// Where they lie in the image file.
    pub placement: Placement,
}

/// In a digest's place while nobody has read the bytes back from the disk.
pub const UNREAD: Sha256Digest = Sha256Digest([0; 32]);

/// Where a file's bytes lie in the image file, in blocks of 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// One run of blocks, the last one padded with zeros. An empty file is at block 0.
    Blocks {
        /// First block.
        first: u32,
    },
    /// A file with holes.
    Chunks(Box<ChunkMap>),
}

/// Which chunks of a file with holes are stored; the stored ones lie one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    /// First block of the first stored chunk; 0 when none is stored.
    pub first: u32,
    /// Binary logarithm of the bytes of a chunk: 16 to 43.
    pub chunk_bits: u8,
    /// Runs of stored chunks, ascending, with holes between them.
    pub stored: Vec<ChunkRun>,
}

/// Consecutive chunks of a file that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRun {
    /// Index of the first chunk.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The complete tree of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTree {
    entries: Vec<TreeEntry>,
    inodes: Vec<Inode>,
}

/// Parts that do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The first entry is not the root, or the root is not a directory.
    #[error("tree has no root directory")]
    NoRoot,
    /// Entries are not in the order of their paths' bytes, or a path is there twice.
    #[error("entry {path} is out of order")]
    Order {
        /// The later entry.
        path: ImagePath,
    },
    /// An entry's parent is missing or is not a directory.
    #[error("entry {path} lies in no directory")]
    NoParent {
        /// The entry.
        path: ImagePath,
    },
    /// Inodes are not in the order of their first paths, or an index has no inode, or an inode no path.
    #[error("inodes are out of order at {path}")]
    InodeOrder {
        /// The entry whose inode is wrong.
        path: ImagePath,
    },
    /// A directory has two paths.
    #[error("directory {path} is a hard link")]
    LinkedDirectory {
        /// The second path.
        path: ImagePath,
    },
}

impl ImageTree {
    /// Makes a tree of entries sorted by path and inodes in the order of their first paths.
    ///
    /// # Errors
    ///
    /// See the variants of [`TreeError`].
    pub fn from_parts(entries: Vec<TreeEntry>, inodes: Vec<Inode>) -> Result<Self, TreeError> {
        let tree = Self { entries, inodes };
        tree.check()?;
        Ok(tree)
    }

    fn check(&self) -> Result<(), TreeError> {
        let (Some(root), Some(Inode { kind: InodeKind::Directory, .. })) = (self.entries.first(), self.inodes.first())
        else {
            return Err(TreeError::NoRoot);
        };
        if !root.path.is_root() {
            return Err(TreeError::NoRoot);
        }
        if let Some(pair) = self.entries.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return Err(TreeError::Order { path: pair[1].path.clone() });
        }
        let mut seen = 0;
        let mut parent = 0;
        for entry in &self.entries {
            let path = || entry.path.clone();
            let inode = self.inodes.get(entry.inode.get()).ok_or_else(|| TreeError::InodeOrder { path: path() })?;
            match entry.inode.get() {
                index if index == seen => seen += 1,
                index if index > seen => return Err(TreeError::InodeOrder { path: path() }),
                _ if inode.kind == InodeKind::Directory => return Err(TreeError::LinkedDirectory { path: path() }),
                _ => {}
            }
            if entry.path.is_root() {
                continue;
            }
            parent = self.parent_from(entry, parent).ok_or_else(|| TreeError::NoParent { path: path() })?;
        }
        if seen != self.inodes.len() {
            let path = self.entries.last().map_or_else(ImagePath::root, |entry| entry.path.clone());
            return Err(TreeError::InodeOrder { path });
        }
        Ok(())
    }

    /// Index of the entry of the directory that holds `entry`. `guess` is tried first: neighbours mostly share it.
    pub(crate) fn parent_from(&self, entry: &TreeEntry, guess: usize) -> Option<usize> {
        let wanted = entry.path.parent_bytes()?;
        let index = match self.entries.get(guess) {
            Some(guessed) if guessed.path.as_bytes() == wanted => guess,
            _ => self.entries.binary_search_by(|entry| entry.path.as_bytes().cmp(wanted)).ok()?,
        };
        let inode = self.inodes.get(self.entries[index].inode.get())?;
        (inode.kind == InodeKind::Directory).then_some(index)
    }

    /// All paths, sorted by their bytes; the root is first.
    #[must_use]
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// All inodes, in the order of their first paths.
    #[must_use]
    pub fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// The inode of an entry of this tree.
    ///
    /// # Panics
    ///
    /// When `index` comes from another tree.
    #[must_use]
    pub fn inode(&self, index: InodeIndex) -> &Inode {
        &self.inodes[index.get()]
    }

    /// What is at a path.
    #[must_use]
    pub fn find(&self, path: &ImagePath) -> Option<&Inode> {
        let index = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        Some(self.inode(self.entries[index].inode))
    }

    /// Entries in order with their inodes, and for the second and later paths of an inode its first path.
    pub fn iter(&self) -> impl Iterator<Item = TreeItem<'_>> {
        let mut first_paths: Vec<&ImagePath> = Vec::new();
        self.entries.iter().map(move |entry| {
            let linked_to = first_paths.get(entry.inode.get()).copied();
            if linked_to.is_none() {
                first_paths.push(&entry.path);
            }
            TreeItem { path: &entry.path, index: entry.inode, inode: self.inode(entry.inode), linked_to }
        })
    }

    /// Records the digest of a file's content.
    pub(crate) fn set_digest(&mut self, index: InodeIndex, sha256: Sha256Digest) {
        if let Some(Inode { kind: InodeKind::File(content), .. }) = self.inodes.get_mut(index.get()) {
            content.sha256 = sha256;
        }
    }

    /// Sum of the sizes of all files, each inode once, holes counted.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let size = |inode: &Inode| if let InodeKind::File(content) = &inode.kind { content.size } else { 0 };
        self.inodes.iter().map(size).fold(0, u64::saturating_add)
    }
}

/// One entry of a tree as [`ImageTree::iter`] gives it.
#[derive(Debug, Clone, Copy)]
pub struct TreeItem<'tree> {
    /// Where it is.
    pub path: &'tree ImagePath,
    /// Which inode of the tree.
    pub index: InodeIndex,
    /// What is there.
    pub inode: &'tree Inode,
    /// The inode's first path, when this is not it: then this entry is a hard link.
    pub linked_to: Option<&'tree ImagePath>,
}

impl Placement {
    /// An empty file's.
    pub const EMPTY: Self = Self::Blocks { first: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Inode {
        Inode { attributes: Attributes::of_root(0o755), kind: InodeKind::Directory }
    }

    fn fifo() -> Inode {
        Inode { attributes: Attributes::of_root(0o644), kind: InodeKind::Fifo }
    }

    fn entry(path: &str, inode: u32) -> TreeEntry {
        TreeEntry { path: ImagePath::parse(path).unwrap(), inode: InodeIndex(inode) }
    }

    #[test]
    fn incomplete_or_disordered_parts_make_no_tree() {
        let refusal = |entries: Vec<TreeEntry>, inodes| ImageTree::from_parts(entries, inodes).unwrap_err();
        assert_eq!(refusal(vec![], vec![]), TreeError::NoRoot);
        assert_eq!(refusal(vec![entry("", 0)], vec![fifo()]), TreeError::NoRoot);
        let twice = refusal(vec![entry("", 0), entry("a", 1), entry("a", 1)], vec![directory(), fifo()]);
        assert!(matches!(twice, TreeError::Order { .. }));
        let orphan = refusal(vec![entry("", 0), entry("a/b", 1)], vec![directory(), fifo()]);
        assert!(matches!(orphan, TreeError::NoParent { .. }));
        let in_file = refusal(vec![entry("", 0), entry("a", 1), entry("a/b", 2)], vec![directory(), fifo(), fifo()]);
        assert!(matches!(in_file, TreeError::NoParent { .. }));
        let linked = refusal(vec![entry("", 0), entry("a", 1), entry("b", 1)], vec![directory(), directory()]);
        assert!(matches!(linked, TreeError::LinkedDirectory { .. }));
        let unnamed = refusal(vec![entry("", 0)], vec![directory(), fifo()]);
        assert!(matches!(unnamed, TreeError::InodeOrder { .. }));
        let skipped = refusal(vec![entry("", 0), entry("a", 2)], vec![directory(), fifo(), fifo()]);
        assert!(matches!(skipped, TreeError::InodeOrder { .. }));
    }

    #[test]
    fn later_paths_of_an_inode_are_links_to_its_first() {
        let entries = vec![entry("", 0), entry("a", 1), entry("b", 2), entry("c", 1)];
        let tree = ImageTree::from_parts(entries, vec![directory(), fifo(), fifo()]).unwrap();
        let links: Vec<_> = tree.iter().map(|item| item.linked_to.map(ToString::to_string)).collect();
        assert_eq!(links, [None, None, None, Some("/a".to_owned())]);
    }
}
