//! Walks a directory of the host into an image: by file descriptors beneath the root, following nothing.
//!
//! Entries come in the order of the whole paths' bytes, the same order in which our own archives are written. That is
//! not the order of a plain depth-first walk: `a-b` comes before `a/x`, because `-` is below `/`. So each directory
//! is two events, itself and its entries, the second sorted as if its name ended in a slash.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{EntryFilter, add_filtered};
use crate::attributes::{Attributes, Device, DeviceError, Mtime, XattrError, Xattrs};
use crate::draft::{NewEntry, NewKind};
use crate::erofs::{AddEntryError, ImageWriter};
use crate::path::{ImagePath, ImagePathError};

/// What a walk left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkReport {
    /// Extended attributes of name spaces that an image cannot hold.
    pub dropped_attributes: u64,
}

/// A directory could not be walked.
#[derive(Debug, thiserror::Error)]
#[error("walk {path}")]
pub struct WalkError {
    /// The entry at fault, as a path beneath the directory.
    pub path: ImagePath,
    /// Why.
    #[source]
    pub cause: WalkCause,
}

/// Why a directory could not be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkCause {
    /// A system call failed on the entry.
    #[error("{call}")]
    Kernel {
        /// Which.
        call: &'static str,
        /// How.
        #[source]
        errno: Errno,
    },
    /// Another file system is mounted there: what lies in it is not part of the directory.
    #[error("it is a mount point")]
    MountPoint,
    /// It became something else while it was looked at.
    #[error("it changed while it was read")]
    Changed,
    /// A name that no image can have.
    #[error(transparent)]
    Name(#[from] ImagePathError),
    /// An extended attribute that an image must not hold.
    #[error(transparent)]
    Attribute(#[from] XattrError),
    /// A device number out of range.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The image does not take it, or its content could not be read.
    #[error(transparent)]
    Add(#[from] AddEntryError),
}

fn kernel(call: &'static str) -> impl FnOnce(Errno) -> WalkCause {
    move |errno| WalkCause::Kernel { call, errno }
}

/// Puts everything beneath `root` into an image, `root` itself as the image's root. `/proc` must be mounted: the
/// attributes of what cannot be opened are read through it.
///
/// # Errors
///
/// Names the entry; see [`WalkCause`].
pub fn walk_directory(
    root: BorrowedFd<'_>,
    writer: &mut ImageWriter,
    filter: &mut dyn EntryFilter,
) -> Result<WalkReport, WalkError> {
    let at_root = |cause| WalkError { path: ImagePath::root(), cause };
    let mut walk = Walk {
        writer,
        filter,
        links: HashMap::new(),
        report: WalkReport::default(),
        buffer: vec![0; XATTR_BUFFER_BYTES],
    };
    let root = rustix::fs::openat(root, c".", DIRECTORY_FLAGS, Mode::empty())
        .map_err(|errno| at_root(kernel("open")(errno)))?;
    walk.add_root(root.as_fd()).map_err(at_root)?;
    let mut frames = vec![Frame::new(root, ImagePath::root()).map_err(at_root)?];
    while let Some(frame) = frames.last_mut() {
        let Some(event) = frame.events.next() else {
            frames.pop();
            continue;
        };
        let (Event::Entry(name) | Event::Entries(name)) = &event;
        let path = frame.path.join(name.to_bytes()).map_err(|error| at_root(error.into()))?;
        let fail = |cause| WalkError { path: path.clone(), cause };
        match event {
            Event::Entry(name) => {
                if !walk.add(frame.directory.as_fd(), &name, &path).map_err(fail)? {
                    frame.left_out.insert(name);
                }
            }
            Event::Entries(name) if frame.left_out.contains(&name) => {}
            Event::Entries(name) => {
                let directory = open_beneath(frame.directory.as_fd(), &name, DIRECTORY_FLAGS).map_err(fail)?;
                let below = Frame::new(directory, path.clone()).map_err(fail)?;
                frames.push(below);
            }
        }
    }
    Ok(walk.report)
}

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of Linux.
const XATTR_BUFFER_BYTES: usize = 64 << 10;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Not blocking: a pipe that takes a file's place must not hold us.
const FILE_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What is to be done in a directory, in the order of the paths' bytes.
enum Event {
    /// The entry itself.
    Entry(CString),
    /// What lies in it.
    Entries(CString),
}

/// A directory on the way.
struct Frame {
    directory: OwnedFd,
    path: ImagePath,
    events: std::vec::IntoIter<Event>,
    /// Entries that the filter left out, whose own entries are therefore left out.
    left_out: HashSet<CString>,
}

impl Frame {
    fn new(directory: OwnedFd, path: ImagePath) -> Result<Self, WalkCause> {
        let mut events = Vec::new();
        for entry in Dir::read_from(&directory).map_err(kernel("readdir"))? {
            let entry = entry.map_err(kernel("readdir"))?;
            let name = entry.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
                    FileType::from_raw_mode(stat.map_err(kernel("stat"))?.st_mode) == FileType::Directory
                }
                file_type => file_type == FileType::Directory,
            };
            if is_directory {
                events.push(([name.to_bytes(), b"/"].concat(), Event::Entries(name.clone())));
            }
            events.push((name.to_bytes().to_vec(), Event::Entry(name)));
        }
        events.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
        Ok(Self { directory, path, events: events.into_iter(), left_out: HashSet::new() })
    }
}

struct Walk<'walk> {
    writer: &'walk mut ImageWriter,
    filter: &'walk mut dyn EntryFilter,
    /// First path of every inode that has several: device, inode number.
    links: HashMap<(u64, u64), ImagePath>,
    report: WalkReport,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn add_root(&mut self, root: BorrowedFd<'_>) -> Result<(), WalkCause> {
        let stat = rustix::fs::fstat(root).map_err(kernel("stat"))?;
        let xattrs = self.read_xattrs(&XattrSource::Open(root))?;
        let entry = NewEntry { kind: NewKind::Directory, attributes: attributes_of(&stat, xattrs) };
        add_filtered(self.writer, self.filter, ImagePath::root(), entry, &mut io::empty())?;
        Ok(())
    }

    /// Adds one entry; whether it is in the image.
    fn add(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &ImagePath) -> Result<bool, WalkCause> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(kernel("stat"))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1
            && file_type != FileType::Directory
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            let entry = NewEntry { kind: NewKind::HardLink(first.clone()), attributes: Attributes::default() };
            return Ok(add_filtered(self.writer, self.filter, path.clone(), entry, &mut io::empty())?);
        }
        let kind = match file_type {
            FileType::RegularFile => return self.add_file(directory, name, path),
            FileType::Directory => {
                let opened = open_beneath(directory, name, DIRECTORY_FLAGS)?;
                let stat = rustix::fs::fstat(&opened).map_err(kernel("stat"))?;
                let xattrs = self.read_xattrs(&XattrSource::Open(opened.as_fd()))?;
                let entry = NewEntry { kind: NewKind::Directory, attributes: attributes_of(&stat, xattrs) };
                return Ok(add_filtered(self.writer, self.filter, path.clone(), entry, &mut io::empty())?);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(kernel("readlink"))?;
                NewKind::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => NewKind::CharDevice(device_of(&stat)?),
            FileType::BlockDevice => NewKind::BlockDevice(device_of(&stat)?),
            FileType::Fifo => NewKind::Fifo,
            FileType::Socket => NewKind::Socket,
            FileType::Unknown => return Err(WalkCause::Changed),
        };
        let xattrs = self.read_xattrs(&XattrSource::Named(proc_path(directory, name)))?;
        let entry = NewEntry { kind, attributes: attributes_of(&stat, xattrs) };
        let is_in = add_filtered(self.writer, self.filter, path.clone(), entry, &mut io::empty())?;
        self.remember(&stat, path, is_in);
        Ok(is_in)
    }

    fn add_file(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &ImagePath) -> Result<bool, WalkCause> {
        let opened = open_beneath(directory, name, FILE_FLAGS)?;
        let stat = rustix::fs::fstat(&opened).map_err(kernel("stat"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(WalkCause::Changed);
        }
        let xattrs = self.read_xattrs(&XattrSource::Open(opened.as_fd()))?;
        let size = u64::try_from(stat.st_size).map_err(|_| WalkCause::Changed)?;
        let entry = NewEntry { kind: NewKind::File { size }, attributes: attributes_of(&stat, xattrs) };
        let is_in = add_filtered(self.writer, self.filter, path.clone(), entry, &mut File::from(opened))?;
        self.remember(&stat, path, is_in);
        Ok(is_in)
    }

    /// Keeps the first path of an inode that has more, for those.
    fn remember(&mut self, stat: &Stat, path: &ImagePath, is_in: bool) {
        if is_in && stat.st_nlink > 1 {
            self.links.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
        }
    }

    fn read_xattrs(&mut self, source: &XattrSource<'_>) -> Result<Xattrs, WalkCause> {
        let mut xattrs = Xattrs::default();
        let length = match source.list(&mut self.buffer) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => return Ok(xattrs),
            Err(errno) => return Err(kernel("listxattr")(errno)),
        };
        let names = self.buffer[..length].to_vec();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { return Err(WalkCause::Changed) };
            let length = match source.get(name, &mut self.buffer) {
                Ok(length) => length,
                // Taken away since it was listed, or listed by a file system that has no such value.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                Err(errno) => return Err(kernel("getxattr")(errno)),
            };
            match xattrs.insert(name.to_bytes(), &self.buffer[..length]) {
                Ok(()) => {}
                Err(XattrError::NameSpace { .. }) => self.report.dropped_attributes += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(xattrs)
    }
}

/// Where extended attributes are read from.
enum XattrSource<'fd> {
    /// A file or directory.
    Open(BorrowedFd<'fd>),
    /// Something that must not be opened: its directory's entry in `/proc/self/fd`, and its name.
    Named(CString),
}

impl XattrSource<'_> {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Named(path) => rustix::fs::llistxattr(path, buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Named(path) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }
}

/// A path to an entry of an open directory that only its last component can change the meaning of.
fn proc_path(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a name from readdir has no NUL")
}

/// Opens one entry of a directory: no symbolic link, no other mount.
fn open_beneath(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, WalkCause> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::XDEV => WalkCause::MountPoint,
        Errno::LOOP | Errno::NOTDIR => WalkCause::Changed,
        errno => kernel("openat2")(errno),
    })
}

fn device_of(stat: &Stat) -> Result<Device, DeviceError> {
    Device::new(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

fn attributes_of(stat: &Stat, xattrs: Xattrs) -> Attributes {
    let mode = u16::try_from(stat.st_mode & u32::from(Attributes::MODE_BITS)).expect("12 bits");
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).expect("below 10^9");
    let mtime = Mtime { seconds: stat.st_mtime, nanoseconds };
    Attributes { mode, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs }
}
