//! Reads tar archives entry by entry: ustar, GNU and PAX, with their long names, attributes and files with holes.
//!
//! The header's layout is the `tar` crate's; everything that decides is here, because a reader that resyncs, guesses
//! or skips what it does not know can be made to see another archive than the next reader. So: every checksum must
//! be right, content only where the type has content, the end marker must be there, and what is not understood is
//! refused by its name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use tar::{EntryType, Header};

use super::compression::Compression;
use super::numbers::parse_field;
use super::pax::PaxFields;
use super::sparse::{SEGMENTS_MAX, SparseCursor, SparseMap};
use crate::attributes::{Attributes, Device, DeviceError, Mtime, XattrError};
use crate::draft::{NewEntry, NewKind};
use crate::path::{ImagePath, ImagePathError, escape_start};

const BLOCK: usize = 512;
/// Most bytes of a PAX header: the largest attributes of an inode, and names.
const PAX_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of a GNU long name.
const LONG_NAME_BYTES_MAX: u64 = 64 << 10;
/// The stream is read in pieces of this many bytes.
const STREAM_BUFFER_BYTES: usize = 256 << 10;

/// An archive is not one we take.
#[derive(Debug, thiserror::Error)]
#[error("{}", place(entry.as_deref(), *offset))]
pub struct ReadArchiveError {
    /// The entry at fault, escaped, when its name is known.
    pub entry: Option<String>,
    /// Byte of the decompressed archive where its header, or what should be one, begins.
    pub offset: u64,
    /// Why.
    #[source]
    pub cause: ReadArchiveCause,
}

fn place(entry: Option<&str>, offset: u64) -> String {
    match entry {
        Some(name) => format!("archive entry `{name}` at byte {offset}"),
        None if offset == 0 => "archive".to_owned(),
        None => format!("archive at byte {offset}"),
    }
}

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadArchiveCause {
    /// No byte at all.
    #[error("it is empty")]
    Empty,
    /// An end marker and nothing before it.
    #[error("it holds no entries")]
    NoEntries,
    /// The first block is no tar header.
    #[error("it is not a tar archive, nor one under gzip or zstd")]
    NotTar,
    /// Another format.
    #[error("it is a {name} file; pack it as tar, plain or under gzip or zstd")]
    ForeignFormat {
        /// Which.
        name: &'static str,
    },
    /// It ends in the middle, or without its end marker.
    #[error("it is truncated")]
    Truncated,
    /// A header's checksum is wrong.
    #[error("the header is damaged: its checksum is wrong")]
    Checksum,
    /// A number in a header is none, or out of range.
    #[error("the header is damaged: field `{field}` is not a number in range")]
    Field {
        /// Which.
        field: &'static str,
    },
    /// The compressed bytes are damaged or cut short.
    #[error("its {compression:?} compression is damaged or cut short")]
    Decompress {
        /// Which.
        compression: Compression,
        /// What the decompressor says.
        #[source]
        error: io::Error,
    },
    /// A bomb.
    #[error("it expands to more than {times} times its size")]
    Expands {
        /// The bound.
        times: u64,
    },
    /// More bytes than the limits of content and entries allow.
    #[error("it is longer than {max} bytes")]
    TooLong {
        /// The bound.
        max: u64,
    },
    /// A name that no image can have.
    #[error(transparent)]
    Name(#[from] ImagePathError),
    /// An entry without a name.
    #[error("the name is empty")]
    NoName,
    /// A kind of entry that images do not have.
    #[error("it is of the unknown type {shown:?}")]
    Type {
        /// The header's type character.
        shown: char,
    },
    /// A directory, link or device that says it has content: readers differ on where the next header is.
    #[error("it declares {size} bytes of content, which its type cannot have")]
    UnexpectedContent {
        /// The bytes.
        size: u64,
    },
    /// A device number out of range.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An extended attribute that an image must not hold.
    #[error(transparent)]
    Attribute(#[from] XattrError),
    /// An extended header that is longer than any honest one.
    #[error("its extended header has {size} bytes; the most is {max}")]
    LongHeader {
        /// The bytes.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// A record of an extended header that is none.
    #[error("its extended header is damaged")]
    PaxRecord,
    /// A record of an extended header with a value that the key cannot have.
    #[error("its extended header is damaged: `{key}`")]
    PaxValue {
        /// The key, escaped.
        key: String,
    },
    /// A map of holes that does not fit its file.
    #[error("its map of holes is damaged")]
    SparseMap,
    /// The archive could not be read.
    #[error("read the archive")]
    Read(#[source] io::Error),
}

impl ReadArchiveCause {
    /// The cause inside an error that came through [`Read`], where our own streams put theirs.
    fn of_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(cause) => cause,
            Err(error) => Self::Read(error),
        }
    }
}

/// One entry of an archive; its content is [`TarReader::content`] until the next is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Its name, normalised.
    pub path: ImagePath,
    /// Kind and attributes.
    pub entry: NewEntry,
}

/// Reads a decompressed tar stream.
pub struct TarReader<R> {
    input: BufReader<R>,
    /// Bytes of the stream read so far.
    offset: u64,
    globals: PaxFields,
    content: ContentState,
    entries: u64,
    dropped_attributes: u64,
    ended: bool,
}

impl<R> fmt::Debug for TarReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarReader").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// What is left of the current entry.
#[derive(Debug, Default)]
struct ContentState {
    /// Stored bytes.
    stored: u64,
    /// Bytes up to the next header after these.
    padding: u64,
    sparse: Option<SparseCursor>,
}

/// What comes before an entry's own header.
#[derive(Default)]
struct Prefix {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: PaxFields,
}

impl<R: Read> TarReader<R> {
    /// Reads from the beginning of an archive.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(STREAM_BUFFER_BYTES, input),
            offset: 0,
            globals: PaxFields::default(),
            content: ContentState::default(),
            entries: 0,
            dropped_attributes: 0,
            ended: false,
        }
    }

    /// Extended attributes so far that no image can hold, and that were left out.
    #[must_use]
    pub fn dropped_attributes(&self) -> u64 {
        self.dropped_attributes
    }

    /// The next entry; what is left of the one before is skipped. After the last one the stream is read to its end,
    /// so that checksums of its compression are checked and its input is complete.
    ///
    /// # Errors
    ///
    /// See [`ReadArchiveCause`].
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, ReadArchiveError> {
        let start = self.offset;
        self.skip_content().map_err(|cause| ReadArchiveError { entry: None, offset: start, cause })?;
        if self.ended {
            return Ok(None);
        }
        let mut prefix = Prefix { pax: self.globals.clone(), ..Prefix::default() };
        loop {
            let offset = self.offset;
            let refuse = |cause| ReadArchiveError { entry: None, offset, cause };
            let Some(header) = self.read_header().map_err(refuse)? else {
                self.ended = true;
                return Ok(None);
            };
            if self.read_prefix(&header, &mut prefix).map_err(refuse)? {
                continue;
            }
            let name = entry_name(&header, &prefix);
            return match self.read_entry(&header, prefix, &name) {
                Ok(entry) => {
                    self.entries += 1;
                    Ok(Some(entry))
                }
                Err(cause) => Err(ReadArchiveError { entry: Some(escape_start(&name)), offset, cause }),
            };
        }
    }

    /// The current entry's content, or the rest of it; empty for all but files.
    pub fn content(&mut self) -> EntryContent<'_, R> {
        EntryContent { reader: self }
    }

    /// The next header; none at the end marker.
    fn read_header(&mut self) -> Result<Option<Header>, ReadArchiveCause> {
        let Some(block) = self.read_block()? else {
            let cause = if self.offset == 0 { ReadArchiveCause::Empty } else { ReadArchiveCause::Truncated };
            return Err(cause);
        };
        if block.iter().all(|byte| *byte == 0) {
            self.drain()?;
            return if self.entries == 0 { Err(ReadArchiveCause::NoEntries) } else { Ok(None) };
        }
        let header = Header::from_byte_slice(&block).clone();
        if parse_field(&header.as_old().cksum) != Some(checksum(&block)) {
            let is_first = self.offset == u64::try_from(BLOCK).expect("512");
            return Err(if is_first { ReadArchiveCause::NotTar } else { ReadArchiveCause::Checksum });
        }
        Ok(Some(header))
    }

    /// A block of 512 bytes; none when the stream ends before it.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, ReadArchiveCause> {
        if self.input.fill_buf().map_err(ReadArchiveCause::of_io)?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)?;
        Ok(Some(block))
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), ReadArchiveCause> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none_or(|inner| !inner.is::<ReadArchiveCause>()) => {
                ReadArchiveCause::Truncated
            }
            _ => ReadArchiveCause::of_io(error),
        })?;
        self.offset += u64::try_from(bytes.len()).expect("a buffer");
        Ok(())
    }

    /// Reads whatever follows the end marker.
    fn drain(&mut self) -> Result<(), ReadArchiveCause> {
        loop {
            let rest = self.input.fill_buf().map_err(ReadArchiveCause::of_io)?.len();
            if rest == 0 {
                return Ok(());
            }
            self.input.consume(rest);
        }
    }

    fn skip_content(&mut self) -> Result<(), ReadArchiveCause> {
        let mut rest = self.content.stored + self.content.padding;
        self.content = ContentState::default();
        while rest > 0 {
            let buffered = self.input.fill_buf().map_err(ReadArchiveCause::of_io)?.len();
            if buffered == 0 {
                return Err(ReadArchiveCause::Truncated);
            }
            let skipped = usize::try_from(rest).unwrap_or(usize::MAX).min(buffered);
            self.input.consume(skipped);
            let skipped = u64::try_from(skipped).expect("a buffer");
            self.offset += skipped;
            rest -= skipped;
        }
        Ok(())
    }

    /// Takes in a header that only says something about the entry behind it; whether it was one.
    fn read_prefix(&mut self, header: &Header, prefix: &mut Prefix) -> Result<bool, ReadArchiveCause> {
        match header.entry_type() {
            EntryType::GNULongName => {
                prefix.long_name = Some(until_nul(self.read_meta(header, LONG_NAME_BYTES_MAX)?));
            }
            EntryType::GNULongLink => {
                prefix.long_link = Some(until_nul(self.read_meta(header, LONG_NAME_BYTES_MAX)?));
            }
            EntryType::XHeader => {
                let records = self.read_meta(header, PAX_BYTES_MAX)?;
                prefix.pax.read(&records)?;
            }
            EntryType::XGlobalHeader => {
                let records = self.read_meta(header, PAX_BYTES_MAX)?;
                self.globals.read(&records)?;
                prefix.pax.read(&records)?;
            }
            // A volume's label.
            other if other.as_byte() == b'V' => {
                self.read_meta(header, LONG_NAME_BYTES_MAX)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Content of a header that is not an entry's.
    fn read_meta(&mut self, header: &Header, max: u64) -> Result<Vec<u8>, ReadArchiveCause> {
        let size = unsigned(&header.as_old().size, "size")?;
        if size > max {
            return Err(ReadArchiveCause::LongHeader { size, max });
        }
        let size = usize::try_from(size).expect("bounded");
        let mut bytes = vec![0; size.next_multiple_of(BLOCK)];
        self.read_exact(&mut bytes)?;
        bytes.truncate(size);
        Ok(bytes)
    }

    fn read_entry(&mut self, header: &Header, mut prefix: Prefix, name: &[u8]) -> Result<TarEntry, ReadArchiveCause> {
        if name.is_empty() {
            return Err(ReadArchiveCause::NoName);
        }
        let path = ImagePath::parse(name)?;
        let stored = match prefix.pax.size {
            Some(size) => size,
            None => unsigned(&header.as_old().size, "size")?,
        };
        prefix.pax.settle_attributes()?;
        let attributes = read_attributes(header, &prefix.pax)?;
        self.dropped_attributes += prefix.pax.dropped_attributes;
        let kind = self.read_kind(header, &prefix, name, stored)?;
        if stored > 0 && !matches!(kind, NewKind::File { .. }) {
            return Err(ReadArchiveCause::UnexpectedContent { size: stored });
        }
        Ok(TarEntry { path, entry: NewEntry { kind, attributes } })
    }

    fn read_kind(
        &mut self,
        header: &Header,
        prefix: &Prefix,
        name: &[u8],
        stored: u64,
    ) -> Result<NewKind, ReadArchiveCause> {
        let link = || {
            let short = || until_nul(header.as_old().linkname.to_vec());
            prefix.pax.link_path.clone().or_else(|| prefix.long_link.clone()).unwrap_or_else(short)
        };
        Ok(match header.entry_type() {
            // Before ustar there was no type for directories.
            EntryType::Regular if name.ends_with(b"/") => NewKind::Directory,
            EntryType::Regular | EntryType::Continuous => self.begin_file(prefix, stored)?,
            EntryType::GNUSparse => self.begin_gnu_sparse(header, stored)?,
            EntryType::Directory => NewKind::Directory,
            EntryType::Symlink => NewKind::Symlink(link().into()),
            EntryType::Link => NewKind::HardLink(ImagePath::parse(link())?),
            EntryType::Char => NewKind::CharDevice(device(header)?),
            EntryType::Block => NewKind::BlockDevice(device(header)?),
            EntryType::Fifo => NewKind::Fifo,
            other => return Err(ReadArchiveCause::Type { shown: char::from(other.as_byte()) }),
        })
    }

    fn begin_file(&mut self, prefix: &Prefix, stored: u64) -> Result<NewKind, ReadArchiveCause> {
        self.content = ContentState { stored, padding: padding(stored), sparse: None };
        let sparse = &prefix.pax.sparse;
        let Some(size) = sparse.real_size else { return Ok(NewKind::File { size: stored }) };
        let map = if sparse.map_in_content {
            let numbers = self.read_sparse_numbers()?;
            SparseMap::from_numbers(size, self.content.stored, &numbers)?
        } else {
            SparseMap::from_numbers(size, stored, &sparse.map)?
        };
        self.content.sparse = Some(SparseCursor::new(map));
        Ok(NewKind::File { size })
    }

    /// The map before the content of a PAX file with holes, version 1.0: decimal lines, padded to a block.
    fn read_sparse_numbers(&mut self) -> Result<Vec<u64>, ReadArchiveCause> {
        let mut taken = 0;
        let count = self.read_sparse_line(&mut taken)?;
        if usize::try_from(count).map_or(true, |count| count > SEGMENTS_MAX) {
            return Err(ReadArchiveCause::SparseMap);
        }
        let numbers = (0..2 * count).map(|_| self.read_sparse_line(&mut taken)).collect::<Result<Vec<_>, _>>()?;
        let gap = padding(taken);
        let mut padded = vec![0; usize::try_from(gap).expect("below 512")];
        self.take_stored(gap)?;
        self.read_exact(&mut padded)?;
        Ok(numbers)
    }

    fn read_sparse_line(&mut self, taken: &mut u64) -> Result<u64, ReadArchiveCause> {
        let mut line = Vec::new();
        while line.len() <= 20 {
            let mut byte = [0];
            self.take_stored(1)?;
            self.read_exact(&mut byte)?;
            *taken += 1;
            if byte == *b"\n" {
                return super::numbers::parse_decimal(&line).ok_or(ReadArchiveCause::SparseMap);
            }
            line.extend_from_slice(&byte);
        }
        Err(ReadArchiveCause::SparseMap)
    }

    fn take_stored(&mut self, count: u64) -> Result<(), ReadArchiveCause> {
        self.content.stored = self.content.stored.checked_sub(count).ok_or(ReadArchiveCause::SparseMap)?;
        Ok(())
    }

    /// A file with holes of GNU's old format: four segments in the header, 21 in each block behind it.
    fn begin_gnu_sparse(&mut self, header: &Header, stored: u64) -> Result<NewKind, ReadArchiveCause> {
        let gnu = header.as_gnu().ok_or(ReadArchiveCause::SparseMap)?;
        let size = unsigned(&gnu.realsize, "realsize")?;
        let mut segments = Vec::new();
        let mut push = |offset: &[u8], length: &[u8]| -> Result<(), ReadArchiveCause> {
            if offset[0] != 0 || length[0] != 0 {
                segments.push((unsigned(offset, "sparse")?, unsigned(length, "sparse")?));
            }
            Ok(())
        };
        for segment in &gnu.sparse {
            push(&segment.offset, &segment.numbytes)?;
        }
        let mut blocks = 0;
        let mut is_extended = gnu.isextended[0] != 0;
        while is_extended {
            blocks += 1;
            if blocks * 21 > SEGMENTS_MAX {
                return Err(ReadArchiveCause::SparseMap);
            }
            let block = self.read_block()?.ok_or(ReadArchiveCause::Truncated)?;
            for segment in block[..21 * 24].chunks_exact(24) {
                push(&segment[..12], &segment[12..])?;
            }
            is_extended = block[21 * 24] != 0;
        }
        let map = SparseMap::new(size, stored, segments)?;
        self.content = ContentState { stored, padding: padding(stored), sparse: Some(SparseCursor::new(map.clone())) };
        Ok(NewKind::File { size: map.size() })
    }
}

/// The current entry's content: [`TarReader::content`].
#[derive(Debug)]
pub struct EntryContent<'reader, R> {
    reader: &'reader mut TarReader<R>,
}

impl<R: Read> Read for EntryContent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let TarReader { input, content, offset, .. } = &mut *self.reader;
        let ContentState { stored, sparse, .. } = content;
        let mut stored = Stored { input, rest: stored, offset };
        match sparse {
            Some(cursor) => cursor.read(&mut stored, buffer),
            None => stored.read(buffer),
        }
    }
}

/// Stored bytes of the current entry; that the stream ends before they do is an error here, never an end.
struct Stored<'reader, R> {
    input: &'reader mut BufReader<R>,
    rest: &'reader mut u64,
    offset: &'reader mut u64,
}

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(*self.rest).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..length])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, ReadArchiveCause::Truncated));
        }
        let read = u64::try_from(count).map_err(io::Error::other)?;
        *self.rest -= read;
        *self.offset += read;
        Ok(count)
    }
}

/// Name of the entry of a header, from wherever it stands.
fn entry_name(header: &Header, prefix: &Prefix) -> Vec<u8> {
    let PaxFields { sparse, path, .. } = &prefix.pax;
    let long = sparse.name.as_ref().or(path.as_ref()).or(prefix.long_name.as_ref());
    long.map_or_else(|| header.path_bytes().into_owned(), Clone::clone)
}

fn read_attributes(header: &Header, pax: &PaxFields) -> Result<Attributes, ReadArchiveCause> {
    let old = header.as_old();
    let id = |pax: Option<u64>, field: &[u8], name| {
        let id = pax.map_or_else(|| unsigned(field, name), Ok)?;
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(ReadArchiveCause::Field { field: name })
    };
    let mode = parse_field(&old.mode).ok_or(ReadArchiveCause::Field { field: "mode" })?;
    let mode = u16::try_from(mode & i64::from(Attributes::MODE_BITS)).expect("12 bits");
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => {
            let seconds = parse_field(&old.mtime).ok_or(ReadArchiveCause::Field { field: "mtime" })?;
            Mtime { seconds, nanoseconds: 0 }
        }
    };
    let (uid, gid) = (id(pax.uid, &old.uid, "uid")?, id(pax.gid, &old.gid, "gid")?);
    Ok(Attributes { mode, uid, gid, mtime, xattrs: pax.xattrs.clone() })
}

fn device(header: &Header) -> Result<Device, ReadArchiveCause> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Err(ReadArchiveCause::Field { field: "devmajor" }),
    };
    let narrow =
        |field: &[u8], name| u32::try_from(unsigned(field, name)?).map_err(|_| ReadArchiveCause::Field { field: name });
    Ok(Device::new(narrow(major, "devmajor")?, narrow(minor, "devminor")?)?)
}

fn unsigned(field: &[u8], name: &'static str) -> Result<u64, ReadArchiveCause> {
    parse_field(field).and_then(|value| u64::try_from(value).ok()).ok_or(ReadArchiveCause::Field { field: name })
}

/// Sum of a header's bytes, its checksum field taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> i64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| i64::from(*byte)).sum::<i64>();
    sum(&block[..148]) + 8 * i64::from(b' ') + sum(&block[156..])
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(512) - size
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
