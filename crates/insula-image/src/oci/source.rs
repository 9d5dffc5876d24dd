//! Where the blobs of an OCI image are: a directory, or a tar archive whose members are read in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{DOCKER_MANIFEST_FILE, INDEX_FILE, LAYOUT_FILE, OciImportError};
use crate::archive::{Compression, DecodedStream};
use crate::draft::TreeLimits;
use crate::progress::{Phase, Watch, WatchedReader};

/// An OCI layout, or what `docker save` writes, ready to be imported.
#[derive(Debug)]
pub struct OciSource(Members);

#[derive(Debug)]
enum Members {
    Directory(OwnedFd),
    Archive { file: File, members: BTreeMap<String, Member> },
}

/// Where a member's bytes lie in the archive.
#[derive(Debug, Clone, Copy)]
struct Member {
    offset: u64,
    bytes: u64,
}

/// Most members of an archive: blobs of many images.
const MEMBERS_MAX: usize = 65_536;
/// Entries of an archive that are looked at to tell what it is.
const ENTRIES_SNIFFED: usize = 3;

impl OciSource {
    /// The layout in a directory; none when the directory is no layout.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used.
    pub fn open_directory(directory: &File) -> Result<Option<Self>, OciImportError> {
        match open_beneath(directory, LAYOUT_FILE) {
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(OciImportError::Read { what: LAYOUT_FILE.to_owned(), source: error.into() }),
        }
        let fd = directory.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| OciImportError::Read { what: "the layout".to_owned(), source })?;
        Ok(Some(Self(Members::Directory(fd))))
    }

    /// The layout in an archive; none when the archive holds something else. A compressed archive is written
    /// decompressed into `spool`, an empty file, since its blobs are read in another order than they come.
    ///
    /// # Errors
    ///
    /// When the archive, which looks like a layout, cannot be read.
    pub fn open_archive(
        file: &File,
        limits: &TreeLimits,
        mut spool: File,
        watch: Watch<'_>,
    ) -> Result<Option<Self>, OciImportError> {
        let read = |source| OciImportError::Read { what: "the archive".to_owned(), source };
        let rewound = || -> io::Result<File> {
            let mut own = file.try_clone()?;
            own.rewind()?;
            Ok(own)
        };
        let Ok(stream) = DecodedStream::open(rewound().map_err(read)?, limits) else { return Ok(None) };
        let compression = stream.compression();
        if !looks_like_a_layout(stream) {
            return Ok(None);
        }
        let plain = if matches!(compression, Compression::None) {
            rewound().map_err(read)?
        } else {
            let total = file.metadata().ok().map(|stat| stat.len());
            let input = WatchedReader::new(rewound().map_err(read)?, watch, Phase::Import, total);
            let mut stream = DecodedStream::open(input, limits).map_err(OciImportError::Archive)?;
            io::copy(&mut stream, &mut spool).and_then(|_| spool.flush()).map_err(read)?;
            spool
        };
        let members = list_members(&plain).map_err(read)?;
        let is_layout = [LAYOUT_FILE, INDEX_FILE, DOCKER_MANIFEST_FILE].iter().any(|name| members.contains_key(*name));
        Ok(is_layout.then_some(Self(Members::Archive { file: plain, members })))
    }

    /// Opens a file of the layout; none when it is not there. `name` is one of this module's own names or made of a
    /// parsed digest; for archives of `docker save`, whose table names them, it is looked up and never resolved.
    pub(super) fn open(&self, name: &str) -> io::Result<Option<SourceFile<'_>>> {
        match &self.0 {
            Members::Directory(directory) => match open_beneath(directory, name) {
                Ok(file) => {
                    let file = File::from(file);
                    let stat = file.metadata()?;
                    if !stat.is_file() {
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
                    }
                    Ok(Some(SourceFile { bytes: stat.len(), content: Content::File(file) }))
                }
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Members::Archive { file, members } => {
                let member = members.get(name);
                let open = |member: &Member| SourceFile {
                    bytes: member.bytes,
                    content: Content::Member { file, offset: member.offset, left: member.bytes },
                };
                Ok(member.map(open))
            }
        }
    }
}

/// `openat2(directory, name, O_RDONLY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)`
fn open_beneath(directory: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    // NONBLOCK, so that a pipe in a blob's place is refused for what it is and not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(directory, name, flags, Mode::empty(), resolve)
}

/// A file of a layout, read from its beginning.
#[derive(Debug)]
pub(super) struct SourceFile<'source> {
    pub(super) bytes: u64,
    content: Content<'source>,
}

#[derive(Debug)]
enum Content<'source> {
    File(File),
    Member { file: &'source File, offset: u64, left: u64 },
}

impl Read for SourceFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::File(file) => file.read(buffer),
            Content::Member { file, offset, left } => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let got = file.read_at(&mut buffer[..length], *offset)?;
                let read = u64::try_from(got).map_err(io::Error::other)?;
                *offset += read;
                *left -= read;
                Ok(got)
            }
        }
    }
}

/// Whether the first entries are named like a layout's or `docker save`'s. A root has no such names.
fn looks_like_a_layout(stream: impl Read) -> bool {
    let mut archive = tar::Archive::new(stream);
    let Ok(entries) = archive.entries() else { return false };
    for entry in entries.take(ENTRIES_SNIFFED) {
        let Ok(entry) = entry else { return false };
        let name = plain_name(&entry.path_bytes());
        if name.is_empty() {
            continue;
        }
        let first = name.split('/').next().unwrap_or_default();
        let stem = first.strip_suffix(".json").or(first.strip_suffix(".tar")).unwrap_or(first);
        let is_hex = stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_hex || ["blobs", "repositories", LAYOUT_FILE, INDEX_FILE, DOCKER_MANIFEST_FILE].contains(&first);
    }
    false
}

/// A member's name without `./` and trailing slashes.
fn plain_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let name = name.trim_end_matches('/');
    name.strip_prefix("./").unwrap_or(if name == "." { "" } else { name }).to_owned()
}

/// Where each regular member lies. Contents are passed over by seeking.
fn list_members(file: &File) -> io::Result<BTreeMap<String, Member>> {
    let mut reader = file.try_clone()?;
    reader.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(reader);
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let member = Member { offset: entry.raw_file_position(), bytes: entry.size() };
        members.insert(plain_name(&entry.path_bytes()), member);
        if members.len() > MEMBERS_MAX {
            return Err(io::Error::other(format!("it has more than {MEMBERS_MAX} members")));
        }
    }
    Ok(members)
}
