//! A tree in the making: entries arrive in any order, and what comes out is the sorted, complete tree.
//!
//! Here are the rules of names that repeat, parents that never come, hard links, and the bounds on what a foreign
//! archive may make us remember. No content and no file system is here: file contents are a placement and a digest
//! that arrive later.
//!
//! A repeated name replaces what was there, as tar does it, but a directory is replaced only by a directory (which
//! keeps its entries) or when it is empty, and nothing is ever put beneath something that is not a directory: an
//! archive that turns a directory into a symbolic link and goes on through it is refused.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::attributes::{Attributes, Device};
use crate::path::ImagePath;
use crate::tree::{FileContent, ImageTree, Inode, InodeIndex, InodeKind, Placement, TreeEntry, UNREAD};

/// An entry on its way into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// What it is.
    pub kind: NewKind,
    /// Mode, owner, time, extended attributes. A hard link has those of its target, so they do not count there.
    pub attributes: Attributes,
}

impl NewEntry {
    /// Another name of a file; its attributes are the file's own.
    #[must_use]
    pub fn hard_link(target: ImagePath) -> Self {
        Self { kind: NewKind::HardLink(target), attributes: Attributes::default() }
    }
}

/// Kind of an entry on its way into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKind {
    /// Directory.
    Directory,
    /// Regular file of `size` bytes, which come from the reader beside it.
    File {
        /// Bytes of the file, holes counted.
        size: u64,
    },
    /// Symbolic link to these bytes.
    Symlink(Box<[u8]>),
    /// Second name of what is, or will be, at this path.
    HardLink(ImagePath),
    /// Character device.
    CharDevice(Device),
    /// Block device.
    BlockDevice(Device),
    /// Named pipe.
    Fifo,
    /// Socket's name.
    Socket,
}

/// Kind of what is at a path of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresentKind {
    /// A directory.
    Directory,
    /// A regular file, or a hard link to one.
    File,
    /// A symbolic link, a device, a pipe or a socket.
    Special,
    /// A hard link whose target has not come yet.
    PendingLink,
}

/// Bounds on a tree from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeLimits {
    /// Most entries.
    pub entries_max: u32,
    /// Most bytes of all files together, holes counted.
    pub content_bytes_max: u64,
    /// Most bytes of all names, link targets and extended attributes together.
    pub metadata_bytes_max: u64,
}

impl TreeLimits {
    /// What a node takes unless it is configured otherwise: a million entries, 64 GiB of content, 256 MiB of names.
    #[must_use]
    pub fn standard() -> Self {
        Self { entries_max: 1_000_000, content_bytes_max: 64 << 30, metadata_bytes_max: 256 << 20 }
    }
}

/// An entry that cannot be part of the tree. The path is in the error of whoever adds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The root, or an entry that is to be the root, is not a directory.
    #[error("the root is not a directory")]
    RootNotDirectory,
    /// A directory with entries would become something else.
    #[error("a directory that has entries is replaced by something else")]
    ReplacesDirectory,
    /// Something that is not a directory lies on the way.
    #[error("{parent} on the way is not a directory")]
    ParentNotDirectory {
        /// What lies on the way.
        parent: ImagePath,
    },
    /// A hard link to a directory, or to itself.
    #[error("hard link to {target}, which is a directory or the link itself")]
    LinkToDirectory {
        /// Where it points.
        target: ImagePath,
    },
    /// A hard link to a name that never came.
    #[error("hard link to {target}, which is not there")]
    LinkTargetMissing {
        /// Where it points.
        target: ImagePath,
    },
    /// A symbolic link to nothing, to more than 4095 bytes, or with a NUL.
    #[error("symbolic link has a target of {length} bytes; 1 to 4095 without NUL are possible")]
    SymlinkTarget {
        /// Bytes of the target.
        length: usize,
    },
    /// Character device 0:0, which overlays take for "deleted".
    #[error("character device 0:0 would hide files of other layers")]
    Whiteout,
    /// More entries than the limit.
    #[error("more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u32,
    },
    /// More content than the limit.
    #[error("more than {max} bytes of content")]
    TooMuchContent {
        /// The limit.
        max: u64,
    },
    /// Longer names, targets and attributes than the limit.
    #[error("more than {max} bytes of names and attributes")]
    TooMuchMetadata {
        /// The limit.
        max: u64,
    },
}

/// Directories that every image has: made when nobody brought them.
const STANDARD_DIRECTORIES: [(&str, u16); 7] =
    [("data", 0o755), ("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sw", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// A hard link whose target has not come; as an inode index of a slot.
const PENDING: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    path: ImagePath,
    inode: u32,
    children: u32,
}

/// The entries so far.
#[derive(Debug)]
pub(crate) struct Draft {
    limits: TreeLimits,
    slots: Vec<Slot>,
    inodes: Vec<Inode>,
    /// Slot by hash of its path; equal hashes go to the next free number. Slots are never removed, so a gap ends a
    /// search. The hash is keyed, so an archive cannot choose collisions. A map keyed by paths would hold each twice.
    index: HashMap<u64, u32>,
    hasher: RandomState,
    pending_links: Vec<(u32, ImagePath)>,
    content_bytes: u64,
    metadata_bytes: u64,
}

impl Draft {
    pub(crate) fn new(limits: TreeLimits) -> Self {
        let mut draft = Self {
            limits,
            slots: Vec::new(),
            inodes: Vec::new(),
            index: HashMap::new(),
            hasher: RandomState::new(),
            pending_links: Vec::new(),
            content_bytes: 0,
            metadata_bytes: 0,
        };
        draft.push_slot(ImagePath::root(), 0);
        draft.inodes.push(made_directory(0o755));
        draft
    }

    /// Where the search for a path ended: its slot, or the free hash number.
    fn search(&self, path: &[u8]) -> Result<u32, u64> {
        let mut hash = self.hasher.hash_one(path);
        while let Some(&slot) = self.index.get(&hash) {
            if self.slot(slot).path.as_bytes() == path {
                return Ok(slot);
            }
            hash = hash.wrapping_add(1);
        }
        Err(hash)
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.slots[to_usize(slot)]
    }

    fn push_slot(&mut self, path: ImagePath, inode: u32) -> u32 {
        let hash = match self.search(path.as_bytes()) {
            Ok(slot) => return slot,
            Err(hash) => hash,
        };
        let slot = to_u32(self.slots.len());
        self.metadata_bytes += u64::try_from(path.as_bytes().len()).expect("a path has at most 4095 bytes");
        self.slots.push(Slot { path, inode, children: 0 });
        self.index.insert(hash, slot);
        slot
    }

    /// What is at a path so far.
    pub(crate) fn kind(&self, path: &ImagePath) -> Option<PresentKind> {
        let slot = self.search(path.as_bytes()).ok()?;
        Some(match self.inode_kind(slot) {
            None => PresentKind::PendingLink,
            Some(InodeKind::Directory) => PresentKind::Directory,
            Some(InodeKind::File(_)) => PresentKind::File,
            Some(_) => PresentKind::Special,
        })
    }

    fn inode_kind(&self, slot: u32) -> Option<&InodeKind> {
        self.inodes.get(to_usize(self.slot(slot).inode)).map(|inode| &inode.kind)
    }

    fn is_directory(&self, slot: u32) -> bool {
        matches!(self.inode_kind(slot), Some(InodeKind::Directory))
    }

    /// Puts an entry into the tree. Gives the inode to which a file's content is to be reported.
    pub(crate) fn add(&mut self, path: ImagePath, entry: NewEntry) -> Result<InodeIndex, DraftError> {
        self.check(&path, &entry)?;
        if let NewKind::File { size } = entry.kind {
            self.content_bytes += size;
        }
        self.make_parent(&path)?;
        let kind = match entry.kind {
            NewKind::HardLink(target) => return self.add_link(path, target),
            NewKind::Directory => InodeKind::Directory,
            NewKind::File { size } => {
                InodeKind::File(FileContent { size, sha256: UNREAD, placement: Placement::EMPTY })
            }
            NewKind::Symlink(target) => {
                self.metadata_bytes += u64::try_from(target.len()).unwrap_or(u64::MAX);
                InodeKind::Symlink(target)
            }
            NewKind::CharDevice(device) => InodeKind::CharDevice(device),
            NewKind::BlockDevice(device) => InodeKind::BlockDevice(device),
            NewKind::Fifo => InodeKind::Fifo,
            NewKind::Socket => InodeKind::Socket,
        };
        self.metadata_bytes += u64::try_from(entry.attributes.xattrs.stored_bytes()).unwrap_or(u64::MAX);
        let mut attributes = entry.attributes;
        attributes.mode &= Attributes::MODE_BITS;
        let inode = to_u32(self.inodes.len());
        self.inodes.push(Inode { attributes, kind });
        self.put(path, inode)?;
        self.check_bounds()?;
        Ok(InodeIndex(inode))
    }

    /// Everything that needs no look at other entries.
    fn check(&self, path: &ImagePath, entry: &NewEntry) -> Result<(), DraftError> {
        if path.is_root() && entry.kind != NewKind::Directory {
            return Err(DraftError::RootNotDirectory);
        }
        match &entry.kind {
            NewKind::Symlink(target) if target.is_empty() || target.len() > 4095 || target.contains(&0) => {
                Err(DraftError::SymlinkTarget { length: target.len() })
            }
            NewKind::CharDevice(device) if device.major() == 0 && device.minor() == 0 => Err(DraftError::Whiteout),
            NewKind::File { size } if size.saturating_add(self.content_bytes) > self.limits.content_bytes_max => {
                Err(DraftError::TooMuchContent { max: self.limits.content_bytes_max })
            }
            _ => Ok(()),
        }
    }

    /// Replaced entries count too: they took memory, and a bound that forgets them bounds nothing.
    fn check_bounds(&self) -> Result<(), DraftError> {
        let entries_max = self.limits.entries_max;
        if self.inodes.len() > to_usize(entries_max) || self.slots.len() > to_usize(entries_max) {
            return Err(DraftError::TooManyEntries { max: entries_max });
        }
        if self.metadata_bytes > self.limits.metadata_bytes_max {
            return Err(DraftError::TooMuchMetadata { max: self.limits.metadata_bytes_max });
        }
        Ok(())
    }

    /// Makes the directories above `path` that have not come (yet).
    fn make_parent(&mut self, path: &ImagePath) -> Result<(), DraftError> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(parent) = above {
            match self.search(parent.as_bytes()) {
                Ok(slot) if self.is_directory(slot) => break,
                Ok(_) => return Err(DraftError::ParentNotDirectory { parent }),
                Err(_) => {}
            }
            above = parent.parent();
            missing.push(parent);
        }
        for directory in missing.into_iter().rev() {
            let inode = to_u32(self.inodes.len());
            self.inodes.push(made_directory(0o755));
            self.put(directory, inode)?;
            self.check_bounds()?;
        }
        Ok(())
    }

    /// Points a path at an inode; its parent is there.
    fn put(&mut self, path: ImagePath, inode: u32) -> Result<u32, DraftError> {
        if let Ok(slot) = self.search(path.as_bytes()) {
            let becomes_directory =
                self.inodes.get(to_usize(inode)).is_some_and(|inode| inode.kind == InodeKind::Directory);
            if self.is_directory(slot) && !becomes_directory {
                if path.is_root() {
                    return Err(DraftError::RootNotDirectory);
                }
                if self.slot(slot).children > 0 {
                    return Err(DraftError::ReplacesDirectory);
                }
            }
            self.slots[to_usize(slot)].inode = inode;
            return Ok(slot);
        }
        if let Some(parent) = path.parent_bytes() {
            let parent = self.search(parent).expect("make_parent went before");
            self.slots[to_usize(parent)].children += 1;
        }
        Ok(self.push_slot(path, inode))
    }

    fn add_link(&mut self, path: ImagePath, target: ImagePath) -> Result<InodeIndex, DraftError> {
        if path == target {
            return Err(DraftError::LinkToDirectory { target });
        }
        let inode = match self.search(target.as_bytes()) {
            Ok(slot) if self.is_directory(slot) => return Err(DraftError::LinkToDirectory { target }),
            Ok(slot) => self.slot(slot).inode,
            Err(_) => PENDING,
        };
        let slot = self.put(path, inode)?;
        if inode == PENDING {
            self.metadata_bytes += u64::try_from(target.as_bytes().len()).expect("a path has at most 4095 bytes") + 24;
            self.pending_links.push((slot, target));
        }
        self.check_bounds()?;
        Ok(InodeIndex(inode))
    }

    /// Records what was read and written for a file.
    pub(crate) fn set_placement(&mut self, inode: InodeIndex, placed: Placement) {
        if let Some(Inode { kind: InodeKind::File(content), .. }) = self.inodes.get_mut(inode.get()) {
            content.placement = placed;
        }
    }

    /// The sorted, complete tree. The error names the entry that is at fault.
    pub(crate) fn into_tree(mut self) -> Result<ImageTree, (ImagePath, DraftError)> {
        for (name, mode) in STANDARD_DIRECTORIES {
            let path = ImagePath::parse(name).expect("these are paths");
            if self.kind(&path).is_none() {
                let entry = NewEntry { kind: NewKind::Directory, attributes: Attributes::of_root(mode) };
                self.add(path.clone(), entry).map_err(|error| (path, error))?;
            }
        }
        self.resolve_links()?;
        self.index = HashMap::new();
        self.slots.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let renumbered = self.renumber();
        let inodes = reorder(self.inodes, renumbered);
        let entries =
            self.slots.into_iter().map(|slot| TreeEntry { path: slot.path, inode: InodeIndex(slot.inode) }).collect();
        Ok(ImageTree::from_parts(entries, inodes).expect("the draft kept parents, roots and order"))
    }

    /// Gives hard links that came before their targets their inodes. Links to links resolve in any order, in as
    /// many rounds as such a chain is long, bounded by what each round resolves.
    fn resolve_links(&mut self) -> Result<(), (ImagePath, DraftError)> {
        let mut pending = std::mem::take(&mut self.pending_links);
        // A slot may have been replaced by a later entry of the same name since.
        pending.retain(|(slot, _)| self.slot(*slot).inode == PENDING);
        let by_slot: HashMap<u32, u32> =
            pending.iter().filter_map(|(slot, target)| Some((*slot, self.search(target.as_bytes()).ok()?))).collect();
        for (slot, target) in &pending {
            let mut end = *slot;
            let mut steps = 0;
            while self.slot(end).inode == PENDING {
                steps += 1;
                end = match by_slot.get(&end) {
                    Some(next) if steps <= LINK_CHAIN_MAX => *next,
                    _ => {
                        let error = DraftError::LinkTargetMissing { target: target.clone() };
                        return Err((self.slot(*slot).path.clone(), error));
                    }
                };
            }
            if self.is_directory(end) {
                let error = DraftError::LinkToDirectory { target: target.clone() };
                return Err((self.slot(*slot).path.clone(), error));
            }
            self.slots[to_usize(*slot)].inode = self.slot(end).inode;
        }
        Ok(())
    }

    /// New index of each inode, by first path; `None` for replaced ones. Slots are renumbered on the way.
    fn renumber(&mut self) -> Vec<u32> {
        let mut renumbered = vec![PENDING; self.inodes.len()];
        let mut next = 0;
        for slot in &mut self.slots {
            let new = &mut renumbered[to_usize(slot.inode)];
            if *new == PENDING {
                *new = next;
                next += 1;
            }
            slot.inode = *new;
        }
        renumbered
    }
}

/// Longest chain of hard links to hard links that all come before their target: nobody makes more than one.
const LINK_CHAIN_MAX: u32 = 16;

/// Puts inodes at their new indexes, in place; those without one are dropped.
fn reorder(mut inodes: Vec<Inode>, mut renumbered: Vec<u32>) -> Vec<Inode> {
    let mut kept = 0;
    for index in 0..inodes.len() {
        if renumbered[index] != PENDING {
            inodes.swap(kept, index);
            renumbered.swap(kept, index);
            kept += 1;
        }
    }
    inodes.truncate(kept);
    for index in 0..kept {
        while to_usize(renumbered[index]) != index {
            let wanted = to_usize(renumbered[index]);
            inodes.swap(index, wanted);
            renumbered.swap(index, wanted);
        }
    }
    inodes
}

fn made_directory(mode: u16) -> Inode {
    Inode { attributes: Attributes::of_root(mode), kind: InodeKind::Directory }
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).expect("usize has at least 32 bits")
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("the entry limit is below 2^32")
}
